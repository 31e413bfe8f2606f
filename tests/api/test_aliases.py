"""Old names on the wire: each line of the table still works, says that it is deprecated, and names the new one."""

from __future__ import annotations

import pytest

from api.aliases import ADDRESSES, READINESS_PARTS
from api.operations import INTERACTIVE
from store import operations
from tests.api.makers import House, now, publish_runs, submit_job


@pytest.fixture
def parameters(house: House) -> dict[str, str]:
    """An id for every parameter of an old address."""
    [run_id] = publish_runs(house, submit_job(house))
    with house.database.write() as rows:
        operation = operations.submit(
            rows,
            team_id=house.teams["ours"],
            member_id=house.members["ours", "admin"],
            kind="predict",
            about=run_id,
            request={"run_id": run_id},
            queue=INTERACTIVE,
            now=now(),
        )
        return {"<string:operation_id>": operation.id}


@pytest.mark.parametrize("new", ADDRESSES)
def test_an_old_address_answers_as_the_new_one_and_names_it(house: House, parameters: dict[str, str], new: str) -> None:
    old = ADDRESSES[new]
    for parameter, value in parameters.items():
        new, old = new.replace(parameter, value), old.replace(parameter, value)
    client, headers = house.client(), house.headers()
    at_new, at_old = (client.get(f"/api/v1{path}?wait=0", headers=headers) for path in (new, old))
    assert (at_old.status_code, at_old.json) == (200, at_new.json)
    assert "Deprecation" not in at_new.headers
    assert at_old.headers["Deprecation"].startswith("@")
    assert at_old.headers["Link"] == f'</api/v1{new}>; rel="successor-version"'
    assert client.get(f"/api/v1{old}", headers=house.headers(team="theirs")).status_code == 404


@pytest.mark.parametrize("new", ADDRESSES)
def test_an_old_address_is_deprecated_in_the_document(house: House, new: str) -> None:
    paths = house.client().get("/openapi.json").json["paths"]
    spelt = {rule: "/api/v1" + rule.replace("<string:", "{").replace(">", "}") for rule in (new, ADDRESSES[new])}
    assert all(operation["deprecated"] for operation in paths[spelt[ADDRESSES[new]]].values())
    assert not any(operation.get("deprecated") for operation in paths[spelt[new]].values())


def test_readiness_has_its_old_keys(house: House) -> None:
    parts = house.client().get("/readyz").json["parts"]
    for new, old in READINESS_PARTS.items():
        assert parts[old] == parts[new]


def test_the_document_names_every_old_address(house: House, repository) -> None:
    document = (repository / "docs" / "aliases.md").read_text(encoding="utf-8")
    for rule in ADDRESSES.values():
        assert f"/{rule.split('/')[1]}/" in document, rule
