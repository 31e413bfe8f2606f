"""Jobs over their life: replayed, listed, cancelled, tried again, watched."""

from __future__ import annotations

import json
import threading
from datetime import timedelta

import pytest

from api.routing import cursor
from store import jobs
from tests.api.makers import House, now, publish_runs, submit_job, work_on

RECIPE = {"recipe": "independence"}


def test_the_same_key_gives_the_same_job_and_another_body_is_a_conflict(any_house: House) -> None:
    client, headers = any_house.client(), any_house.headers("submitter", **{"Idempotency-Key": "today-1"})
    first = client.post("/api/v1/jobs", headers=headers, json=RECIPE)
    again = client.post("/api/v1/jobs", headers=headers, json=RECIPE)
    assert first.status_code == again.status_code == 202
    assert first.json["id"] == again.json["id"]
    other = client.post("/api/v1/jobs", headers=headers, json=RECIPE | {"seeds": [7]})
    assert (other.status_code, other.json["type"]) == (409, "/problems/conflict")
    theirs = client.post(
        "/api/v1/jobs", headers=any_house.headers("submitter", "theirs", **{"Idempotency-Key": "today-1"}), json=RECIPE
    )
    assert theirs.json["id"] != first.json["id"]
    assert len(client.get("/api/v1/jobs", headers=headers).json["items"]) == 1
    assert [job_id for job_id, _, _ in any_house.announced] == [first.json["id"], theirs.json["id"]]


def test_automatic_cost_strengths_are_written_out_as_runs(house: House) -> None:
    client, headers = house.client(), house.headers()
    body = {"recipe": "independence", "seeds": [0, 1], "cost_strengths": "auto"}
    job = client.post("/api/v1/jobs", headers=headers, json=body)
    assert (job.status_code, job.json["runs"]) == (202, 14)
    runs = client.get(f"/api/v1/jobs/{job.json['id']}/runs", headers=headers).json["items"]
    ladder = [3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]
    assert [(run["cost_strength"], run["seed"]) for run in runs] == [(rung, seed) for rung in ladder for seed in (0, 1)]
    full = client.get(f"/api/v1/runs/{runs[-1]['id']}", headers=headers).json
    assert [phase["cost_strength"] for phase in full["spec"]["training"]["phases"]] == pytest.approx([3e-2, 3e-1, 3e-2])


def test_a_job_is_accepted_although_the_broker_is_away(house: House) -> None:
    def away(*_: object) -> None:
        raise ConnectionError("nobody there")

    here, headers = house.app.extensions["bimt"], house.headers(**{"Idempotency-Key": "through"})
    heard = here.send_message
    object.__setattr__(here, "send_message", away)
    answer = house.client().post("/api/v1/jobs", headers=headers, json=RECIPE)
    assert answer.status_code == 202
    with house.database.read() as rows:
        assert [a.id for a in jobs.unsent(rows, now=now(), resend_after=30)] == [answer.json["id"]]

    object.__setattr__(here, "send_message", heard)
    assert house.client().post("/api/v1/jobs", headers=headers, json=RECIPE).json["id"] == answer.json["id"]
    assert [job_id for job_id, _, _ in house.announced] == [answer.json["id"]]


def test_jobs_are_found_by_state_tag_name_and_owner(house: House) -> None:
    submit_job(house, name="alpha", tags=("x",))
    done = submit_job(house, name="beta", tags=("x", "y"))
    publish_runs(house, done)
    client, headers = house.client(), house.headers("reader")

    def names(query: str) -> list[str]:
        return [job["name"] for job in client.get(f"/api/v1/jobs?{query}", headers=headers).json["items"]]

    assert names("") == ["beta", "alpha"]
    assert names("state=queued") == ["alpha"]
    assert names("tag=y") == ["beta"]
    assert names("q=LPH") == ["alpha"]
    assert names(f"owner={house.members['ours', 'submitter']}") == ["beta", "alpha"]
    assert names(f"owner={house.members['ours', 'reader']}") == []


