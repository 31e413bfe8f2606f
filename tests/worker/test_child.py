"""What the training process says of a run while it does it. All of it is tested in tests/whole and tests/faults."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.whole.house import tiny_spec
from worker import bar
from worker.bar import RunBar
from worker.child import RunTraining, Stopped


class Voice:
    """Takes down what is said; may do something when it hears a word."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.when: dict[str, Any] = {}

    def say(self, what: str, **fields: Any) -> None:
        self.said.append({"say": what, **fields})
        self.when.get(what, lambda: None)()

    def of(self, what: str) -> list[dict[str, Any]]:
        return [said for said in self.said if said["say"] == what]


def run(folder: Path, voice: Voice, stop: threading.Event, *, checkpoint: str | None = None) -> RunTraining:
    spec = tiny_spec(steps=400).model_dump(mode="json")
    order = {"id": "run_1", "seed": 0, "spec": spec, "checkpoint": checkpoint}
    return RunTraining(order, folder, None, voice, SimpleNamespace(stop=stop), RunBar())  # type: ignore[arg-type]


def test_the_bar_of_a_run_rises_from_training_to_pictures(tmp_path):
    voice = Voice()
    done = run(tmp_path, voice, threading.Event())
    done.do()
    told = voice.of("progress")
    fractions = [said["fraction"] for said in told]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert 0.7 < fractions[-1] <= 1
    doing = list(dict.fromkeys(said["note"].partition(":")[0] for said in told))
    assert doing == [
        "training",
        "the evidence begins",
        "pruning",
        "graph",
        "modules",
        "communities",
        "readout",
        "summing up",
        "done",
        "pictures",
    ]
    assert done.evidence_seconds > 0


def test_a_run_says_apart_how_long_its_training_and_its_evidence_took(tmp_path):
    voice = Voice()
    began = time.monotonic()
    done = run(tmp_path, voice, threading.Event())
    done.do()
    took = time.monotonic() - began
    said = json.loads((tmp_path / voice.of("result")[0]["file"]).read_text())
    curve = voice.of("row")[-1]["row"]
    assert said["training_seconds"] == pytest.approx(curve["seconds"], abs=1e-3)
    assert said["evidence_seconds"] == done.evidence_seconds
    assert 0 < said["training_seconds"] + said["evidence_seconds"] < took


def test_a_run_that_goes_on_does_not_begin_at_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(bar, "SHORTEST_LOOK", 0.0)
    voice, stop = Voice(), threading.Event()
    voice.when["checkpoint"] = stop.set
    with pytest.raises(Stopped):
        run(tmp_path, voice, stop).do()
    kept = voice.of("checkpoint")[-1]
    assert 0 < kept["step"] < 400

    again = Voice()
    run(tmp_path, again, threading.Event(), checkpoint=kept["file"]).do()
    assert again.of("began")[0]["step"] == kept["step"]
    assert again.of("progress")[0]["fraction"] > 0


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("worker.child", ("torch", "bimt_engine.spec", "store")),
        ("bimt_engine.training.loop", ("sympy", "igraph", "matplotlib", "sklearn", "pandas")),
        ("bimt_engine.analysis.evidence", ("sklearn", "pandas", "networkx")),
        ("worker.answers", ("sympy", "igraph", "matplotlib", "sklearn", "pandas", "onnx", "store")),
    ],
)
def test_what_is_not_needed_yet_is_not_imported(module, without):
    """Imports are most of what a short job costs, and much of what a bench keeps in memory."""
    look = f"import sys, {module}; print([name for name in {without!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
