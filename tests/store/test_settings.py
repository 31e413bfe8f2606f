"""Settings come from one table; ids rise; JSON holds only what JSON can hold."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import aliases
from store.columns import PREFIXES, is_id, new_id, to_json
from store.settings import Settings, SettingsError, broker_socket, table


def test_without_any_variable_everything_lies_in_the_home(tmp_path):
    settings = Settings.from_env({}, tmp_path)
    assert settings.home == tmp_path
    assert settings.database_url == f"sqlite:///{tmp_path}/bimt.sqlite"
    assert settings.files_url == f"file://{tmp_path}/files"
    assert settings.broker_url == f"redis+socket://{tmp_path}/broker.sock?virtual_host=0"
    assert settings.public_url == "http://127.0.0.1:8080"
    assert Settings.from_env({}).home == Path("~/.bimt").expanduser()


def test_variables_replace_defaults_and_empty_ones_do_not(tmp_path):
    settings = Settings.from_env(
        {
            "BIMT_HOME": str(tmp_path),
            "BIMT_DATABASE_URL": "postgresql+psycopg://db/bimt",
            "BIMT_PORT": "9000",
            "BIMT_MAX_UPLOAD_BYTES": "1_000",
            "BIMT_SECURE_COOKIES": "yes",
            "BIMT_BROKER_URL": "",
        }
    )
    assert (settings.database_url, settings.port) == ("postgresql+psycopg://db/bimt", 9000)
    assert (settings.max_upload_bytes, settings.secure_cookies) == (1000, True)
    assert settings.public_url == "http://127.0.0.1:9000"
    assert settings.broker_url.startswith("redis+socket:")


def test_a_child_with_our_environment_has_our_settings_a_limit_that_is_off_too(tmp_path):
    given = {"BIMT_WORKERS": "3", "BIMT_RATE_LIMIT": "5/minute", "BIMT_LOGIN_RATE_LIMIT": "none"}
    settings = Settings.from_env(given, tmp_path)
    assert settings.login_rate_limit == "none"
    assert Settings.from_env(settings.environment()) == settings


@pytest.mark.parametrize(
    ("name", "text"),
    [("BIMT_PORT", "many"), ("BIMT_PORT", "-1"), ("BIMT_LEASE_SECONDS", "0"), ("BIMT_SECURE_COOKIES", "perhaps"),
     ("BIMT_LEASE_SECONDS", "nan"), ("BIMT_RATE_LIMIT", "few"), ("BIMT_RATE_LIMIT", "0/minute")],
)  # fmt: skip
def test_a_value_that_cannot_be_used_names_its_variable(name, text, tmp_path):
    with pytest.raises(SettingsError, match=f"{name}='{text}'"):
        Settings.from_env({name: text}, tmp_path)


@pytest.mark.parametrize(("old", "new"), sorted(aliases.SETTINGS.items()))
def test_a_deprecated_name_still_works_with_a_warning_and_the_new_one_wins(old, new, tmp_path, capsys):
    attribute = new.removeprefix("BIMT_").lower()
    assert getattr(Settings.from_env({old: "7"}, tmp_path), attribute) == 7
    assert f"{old} is deprecated" in capsys.readouterr().err
    assert getattr(Settings.from_env({old: "7", new: "8"}, tmp_path), attribute) == 8


@pytest.mark.parametrize(("old", "new"), sorted(aliases.QUEUES.items()))
def test_a_worker_with_a_deprecated_queue_name_serves_the_present_one(old, new, tmp_path, capsys):
    assert Settings.from_env({"BIMT_QUEUE": old}, tmp_path).queue == new
    assert f"BIMT_QUEUE={old} is deprecated" in capsys.readouterr().err
    with pytest.raises(SettingsError, match="cpu, gpu, interactive, batch"):
        Settings.from_env({"BIMT_QUEUE": "other"}, tmp_path)


ROOT = Path(__file__).resolve().parents[2]


def test_every_setting_is_documented_and_so_is_every_deprecated_name():
    page = (ROOT / "docs" / "operations.md").read_text()
    assert [line.name for line in table() if f"| `{line.name}` |" not in page] == []
    deprecated = (ROOT / "docs" / "aliases.md").read_text()
    assert [old for old in (*aliases.SETTINGS, *aliases.QUEUES) if f"`{old}`" not in deprecated] == []
    assert [old for old in aliases.COMMANDS if f"`store.{old}`" not in deprecated] == []


def test_every_setting_is_read_somewhere():
    code = "".join(
        path.read_text()
        for folder in ("api", "worker", "store", "standalone")
        for path in (ROOT / folder).rglob("*.py")
        if path != ROOT / "store" / "settings.py"
    )
    unread = [one.name for one in fields(Settings) if not re.search(rf"settings\.{one.name}\b", code)]
    assert unread == []


def test_a_name_for_a_time_says_its_unit():
    kinds = {one.metadata["name"]: one.default for one in fields(Settings)}
    times = [name for name, default in kinds.items() if isinstance(default, float)]
    assert [name for name in times if not name.endswith(("_SECONDS", "_HOURS", "_DAYS"))] == []


def test_every_setting_has_a_name_a_default_and_a_meaning():
    lines = table()
    assert len({line.name for line in lines}) == len(lines)
    for line in lines:
        assert line.name.startswith("BIMT_")
        assert line.meaning.endswith(".")


def test_a_socket_that_would_be_too_long_goes_to_a_short_folder(tmp_path):
    deep = tmp_path / ("x" * 100)
    assert len(os.fsencode(broker_socket(deep))) < 108
    assert broker_socket(deep) == broker_socket(deep)
    assert broker_socket(deep) != broker_socket(tmp_path / ("y" * 100))


def test_ids_rise_and_never_meet():
    ids = [new_id("job") for _ in range(10_000)]
    assert ids == sorted(set(ids))
    assert all(is_id(one, "job") for one in ids)


def test_an_id_is_known_by_its_form():
    good = new_id("run")
    for wrong in ("", good[:-1], good + "0", good + "\n", good.upper(), "job" + good[3:], good.replace("_", "-")):
        assert not is_id(wrong, "run")
    with pytest.raises(ValueError, match="not a known prefix"):
        new_id("thing")
    assert all(is_id(new_id(prefix), prefix) for prefix in PREFIXES)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_json_is_the_same_again_with_null_for_what_is_not_finite(value):
    def plain(one):
        if isinstance(one, float) and not math.isfinite(one):
            return None
        if isinstance(one, list):
            return [plain(inner) for inner in one]
        return {key: plain(inner) for key, inner in one.items()} if isinstance(one, dict) else one

    assert json.loads(to_json(value)) == plain(value)
