"""The check of an upload: previews and roles, refusals, limits, and what ends it early."""

from __future__ import annotations

import json
import sys

import pytest

from worker import upload_check
from worker.upload_check import check_upload

TABLE = "x,y,kind\n" + "".join(f"{n},{2 * n},{'ab'[n % 2]}\n" for n in range(40))


@pytest.fixture
def checked(tmp_path):
    def check(content: str, *, form: str = "csv", roles=None, memory_bytes: int = 4 << 30, **more):
        path = tmp_path / "upload"
        path.write_text(content)
        return check_upload(path, form=form, roles=roles or {}, memory_bytes=memory_bytes, seconds=60, **more)

    return check


def test_a_table_gets_a_preview_and_all_roles(checked):
    found = checked(TABLE, roles={"targets": ["y"]})
    assert found["preview"]["rows"] == 40
    assert found["roles"]["inputs"] == ["x"]
    assert (found["roles"]["targets"], found["roles"]["task"]) == (["y"], "regression")


def test_a_file_that_is_no_table_is_refused_with_a_sentence(checked):
    problem = checked("a,b\n1,2\n1\n")["problem"]
    assert problem["type"] == "unusable-data"
    assert problem["errors"][0]["pointer"] == "/file"
    assert problem["detail"].startswith(problem["errors"][0]["detail"])


def test_roles_that_are_not_possible_are_all_named(checked):
    problem = checked(TABLE, roles={"inputs": ["height"], "targets": ["weight"]})["problem"]
    assert problem["type"] == "invalid-fields"
    named = [(one["pointer"], one["column"]) for one in problem["errors"]]
    assert named == [("/inputs/0", "height"), ("/targets/0", "weight")]


def test_a_child_that_dies_is_a_refusal(checked, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert "more memory or time than is granted" in checked(TABLE)["problem"]["detail"]


def test_a_table_that_needs_more_memory_than_is_granted_is_refused(checked):
    detail = checked(TABLE, memory_bytes=64 << 20)["problem"]["detail"]
    assert "memory" in detail


def test_whatever_poll_raises_ends_the_child(checked):
    class Cancelled(Exception):
        pass

    def poll() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        checked(TABLE, poll=poll)


def test_the_child_gets_no_secret(monkeypatch, tmp_path):
    monkeypatch.setenv("BIMT_DATABASE_URL", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    _, out, _ = upload_check._run([sys.executable, "-c", script], seconds=60, poll=lambda: None)
    assert "secret" not in json.loads(out).values()
