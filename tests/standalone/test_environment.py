"""The environment is made when it is absent or stale, and only then. (That it can be made, CI shows from nothing.)"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from standalone import environment

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def venv(tmp_path) -> pathlib.Path:
    """Something that looks like an environment with a working Python."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    return tmp_path


def test_an_empty_folder_is_stale(tmp_path):
    assert not environment.is_fresh(tmp_path, "standalone")


def test_an_environment_is_fresh_after_it_was_stamped(venv):
    environment.stamp(venv, "api").write_text(environment.fingerprint("api"))
    assert environment.is_fresh(venv, "api")
    assert not environment.is_fresh(venv, "standalone")


def test_the_largest_set_serves_for_every_other(venv):
    environment.stamp(venv, "dev").write_text(environment.fingerprint("dev"))
    assert all(environment.is_fresh(venv, chosen) for chosen in environment.SETS)


def test_another_lock_makes_it_stale(venv):
    environment.stamp(venv, "dev").write_text(environment.fingerprint("standalone"))
    assert not environment.is_fresh(venv, "dev")


def test_another_torch_makes_it_stale(venv, monkeypatch):
    environment.stamp(venv, "dev").write_text(environment.fingerprint("dev"))
    monkeypatch.setenv("BIMT_TORCH_SPEC", "torch==2.99.0")
    assert not environment.is_fresh(venv, "dev")


def test_a_fresh_environment_is_left_alone_in_silence(venv):
    environment.stamp(venv, "dev").write_text(environment.fingerprint("dev"))
    command = [sys.executable, "-m", "standalone.environment", "dev", "--venv", str(venv)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_failing_step_is_shown_as_a_person_would_type_it(tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as refused:
        environment.pip(pathlib.Path(sys.executable), "install", "--no-index", str(tmp_path / "absent.whl"))
    assert environment.readable(refused.value.cmd).startswith(f"{pathlib.Path(sys.executable).name} -m pip")


def test_make_says_a_sentence_where_there_is_no_python(tmp_path):
    command = ["make", "--no-print-directory", "env", "PYTHON="]
    environ = {**os.environ, "MAKEFLAGS": "", "MAKELEVEL": ""}
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode != 0
    assert "No Python 3.11 or later was found" in done.stderr
