"""Makes the virtual environment from a lock: `python3 -m standalone.environment [api|worker|standalone|dev]`.

Only the standard library is used, for this runs before anything is installed. Everything but torch comes from
requirements/SET.txt with its hashes. torch is a step of its own: its CPU and CUDA builds differ in hash and in
dependencies (docs/decisions/0002-torch-and-the-lock.md), and the machine decides which is wanted.

    BIMT_TORCH_SPEC    what pip is asked for; default `torch==2.13.0`
    BIMT_TORCH_INDEX   an index that has the wanted build; without it, the one that pip is configured with
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time

OLDEST_PYTHON = (3, 11)
TORCH = "torch==2.13.0"
UV = "uv==0.13.9"  # asked only for the CPU build of torch, and only where pip would bring the CUDA one
SETS = ("api", "worker", "standalone", "dev")
WITH_TORCH = ("worker", "standalone", "dev")
REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def main(arguments: list[str]) -> int:
    """Make the environment, or find it fresh and say nothing."""
    parser = argparse.ArgumentParser(prog="python3 -m standalone.environment", description=__doc__.splitlines()[0])
    parser.add_argument("set", nargs="?", default="standalone", choices=SETS, help="what is installed")
    parser.add_argument("--venv", type=pathlib.Path, default=REPOSITORY / ".venv", help="where; default .venv")
    args = parser.parse_args(arguments)
    if sys.version_info < OLDEST_PYTHON:
        print(f"Python {platform.python_version()} is too old: install Python 3.11 or later and say where it is, "
              "as in `make PYTHON=/path/to/python3.12 demo`.", file=sys.stderr)  # fmt: skip
        return 1
    if is_fresh(args.venv, args.set):
        return 0
    started = time.monotonic()
    try:
        make(args.venv, args.set)
    except subprocess.CalledProcessError as failure:
        print(f"The environment could not be made: `{readable(failure.cmd)}` ended with {failure.returncode}. "
              "Its output stands above. Fix the cause and run the same command again.", file=sys.stderr)  # fmt: skip
        return 1
    print(f"environment: {args.venv.name} holds the {args.set} set ({time.monotonic() - started:.0f} s)")
    return 0


def make(venv: pathlib.Path, chosen: str) -> None:
    """Create `venv` where it is absent or broken and install the chosen set, torch last, then look it over."""
    python = venv / "bin" / "python"
    if not works(python):
        print(f"environment: creating {venv.name} with Python {platform.python_version()}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    print(f"environment: installing requirements/{chosen}.txt by hash", flush=True)
    pip(python, "install", "--require-hashes", "-r", str(lock(chosen)))
    if chosen in WITH_TORCH:
        install_torch(python)
        for project in (REPOSITORY, REPOSITORY / "client"):
            pip(python, "install", "--no-deps", "--no-build-isolation", "--editable", str(project))
    pip(python, "check")
    stamp(venv, chosen).write_text(fingerprint(chosen) + "\n", encoding="utf-8")


def install_torch(python: pathlib.Path) -> None:
    """Install the torch that this machine can use: CUDA where there is such a device, else CPU where that can be had.

    On a Linux PC the registry's own torch is the CUDA build, gigabytes of it. pip is asked first what it would bring;
    a configured folder of wheels or index may already hold a CPU build. If not, uv, which knows where torch's CPU
    builds are, is tried; if that fails too, the registry's build is installed: it runs on a CPU as well.
    """
    wanted, index = os.environ.get("BIMT_TORCH_SPEC", TORCH), os.environ.get("BIMT_TORCH_INDEX")
    if index:
        print(f"environment: installing {wanted} from BIMT_TORCH_INDEX", flush=True)
        pip(python, "install", "--index-url", index, wanted)
        return
    cuda_by_default = sys.platform == "linux" and platform.machine() == "x86_64"
    overridden = "BIMT_TORCH_SPEC" in os.environ
    if cuda_by_default and not overridden and not has_nvidia_device() and not pip_offers_a_cpu_build(python, wanted):
        print("environment: no NVIDIA device here, so uv is asked for torch's CPU build", flush=True)
        try:
            pip(python, "install", UV)
            uv = [str(python), "-m", "uv", "pip", "install", "--python", str(python), "--torch-backend", "cpu", wanted]
            subprocess.run(uv, check=True)
            return
        except subprocess.CalledProcessError:
            print("environment: uv had none; pip's own build follows, which is large", flush=True)
    print(f"environment: installing {wanted}", flush=True)
    pip(python, "install", wanted)


def pip_offers_a_cpu_build(python: pathlib.Path, wanted: str) -> bool:
    """True when pip, as configured here, would install a build whose version ends in +cpu."""
    question = [str(python), "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", wanted]
    answer = subprocess.run(question, capture_output=True, text=True, check=False)
    return "+cpu" in answer.stdout


def has_nvidia_device() -> bool:
    """True when a driver for NVIDIA devices is loaded."""
    return pathlib.Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def is_fresh(venv: pathlib.Path, chosen: str) -> bool:
    """True when `venv` already holds the chosen set, or dev, which contains every other, as locked today."""
    return works(venv / "bin" / "python") and any(
        stamp(venv, candidate).is_file()
        and stamp(venv, candidate).read_text(encoding="utf-8").strip() == fingerprint(candidate)
        for candidate in {chosen, "dev"}
    )


def works(python: pathlib.Path) -> bool:
    """True when this interpreter starts and is new enough."""
    if not python.exists():
        return False
    question = f"import sys; sys.exit(sys.version_info < {OLDEST_PYTHON})"
    return subprocess.run([str(python), "-c", question], check=False).returncode == 0


def fingerprint(chosen: str) -> str:
    """What the environment depends on: the lock, the project's own metadata and the wanted torch."""
    parts = [lock(chosen).read_bytes()]
    parts += [(REPOSITORY / folder / "pyproject.toml").read_bytes() for folder in (".", "client")]
    parts += [os.environ.get(name, "").encode() for name in ("BIMT_TORCH_SPEC", "BIMT_TORCH_INDEX")]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def lock(chosen: str) -> pathlib.Path:
    """The lock file of a set."""
    return REPOSITORY / "requirements" / f"{chosen}.txt"


def stamp(venv: pathlib.Path, chosen: str) -> pathlib.Path:
    """The file that says which lock an environment was made from."""
    return venv / f".bimt-{chosen}"


def pip(python: pathlib.Path, verb: str, *arguments: str) -> None:
    """One pip command, silent unless it fails. Modules are compiled when first imported, not all of them now."""
    quiet = ["-qq", "--no-compile"] if verb == "install" else []
    command = [str(python), "-m", "pip", "--disable-pip-version-check", verb, *quiet, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        done.check_returncode()


def readable(command: list[str]) -> str:
    """A command as a person would type it, without the folder of the interpreter."""
    return " ".join([pathlib.Path(command[0]).name, *command[1:]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
