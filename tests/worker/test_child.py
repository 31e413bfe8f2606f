"""What the training process says of a job's runs while it does them; tests/whole and tests/faults test all of it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load

from bimt_engine.datasets.catalogue import make_dataset
from bimt_engine.exports.weights import load_weights
from bimt_engine.spec import Spec
from bimt_engine.training.checkpoint import read_progress
from bimt_engine.training.loop import Training
from tests.whole.house import tiny_spec, wild_spec
from worker import bar
from worker.child import batches, do_all
from worker.reporter import Reporter, is_out_of_memory
from worker.run import Run
from worker.speech import Stopped

SIDE_BY_SIDE = tiny_spec(steps=400, stepper="batched")


class Voice:
    """Takes down what is said; may do something when it hears a word."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.when: dict[str, Callable[[], object]] = {}

    def say(self, what: str, **fields: Any) -> None:
        self.said.append({"say": what, **fields})
        self.when.get(what, lambda: None)()

    def of(self, what: str) -> list[dict[str, Any]]:
        return [said for said in self.said if said["say"] == what]


class Office:
    """What run_job keeps of a job: which runs are left, their newest checkpoints, and everything that was said."""

    def __init__(self, folder: Path, specs: list[Spec], seeds: list[int] | None = None) -> None:
        self.folder = folder
        told = [spec.model_dump(mode="json") for spec in specs]
        self.orders: list[dict[str, Any]] = [
            {"id": f"run_{n}", "seed": n if seeds is None else seeds[n], "spec": spec}
            | {"left": True, "checkpoint": None, "checkpoint_step": None}
            for n, spec in enumerate(told)
        ]
        self.voices: list[Voice] = []
        self.began = self.ended = 0.0

    def process(self, **words: int) -> bool:
        """One training process, asked to stop when it has said a word so often. Whether it came to its end."""
        voice, stop = Voice(), threading.Event()
        self.voices.append(voice)

        def count(word: str, times: int) -> None:
            if len(voice.of(word)) >= times:
                stop.set()

        voice.when = {word: partial(count, word, times) for word, times in words.items()}
        reporter = Reporter(self.folder, voice, SimpleNamespace(stop=stop))  # type: ignore[arg-type]
        try:
            do_all([Run.of(order, None) for order in self.orders], reporter)
        except Stopped:
            return False
        finally:
            self._take_down(voice)
        return True

    def _take_down(self, voice: Voice) -> None:
        orders = {order["id"]: order for order in self.orders}
        for said in voice.said:
            for run in said.get("runs", [said.get("run")]):
                if said["say"] == "checkpoint":
                    orders[run] |= {"checkpoint": said["file"], "checkpoint_step": said["step"]}
                elif said["say"] in ("failed", "result"):
                    orders[run]["left"] = False

    def train(self, word: str = "at", times: int = 2) -> None:
        """A process that is stopped when it has said a word so often, or else when its evidence begins."""
        assert not self.process(**{"at": 2, word: times})

    def trained(self) -> dict[str, dict[str, bytes]]:
        """Weights, moments and orders in the newest checkpoint, of every run that is left."""
        rows = {order["id"]: row for row, order in enumerate(self.orders) if order["left"]}
        [name] = {self.orders[row]["checkpoint"] for row in rows.values()}
        content = (self.folder / name).read_bytes()
        assert read_progress(content).finished
        return {run: {name: array[row].tobytes() for name, array in load(content).items()} for run, row in rows.items()}

    def batches(self) -> list[list[int]]:
        """The runs that would be trained together, by their numbers."""
        reporter = Reporter(self.folder, Voice(), SimpleNamespace())  # type: ignore[arg-type]
        runs = [Run.of(order, None) for order in self.orders]
        return [[runs.index(run) for run in members] for members in batches(runs, reporter)]

    def results(self) -> list[dict[str, Any]]:
        return [json.loads((self.folder / said["file"]).read_text()) for said in self.said("result")]

    def said(self, what: str) -> list[dict[str, Any]]:
        return [said for voice in self.voices for said in voice.of(what)]

    def found(self) -> dict[str, Any]:
        """Everything that may not depend on cuts: weights, curves, films and sentences of each run."""
        found: dict[str, Any] = {order["id"]: {"rows": {}, "film": {}} for order in self.orders}
        for said in self.said("row"):
            found[said["run"]]["rows"][said["row"]["step"]] = {**said["row"], "seconds": 0}
        for said in self.said("snapshot"):
            found[said["run"]]["film"][said["step"]] = (self.folder / said["file"]).read_bytes()
        for said in self.said("result"):
            result = json.loads((self.folder / said["file"]).read_text())
            weights = (self.folder / result["files"]["weights.safetensors"]).read_bytes()
            found[said["run"]] |= {"weights": weights, "document": result["document"]}
        for said in self.said("failed"):
            for run in said["runs"]:
                assert "failed" not in found[run], "it was told twice"
                found[run]["failed"] = said["sentence"]
        return found


