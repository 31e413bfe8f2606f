"""docs/client.md as it is written: every example runs, one after the other, and its exit codes are the command's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest

from bimt.command import EXIT_CODES, cli

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
DOCUMENTS = Path(__file__).resolve().parents[2] / "docs"
DOCUMENT = (DOCUMENTS / "client.md").read_text(encoding="utf-8")


def test_every_example_of_the_document_runs(service, table, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BIMT_URL", service.address)
    monkeypatch.setenv("BIMT_TOKEN", service.token)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    examples = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
    for number, example in enumerate(examples):
        exec(compile(example, f"example {number}", "exec"), names)
    names["client"].close()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "admin"
    assert "40 ['rooms', 'age']" in printed
    assert "succeeded 2" in printed
    assert "True" in printed
    assert "1500" in printed
    assert "['price']" in printed
    assert any(line.startswith("{'price': ") for line in printed)
    assert any("runs divide inputs and outputs the same way" in line for line in printed)
    assert printed[-1] == "['/seeds/0', '/priority']"
    assert printed.count("['rooms', 'age'] torch.Size([1, 1])") == 2  # the whole network, and its only module alone
    at = printed.index("['rooms', 'age'] ['price'] True")
    assert printed[at + 1] == "True"  # onnxruntime says what the service says
    assert (tmp_path / "network.svg").stat().st_size > 1000


def test_an_onnx_file_of_scikit_learn_goes_through_the_service(service, tmp_path, monkeypatch, capsys):
    pytest.importorskip("skl2onnx")
    monkeypatch.setenv("BIMT_URL", service.address)
    monkeypatch.setenv("BIMT_TOKEN", service.token)
    monkeypatch.chdir(tmp_path)
    page = (DOCUMENTS / "your-network.md").read_text(encoding="utf-8")
    section = page.split("## An ONNX file through the service", 1)[1]
    names: dict[str, Any] = {}
    exec(compile(re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0], "your-network.md", "exec"), names)
    names["client"].close()
    assert "reads" in capsys.readouterr().out
    assert (tmp_path / "pruned.onnx").stat().st_size > 500


def test_the_example_of_the_readme_runs(service, capsys):
    readme = (DOCUMENTS.parent / "README.md").read_text(encoding="utf-8")
    [example] = [
        each for each in re.findall(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE) if "Client" in each
    ]
    for written, meant in (("http://127.0.0.1:8080", service.address), ("bimt_…", service.token), ("[0, 1, 2]", "[0]")):
        assert written in example
        example = example.replace(written, meant)
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), names)
    names["client"].close()
    assert "module A reads x1 and x3, decides y1" in capsys.readouterr().out
    assert {"input:0", "output:0"} <= set(names["graph"].nodes)
    assert names["curve"].index[-1] == 20_000


def test_the_commands_of_the_document_are_parsed_without_a_deprecated_spelling(capsys):
    lines = [line.split() for line in re.findall(r"^bimt (.+)$", DOCUMENT, re.MULTILINE)]
    assert len(lines) == 20
    for verb, *words in lines:
        cli.commands[verb].make_context(verb, words, parent=click.Context(cli, **cli.context_settings))
    assert capsys.readouterr().err == ""


def test_the_exit_codes_of_the_document_are_those_of_the_help():
    table = dict(re.findall(r"^\| (\d+) \| (.+) \|$", DOCUMENT, re.MULTILINE))
    assert table == dict(re.findall(r"^  (\d+) +(.+)$", EXIT_CODES, re.MULTILINE))
