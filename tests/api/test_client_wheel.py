"""The wheel of the client that the service offers: complete, reproducible, and installable by pip."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

from api import client_wheel
from tests.api.makers import House


def test_it_is_served_without_a_token_under_its_own_name_only(house: House) -> None:
    client = house.client()
    answer = client.get(f"/client/{client_wheel.wheel_name()}")
    assert (answer.status_code, answer.data) == (200, client_wheel.wheel())
    assert client_wheel.wheel_name() in client.get("/client/other.whl").text
    assert client.get("/client/other.whl").status_code == 404


def test_the_same_sources_give_the_same_bytes() -> None:
    first = client_wheel.wheel()
    client_wheel.wheel.cache_clear()
    assert client_wheel.wheel() == first


def test_it_holds_every_source_file(repository: Path) -> None:
    sources = (repository / "client" / "bimt").rglob("*.py")
    wanted = {path.relative_to(repository / "client").as_posix() for path in sources}
    names = set(zipfile.ZipFile(BytesIO(client_wheel.wheel())).namelist())
    assert wanted <= names
    assert {name for name in names if name.endswith(".dist-info/RECORD")}


def test_pip_installs_it_and_it_can_be_imported(tmp_path: Path) -> None:
    wheel = tmp_path / client_wheel.wheel_name()
    wheel.write_bytes(client_wheel.wheel())
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(tmp_path / "to"),
    ]
    subprocess.run([*pip, str(wheel)], check=True)
    look = f"import sys; sys.path.insert(0, {str(tmp_path / 'to')!r}); import bimt; print(bimt.__file__)"
    found = subprocess.run([sys.executable, "-I", "-c", look], check=True, capture_output=True, text=True).stdout
    assert found.startswith(str(tmp_path))