def test_pages_follow_one_another_without_gap_or_double(house: House) -> None:
    wanted = [submit_job(house, name=f"job {i}") for i in range(7)][::-1]
    client, headers = house.client(), house.headers("reader")
    seen, after = [], ""
    while True:
        page = client.get(f"/api/v1/jobs?limit=3{after}", headers=headers).json
        seen += [job["id"] for job in page["items"]]
        if page["next"] is None:
            break
        submit_job(house, name="newer")  # what comes in meanwhile disturbs no later page
        after = f"&after={page['next']}"
    assert seen == wanted
    for text in ("nonsense", "e30", "-" * 100):
        answer = client.get(f"/api/v1/jobs?after={text}", headers=headers)
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/after")


def test_the_runs_of_a_job_come_in_pages_in_the_order_of_its_seeds(any_house: House) -> None:
    job_id = submit_job(any_house, seeds=(5, 4, 3, 2, 1))
    client, headers = any_house.client(), any_house.headers("reader")
    seen, after = [], ""
    while True:
        page = client.get(f"/api/v1/jobs/{job_id}/runs?limit=2{after}", headers=headers).json
        seen.append([run["seed"] for run in page["items"]])
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen == [[5, 4], [3, 2], [1]]
    for key in ("9" * 9, "9" * 40, submit_job(any_house)):  # beyond the end, no number of a database, another list's
        answer = client.get(f"/api/v1/jobs/{job_id}/runs?after={cursor(key)}", headers=headers)
        assert (answer.status_code, answer.json) == (200, {"items": [], "next": None})
    foreign = client.get(f"/api/v1/jobs/{job_id}/runs", headers=any_house.headers("reader", "theirs"))
    assert foreign.status_code == 404


def test_a_waiting_job_is_cancelled_at_once_and_can_be_tried_again(house: House) -> None:
    job_id = submit_job(house)
    client, headers = house.client(), house.headers("submitter")
    assert client.post(f"/api/v1/jobs/{job_id}/cancel", headers=headers).json["state"] == "cancelled"
    again = client.post(f"/api/v1/jobs/{job_id}/retry", headers=headers)
    assert (again.status_code, again.json["state"]) == (202, "queued")
    assert house.announced == [(job_id, "cpu", 5)]
    twice = client.post(f"/api/v1/jobs/{job_id}/retry", headers=headers)
    assert (twice.status_code, twice.json["type"]) == (409, "/problems/conflict")


def test_a_job_is_renamed_tagged_hurried_and_pinned(any_house: House) -> None:
    job_id = submit_job(any_house, tags=("x",))
    client, headers = any_house.client(), any_house.headers("submitter")
    body = {"name": "anew", "tags": ["y"], "priority": 9, "pinned": True}
    changed = client.patch(f"/api/v1/jobs/{job_id}", headers=headers, json=body).json
    assert {name: changed[name] for name in body} == body
    assert client.get("/api/v1/jobs?tag=y", headers=headers).json["items"][0]["pinned"] is True
    work_on(any_house, job_id)
    late = client.patch(f"/api/v1/jobs/{job_id}", headers=headers, json={"priority": 1})
    assert (late.status_code, "is running" in late.json["detail"]) == (409, True)
    assert client.patch(f"/api/v1/jobs/{job_id}", headers=headers, json={"pinned": False}).json["pinned"] is False
    assert client.patch(f"/api/v1/jobs/{job_id}", headers=headers, json={"state": "succeeded"}).status_code == 422


def test_what_has_succeeded_cannot_be_cancelled(house: House) -> None:
    job_id = submit_job(house)
    publish_runs(house, job_id)
    answer = house.client().post(f"/api/v1/jobs/{job_id}/cancel", headers=house.headers())
    assert (answer.status_code, answer.content_type) == (409, "application/problem+json")


def test_a_running_job_tells_how_far_it_is(house: House) -> None:
    job_id = submit_job(house)
    claim = work_on(house, job_id)
    with house.database.write() as rows:
        jobs.renew(
            rows, claim, now=now(), lease_seconds=60, progress=0.5, losses={"prediction_loss": 0.25}, note="half"
        )
    assert house.client().get(f"/api/v1/jobs/{job_id}", headers=house.headers("reader")).json["eta_seconds"] is None
    with house.database.write() as rows:
        due = now() + timedelta(seconds=60)
        jobs.renew(rows, claim, now=now(), lease_seconds=60, progress=0.5, due_at=due)
    job = house.client().get(f"/api/v1/jobs/{job_id}", headers=house.headers("reader")).json
    assert (job["state"], job["progress"], job["losses"]) == ("running", 0.5, {"prediction_loss": 0.25})
    assert job["note"] == "half"
    assert 30 < job["eta_seconds"] <= 60
    assert job["queue_position"] is None
    [item] = house.client().get("/api/v1/jobs", headers=house.headers("reader")).json["items"]
    assert 30 < item["eta_seconds"] <= 60
    assert item["queue_position"] is None


