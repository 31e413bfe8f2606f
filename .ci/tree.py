"""The tree of the README: every file of the rooms with the first sentence of its own docstring.

`python .ci/tree.py` writes it, `python .ci/tree.py --check` says whether it is current: a file's meaning stands in the
file, and the README only collects it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOP = {
    "README.md": "this page",
    "CHANGELOG.md": "what changed, for users",
    "Makefile": "the verbs; `make help` lists them",
    "pyproject.toml": "what is needed, and how tests, linter and import arrows are set",
    "Dockerfile": "one image for each process, none of them root",
    "docker-compose.yml": "the team's set-up: api, worker, scheduler, Valkey, PostgreSQL, object store",
    "openapi.json": "every address, made from the routes",
}
ROOMS = {
    "bimt_engine": "THE SCIENCE: torch in, plain data out; nothing of the service",
    "store": "WHAT IS REMEMBERED: rows and files; no Flask, no torch",
    "api": "THE FRONT DOOR: Flask",
    "worker": "THE BACK DOOR: Celery, and the process that trains",
    "standalone": "THE WHOLE ON ONE MACHINE, and the reports",
    "client": "what a user installs; knows only the wire",
    "migrations": "Alembic, from the first table on",
    "tests": "mirror the rooms; whole/ and faults/ run the real thing",
    "docs": "how it works, the paper, operations, decisions, the log",
}
FOLDED = ("migrations", "tests", "docs")  # named, and not listed
WIDEST = 96  # letters of a meaning
BEGIN, END = "<!-- made by `python .ci/tree.py` -->\n", "<!-- end of the tree -->"


def tree() -> str:
    """The whole tree as one block: a folder and its meaning, then its files two spaces deeper."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [path for path in listing.splitlines() if (ROOT / path).exists()]
    rows = [(name, meaning) for name, meaning in TOP.items() if name in paths]
    for room, meaning in ROOMS.items():
        inside = [path for path in paths if path.startswith(f"{room}/")]
        if inside:
            rows.append((f"{room}/", meaning))
            rows += [] if room in FOLDED else folder(room, inside, depth=1)
    width = max(len(name) for name, _ in rows) + 2
    return "```\n" + "\n".join(f"{name:<{width}}{meaning}" for name, meaning in rows) + "\n```\n"


def folder(here: str, inside: list[str], *, depth: int) -> list[tuple[str, str]]:
    """The rows of one folder: its files that have a meaning of their own, then its folders."""
    rows, folders = [], {}
    for path in sorted(inside):
        rest = path.removeprefix(f"{here}/")
        if "/" in rest:
            folders.setdefault(rest.partition("/")[0], []).append(path)
        elif meaning := what_it_is(ROOT / path):
            rows.append(("  " * depth + rest, meaning))
    for name, paths in folders.items():
        below = folder(f"{here}/{name}", paths, depth=depth + 1)
        if below:
            rows += [("  " * depth + f"{name}/", ""), *below]
    return rows


def what_it_is(path: Path) -> str:
    """The first sentence of a file's docstring or opening comment; empty where there is none."""
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    elif path.suffix in (".cpp", ".h", ".js") and "vendor" not in path.parts:
        text = path.read_text(encoding="utf-8").lstrip("/* \n").partition("*/")[0].replace("//", "")
    elif path.suffix == ".yaml":
        text = path.read_text(encoding="utf-8").partition("title: ")[2].partition("\n")[0]
    else:
        return ""
    first = " ".join(text.split("\n\n")[0].split())
    return shortened(re.split(r"\.(?:\s|$)", first, maxsplit=1)[0].strip())


def shortened(sentence: str) -> str:
    """What stands before its last colon or semicolon that a line holds; where there is none, as many words."""
    if len(sentence) <= WIDEST:
        return sentence
    ends = [found.start() for found in re.finditer("[;:] ", sentence[: WIDEST + 2])]
    if ends and not sentence.startswith("`"):  # a command alone would say how, and not what
        return sentence[: ends[-1]]
    return sentence[:WIDEST].rsplit(" ", 1)[0] + " …"


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    current = f"{before}{BEGIN}{tree()}{END}{after}"
    if "--check" in sys.argv:
        if current != text:
            print("The README's tree is not that of the files: run `python .ci/tree.py`.", file=sys.stderr)
        return int(current != text)
    readme.write_text(current, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
