"""The client as a wheel, which the service offers for its own users: `pip install http://HOST/client/NAME.whl`.

The wheel is made from client/ when it is first requested, and kept in memory. The same sources give the same bytes.
No build backend is needed for a pure Python package: a wheel is a zip file with a list of its contents
(packaging.python.org, "Binary distribution format").
"""

from __future__ import annotations

import base64
import hashlib
import io
import tomllib
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from flask import Flask, Response

from api.auth import Access, decide
from api.problems import Problem

SOURCES = Path(__file__).resolve().parents[1] / "client"
TIME = (1980, 1, 1, 0, 0, 0)  # the first that a zip file can hold; a fixed one makes equal wheels equal bytes
TAG = "py3-none-any"


@cache
def project() -> dict[str, Any]:
    """The table of client/pyproject.toml."""
    return tomllib.loads((SOURCES / "pyproject.toml").read_text(encoding="utf-8"))


def wheel_name() -> str:
    """The file name of the wheel, such as bimt_client-0.1.0-py3-none-any.whl."""
    return f"{_stem()}-{TAG}.whl"


@cache
def wheel() -> bytes:
    """The wheel."""
    files = _sources() | {f"{_stem()}.dist-info/{name}": content for name, content in _metadata().items()}
    record = f"{_stem()}.dist-info/RECORD"
    lines = [f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items()]
    files[record] = "".join([*lines, f"{record},,\n"]).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, TIME)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return out.getvalue()


def install(app: Flask) -> None:
    """Serve the wheel, and give the pages its address as `client_wheel`."""
    if not SOURCES.is_dir():  # an installation without it
        return

    @decide(Access.ANYONE)
    def client_wheel(name: str) -> Response:
        if name != wheel_name():
            raise Problem("not-found", f"There is nothing at /client/{name}; the wheel is /client/{wheel_name()}.")
        response = Response(wheel(), content_type="application/zip")
        response.set_etag(hashlib.sha256(wheel()).hexdigest())
        return response

    app.add_url_rule("/client/<string:name>", view_func=client_wheel)
    app.jinja_env.globals["client_wheel"] = f"/client/{wheel_name()}"


def _stem() -> str:
    about = project()["project"]
    return f"{about['name'].replace('-', '_')}-{about['version']}"


def _sources() -> dict[str, bytes]:
    """Every file of the packages, by its path in the wheel."""
    packages = project()["tool"]["setuptools"]["packages"]
    found = {}
    for package in sorted(packages):
        folder = SOURCES / package.replace(".", "/")
        for path in sorted(folder.iterdir()):
            if path.suffix == ".py" or path.name == "py.typed":
                found[path.relative_to(SOURCES).as_posix()] = path.read_bytes()
    return found


def _metadata() -> dict[str, bytes]:
    about = project()["project"]
    lines = ["Metadata-Version: 2.4", f"Name: {about['name']}", f"Version: {about['version']}"]
    lines += [f"Summary: {about['description']}", f"Requires-Python: {about['requires-python']}"]
    lines += [f"License-Expression: {about['license']}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in about["dependencies"]]
    for extra, requirements in about.get("optional-dependencies", {}).items():
        lines += [f"Provides-Extra: {extra}"]
        lines += [f"Requires-Dist: {requirement}; extra == '{extra}'" for requirement in requirements]
    lines += ["Description-Content-Type: text/markdown", "", (SOURCES / about["readme"]).read_text(encoding="utf-8")]
    scripts = "".join(f"{name} = {target}\n" for name, target in about.get("scripts", {}).items())
    files = {
        "METADATA": "\n".join(lines),
        "WHEEL": f"Wheel-Version: 1.0\nGenerator: bimt\nRoot-Is-Purelib: true\nTag: {TAG}\n",
        "entry_points.txt": f"[console_scripts]\n{scripts}",
    }
    return {name: text.encode() for name, text in files.items()}


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