def test_the_bar_of_a_run_rises_from_training_to_pictures(tmp_path):
    office = Office(tmp_path, [tiny_spec(steps=400)])
    assert office.process()
    told = office.said("progress")
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


def test_a_run_that_goes_on_does_not_begin_at_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(bar, "SHORTEST_LOOK", 0.0)
    office = Office(tmp_path, [tiny_spec(steps=400)])
    assert not office.process(checkpoint=1)
    kept = office.said("checkpoint")[-1]
    assert 0 < kept["step"] < 400
    assert office.process()
    assert office.voices[-1].of("began")[0]["step"] == kept["step"]
    assert office.voices[-1].of("progress")[0]["fraction"] > 0


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """A job of three runs that are trained side by side, done without a break."""
    specs = [SIDE_BY_SIDE, SIDE_BY_SIDE, SIDE_BY_SIDE.at_cost_strength(0.1)]
    office = Office(tmp_path_factory.mktemp("three"), specs, [0, 1, 0])
    office.began = time.monotonic()
    assert office.process()
    office.ended = time.monotonic()
    return office


def test_runs_are_replicas_of_one_batch_where_the_batched_stepper_trains_them(three):
    runs = ["run_0", "run_1", "run_2"]
    assert three.said("began") == [{"say": "began", "runs": runs, "stepper": "batched", "replicas": 3, "step": 0}]
    assert [said["runs"] for said in three.said("at")] == [runs, *([run] for run in runs)]
    assert [said["run"] for said in three.said("result")] == runs
    assert [result["replicas"] for result in three.results()] == [3, 3, 3]
    kept = three.said("checkpoint")
    assert [(said["step"], said["runs"]) for said in kept] == [(step, runs) for step in (100, 200, 300, 400)]
    found = three.found()
    assert len({found[run]["weights"] for run in runs}) == 3
    assert [sorted(of["rows"]) for of in found.values()] == [[0, 100, 200, 300, 400]] * 3
    assert [sorted(of["film"]) for of in found.values()] == [[0, 400]] * 3


def test_a_run_says_apart_how_long_its_training_and_its_evidence_took(three):
    """Where several trained side by side, each has its share of their training."""
    said, curve = three.results(), three.said("row")[-1]["row"]
    assert [one["training_seconds"] for one in said] == [pytest.approx(curve["seconds"] / 3, abs=1e-3)] * 3
    assert min(one["evidence_seconds"] for one in said) > 0
    took = three.ended - three.began
    assert sum(one["training_seconds"] + one["evidence_seconds"] for one in said) < took


def test_the_bar_of_a_batch_counts_its_training_for_every_run(three):
    """Until its evidence, a run has come as far as all the others have."""
    reached = dict.fromkeys(("run_0", "run_1", "run_2"), 0.0)
    bars = []
    for said in three.voices[0].said:
        if said["say"] == "progress":
            reached |= dict.fromkeys(said["runs"], said["fraction"])
        elif said["say"] == "result":
            reached[said["run"]] = 1.0
        bars.append(sum(reached.values()))
    assert bars == sorted(bars)
    assert bars[0] == 0
    assert bars[-1] == 3


@pytest.mark.parametrize(
    ("stepper", "together"), [("batched", [[0, 1, 2]]), ("autograd", [[0], [1], [2]]), ("kernel", [[0], [1], [2]])]
)
def test_runs_go_one_after_another_where_another_stepper_trains_them(tmp_path, stepper, together):
    spec = tiny_spec(stepper=stepper)
    dataset = make_dataset(spec.dataset, seed=0)
    if Training.begin(spec, dataset, seed=0).stepper_name != stepper:
        pytest.skip(f"the {stepper} stepper is not to be had here")
    assert Office(tmp_path, [spec] * 3).batches() == together


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_on_a_gpu_the_runs_of_a_job_are_one_batch_that_is_cut_and_resumed_with_the_same_bits(tmp_path):
    spec = tiny_spec(steps=400, stepper="auto", device="cuda")
    whole, cut = (Office(tmp_path / name, [spec] * 3) for name in ("whole", "cut"))
    for office in (whole, cut):
        office.folder.mkdir()
        assert office.batches() == [[0, 1, 2]]
    whole.train()
    cut.train("row", 7)
    cut.train()
    assert [said["stepper"] for said in cut.said("began")] == ["batched", "batched"]
    assert cut.trained() == whole.trained()


