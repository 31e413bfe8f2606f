"""`make check`: everything that can be checked without running the service. Each step prints one line.

Every step is carried out, also after a failure; a failed one shows its output and the command that repeats it.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PYTHON = sys.executable
BIN = pathlib.Path(PYTHON).parent
SKIPPED = 77  # exit status of a step that lacks a program; what it prints is the reason

# name, command, what to do when it fails
STEPS = [
    ("lint", [BIN / "ruff", "check", "--quiet", "."], "Fix the lines above; `ruff check --fix .` does what it can."),
    ("format", [BIN / "ruff", "format", "--quiet", "--diff", "."], "Run `ruff format .`."),
    ("types", [BIN / "mypy", "--no-error-summary"], "Fix the types above; the settings stand in pyproject.toml."),
    ("page types", [".ci/page-types"], "Fix the types above; api/pages/jsconfig.json has the settings."),
    ("imports", [BIN / "lint-imports"], "A package imports what it must not; the contracts stand in pyproject.toml."),
    ("migrations: upgrade", [PYTHON, "-m", "alembic", "upgrade", "head"], "The migrations do not run on a new SQLite."),
    ("migrations: tables", [PYTHON, "-m", "alembic", "check"], 'Tables and migrations differ: make migration M="why".'),
    ("OpenAPI", [PYTHON, "-m", "api.openapi", "--check"], "The routes and openapi.json differ: run `make openapi`."),
    ("compose file", [PYTHON, ".ci/compose.py"], "Fix docker-compose.yml, or .ci/compose.schema.json if it is wrong."),
    ("hosts and paths", [PYTHON, ".ci/traces.py"], "Take these traces of one machine out of the files."),
]


def main() -> int:
    failed, skipped = [], []
    with tempfile.TemporaryDirectory(prefix="bimt-check-") as home:
        # The migrations meet a database of their own, never the user's own.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("BIMT_")}
        environment |= {"BIMT_HOME": home, "BIMT_DATABASE_URL": f"sqlite:///{home}/bimt.sqlite"}
        for name, command, sentence in STEPS:
            started = time.monotonic()
            words = [str(word) for word in command]
            done = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
            seconds = time.monotonic() - started
            result = {0: "ok", SKIPPED: "skipped"}.get(done.returncode, "FAILED")
            print(f"{name:20} {result:7} {seconds:5.1f} s", flush=True)
            if result == "skipped":
                skipped.append(name)
                print(done.stdout, end="", flush=True)
            elif done.returncode:
                failed.append(name)
                print(f"{done.stdout}{done.stderr}\n{name}: {sentence}\n", flush=True)
    if failed:
        print(f"make check: {len(failed)} of {len(STEPS)} steps failed: {', '.join(failed)}.")
        return 1
    if skipped:
        passed = len(STEPS) - len(skipped)
        print(f"make check: {passed} of {len(STEPS)} steps are in order; skipped: {', '.join(skipped)}.")
        return 0
    print(f"make check: all {len(STEPS)} steps are in order.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
