"""Models: publish, find, load, share, fork and compare, against a real service."""

from __future__ import annotations

import json
import re
import urllib.request
import zipfile
from types import SimpleNamespace

import pytest

from bimt import NotFound
from bimt.runs import Run, _plain_row
from tests.client.conftest import TINY
from tests.client.test_command import bimt, environ, said  # noqa: F401 - fixtures are found by name
from tests.compat.test_service import BEFORE, WITHDRAWN

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def version(client, run):
    """The run, published."""
    return client.models.publish(run, "squares-and-sums", card="Two formulas.")


def test_a_published_run_is_found_by_its_evidence(client, version, run):
    assert (version.model, version.number, version.run_id) == ("squares-and-sums", 1, run.id)
    found = {model.name for model in client.models.search(min_modules=1, max_connections=1000)}
    assert "squares-and-sums" in found
    assert not list(client.models.search("squares", min_modules=1000))
    assert client.models.get("squares-and-sums").version().card == "Two formulas."


def test_versions_are_found_by_number_and_by_alias(client, version, trained):
    second = client.models.publish(trained.runs()[1], "squares-and-sums")
    model = client.models.get("squares-and-sums")
    assert (second.number, model.versions) == (2, 2)
    model.point("best", 1)
    assert client.models.version("squares-and-sums@best").run_id == version.run_id
    assert client.models.version("squares-and-sums").number == 2


def test_a_loaded_model_gives_the_numbers_of_its_run(client, version, run):
    x = torch.linspace(-1, 1, 30, dtype=torch.float64).reshape(10, 3)
    assert torch.equal(client.models.version("squares-and-sums@1").load()(x), run.load()(x))
    assert torch.equal(version.load()(x), run.load()(x))


def test_a_link_shows_the_version_until_it_is_revoked(client, version):
    link = version.share(note="Look at module A.")
    with urllib.request.urlopen(f"{client.url}/api/v1/s/{link['token']}") as answer:
        shown = json.load(answer)
    assert (shown["model"], shown["view"]["note"]) == ("squares-and-sums", "Look at module A.")
    assert link["id"] in {share["id"] for share in client.models.get("squares-and-sums").shares()}
    client.models.revoke_share(link["id"])
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{client.url}/api/v1/s/{link['token']}")


def test_a_fork_is_a_job_with_the_changed_spec(version):
    job = version.fork({"training": {"steps": 7}}, name="forked")
    assert job.spec["training"]["steps"] == 7
    assert job.spec["network"]["hidden"] == TINY["network"]["hidden"]
    job.cancel()


def test_two_runs_are_compared(client, trained, version):
    first, second = trained.runs()
    compared = client.models.compare(first, second)
    assert [compared[side]["run_id"] for side in ("a", "b")] == [first.id, second.id]
    assert client.models.compare(version, second)["a"]["run_id"] == version.run_id


def test_notes_have_authors(version):
    version.annotate("It squares.", about="module", target="A")
    assert [(note["target"], note["text"]) for note in version.annotations()] == [("A", "It squares.")]


def test_a_version_is_verified_from_its_weights(bimt, client, version):  # noqa: F811
    found = version.verify()
    assert found["agrees"], found["reading"]
    assert len(found["checks"]) > 5
    printed = said(bimt("verify", "squares-and-sums@1"))
    assert re.search(r"^modules +\S.* → \S+ .* yes$", printed, re.MULTILINE), printed
    assert client.models.version("squares-and-sums@1").document["agrees"] is True


def test_a_bundle_holds_what_it_did_in_the_version_before(version, run, tmp_path):
    run.onnx(tmp_path / "model.onnx")  # a bundle holds what was made so far
    names = zipfile.ZipFile(version.bundle(tmp_path / "all.zip")).namelist()
    before = {f"bundle: {name}" for name in BEFORE["bundle"]} - WITHDRAWN.keys()
    assert sorted(before - {f"bundle: {name}" for name in names}) == []


def test_the_command_line_publishes_and_shares(bimt, client, run, tmp_path):  # noqa: F811
    (tmp_path / "card.md").write_text("By hand.")
    assert "by-hand version 1 is" in said(bimt("publish", run.id, "by-hand", "--card", "card.md"))
    assert client.models.version("by-hand").card == "By hand."
    assert said(bimt("share", "by-hand", "--days", "1")).startswith(client.url)


def test_a_model_that_is_not_there_is_said_to_be_absent(client):
    with pytest.raises(NotFound):
        client.models.get("nothing-of-this-name")


def test_the_service_predicts_what_the_loaded_network_predicts(client, run):
    rows = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(5, 3)
    answer = run.predict(rows.tolist())
    assert answer["targets"] == ["y1", "y2"]
    torch.testing.assert_close(torch.tensor(answer["outputs"]).double(), run.load().predict(rows), atol=1e-6, rtol=0)


def test_arrays_and_data_frames_are_rows_too(run):
    pandas = pytest.importorskip("pandas")
    rows = torch.arange(6).reshape(2, 3) / 6
    frame = pandas.DataFrame(rows.numpy(), columns=["x1", "x2", "x3"])
    plain = run.predict(rows.tolist())
    assert run.predict(rows) == run.predict(rows.numpy()) == run.predict(frame[["x3", "x1", "x2"]]) == plain


def test_cells_of_frames_become_json():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "n": [1.5, None],
            "d": pandas.to_datetime(["2024-03-01", None]),
            "b": [True, False],
            "m": pandas.array([1, None], dtype="Int64"),
        }
    )
    rows = [_plain_row(row, 0) for row in frame.to_dict("records")]
    assert rows == [
        {"n": 1.5, "d": "2024-03-01T00:00:00", "b": True, "m": 1},
        {"n": None, "d": None, "b": False, "m": None},
    ]
    assert _plain_row(frame.to_numpy()[0], 0) == [1.5, "2024-03-01T00:00:00", True, 1]
    with pytest.raises(ValueError, match="Row 3 .* infinite"):
        _plain_row([float("inf")], 3)


def test_columns_of_a_frame_that_the_run_does_not_read_are_not_sent():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"note": ["x", "y"], "b": [1, 2], "a": [3, 4]})
    run = SimpleNamespace(spec={"dataset": {"kind": "uploaded", "inputs": ["a", "b"]}})
    assert Run._rows_of_frame(run, frame) == [{"a": 3, "b": 1}, {"a": 4, "b": 2}]
    assert Run._rows_of_frame(run, frame[["a"]]) == [{"a": 3}, {"a": 4}], "the service says what is missing"
