"""`python -m standalone VERB`: each verb that is listed can be done, and says how."""

from __future__ import annotations

import subprocess
import sys

import pytest

from standalone.__main__ import VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_takes(verb: str) -> None:
    words = [sys.executable, "-m", "standalone", verb, "--help"]
    asked = subprocess.run(words, capture_output=True, text=True)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.startswith("usage: ")


def test_another_word_is_answered_with_the_verbs_there_are() -> None:
    asked = subprocess.run([sys.executable, "-m", "standalone", "fly"], capture_output=True, text=True)
    assert asked.returncode == 2
    assert "There is no verb `fly`." in asked.stderr
    assert all(verb in asked.stdout for verb in VERBS)
