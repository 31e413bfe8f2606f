"""What whoever runs the service does by hand: teams, their first tokens, their quotas."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from store import operate, teams


@pytest.fixture
def run(database, monkeypatch, capsys):
    monkeypatch.setenv("BIMT_DATABASE_URL", database.url)

    def run(*words: str) -> tuple[int, list[str]]:
        code = operate.main(list(words))
        said = capsys.readouterr()
        return code, (said.out + said.err).splitlines()

    return run


def test_a_team_is_made_whose_admin_s_token_works(run, database):
    code, [shown, token] = run("new", "vision", "--admin", "Ada", "--queued-jobs", "50", "--stored-bytes", "2e9")
    assert (code, shown) == (0, "vision: queued jobs 0 of 50, queued steps 0 of none, stored bytes 0 of 2000000000")
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