def test_the_place_in_the_queue_counts_what_goes_before(house: House) -> None:
    first, second = submit_job(house), submit_job(house)
    client, headers = house.client(), house.headers("submitter")
    urgent = client.post("/api/v1/jobs", headers=headers, json=RECIPE | {"priority": 9}).json["id"]
    places = [client.get(f"/api/v1/jobs/{i}", headers=headers).json["queue_position"] for i in (urgent, first, second)]
    assert places == [0, 1, 2]
    listed = client.get("/api/v1/jobs", headers=headers).json["items"]
    assert {job["id"]: job["queue_position"] for job in listed} == {urgent: 0, first: 1, second: 2}
    assert [job["eta_seconds"] for job in listed] == [None, None, None]


def _events(text: str) -> list[tuple[int, str, dict[str, object]]]:
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


def test_a_stream_of_events_ends_with_the_job_and_goes_on_where_it_was_cut(house: House) -> None:
    job_id = submit_job(house)
    client, headers = house.client(), house.headers("reader")
    worker = threading.Timer(0.8, lambda: publish_runs(house, job_id))
    worker.start()
    answer = client.get(f"/api/v1/jobs/{job_id}/events", headers=headers)
    assert answer.mimetype == "text/event-stream"
    events = _events(answer.text)
    worker.join()
    assert (events[0][1], events[0][2]["state"]) == ("job", "queued")
    assert (events[-1][1], events[-1][2]["state"]) == ("end", "succeeded")
    assert [number for number, _, _ in events] == sorted({number for number, _, _ in events})
    known = {**headers, "Last-Event-ID": str(events[0][0])}
    assert _events(client.get(f"/api/v1/jobs/{job_id}/events", headers=known).text) == events[-1:]
    nothing_new = {**headers, "Last-Event-ID": str(events[-1][0])}
    assert _events(client.get(f"/api/v1/jobs/{job_id}/events", headers=nothing_new).text) == []


@pytest.mark.parametrize("since", ["", "&since=1"])
def test_a_long_poll_answers_with_the_change(house: House, since: str) -> None:
    job_id = submit_job(house)
    client, headers = house.client(), house.headers("reader")
    worker = threading.Timer(0.5, lambda: work_on(house, job_id))
    worker.start()
    event = client.get(f"/api/v1/jobs/{job_id}/events?wait=20{since}", headers=headers).json
    worker.join()
    assert event["state"] == ("running" if since else "queued")


def test_quotas_are_answered_as_problems(house: House) -> None:
    from store.tables import Team

    with house.database.write() as rows:
        rows.get(Team, house.teams["ours"]).max_queued_jobs = 1
    client, headers = house.client(), house.headers()
    assert client.post("/api/v1/jobs", headers=headers, json=RECIPE).status_code == 202
    answer = client.post("/api/v1/jobs", headers=headers, json=RECIPE)
    assert (answer.status_code, answer.json["type"], answer.json["retryable"]) == (429, "/problems/quota", True)


def test_every_recipe_can_be_submitted_as_it_is(house: House) -> None:
    client, headers = house.client(), house.headers()
    for item in client.get("/api/v1/recipes", headers=headers).json["items"]:
        recipe = client.get(f"/api/v1/recipes/{item['name']}", headers=headers).json
        if item["needs_dataset"]:
            assert "dataset" not in recipe["spec"]
            continue
        by_spec = client.post("/api/v1/jobs", headers=headers, json={"spec": recipe["spec"]})
        by_name = client.post("/api/v1/jobs", headers=headers, json={"recipe": item["name"]})
        assert by_spec.status_code == by_name.status_code == 202, by_spec.data
        assert by_spec.json["spec"] == by_name.json["spec"] == recipe["spec"]
    assert client.get("/api/v1/spec-schema", headers=headers).json["title"] == "Spec"
