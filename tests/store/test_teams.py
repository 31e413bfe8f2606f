"""Tokens open what they should, for as long as they should, and nothing else."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from store import teams
from store.errors import Conflict, NotFound
from store.tables import Token


@pytest.fixture
def token(database, people, clock):
    with database.write() as session:
        text, row = teams.mint_token(session, people.member, scopes=["read", "submit"], expires_at=None, now=clock.now)
    return text, row.id


def who(database, clock, text):
    with database.read() as session:
        return teams.authenticate(session, text, clock.now)


def test_a_token_lets_its_member_in(database, people, clock, token):
    caller = who(database, clock, token[0])
    assert (caller.team_id, caller.member_id, caller.role) == (people.team, people.member, "admin")
    assert caller.scopes == {"read", "submit"}
    with database.write() as session:
        begun = teams.begin_session(session, caller, clock.now)
        in_browser = teams.caller_of_session(session, begun, now=clock.now)
    assert (in_browser.member_id, in_browser.scopes) == (caller.member_id, caller.scopes)
    assert (in_browser.token_id, in_browser.api_token_id) == (begun, caller.token_id)


def test_the_secret_is_nowhere_in_the_database(database, token):
    secret = token[0].split("_", 2)[2][:43]
    with database.read() as session:
        row = session.scalars(select(Token)).one()
        assert all(secret not in str(getattr(row, column.key)) for column in Token.__table__.columns)
        assert len(row.secret_sha256) == 32


def test_a_wrong_token_opens_nothing(database, clock, token):
    text = token[0]
    flipped = "A" if text[20] != "A" else "B"
    for wrong in (
        "",
        "bimt_",
        text[:-1],
        text + "0",
        text[:20] + flipped + text[21:],
        text.upper(),
        "bimt_" + "0" * 64,
    ):
        assert who(database, clock, wrong) is None


def test_a_right_form_with_a_wrong_secret_opens_nothing(database, clock, token):
    ident = token[0].split("_")[1]
    _, other, _ = teams.new_secret("bimt")
    assert who(database, clock, f"bimt_{ident}_{other.split('_', 2)[2]}") is None


@settings(max_examples=100, suppress_health_check=list(HealthCheck), deadline=None)
@given(text=st.text(max_size=100))
def test_no_text_makes_it_stumble(database, clock, text):
    assert who(database, clock, text) is None
    assert who(database, clock, f"bimt_{text}") is None


def test_an_expired_or_revoked_token_opens_nothing(database, people, clock):
    with database.write() as session:
        until = clock.now + timedelta(hours=1)
        text, row = teams.mint_token(session, people.member, scopes=["read"], expires_at=until, now=clock.now)
    assert who(database, clock, text) is not None
    clock.pass_seconds(3600)
    assert who(database, clock, text) is None
    with database.write() as session:
        text, row = teams.mint_token(session, people.member, scopes=["read"], expires_at=None, now=clock.now)
        teams.revoke_token(session, people.team, row.id, clock.now)
        revoked = teams.revoke_token(session, people.team, row.id, clock.pass_seconds(9)).revoked_at
    assert revoked < clock.now
    assert who(database, clock, text) is None


def test_a_disabled_member_is_out_at_once(database, people, clock):
    with database.write() as session:
        member = teams.create_member(session, people.team, "Eve", role="member", now=clock.now)
        text, _ = teams.mint_token(session, member.id, scopes=["read"], expires_at=None, now=clock.now)
        teams.change_member(session, people.team, member.id, clock.now, disabled=True)
    assert who(database, clock, text) is None
    with database.write() as session:
        with pytest.raises(NotFound):
            teams.mint_token(session, member.id, scopes=["read"], expires_at=None, now=clock.now)
        teams.change_member(session, people.team, member.id, clock.now, disabled=False)
    assert who(database, clock, text) is not None


def test_a_member_with_a_smaller_role_keeps_smaller_tokens(database, people, clock):
    with database.write() as session:
        member = teams.create_member(session, people.team, "Eve", role="member", now=clock.now)
        with pytest.raises(Conflict, match="cannot have a token with the scope admin"):
            teams.mint_token(session, member.id, scopes=["read", "admin"], expires_at=None, now=clock.now)
        text, _ = teams.mint_token(session, member.id, scopes=["read", "share"], expires_at=None, now=clock.now)
        teams.change_member(session, people.team, member.id, clock.now, role="reader")
    assert who(database, clock, text).scopes == {"read"}


def test_a_team_keeps_at_least_one_admin(database, people, clock):
    for change in ({"role": "member"}, {"disabled": True}):
        with pytest.raises(Conflict, match="last admin"), database.write() as session:
            teams.change_member(session, people.team, people.member, clock.now, **change)
    with database.write() as session:
        teams.create_member(session, people.team, "Eve", role="admin", now=clock.now)
        assert teams.change_member(session, people.team, people.member, clock.now, role="member").role == "member"


def test_names_and_addresses_are_taken_once_and_the_transaction_goes_on(database, people, clock):
    with database.write() as session:
        with pytest.raises(Conflict, match="already a team `ours`"):
            teams.create_team(session, "ours", now=clock.now)
        teams.create_member(session, people.team, "Eve", role="member", now=clock.now, email="Eve@example.org")
        with pytest.raises(Conflict, match="already a member"):
            teams.create_member(session, people.team, "Eva", role="member", now=clock.now, email="eve@EXAMPLE.org")
    with database.read() as session:
        assert {one.name for one in teams.page_members(session, people.team).rows} == {"Ada", "Eve"}


def test_only_the_very_first_start_makes_an_admin(database, clock):
    with database.write() as session:
        text = teams.first_admin(session, clock.now)
        assert teams.first_admin(session, clock.now) is None
    assert who(database, clock, text).scopes == {"read", "submit", "share", "admin"}


def test_the_use_of_a_token_is_noted_now_and_then(database, people, clock, token):
    caller = who(database, clock, token[0])
    assert caller.use_is_stale
    with database.write() as session:
        teams.note_use(session, caller, clock.now)
    assert not who(database, clock, token[0]).use_is_stale
    clock.pass_seconds(3600)
    assert who(database, clock, token[0]).use_is_stale


def test_another_team_s_people_and_tokens_are_not_found(database, people, clock, token):
    with database.write() as session:
        for ask in (
            lambda: teams.get_member(session, people.other_team, people.member),
            lambda: teams.get_token(session, people.other_team, token[1]),
            lambda: teams.revoke_token(session, people.other_team, token[1], clock.now),
            lambda: teams.change_member(session, people.other_team, people.member, clock.now, name="x"),
        ):
            with pytest.raises(NotFound):
                ask()
        assert teams.page_tokens(session, people.other_team).rows == []
        assert [one.id for one in teams.page_tokens(session, people.team, member_id=people.member).rows] == [token[1]]


def test_what_was_done_is_listed_newest_first(database, people, clock):
    with database.write() as session:
        for number in range(3):
            teams.record_audit(
                session, team_id=people.team, member_id=people.member, action="job.cancel", thing_id=f"job_{number}",
                now=clock.now, address="127.0.0.1", detail={"number": number},
            )  # fmt: skip
        teams.record_audit(session, team_id=people.other_team, member_id=None, action="job.cancel", now=clock.now)
    with database.read() as session:
        assert [one.detail["number"] for one in teams.page_audit(session, people.team).rows] == [2, 1, 0]
        assert [one.detail["number"] for one in teams.page_audit(session, people.team, thing_id="job_1").rows] == [1]
        assert teams.page_audit(session, people.team, action="job.retry").rows == []
