"""Models: published, found by evidence, pointed at, noted on, shared, forked, compared, downloaded."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from datetime import timedelta

import pytest

from api.routing import cursor
from api.submission import merge_patch
from api.versions import differences, matched
from tests.api.makers import House, call, make_house, now, publish_runs, submit_job


def pages(house: House, path: str, name: str) -> list[object]:
    """One field of every entry of a list, asked for two by two."""
    found: list[object] = []
    after = ""
    while True:
        page = call(house, "GET", f"{path}&limit=2{after}", "reader").json
        found += [entry[name] for entry in page["items"]]
        if page["next"] is None:
            return found
        after = f"&after={page['next']}"


def publish(house: House, name: str = "independence", team: str = "ours", seed: int = 0, **more: object) -> dict:
    """A model with one version."""
    [run_id] = publish_runs(house, submit_job(house, team=team, seeds=(seed,)))
    answer = call(house, "POST", "/models", "sharer", team, json={"run_id": run_id, "name": name, **more})
    assert answer.status_code == 201, answer.json
    return answer.json


def test_a_run_becomes_a_model_and_the_next_one_its_next_version(any_house: House) -> None:
    first = publish(any_house, card="Two modules.")
    assert (first["model"], first["number"], first["modules"]) == ("independence", 1, 2)
    second = publish(any_house, seed=1, card="Again.")
    assert (second["model_id"], second["number"]) == (first["model_id"], 2)
    model = call(any_house, "GET", "/models/independence", "reader").json
    assert (model["versions"], model["card"], model["visibility"], model["ours"]) == (2, "Again.", "team", True)
    assert call(any_house, "GET", f"/models/{model['id']}", "reader").json == model
    listed = call(any_house, "GET", "/models/independence/versions", "reader").json["items"]
    assert [item["number"] for item in listed] == [2, 1]
    old = call(any_house, "GET", "/models/independence/versions/1", "reader").json
    assert (old["card"], old["run_id"]) == ("Two modules.", first["run_id"])
    assert old["spec"]["dataset"]["kind"] == "formula"
    for word in ("newest", "2"):
        assert call(any_house, "GET", f"/models/independence/versions/{word}", "reader").json["number"] == 2
    assert call(any_house, "GET", "/models/independence/versions/3", "reader").status_code == 404


def test_publishing_again_with_the_same_key_publishes_nothing_more(house: House) -> None:
    [run_id] = publish_runs(house, submit_job(house))
    headers = house.headers("sharer", **{"Idempotency-Key": "once"})
    body = {"run_id": run_id, "name": "mine"}
    sent = [house.client().post("/api/v1/models", headers=headers, json=body) for _ in range(3)]
    assert [answer.status_code for answer in sent] == [201] * 3
    assert {answer.json["number"] for answer in sent} == {1}
    other = house.client().post("/api/v1/models", headers=headers, json=body | {"name": "yours"})
    assert (other.status_code, other.json["type"]) == (409, "/problems/conflict")


def test_only_what_has_succeeded_is_published(house: House) -> None:
    job_id = submit_job(house)
    [run] = call(house, "GET", f"/jobs/{job_id}/runs").json["items"]
    refused = call(house, "POST", "/models", json={"run_id": run["id"], "name": "early"})
    assert (refused.status_code, "is queued" in refused.json["detail"]) == (409, True)
    for name in ("model_x", "", "a/b", "../x", "ä"):
        assert call(house, "POST", "/models", json={"run_id": run["id"], "name": name}).status_code == 422


def test_models_are_found_by_their_evidence(any_house: House) -> None:
    publish(any_house)
    found = {
        "": 1, "?min_modules=2": 1, "?min_modules=3": 0, "?max_modules=1": 0, "?max_connections=20": 0,
        "?max_connections=2000": 1, "?min_modularity=0.49": 1, "?min_modularity=0.5": 0, "?min_selectivity=0.9": 1,
        "?reads=x2": 1, "?moves=y1&reads=x2": 0,
        "?q=INDEP": 1, "?q=nothing": 0, "?method=vanilla": 0, "?dataset_kind=digits": 0,
    }  # fmt: skip
    for query, count in found.items():
        answer = call(any_house, "GET", f"/models{query}", "reader")
        assert (answer.status_code, len(answer.json["items"])) == (200, count), query
    assert call(any_house, "GET", "/models?min_moduls=2").status_code == 422
    assert call(any_house, "GET", "/models?reads=").status_code == 422
    assert call(any_house, "GET", f"/models?moves={201 * 'y'}").status_code == 422


def test_a_word_keeps_everything_that_it_has_meant(house: House) -> None:
    publish(house)
    publish(house, seed=1)
    at = "/models/independence/aliases/stable"
    assert call(house, "GET", at).status_code == 404
    assert call(house, "PUT", at, "sharer", json={"version": 1}).json["number"] == 1
    call(house, "PUT", at, "sharer", json={"version": 2})
    assert call(house, "GET", "/models/independence/versions/stable", "reader").json["number"] == 2
    assert call(house, "GET", "/models/independence/aliases", "reader").json == {"items": {"stable": 2}}
    assert call(house, "DELETE", at, "sharer").status_code == 204
    assert call(house, "GET", "/models/independence/versions/stable", "reader").status_code == 404
    assert pages(house, f"{at}?", "number") == [None, 2, 1]
    assert call(house, "PUT", at, json={"version": 9}).status_code == 404
    assert call(house, "PUT", "/models/independence/aliases/newest", json={"version": 1}).status_code == 422


def test_notes_keep_their_history_and_their_authors(house: House) -> None:
    publish(house)
    at = "/models/independence/versions/1/annotations"
    first = call(house, "POST", at, "sharer", json={"about": "module", "target": "A", "text": "the cube"})
    assert (first.status_code, first.json["author"]) == (201, "sharer of ours")
    body = {"about": "module", "target": "A", "text": "the cube of a sum"}
    assert call(house, "POST", at, json=body).status_code == 409
    assert call(house, "POST", at, json=body | {"replaces": 1}).status_code == 201
    [current] = call(house, "GET", at, "reader").json["items"]
    assert (current["text"], current["number"], current["author"]) == ("the cube of a sum", 2, "admin of ours")
    assert pages(house, f"{at}?about=module&target=A", "text") == ["the cube of a sum", "the cube"]
    for about, target in (("module", "Z"), ("neuron", "hidden1:99"), ("connection", "x->y"), ("run", "A")):
        answer = call(house, "POST", at, json={"about": about, "target": target, "text": "?"})
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/target")
    for about, target in (("neuron", "hidden1:2"), ("connection", "input:0->hidden1:2"), ("run", "")):
        assert call(house, "POST", at, json={"about": about, "target": target, "text": "!"}).status_code == 201
    assert call(house, "POST", at, json=body | {"replaces": 2, "text": ""}).status_code == 201
    assert pages(house, f"{at}?", "about") == ["run", "connection", "neuron"]


@pytest.mark.parametrize(
    ("visibility", "by_id", "listed"),
    [("private", 404, 0), ("team", 404, 0), ("unlisted", 200, 0), ("public", 200, 1)],
)
def test_another_team_sees_what_it_should_and_changes_nothing(
    house: House, visibility: str, by_id: int, listed: int
) -> None:
    model = publish(house, visibility=visibility)["model_id"]
    at = f"/models/{model}"
    assert call(house, "GET", at, team="theirs").status_code == by_id
    assert call(house, "GET", "/models/independence", team="theirs").status_code == 404
    for what in ("/graph", "/modules", "/effects", "/weights.safetensors", "/bundle.zip", "/card.md"):
        assert call(house, "GET", f"{at}/versions/1{what}", team="theirs").status_code == by_id, what
    assert len(call(house, "GET", "/models?everybody=true", team="theirs").json["items"]) == listed
    assert call(house, "GET", "/models", team="theirs").json["items"] == []
    changes = [
        ("PATCH", at, {"visibility": "public"}),
        ("DELETE", at, None),
        ("PUT", f"{at}/aliases/stable", {"version": 1}),
        ("PATCH", f"{at}/versions/1", {"card": "ours now"}),
        ("POST", f"{at}/versions/1/annotations", {"about": "run", "text": "x"}),
        ("POST", f"{at}/versions/1/shares", {}),
        ("GET", f"{at}/shares", None),
    ]
    for method, path, body in changes:
        assert call(house, method, path, team="theirs", json=body).status_code == 404, (method, path)
    assert call(house, "GET", at).json["visibility"] == visibility


def test_a_private_model_is_its_author_s_and_the_admin_s(house: House) -> None:
    publish(house, visibility="private")
    seen = {role: call(house, "GET", "/models/independence", role).status_code for role in house_roles()}
    assert seen == {"reader": 404, "submitter": 404, "sharer": 200, "admin": 200}
    changed = call(house, "PATCH", "/models/independence", "sharer", json={"visibility": "team", "name": "two"})
    assert (changed.json["visibility"], changed.json["name"]) == ("team", "two")
    assert call(house, "GET", "/models/two", "reader").status_code == 200


def house_roles() -> tuple[str, ...]:
    return ("reader", "submitter", "sharer", "admin")


# --- links --------------------------------------------------------------------------------------------


def test_a_link_shows_one_version_to_anybody_and_nothing_else(any_house: House) -> None:
    publish(any_house, visibility="private", card="Look.")
    other = publish(any_house, name="other", seed=3)
    view = {"module": "B", "connections": 12, "figure": "network.svg", "note": "The sine."}
    made = call(any_house, "POST", "/models/independence/versions/1/shares", "sharer", json={"view": view})
    assert made.status_code == 201, made.json
    token, stranger = made.json["token"], any_house.client()
    assert made.json["url"].endswith(f"/s/{token}")
    shown = stranger.get(f"/api/v1/s/{token}")
    assert (shown.json["model"], shown.json["version"], shown.json["card"]) == ("independence", 1, "Look.")
    assert shown.json["view"] == {"part": None, **view}
    assert shown.headers["X-Robots-Tag"] == "noindex, nofollow"
    assert len(stranger.get(f"/api/v1/s/{token}/graph?connections=3").json["edges"]) == 3
    assert [m["name"] for m in stranger.get(f"/api/v1/s/{token}/modules").json["modules"]] == ["A", "B"]
    assert stranger.get(f"/api/v1/s/{token}/effects").json["effects"]["A"]["y1"]["zero"] == 1.31
    assert stranger.get(f"/api/v1/s/{token}/figures/network.svg").status_code == 200
    everything = "".join(stranger.get(f"/api/v1/s/{token}{p}").text for p in ("", "/graph", "/modules", "/effects"))
    for secret in (other["run_id"], made.json["member_id"], any_house.teams["ours"], "run_", "job_", "member_"):
        assert secret not in everything
    for what in ("/weights.safetensors", "/spec", "/annotations", "/versions", "/../models"):
        assert stranger.get(f"/api/v1/s/{token}{what}").status_code == 404
    for path in ("/models/independence", f"/runs/{other['run_id']}", "/me"):
        as_token = stranger.get(f"/api/v1{path}", headers={"Authorization": f"Bearer {token}"})
        assert as_token.status_code == 401


def test_a_link_ends_when_it_is_revoked_expires_or_loses_its_model(tmp_path, service_url: str) -> None:
    moment = [now()]
    house = make_house(tmp_path / "home", database_url=service_url, clock=lambda: moment[0])
    publish(house)
    at = "/models/independence/versions/1/shares"
    made = [call(house, "POST", at, "sharer", json={"expires_in_days": days}).json for days in (None, 1, None)]
    links = [f"/api/v1/s/{share['token']}" for share in made]
    assert [house.client().get(link).status_code for link in links] == [200, 200, 200]
    assert call(house, "DELETE", f"/shares/{made[0]['id']}", "sharer").status_code == 204
    assert call(house, "DELETE", f"/shares/{made[1]['id']}", team="theirs").status_code == 404
    moment[0] = now() + timedelta(days=1, seconds=1)
    answers = [house.client().get(link) for link in links]
    assert [answer.status_code for answer in answers] == [404, 404, 200]
    nobody = house.client().get("/api/v1/s/share_000000000000_" + "a" * 51)
    assert answers[0].json == answers[1].json == nobody.json
    with house.database.write() as rows:  # tokens of the house live a day
        from store import teams

        token, _ = teams.mint_token(rows, house.members["ours", "admin"], scopes=["admin"], expires_at=None, now=now())
    bearer = {"Authorization": f"Bearer {token}"}
    listed = house.client().get("/api/v1/models/independence/shares", headers=bearer).json["items"]
    assert [bool(share["revoked_at"]) for share in listed] == [False, False, True]
    assert "token" not in json.dumps(listed)
    assert house.client().delete("/api/v1/models/independence", headers=bearer).status_code == 204
    assert house.client().get(links[2]).status_code == 404
    house.database.close()


def test_a_view_that_the_run_does_not_have_is_refused(house: House) -> None:
    publish(house)
    at = "/models/independence/versions/1/shares"
    for field, value in (("module", "Z"), ("figure", "no.svg"), ("colour", 1)):
        answer = call(house, "POST", at, "sharer", json={"view": {field: value}})
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, f"/view/{field}")


def test_the_page_of_a_link_restores_the_view_and_leads_nowhere_else(house: House) -> None:
    version = publish(house, visibility="private", card="Look at <b>this</b>.")
    view = {"module": "B", "connections": 5, "figure": "network.svg", "note": "The sine."}
    at = "/models/independence/versions/1/shares"
    token = call(house, "POST", at, "sharer", json={"view": view}).json["token"]
    page = house.client().get(f"/s/{token}")
    assert page.status_code == 200
    assert 'data-first="B"' in page.text
    assert page.text.count('class="connection ') == 5
    assert "<details open><summary>Network<" in page.text
    assert "The sine." in page.text
    assert "&lt;b&gt;this" in page.text
    assert (page.headers["Referrer-Policy"], "noindex" in page.headers["X-Robots-Tag"]) == ("no-referrer", True)
    assert version["run_id"] not in page.text
    assert house.client().get(f"/s/{token[:-1]}").status_code == 404


def test_a_verification_is_asked_of_a_worker_once(house: House) -> None:
    publish(house)
    at = "/models/independence/versions/1/verify?wait=0"
    first, second = (call(house, "POST", at, "submitter") for _ in range(2))
    assert (first.status_code, first.json["kind"], first.json["state"]) == (202, "verify", "queued")
    assert second.json["id"] == first.json["id"]
    assert first.headers["Location"] == f"/api/v1/operations/{first.json['id']}"
    assert call(house, "POST", at, "reader").status_code == 403


def test_a_changed_link_opens_nothing(house: House) -> None:
    publish(house)
    token = call(house, "POST", "/models/independence/versions/1/shares", "sharer", json={}).json["token"]
    for i in range(len(token)):
        changed = token[:i] + ("b" if token[i] != "b" else "c") + token[i + 1 :]
        assert house.client().get(f"/api/v1/s/{changed}").status_code == 404, i


# --- beginning from it ----------------------------------------------------------------------------------------


def test_a_fork_is_the_same_training_changed_where_asked(house: House) -> None:
    publish(house, seed=4)
    at = "/models/independence/versions/1/fork"
    same = call(house, "POST", at, "submitter", json={})
    assert same.status_code == 202, same.json
    original = call(house, "GET", "/models/independence/versions/1").json["spec"]
    assert same.json["spec"] == original
    [run] = call(house, "GET", f"/jobs/{same.json['id']}/runs").json["items"]
    assert run["seed"] == 4
    assert house.announced[-1][0] == same.json["id"]
    changes = {"training": {"steps": 500}, "network": {"hidden": [30]}}
    other = call(house, "POST", at, "submitter", json={"changes": changes, "seeds": [1, 2], "name": "wider"})
    assert (other.json["spec"]["training"]["steps"], other.json["runs"]) == (500, 2)
    wrong = call(house, "POST", at, json={"changes": {"network": {"hidden": [0]}}})
    assert (wrong.status_code, wrong.json["errors"][0]["pointer"]) == (422, "/changes/network/hidden/0")


def test_a_merge_patch_takes_away_and_puts_in() -> None:
    assert merge_patch({"a": 1, "b": {"c": 2, "d": 3}}, {"a": None, "b": {"c": 5}, "e": [1]}) == {
        "b": {"c": 5, "d": 3},
        "e": [1],
    }


def test_two_versions_stand_side_by_side(house: House) -> None:
    publish(house)
    second = publish(house, seed=1)
    answer = call(house, "GET", f"/compare?a=independence@1&b={second['run_id']}", "reader").json
    assert (answer["a"]["what"], answer["b"]["what"]) == ("independence@1", second["run_id"])
    assert answer["spec"] == []
    assert (answer["same_data"], answer["data"]) == (
        True,
        "Both were trained on the same data, in other rows: each seed draws its own.",
    )
    metric = next(m for m in answer["metrics"] if m["name"] == "test_prediction_loss")
    assert metric["difference"] == pytest.approx(metric["b"] - metric["a"])
    assert [(p["a"]["name"], p["b"]["name"], p["overlap"]) for p in answer["modules"]] == [("A", "A", 1), ("B", "B", 1)]
    assert call(house, "GET", "/compare?a=independence&b=nothing").status_code == 404
    theirs = publish(house, team="theirs")["run_id"]
    assert call(house, "GET", f"/compare?a=independence&b={theirs}").status_code == 404


def test_differences_point_at_each_field_and_modules_find_their_likeness() -> None:
    found = differences({"a": [1, 2], "b/c": {"d": 1}}, {"a": [1, 3], "e": None, "b/c": {}})
    assert [(d.pointer, d.a, d.b) for d in found] == [("/a/1", 2, 3), ("/b~1c/d", 1, None)]
    one = {"name": "A", "inputs": ["x1", "x2"], "outputs": ["y1"]}
    two = {"name": "B", "inputs": ["x3"], "outputs": ["y2"]}
    like = {"name": "A", "inputs": ["x3"], "outputs": ["y2"]}
    pairs = matched([one, two], [like])
    assert [(p.a and p.a["name"], p.b and p.b["name"], p.overlap) for p in pairs] == [("B", "A", 1.0), ("A", None, 0.0)]


# --- files ------------------------------------------------------------------------------------------------------


def test_a_run_has_its_card_and_bundle_without_being_published(any_house: House) -> None:
    job_id = submit_job(any_house, name="a | <b>*name*</b>\n# of ours")
    [waiting] = call(any_house, "GET", f"/jobs/{job_id}/runs").json["items"]
    for what in ("card.md", "bundle.zip"):
        assert call(any_house, "GET", f"/runs/{waiting['id']}/{what}").status_code == 409
    [run_id] = publish_runs(any_house, job_id)
    card = call(any_house, "GET", f"/runs/{run_id}/card.md", "reader")
    assert card.content_type == "text/markdown; charset=utf-8"
    assert card.text.startswith("# a \\| \\<b\\>\\*name\\*\\</b\\> \\# of ours, seed 0\n")
    assert "- **A** (8 neurons): module A reads x1 and x3, decides y1" in card.text
    answer = call(any_house, "GET", f"/runs/{run_id}/bundle.zip", "reader")
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{run_id}.zip"'
    archive = zipfile.ZipFile(io.BytesIO(answer.data))
    assert archive.testzip() is None
    assert archive.read("card.md").decode() == card.text
    assert len(json.loads(archive.read("history.json"))) == 100
    manifest = json.loads(archive.read("manifest.json"))
    assert (manifest["run_id"], "model" in manifest) == (run_id, False)
    assert set(manifest["files"]) == set(archive.namelist()) - {"manifest.json"}
    assert "annotations.json" not in manifest["files"]
    for what in ("card.md", "bundle.zip"):
        assert call(any_house, "GET", f"/runs/{run_id}/{what}", team="theirs").status_code == 404


def test_a_bundle_holds_everything_and_is_the_same_each_time(any_house: House) -> None:
    publish(any_house, card="Two modules.")
    at = "/models/independence/versions/1"
    call(any_house, "POST", f"{at}/annotations", json={"about": "module", "target": "A", "text": "the cube"})
    first, again = (call(any_house, "GET", f"{at}/bundle.zip", "reader").data for _ in range(2))
    assert first == again
    archive = zipfile.ZipFile(io.BytesIO(first))
    assert archive.testzip() is None
    manifest = json.loads(archive.read("manifest.json"))
    assert set(manifest["files"]) == set(archive.namelist()) - {"manifest.json"}
    for name, said in manifest["files"].items():
        content = archive.read(name)
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (said["sha256"], said["bytes"])
    assert {"spec.json", "graph.json", "modules.json", "effects.json", "weights.safetensors", "card.md",
            "figures/network.svg", "annotations.json"} <= set(manifest["files"])  # fmt: skip
    assert json.loads(archive.read("annotations.json"))[0]["text"] == "the cube"
    card = call(any_house, "GET", f"{at}/card.md", "reader").text
    assert archive.read("card.md").decode() == card
    assert "Two modules." in card
    assert "reads x1 and x3, decides y1" in card
    weights = call(any_house, "GET", f"{at}/weights.safetensors", "reader")
    assert (weights.data, "independence-v1" in weights.headers["Content-Disposition"]) == (b"not really weights", True)


def test_one_module_leaves_alone(house: House) -> None:
    publish(house)
    nodes = call(house, "GET", "/models/independence/versions/1/graph?module=A", "reader").json["nodes"]
    assert {node["module"] for node in nodes} == {"A"}
    assert call(house, "GET", "/models/independence/versions/1/graph?module=Q").status_code == 404


def test_a_published_run_outlives_its_data_and_a_deleted_model_frees_the_name(house: House) -> None:
    version = publish(house)
    assert call(house, "DELETE", "/models/independence", "sharer").status_code == 204
    assert call(house, "GET", "/models/independence").status_code == 404
    assert call(house, "GET", f"/runs/{version['run_id']}").status_code == 200
    assert publish(house, seed=2)["number"] == 1


def test_versions_come_in_pages(any_house: House) -> None:
    for seed in range(3):
        publish(any_house, seed=seed)
    first = call(any_house, "GET", "/models/independence/versions?limit=2", "reader").json
    rest = call(any_house, "GET", f"/models/independence/versions?limit=2&after={first['next']}", "reader").json
    assert [item["number"] for item in first["items"]] == [3, 2]
    assert ([item["number"] for item in rest["items"]], rest["next"]) == ([1], None)
    foreign = cursor("model_00000000000000000000000000")
    assert call(any_house, "GET", f"/models/independence/versions?after={foreign}", "reader").json["items"] == []
