"""What users of the version before rely on works: as itself, as a documented alias, or withdrawn for a reason.

service.json was taken from that version: settings and defaults, addresses with their parameters and fields, metrics,
queues, files of a bundle, and what lies in BIMT_HOME. client.json, beside it, holds the same of the client.
"""

from __future__ import annotations

import importlib
import json
import re
import warnings
from pathlib import Path

import pytest

from api.aliases import ADDRESSES, READINESS_PARTS
from bimt_engine._aliases import MOVED
from store import aliases
from store.settings import QUEUES, Settings, table

REPOSITORY = Path(__file__).resolve().parents[2]
BEFORE = json.loads(Path(__file__).with_name("service.json").read_text(encoding="utf-8"))
NOW = json.loads((REPOSITORY / "openapi.json").read_text(encoding="utf-8"))
OPERATIONS = NOW["paths"]

# What no longer works, each with its reason.
WITHDRAWN = {
    "home: metrics": "a single API process keeps its numbers in memory; the folder is made only for several",
    **{
        f"bundle: figures/{name}.png": "runs store their figures as SVG alone; /figures/….png makes a PNG when asked"
        for name in ("effects", "fit", "network", "prune-curve")
    },
}
# Defaults that changed, each with its reason.
OTHER_DEFAULTS = {
    "BIMT_API_THREADS": "a stream holds a thread, and 200 streams are promised",
    "BIMT_QUEUE": "the same value",
}


def resolved(schema: dict) -> dict:
    while "$ref" in schema:
        schema = NOW["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def properties(schema: dict) -> set[str]:
    schema = resolved(schema)
    found = set(schema.get("properties", {}))
    for part in ("allOf", "anyOf", "oneOf"):
        for each in schema.get(part, []):
            found |= properties(each)
    return found


def fields(contents: dict) -> set[str]:
    return set().union(*(properties(one.get("schema", {})) for one in contents.values()), set())


@pytest.mark.parametrize("name", BEFORE["operations"])
def test_every_address_takes_and_answers_at_least_what_it_did(name: str) -> None:
    before = BEFORE["operations"][name]
    method, _, path = name.partition(" ")
    now = OPERATIONS.get(path, {}).get(method.lower())
    if now is None:  # only the name of a path parameter differs
        shape = path.partition("{")[0]
        same = [
            item for other, item in OPERATIONS.items() if other.partition("{")[0] == shape and method.lower() in item
        ]
        assert len(same) == 1, f"{name} is gone"
        now = same[0][method.lower()]
    query = {resolved(one)["name"] for one in now.get("parameters", []) if resolved(one)["in"] != "path"}
    in_path = set(re.findall(r"{(\w+)}", path))
    assert {one for one in before["parameters"] if one not in in_path} <= query
    assert set(before["body"]) <= fields(resolved(now.get("requestBody", {})).get("content", {}))
    answered = [resolved(answer) for status, answer in now["responses"].items() if status.startswith("2")]
    assert set(before["response"]) <= set().union(*(fields(answer.get("content", {})) for answer in answered))


def test_old_addresses_are_marked_as_deprecated() -> None:
    assert ADDRESSES
    for old in ADDRESSES.values():
        path = "/api/v1" + old.replace("<string:", "{").replace(">", "}")
        shape = path.partition("{")[0]
        found = [item for other, item in OPERATIONS.items() if other.partition("{")[0] == shape]
        assert found
        assert all(operation["deprecated"] for item in found for operation in item.values())
    assert READINESS_PARTS


def test_every_setting_is_there_with_its_default_or_has_a_new_name() -> None:
    now = {setting.name: setting.default for setting in table()}
    for name, default in BEFORE["settings"].items():
        current = aliases.SETTINGS.get(name, name)
        assert current in now, f"{name} is gone"
        if current not in OTHER_DEFAULTS:
            assert now[current] == default, name


@pytest.mark.parametrize(("old", "new"), sorted(aliases.SETTINGS.items()))
def test_an_old_setting_has_the_effect_of_the_new_one_and_says_so(old: str, new: str, capsys) -> None:
    assert Settings.from_env({old: "7"}).environment()[new] == "7.0"
    assert f"use {new}" in capsys.readouterr().err


def test_every_queue_is_there_or_has_a_new_name() -> None:
    assert {aliases.QUEUES.get(name, name) for name in BEFORE["queues"]} <= set(QUEUES)


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_engine_module_that_documents_named_can_be_imported_by_its_old_name(old: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # tests/engine/test_aliases.py tests the warning
        assert importlib.import_module(old)


def test_metrics_keep_their_names() -> None:
    files = [path for package in ("api", "worker", "store") for path in (REPOSITORY / package).rglob("*.py")]
    sources = "".join(path.read_text(encoding="utf-8") for path in files)
    assert [name for name in BEFORE["metrics"] if f'"{name}"' not in sources] == []


def test_each_withdrawal_has_a_reason() -> None:
    assert all(WITHDRAWN.values())
    assert all(OTHER_DEFAULTS.values())
