"""The wheel of the client, alone in an environment with its dependencies."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]


def closure(names: list[str]) -> set[str]:
    """The distributions that these need, themselves included."""
    found: set[str] = set()
    while names:
        name = names.pop().lower()
        if name not in found:
            found.add(name)
            wanted = [Requirement(text) for text in metadata.requires(name) or []]
            names += [each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """An environment without pip that holds the wheel and what it asks for, and nothing else."""
    folder = tmp_path_factory.mktemp("alone")
    source = folder / "source"
    subprocess.run(["cp", "-rL", str(REPOSITORY / "client"), str(source)], check=True)  # a build leaves things behind
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    made = folder / "venv"
    venv.create(made, with_pip=False)
    install = [*pip, "--python", str(made / "bin" / "python"), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    [packages] = made.glob("lib/python*/site-packages")
    for name in closure(["click", "httpx", "rich", "tenacity"]):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."} - {"__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(distribution.locate_file(top))))
    return made


def call(environment: Path, *words: str, **environ: str) -> str:
    """The output of a program of the environment."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("BIMT_", "PYTHON"))}
    done = subprocess.run(
        [str(environment / "bin" / words[0]), *words[1:]],
        env=clean | environ, cwd=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_holds_the_package_the_command_its_types_and_the_licence(environment):
    assert call(environment, "bimt", "--version") == f"bimt-client {metadata.version('bimt')}\n"
    assert "exit codes:" in call(environment, "bimt", "--help")
    [packages] = environment.glob("lib/python*/site-packages")
    assert (packages / "bimt" / "py.typed").exists()
    assert list(packages.glob("bimt_client-*.dist-info/licenses/LICENSE"))
    assert not (packages / "client").exists()


def test_nothing_heavy_is_needed_for_a_round_trip(environment, service, run, tmp_path):
    known = {"BIMT_URL": service.address, "BIMT_TOKEN": service.token}
    heavy = ("torch", "numpy", "pandas", "networkx", "pydantic")
    question = f"import importlib.util as u; print([n for n in {heavy} if u.find_spec(n)])"
    assert call(environment, "python", "-c", question) == "[]\n"
    assert "module A reads" in call(environment, "bimt", "show", run.id, **known)
    pulled = call(environment, "bimt", "pull", run.id, str(tmp_path), **known)
    assert "weights.safetensors" in pulled


@pytest.mark.parametrize(
    ("method", "package", "extra"),
    [("load", "torch", "torch"), ("graph", "networkx", "graphs"), ("history", "pandas", "tables")],
)
def test_without_its_extra_a_method_says_what_to_install_and_from_where(
    environment, service, run, method, package, extra
):
    ask = (
        "from bimt import Client, NotInstalled\n"
        f"try: Client().runs.get('{run.id}').{method}()\n"
        "except NotInstalled as error: print(error)"
    )
    sentence = call(environment, "python", "-c", ask, BIMT_URL=service.address, BIMT_TOKEN=service.token)
    wheel = f"{service.address}/client/bimt_client-{metadata.version('bimt')}-py3-none-any.whl"
    assert sentence.startswith(f'run.{method}() needs {package}: pip install "bimt-client[{extra}] @ {wheel}", or ')
    assert f"pip install './client[{extra}]' in a checkout" in sentence


def test_the_loader_of_networks_says_what_it_needs_when_it_is_imported(environment):
    ask = "try: import bimt.networks\nexcept ImportError as error: print(type(error).__name__, error)"
    sentence = call(environment, "python", "-c", ask)
    assert sentence.startswith("NotInstalled bimt.networks needs torch: pip install './client[torch]'")
