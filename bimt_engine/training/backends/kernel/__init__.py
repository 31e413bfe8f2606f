"""The compiled kernels, built at first use by this machine's C++ compiler and kept for the next time.

The library lies in `BIMT_KERNEL_CACHE` (default ~/.cache/bimt/kernel) under a name made of the source, the flags, the
compiler and the processor: a change of any of them builds a new one, also where machines share a home directory.
Nothing here is required: without a compiler the engine trains through torch, a few times slower.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

Kind = Literal["perceptron", "transformer", "relocation"]
Precision = Literal["float32", "float64"]

HEADERS = ("c_api.h", "vectors.h")
COMPILERS = ("c++", "g++", "clang++")

# No -ffast-math: at link time it switches denormal numbers off for the whole process, torch's included.
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
NUMBER = {"float32": "float", "float64": "double"}
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
BUILD_SECONDS = 300  # a build takes 5–10 s on one core; a machine that is slower by thirty is stuck


class KernelUnavailable(Exception):
    """Why there is no kernel on this machine, in one sentence."""


@functools.cache
def load_kernel(kind: Kind, precision: Precision) -> ctypes.CDLL:
    """The kernel of one kind and precision, built if it is not there yet. Raises KernelUnavailable.

    Raises OSError where the disk is full. A failure is not remembered, so that a compiler installed later is found;
    success is, for the process's life.
    """
    compiler = find_compiler()
    library = _library(compiler, kind, precision)
    if not library.exists():
        _build(compiler, kind, precision, library)
    try:
        return ctypes.CDLL(str(library))
    except OSError:
        # A damaged file (a full disk, a copied home): build it once more before giving up.
        library.unlink(missing_ok=True)
        _build(compiler, kind, precision, library)
        try:
            return ctypes.CDLL(str(library))
        except OSError as error:
            raise KernelUnavailable(f"the compiled kernel {library} cannot be loaded: {error}") from error


def find_compiler() -> str:
    """The path of the C++ compiler: $CXX where that is set, otherwise the first there is. Raises KernelUnavailable."""
    asked = os.environ.get("CXX", "").strip()
    for name in (asked,) if asked else COMPILERS:
        if path := shutil.which(name):
            return path
    what = f"$CXX names `{asked}`, which is not there" if asked else f"none of {', '.join(COMPILERS)} is installed"
    raise KernelUnavailable(f"no C++ compiler: {what}")


def cache_folder() -> Path:
    """Where built kernels are kept."""
    asked = os.environ.get("BIMT_KERNEL_CACHE")
    return Path(asked) if asked else Path.home() / ".cache" / "bimt" / "kernel"


def _library(compiler: str, kind: Kind, precision: Precision) -> Path:
    here = Path(__file__).parent
    about = [*FLAGS, precision, *_native_flags(), compiler, _output([compiler, "--version"]), _processor()]
    digest = hashlib.sha256("\0".join(about).encode())
    for source in (f"{kind}.cpp", *HEADERS):
        digest.update((here / source).read_bytes())
    return cache_folder() / f"{kind}-{precision}-{digest.hexdigest()[:24]}.so"


def _native_flags() -> tuple[str, ...]:
    return ("-mcpu=native",) if platform.machine() in ("aarch64", "arm64") else ("-march=native",)


def _build(compiler: str, kind: Kind, precision: Precision, library: Path) -> None:
    source = Path(__file__).with_name(f"{kind}.cpp")
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent, prefix="building-") as folder:
            made = Path(folder) / library.name
            command = [compiler, *FLAGS, f"-DNUMBER={NUMBER[precision]}", "-o", str(made), str(source)]
            finished = _run([*command, *_native_flags()])
            if finished.returncode:  # a compiler that cannot name this processor: plain code is still fast
                finished = _run(command)
            if finished.returncode and os.strerror(errno.ENOSPC) in finished.stderr:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if finished.returncode:
                raise KernelUnavailable(f"`{compiler}` cannot build the kernel: {finished.stderr.strip()[-500:]}")
            # One rename: processes that build at the same time make the same file, and none ever reads half of it.
            os.replace(made, library)
    except OSError as error:
        if error.errno in DISK_FULL:  # soon over, while another way of training would give other last bits
            raise
        raise KernelUnavailable(f"the kernel cannot be kept in {library.parent}: {error}") from error


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise KernelUnavailable(f"`{command[0]}` did not finish building the kernel in {BUILD_SECONDS} s") from error


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout


@functools.cache
def _processor() -> str:
    """What makes two processors differ for -march=native: model and instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    named = {line for line in lines if line.split("\t")[0].split(":")[0].strip() in wanted}
    return "\n".join([platform.machine(), *sorted(named)])
