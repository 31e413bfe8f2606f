"""The check of an upload in a process of its own: an answer in JSON, whatever the bytes."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from bimt_engine.data.roles import FORMATS
from tests.engine.data.makers import npz, table


def run(path, format, *options):
    command = [sys.executable, "-m", "bimt_engine.check", "data", "--format", format, *options, str(path)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False)


def answer(path, format, *options):
    ended = run(path, format, *options)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count(b"\n") == 1
    return json.loads(ended.stdout)


def test_a_sound_table_is_answered_with_its_preview(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(table())
    said = answer(path, "csv")
    assert said["ok"] is True
    assert said["preview"]["rows"] == 40
    roles = {"inputs": ["age"], "targets": ["colour"], "task": "classification"}
    assert answer(path, "csv", "--roles", json.dumps(roles))["preview"]["suggested"] == roles


@pytest.mark.parametrize(
    ("format", "content", "column"),
    [
        ("csv", b"a,b\n1,2\n3,4\n5,inf\n7,8\n", "b"),
        ("npz", npz(x=np.array([[1.0], [2], [np.inf], [4]]), y=np.arange(4)), "x"),
        ("cayley", b"0,1,2\n1,2,0\n2,0,0\n", 3),
    ],
)
def test_what_is_wrong_is_answered_with_its_place(tmp_path, format, content, column):
    path = tmp_path / "upload"
    path.write_bytes(content)
    said = answer(path, format)
    assert said["ok"] is False
    assert said["errors"][0]["row"] == 3
    assert said["errors"][0]["column"] == column
    assert len(said["errors"][0]["detail"]) > 20


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("content", [b"", b"\0" * 1000, b"\x89PNG\r\n\x1a\n", b"PAR1" + b"\xff" * 40 + b"PAR1"])
def test_nonsense_in_any_format_is_answered_with_a_sentence(tmp_path, format, content):
    path = tmp_path / "upload"
    path.write_bytes(content)
    said = answer(path, format)
    assert said["ok"] is False
    assert said["errors"][0]["detail"]


def test_more_memory_or_time_than_is_granted_is_said(tmp_path):
    path = tmp_path / "wide.csv"
    line = b",".join([b"0.123456789"] * 900)
    path.write_bytes(b",".join(b"c%d" % i for i in range(900)) + b"\n" + (line + b"\n") * 20_000)
    said = answer(path, "csv", "--memory-bytes", str(400 << 20))
    assert "more memory" in said["errors"][0]["detail"]
    said = answer(path, "csv", "--cpu-seconds", "1")
    assert "longer to read" in said["errors"][0]["detail"]


def test_the_check_loads_no_torch(tmp_path):
    code = (
        "import sys; from bimt_engine.check import check_data; from pathlib import Path;"
        f"check_data(Path({str(tmp_path / 'none.csv')!r}), 'csv') if 0 else None;"
        "import bimt_engine.data.registry, bimt_engine.data.roles;"
        "assert not {'torch', 'sklearn', 'polars', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
