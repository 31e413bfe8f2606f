"""The operator's commands: teams, their first tokens, their quotas; deprecated commands still run."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from store import admin_cli, teams


@pytest.fixture
def run(database, monkeypatch, capsys):
    monkeypatch.setenv("BIMT_DATABASE_URL", database.url)

    def run(*words: str) -> tuple[int, list[str]]:
        code = admin_cli.main(list(words))
        said = capsys.readouterr()
        return code, (said.out + said.err).splitlines()

    return run


def test_a_team_is_made_whose_admin_s_token_works(run, database):
    code, [shown, token] = run("new", "vision", "--admin", "Ada", "--queued-jobs", "50", "--stored-bytes", "2e9")
    assert (code, shown) == (
        0,
        "vision: queued jobs 0 of 50, queued steps 0 of 20000000000, stored bytes 0 of 2000000000",
    )
    with database.read() as session:
        who = teams.authenticate(session, token, now=datetime.now(UTC))
        assert (who.role, "admin" in who.scopes) == ("admin", True)
        assert teams.get_member(session, who.team_id, who.member_id).name == "Ada"
    code, [why] = run("new", "vision")
    assert (code, "already a team" in why) == (1, True)


def test_a_team_that_lost_its_tokens_gets_another(run, database):
    _, [_, first] = run("new", "vision")
    code, [second] = run("token", "vision")
    with database.read() as session:
        whose = [teams.authenticate(session, token, now=datetime.now(UTC)).member_id for token in (first, second)]
    assert (code, len({first, second}), len(set(whose))) == (0, 2, 1)


def test_quotas_are_changed_one_by_one_and_taken_away(run):
    run("new", "vision", "--queued-jobs", "5", "--queued-steps", "1_000_000")
    assert run("quota", "vision", "--queued-jobs", "none", "--stored-bytes", "0")[0] == 0
    assert run("teams") == (0, ["vision: queued jobs 0 of none, queued steps 0 of 1000000, stored bytes 0 of 0"])
    code, [why] = run("quota", "nobody")
    assert (code, "There is no team `nobody`" in why) == (1, True)


@pytest.mark.parametrize("limit", ["-1", "many", "inf", "nan"])
def test_a_quota_is_a_number_or_none(run, limit):
    with pytest.raises(SystemExit) as ended:
        run("quota", "vision", f"--queued-jobs={limit}")
    assert ended.value.code == 2


def test_the_first_token_is_made_once_and_works(run, database):
    code, [token] = run("bootstrap-token")
    with database.read() as session:
        assert teams.authenticate(session, token, now=datetime.now(UTC)).role == "admin"
    assert code == 0
    code, [why] = run("bootstrap-token")
    assert (code, "There is a team already" in why) == (1, True)


def test_the_commands_of_the_version_before_still_run_and_say_what_to_use(service_url):
    def old(command, *words):
        environ = os.environ | {"BIMT_DATABASE_URL": service_url}
        return subprocess.run(
            [sys.executable, "-m", f"store.{command}", *words], env=environ, capture_output=True, text=True
        )

    first, listed = old("first_token"), old("operate", "teams")
    assert (first.returncode, first.stdout[:5]) == (0, "bimt_")
    assert "use `python -m store.admin_cli bootstrap-token`" in first.stderr
    assert (listed.returncode, listed.stdout[:6]) == (0, "team: ")
    assert "use `python -m store.admin_cli`" in listed.stderr
