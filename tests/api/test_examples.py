"""docs/api.md as it is written: every example is sent, and the answer holds what the document shows."""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from werkzeug.test import TestResponse

from tests.answering import SharedProcess, operations_on, untrained_weights
from tests.api.makers import House, independence_spec, publish_runs, submit_job
from tests.engine.networks.files.makers import model

HOUSES = "rooms,age,price\n" + "".join(
    f"{i % 6 + 1},{i * 7 % 40},{90 + 31.5 * (i % 6) - i * 7 % 40}\n" for i in range(40)
)


def content(file_name: str) -> bytes:
    """The file that an example sends."""
    if file_name.endswith(".onnx"):
        return model().SerializeToString()
    if file_name.endswith(".safetensors"):
        shapes = {"weights.0": (3, 2), "biases.0": (3,), "weights.1": (1, 3), "biases.1": (1,)}
        return save({name: np.ones(shape) for name, shape in shapes.items()})
    return HOUSES.encode()


def examples(text: str) -> list[tuple[str, Any]]:
    """(command, answer) of every console block."""
    blocks = re.findall(r"```console\n\$ (.*?)\n(.*?)\n```", text, re.DOTALL)
    return [(command, json.loads(answer)) for command, answer in blocks]


def send(house: House, command: str, known: dict[str, str]) -> TestResponse:
    """What curl would do."""
    for name, value in known.items():
        command = command.replace(f"${name}", value)
    words = shlex.split(command)
    assert words[0] == "curl"
    method, headers, form, body, path = None, {}, {}, None, ""
    rest = iter(words[1:])
    for word in rest:
        if word == "-H":
            name, _, value = next(rest).partition(": ")
            headers[name] = value
        elif word == "-X":
            method = next(rest)
        elif word == "-F":
            name, _, value = next(rest).partition("=")
            form[name] = (io.BytesIO(content(value)), value[1:]) if value.startswith("@") else value
        elif word == "--json":
            body = json.loads(next(rest))
        else:
            path = word.removeprefix(known["BIMT_URL"])
    options: dict[str, Any] = {"json": body} if body is not None else {"data": form} if form else {}
    return house.client().open(path, method=method or ("POST" if options else "GET"), headers=headers, **options)


def holds(answer: Any, shown: Any, where: str = "") -> None:
    """Whether the answer has everything that is shown; `…` stands for anything, and more may be there."""
    if isinstance(shown, dict):
        for key, value in shown.items():
            assert key in answer, f"{where}/{key} is not in the answer"
            holds(answer[key], value, f"{where}/{key}")
    elif isinstance(shown, list):
        assert len(answer) == len(shown), where
        for i, value in enumerate(shown):
            holds(answer[i], value, f"{where}/{i}")
    elif isinstance(shown, str) and "…" in shown:
        assert re.fullmatch(re.escape(shown).replace("…", ".+"), answer), f"{where}: {answer}"
    else:
        assert answer == shown, f"{where}: {answer!r} is not {shown!r}"


@pytest.fixture
def document(repository: Path) -> str:
    return (repository / "docs" / "api.md").read_text(encoding="utf-8")


def test_every_example_of_the_document_does_what_it_shows(
    house: House,
    document: str,
    shared_process: SharedProcess,
) -> None:
    weights = untrained_weights(independence_spec().model_dump_json())
    [run_id] = publish_runs(house, submit_job(house, name="earlier"), weights=weights)
    house.worker = operations_on(house.settings, house.database, house.files, shared_process).serve
    known = {"BIMT_URL": "http://here", "BIMT_TOKEN": house.tokens["ours", "admin"], "RUN": run_id}
    found = examples(document)
    assert len(found) > 12
    assert len(found) == document.count("```console")
    for command, shown in found:
        answer = send(house, command, known)
        assert answer.is_json or answer.content_type == "application/problem+json", command
        holds(answer.json, shown, command[:60])
        if str(answer.json.get("token", "")).startswith("share_"):
            known["LINK"] = answer.json["token"]
        for noun, name in (("dataset_", "DATASET"), ("job_", "JOB"), ("webhook_", "WEBHOOK"), ("network_", "NETWORK")):
            if answer.status_code in (201, 202) and str(answer.json.get("id", "")).startswith(noun):
                known.setdefault(name, answer.json["id"])


def test_the_document_names_every_noun_of_the_addresses(house: House, document: str) -> None:
    paths = house.client().get("/openapi.json").json["paths"]
    current = [path for path, item in paths.items() if not all(one.get("deprecated") for one in item.values())]
    for path in current:  # the others stand in docs/aliases.md
        short = path.removeprefix("/api/v1")
        last = [part for part in short.split("/") if part and "{" not in part][-1]
        assert last.split("?")[0] in document, path