def test_runs_stand_together_whoever_is_left_unless_they_differ_in_more_than_cost_strength(tmp_path):
    """And a batch that nobody is left of is not named."""
    other = tiny_spec(steps=500, stepper="batched")
    office = Office(tmp_path, [SIDE_BY_SIDE, other, SIDE_BY_SIDE.at_cost_strength(0.1), other, SIDE_BY_SIDE])
    assert office.batches() == [[0, 2, 4], [1, 3]]
    for ended in (0, 4, 3):
        office.orders[ended]["left"] = False
        assert office.batches() == [[0, 2, 4], [1, 3]]
    office.orders[1]["left"] = False
    assert office.batches() == [[0, 2, 4]]


@settings(deadline=None, max_examples=12, phases=[Phase.explicit, Phase.generate])
@given(st.lists(st.tuples(st.sampled_from(["began", "row", "snapshot"]), st.integers(1, 8)), min_size=1, max_size=4))
def test_a_batch_cut_anywhere_and_resumed_trains_to_the_same_bits(whole, cuts):
    with tempfile.TemporaryDirectory() as folder:
        cut = Office(Path(folder), [SIDE_BY_SIDE] * 3)
        for word, times in cuts:
            cut.train(word, times)
        cut.train()
        assert cut.trained() == whole.trained()
        assert {said["replicas"] for said in cut.said("began")} == {3}
        assert cut.found() == whole.found()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """Trained in one go."""
    office = Office(tmp_path_factory.mktemp("whole"), [SIDE_BY_SIDE] * 3)
    office.train()
    assert len(office.said("began")) == 1
    return office


def test_evidence_that_is_cut_goes_on_with_the_runs_that_are_left(tmp_path):
    office = Office(tmp_path, [SIDE_BY_SIDE] * 2)
    assert not office.process(at=3)
    assert [order["left"] for order in office.orders] == [False, True]
    assert office.process()
    assert office.voices[1].of("began") == [
        {"say": "began", "runs": ["run_1"], "stepper": "batched", "replicas": 2, "step": 400}
    ]
    assert not office.voices[1].of("row")
    assert [said["run"] for said in office.said("result")] == ["run_0", "run_1"]
    for replica, saved in enumerate(load_weights(of["weights"]) for of in office.found().values()):
        theta = load((tmp_path / office.orders[1]["checkpoint"]).read_bytes())["theta"][replica]
        flat = torch.cat([parameter.detach().reshape(-1) for parameter in saved.trained.parameters()])
        assert flat.numpy().tobytes() == theta.tobytes()


def test_a_run_that_diverges_ends_alone_and_the_others_go_on_with_the_same_bits(tmp_path):
    seeds = [4, 5, 0]
    whole = Office(tmp_path / "whole", [wild_spec(steps=2000)] * 3, seeds)
    whole.folder.mkdir()
    whole.train()
    trained = whole.trained()
    assert list(trained) == ["run_0", "run_2"]
    found = whole.found()
    assert ["failed" in of for of in found.values()] == [False, True, False]
    assert found["run_1"]["failed"].startswith("After 200 steps")
    assert "(seed 5)" in found["run_1"]["failed"]
    assert list(found["run_1"]["rows"]) == [0, 100]
    assert list(found["run_1"]["film"]) == [0]

    for times, left in ((4, ["run_0", "run_1", "run_2"]), (7, ["run_0", "run_2"]), (20, ["run_0", "run_2"])):
        cut = Office(tmp_path / f"cut-{times}", [wild_spec(steps=2000)] * 3, seeds)
        cut.folder.mkdir()
        cut.train("row", times)
        cut.train()
        assert cut.voices[1].of("began")[0]["runs"] == left
        assert cut.trained() == trained
        for run, of in cut.found().items():
            assert of == found[run]


