"""No file of the repository may name the machine it was made on: its folders, or the hosts its packages came from.

The hosts are read from the package clients' own settings here, so that this file names none.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import tempfile

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
SETTINGS = ("pip", "config", "list"), ("npm", "config", "get", "registry")
APT = pathlib.Path("/etc/apt")
LOCAL = re.compile(r"^(localhost|127\.|\[?::1)")


def main() -> int:
    found = traces(REPOSITORY, machine_folders(), package_hosts())
    print("\n".join(found) or "no trace of this machine")
    return bool(found)


def traces(repository: pathlib.Path, folders: list[str], hosts: list[str]) -> list[str]:
    """Each line `file:number: what` in which a file that git knows names a folder or host of this machine."""
    patterns = [re.compile(rf"(?<![\w.~-]){re.escape(folder)}/") for folder in folders]
    patterns += [re.compile(re.escape(host)) for host in hosts]
    found = []
    for path in tracked(repository):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (UnicodeDecodeError, FileNotFoundError):
            continue  # a picture, or a file deleted but not yet committed
        for number, line in enumerate(lines, start=1):
            for pattern in patterns:
                if pattern.search(line):
                    found.append(f"{path.relative_to(repository)}:{number}: {line.strip()[:120]}")
    return found


def tracked(repository: pathlib.Path) -> list[pathlib.Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True, check=True)
    return [repository / name for name in listing.stdout.split("\0") if name]


def machine_folders() -> list[str]:
    """The clone's own folder, the one around it and the person's home; not folders that every machine has."""
    everywhere = {pathlib.Path("/"), pathlib.Path("/home"), pathlib.Path("/app"), pathlib.Path(tempfile.gettempdir())}
    return sorted({str(p) for p in (REPOSITORY, REPOSITORY.parent, pathlib.Path.home())} - {str(p) for p in everywhere})


def package_hosts() -> list[str]:
    """Every host that this machine's package clients are set to."""
    text = "\n".join(f"{value}" for key, value in os.environ.items() if re.match(r"(?i)(pip|uv|npm)_", key))
    for command in SETTINGS:
        try:
            text += subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout
        except (FileNotFoundError, subprocess.TimeoutExpired):
            continue
    for sources in [APT / "sources.list", *APT.glob("sources.list.d/*")]:
        if sources.is_file():
            text += sources.read_text(encoding="utf-8", errors="replace")
    hosts = {re.sub(r"^.*@|:\d+$", "", host) for host in re.findall(r"https?://([^/\s\"']+)", text)}
    return sorted(host for host in hosts if not LOCAL.match(host))


if __name__ == "__main__":
    sys.exit(main())
