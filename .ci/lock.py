"""`make lock`: resolve each extra of pyproject.toml into requirements/EXTRA.txt, with hashes, without torch.

The largest set is resolved first and constrains the others, so that a package has one version everywhere.
"""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
SETS = ("dev", "standalone", "worker", "api")
# `environments` of pyproject.toml stands in every line's marker; it says nothing to a reader, so it is taken out.
EVERYWHERE = "(sys_platform == 'darwin' or sys_platform == 'linux')"
HEADER = """\
# Locked by `make lock` from the extra `{name}` of pyproject.toml; do not edit.
# torch is not here: `python3 -m standalone.environment {name}` installs it in a step of its own.
"""


def main() -> int:
    uv = shutil.which("uv") or shutil.which("uv", path=str(REPOSITORY / ".venv" / "bin"))
    if uv is None:
        print("`make lock` needs uv: `python3 -m pip install uv` in any environment on the PATH.", file=sys.stderr)
        return 1
    for name in SETS:
        target = REPOSITORY / "requirements" / f"{name}.txt"
        command = [uv, "pip", "compile", "pyproject.toml", "--extra", name, "--universal", "--fork-strategy", "fewest"]
        command += ["--python-version", "3.11", "--generate-hashes", "--no-emit-package", "torch", "--upgrade"]
        command += ["--no-header", "--no-annotate", "--quiet"]
        if name != SETS[0]:
            command += ["--constraint", f"requirements/{SETS[0]}.txt"]
        resolved = subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True).stdout
        target.write_text(HEADER.format(name=name) + "".join(plain(line) for line in resolved.splitlines(True)))
        print(f"{target.relative_to(REPOSITORY)}: {len(re.findall(r'^[a-z]', resolved, re.M))} packages")
    return 0


def plain(line: str) -> str:
    """A locked line without the marker that every line bears."""
    line = line.replace(f" ; python_full_version < '3.15' and {EVERYWHERE}", "")
    line = line.replace("python_full_version < '3.15' and ", "")
    return line.replace(f" and {EVERYWHERE}", "")


if __name__ == "__main__":
    sys.exit(main())
