"""The types that the page scripts are checked with describe what the API answers, and their checker comes by a lock."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMAS = json.loads((REPOSITORY / "openapi.json").read_text(encoding="utf-8"))["components"]["schemas"]
TYPES = (REPOSITORY / "api" / "pages" / "documents.d.ts").read_text(encoding="utf-8")
INTERFACES = {
    name: body for name, body in re.findall(r"^interface (\w+) \{\n(.*?)^\}", TYPES, re.MULTILINE | re.DOTALL)
}
SIMPLE = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean"}


def may_be_null(schema: dict[str, Any]) -> bool:
    return any(kind.get("type") == "null" for kind in schema.get("anyOf", []))


def simple(schema: dict[str, Any]) -> str | None:
    """What TypeScript calls a number, text or truth value; None of everything else, and of a list of texts."""
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    return SIMPLE.get(kinds[0].get("type")) if len(kinds) == 1 and not {"enum", "const"} & set(kinds[0]) else None


@pytest.mark.parametrize("name", sorted(set(INTERFACES) & set(SCHEMAS)))
def test_a_document_of_the_pages_is_the_one_of_openapi(name):
    described = SCHEMAS[name]["properties"]
    fields = re.findall(r"^  (\w+)(\??): (.+);$", INTERFACES[name], re.MULTILINE)
    assert fields
    for field, optional, written in fields:
        assert field in described, f"{name}.{field} is not served"
        nullable = written.endswith("| null")
        assert nullable or not may_be_null(described[field]), f"{name}.{field} may be null"
        if kind := simple(described[field]):
            assert written.removesuffix(" | null") == kind, f"{name}.{field}{optional}: {written}, but {kind} is served"


def test_enough_documents_are_compared():
    assert len(set(INTERFACES) & set(SCHEMAS)) > 20


def test_the_checker_is_pinned_and_its_lock_names_no_host():
    project = json.loads((REPOSITORY / ".ci" / "package.json").read_text(encoding="utf-8"))
    text = (REPOSITORY / ".ci" / "package-lock.json").read_text(encoding="utf-8")
    assert project["private"] is True
    assert set(project) & {"dependencies", "optionalDependencies", "peerDependencies"} == set()
    for name, version in project["devDependencies"].items():
        locked = json.loads(text)["packages"][f"node_modules/{name}"]
        assert (locked["version"], locked["integrity"][:7]) == (version, "sha512-")
    assert "://" not in text
    assert '"resolved"' not in text
