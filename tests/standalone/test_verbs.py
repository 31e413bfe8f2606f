"""`python -m standalone VERB`, `python -m measurements VERB`: each verb that is listed says what it takes."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from measurements.__main__ import VERBS as MEASUREMENTS
from standalone.__main__ import MOVED
from standalone.__main__ import VERBS as STANDALONE

EVERY_VERB = [("standalone", verb) for verb in STANDALONE] + [("measurements", verb) for verb in MEASUREMENTS]


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("package", "verb"), EVERY_VERB)
def test_every_verb_says_what_it_takes(package: str, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process: a new one would import torch for each."""
    with pytest.raises(SystemExit) as ended:
        import_module(f"{package}.__main__").main([verb, "--help"])
    shown = capsys.readouterr()
    assert (ended.value.code, shown.err) == (0, "")
    assert shown.out.startswith(f"usage: python -m {package} {verb}")


@pytest.mark.parametrize(("package", "verbs"), [("standalone", STANDALONE), ("measurements", MEASUREMENTS)])
def test_another_word_is_answered_with_the_verbs_there_are(package: str, verbs: dict[str, str]) -> None:
    asked = call(package, "fly")
    assert asked.returncode == 2
    assert "There is no verb `fly`." in asked.stderr
    assert all(verb in asked.stdout for verb in verbs)


def test_the_measurements_that_stood_here_still_run_and_say_where_they_are_now() -> None:
    assert set(MOVED) <= set(MEASUREMENTS)
    asked = call("standalone", "bench", "--help")
    assert asked.returncode == 0
    assert "is now `python -m measurements bench`" in asked.stderr
    assert asked.stdout.startswith("usage: python -m measurements bench")


@pytest.mark.parametrize("verb", ["up", "demo"])
def test_a_python_without_the_packages_is_told_which_one_has_them(verb):
    asked = subprocess.run([sys.executable, "-S", "-m", "standalone", verb], capture_output=True, text=True)
    assert asked.returncode == 2
    assert asked.stderr.endswith(f"  .venv/bin/python -m standalone {verb}\n")
