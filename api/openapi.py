"""The description of all addresses as OpenAPI 3.1: `python -m api.openapi` writes openapi.json, `--check` compares."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from flask_openapi3 import OpenAPI

FILE = Path(__file__).resolve().parents[1] / "openapi.json"


def finished(app: OpenAPI) -> dict[str, Any]:
    """The document that flask-openapi3 collected, without what it invents and without repetition."""
    document: dict[str, Any] = app.api_doc
    components = document["components"]
    components["responses"] = {}
    for path in document["paths"].values():
        for operation in path.values():
            if "description" in operation:
                operation["description"] = operation["description"].replace("<br/>", "\n").strip()
            for parameter in operation.get("parameters", []):
                parameter["schema"] = _absent_not_null(parameter["schema"])
            for status, answer in operation["responses"].items():
                if "application/problem+json" in answer.get("content", {}):
                    name = answer["description"].replace(" ", "")
                    components["responses"][name] = answer
                    operation["responses"][status] = {"$ref": f"#/components/responses/{name}"}
    schemas = components["schemas"]
    for name in ("ValidationErrorModel", "UnprocessableEntity"):
        schemas.pop(name, None)
    for schema in list(schemas.values()):
        # Definitions inside a schema are components of their own; the copies would not be used.
        for inner, definition in (schema.pop("$defs", None) or {}).items():
            schemas.setdefault(inner, definition)
    components["schemas"] = dict(sorted(schemas.items()))
    components["responses"] = dict(sorted(components["responses"].items()))
    document["paths"] = dict(sorted(document["paths"].items()))
    return document


def _absent_not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter in an address or a header is there or not; it is never null."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) != 1 or len(kinds) == len(schema["anyOf"]):
        return schema
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    return rest | kinds[0]


def text_of(document: dict[str, Any]) -> str:
    """The document as it stands in the repository."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def current() -> str:
    """The document of the addresses as they are in the code."""
    from api.app import create_app
    from store.settings import Settings

    with tempfile.TemporaryDirectory() as home:
        return text_of(create_app(Settings.from_env({}, home=Path(home))).spec_json)


def main(arguments: list[str] | None = None) -> int:
    """Write or compare; 1 when the file and the code disagree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    args = parser.parse_args(arguments)
    wanted = current()
    if not args.check:
        FILE.write_text(wanted, encoding="utf-8")
        return 0
    if FILE.exists() and FILE.read_text(encoding="utf-8") == wanted:
        return 0
    print("openapi.json does not describe the addresses as they are; run `python -m api.openapi`.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
