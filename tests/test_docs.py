"""The documents say what is there: settings, links, files, verbs and words."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
import tomllib

import pytest

from store.settings import table

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("api", "bimt_engine", "client", "measurements", "migrations", "standalone", "store", "worker")
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])


def text_of(path: str | pathlib.Path) -> str:
    return (REPOSITORY / path).read_text(encoding="utf-8")


def name_of(path: pathlib.Path) -> str:
    return str(path.relative_to(REPOSITORY))


each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)


# ---------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("setting", table(), ids=lambda setting: setting.name)
def test_every_setting_is_in_the_operations_manual_with_its_default(setting):
    default = f"`{setting.default}`" if setting.default else "(empty)"
    row = f"| `{setting.name}` | {default} | {setting.meaning} |"
    assert row in text_of("docs/operations.md"), f"docs/operations.md needs this line:\n{row}"


def test_the_operations_manual_names_no_setting_that_is_gone():
    listed = re.findall(r"^\| `(BIMT_[A-Z_]+)`", text_of("docs/operations.md"), re.MULTILINE)
    assert sorted(listed) == sorted(setting.name for setting in table())


# ------------------------------------------------------------------------------------------------------------- links


def slug(heading: str) -> str:
    """The anchor that a reader's browser makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", "")).replace(" ", "-")


def prose(path: pathlib.Path) -> str:
    """A document without its code blocks."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@each_document
def test_every_link_leads_somewhere(document):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", target):
            continue  # the world outside is not ours to test
        file, _, anchor = target.partition("#")
        there = (document.parent / file).resolve() if file else document
        if not there.exists():
            broken.append(target)
        elif anchor and there.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", prose(there), re.MULTILINE)
            if anchor not in {slug(heading) for heading in headings}:
                broken.append(target)
    assert broken == []


def exists_somewhere(path: str) -> bool:
    """True when the path exists from the root, from a package, or as the end of some file's path."""
    bases = (REPOSITORY, *(REPOSITORY / package for package in PACKAGES))
    return any((base / path).exists() for base in bases) or any(REPOSITORY.glob(f"tests/**/{path}"))


MADE_WHEN_RUN = ("demo/", "reports/", "files/", "broker/", "logs/", "shared/")


@each_document
def test_every_file_that_a_document_names_exists(document):
    if document.name == "log.md" or "Superseded by" in text_of(document)[:400]:
        return  # a log and a superseded decision tell of their day; files may have gone since
    text = re.sub(r"\(\*tested\*\), `.*`", "", prose(document))  # files that a reader is to write
    named = re.findall(r"`([\w.-]+(?:/[\w.-]+)+\.(?:py|md|txt|yaml|yml|toml|cpp|json|js|svg|png))", text)
    assert [path for path in named if not path.startswith(MADE_WHEN_RUN) and not exists_somewhere(path)] == []


@each_document
def test_every_function_that_a_document_names_exists(document):
    """`file.py:name` must be defined in that file."""
    missing = []
    for path, name in re.findall(r"`([\w./-]+\.py):([A-Za-z_]\w*)", prose(document)):
        candidates = [base / path for base in (REPOSITORY, *(REPOSITORY / package for package in PACKAGES))]
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None or not re.search(rf"\b(def|class) {name}\b|^{name}\b", file.read_text(encoding="utf-8"), re.M):
            missing.append(f"{path}:{name}")
    assert missing == []


def test_the_readme_is_read_in_two_minutes():
    assert len(text_of("README.md").splitlines()) <= 130


def test_the_readme_s_map_names_every_package():
    readme = text_of("README.md")
    assert [package for package in PACKAGES if not re.search(rf"^\W*{package}/", readme, re.MULTILINE)] == []


# ------------------------------------------------------------------------------------------------------------- verbs


def verbs() -> set[str]:
    return set(re.findall(r"^([a-z-]+):(?!=)", text_of("Makefile"), re.MULTILINE))


def test_make_help_lists_every_verb():
    done = subprocess.run(["make", "--no-print-directory", "help"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"^make ([a-z-]+)", done.stdout, re.MULTILINE)) == verbs()


@each_document
def test_every_verb_that_a_document_names_can_be_made(document):
    named = set(re.findall(r"`(?:[A-Z_]+=\S+ )*make ([a-z-]+)", text_of(document)))
    named |= set(re.findall(r"^\$? ?make ([a-z-]+)", text_of(document), re.MULTILINE))
    assert named - verbs() == set()


def python_modules(text: str) -> set[str]:
    return {m for m in re.findall(r"python3? -m ([\w.]+)", text) if m.partition(".")[0] in PACKAGES}


def is_a_module(name: str) -> bool:
    path = REPOSITORY / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


@pytest.mark.parametrize("document", [*DOCUMENTS, REPOSITORY / "Makefile"], ids=name_of)
def test_every_python_command_that_is_named_exists(document):
    text = text_of(document).replace("$(PY)", "python").replace("$(PYTHON)", "python")
    assert {name for name in python_modules(text) if not is_a_module(name)} == set()


# ------------------------------------------------------------------------------------------------------------- words


def test_each_dependency_is_named_with_its_licence():
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    asked = {
        re.match(r"[A-Za-z0-9-]+", line)[0].lower()
        for lines in (project["dependencies"], *project["optional-dependencies"].values())
        for line in lines
    } - {project["name"]}
    named = set(re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)*", text_of("docs/decisions/0003-licences.md").lower()))
    assert asked - named == set()


def test_decisions_are_numbered_without_a_gap():
    pages = sorted((REPOSITORY / "docs" / "decisions").glob("*.md"))
    numbers = [page.name[:4] for page in pages]
    assert numbers == [f"{number:04}" for number in range(1, len(pages) + 1)]
    for page in pages:
        assert page.read_text(encoding="utf-8").startswith(f"# {page.name[:4]} · "), f"{page.name}: its title"


def test_the_changelog_speaks_of_the_version_in_pyproject():
    version = tomllib.loads(text_of("pyproject.toml"))["project"]["version"]
    assert f"## {version}" in text_of("CHANGELOG.md")


@pytest.mark.parametrize("word", ["task", "job", "run", "model", "module", "attempt", "lease", "snapshot"])
def test_each_word_with_an_owner_stands_in_the_glossary(word):
    assert f"**{word}**" in text_of("docs/glossary.md")


def named_things(package: str) -> list[tuple[str, str]]:
    """(file, name) of every class and function of a package."""
    found = []
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found.append((name_of(path), node.name))
    return found


def test_task_is_said_of_celery_alone():
    guilty = [
        f"{path}: {name}"
        for package in PACKAGES
        for path, name in named_things(package)
        if re.search(r"(^|_)tasks?(_|$)|Task", name)
        and not path.startswith(("worker/app", "api/__main__"))  # the latter: waitress has a word of its own
    ]
    assert guilty == []


def test_model_is_said_of_published_runs_alone():
    """Rows are `tables` and architectures `networks`: the engine knows of no model but a model card."""
    guilty = [
        f"{path}: {name}"
        for path, name in named_things("bimt_engine")
        if re.search(r"(^|_)models?(_|$)|Model", name) and "card" not in path and "onnx" not in path
    ]
    assert guilty == []