def test_a_run_that_failed_is_tried_again_in_the_batch_that_it_was_in(tmp_path):
    """The others have ended; it goes on from the checkpoint that it had, and gets the bits that it would have had."""
    office = Office(tmp_path, [SIDE_BY_SIDE] * 3)
    assert not office.process(row=7)
    older = {name: office.orders[1][name] for name in ("checkpoint", "checkpoint_step")}
    office.train()
    trained = office.trained()["run_1"]
    for order in office.orders:
        order["left"] = order["id"] == "run_1"
    office.orders[1] |= older
    office.train()
    assert [(said["runs"], said["replicas"], said["step"]) for said in office.voices[-1].of("began")] == [
        (["run_1"], 3, 200)
    ]
    assert office.trained()["run_1"] == trained


def test_runs_of_a_batch_with_several_checkpoints_go_on_from_the_oldest(tmp_path):
    """A run that failed early is tried again together with those that came further."""
    office = Office(tmp_path, [SIDE_BY_SIDE] * 2)
    assert not office.process(row=3)
    older = {name: office.orders[1][name] for name in ("checkpoint", "checkpoint_step")}
    assert not office.process(row=3)
    assert office.orders[0]["checkpoint_step"] > older["checkpoint_step"] == 100
    office.orders[1] |= older
    office.train()
    assert office.voices[-1].of("began")[0]["step"] == 100
    office.orders[1] |= {"checkpoint": None, "checkpoint_step": None}
    office.train()
    assert office.voices[-1].of("began")[0]["step"] == 0


def test_a_checkpoint_of_a_run_alone_is_gone_on_from_alone(tmp_path):
    """As where the job comes from a machine that had the kernel; the others begin as the batch that they would be."""
    office = Office(tmp_path, [SIDE_BY_SIDE])
    assert not office.process(row=2)
    begun = office.orders[0]
    office = Office(tmp_path, [SIDE_BY_SIDE] * 3)
    office.orders[0] = begun
    assert office.batches() == [[0], [0, 1, 2]]


def test_a_checkpoint_of_a_batch_is_gone_on_from_together_where_another_stepper_would_begin(tmp_path):
    office = Office(tmp_path, [SIDE_BY_SIDE] * 3)
    assert not office.process(row=7)
    for order in office.orders:
        order["spec"]["training"]["stepper"] = "autograd"
    assert office.batches() == [[0, 1, 2]]
    office.train()
    assert [said["stepper"] for said in office.said("began")] == ["batched", "batched"]


def test_a_checkpoint_that_nobody_can_read_costs_the_training_only(tmp_path, caplog):
    office = Office(tmp_path, [SIDE_BY_SIDE] * 2)
    (tmp_path / "damaged").write_bytes(b"nonsense")
    for order in office.orders:
        order |= {"checkpoint": "damaged", "checkpoint_step": 300}
    office.train()
    assert office.said("began")[0]["step"] == 0
    assert "training begins anew" in caplog.text


def test_a_run_whose_data_cannot_be_made_is_no_member_of_the_batch(tmp_path):
    """Of this formula some seeds draw one value only."""
    rare = {"kind": "formula", "formulas": ["max(x1, 1.6)"], "inputs": 1, "train": 8, "test": 8, "high": 2, "low": -2}
    spec = Spec.model_validate(SIDE_BY_SIDE.model_dump(mode="json") | {"dataset": rare})
    office = Office(tmp_path, [spec] * 6)
    office.train()
    failed = {run for said in office.said("failed") for run in said["runs"]}
    assert 0 < len(failed) < 6
    assert all("same value everywhere" in said["sentence"] for said in office.said("failed"))
    assert [said["replicas"] for said in office.said("began")] == [6 - len(failed)]


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_what_is_a_lack_of_memory(error, is_it):
    assert is_out_of_memory(error) is is_it


def test_torch_s_lack_of_memory_on_the_cpu_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_a_batch_that_memory_does_not_hold_says_what_to_do(tmp_path):
    voice = Voice()
    reporter = Reporter(tmp_path, voice, SimpleNamespace(stop=threading.Event()))  # type: ignore[arg-type]
    runs = [Run(f"run_{n}", n, {}) for n in range(3)]
    runs[0].left = False
    with reporter.ending_only(runs):
        torch.empty(1 << 60, dtype=torch.uint8)
    [failed] = voice.of("failed")
    assert failed["runs"] == ["run_1", "run_2"]
    assert "submit fewer seeds and cost strengths in one job" in failed["sentence"]


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
