"""What the training process reports of a job's runs, and that a process that served others gives the same bytes."""

from __future__ import annotations

import errno
import hashlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load

from bimt_engine.data.registry import make_dataset
from bimt_engine.exports.weights import load_weights
from bimt_engine.spec import Spec
from bimt_engine.training.loop import Training
from bimt_engine.training.state import read_header
from tests.end_to_end.processes import tiny_spec, wild_spec
from worker import batch, protocol
from worker.batch import Reporter, TrainingRun, is_out_of_memory
from worker.engine_process import TrainingProcesses
from worker.protocol import (
    ActiveRuns,
    CheckpointWritten,
    DataDamaged,
    HistoryRow,
    JobDone,
    Message,
    ResultWritten,
    RunRequest,
    RunsFailed,
    RunsProgress,
    SnapshotWritten,
    Stopped,
    TrainingRequest,
    TrainingStarted,
    Work,
)
from worker.training_process import batches, run_batches, run_job

SIDE_BY_SIDE = tiny_spec(steps=400, stepper="batched")
Kind = TypeVar("Kind", bound=Message)


class Sent:
    """Takes down messages; may do something when one of a type comes."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.when: dict[type[Message], Callable[[], object]] = {}

    def send(self, message: Message) -> None:
        self.messages.append(message)
        self.when.get(type(message), lambda: None)()

    def of(self, kind: type[Kind]) -> list[Kind]:
        return [message for message in self.messages if isinstance(message, kind)]


class Job:
    """What JobRunner holds of a job: which runs are left, their newest checkpoints, and every message."""

    def __init__(self, folder: Path, specs: list[Spec], seeds: list[int] | None = None) -> None:
        self.folder = folder
        self.runs: list[dict[str, Any]] = [
            {"id": f"run_{n}", "seed": n if seeds is None else seeds[n], "spec": spec.model_dump(mode="json")}
            | {"left": True, "checkpoint": None, "checkpoint_step": None}
            for n, spec in enumerate(specs)
        ]
        self.processes: list[Sent] = []

    def process(self, times: dict[type[Message], int] | None = None) -> bool:
        """One training process, asked to stop at so many messages of a type. Whether it came to its end."""
        sent, stop = Sent(), threading.Event()
        self.processes.append(sent)

        def count(kind: type[Message], most: int) -> None:
            if len(sent.of(kind)) >= most:
                stop.set()

        sent.when = {kind: partial(count, kind, most) for kind, most in (times or {}).items()}
        try:
            run_batches(self._runs(), Reporter(self.folder, sent, stop))
        except Stopped:
            return False
        finally:
            self._handle(sent)
        return True

    def _runs(self) -> list[TrainingRun]:
        return [TrainingRun(RunRequest(**run)) for run in self.runs]

    def _handle(self, sent: Sent) -> None:
        runs = {run["id"]: run for run in self.runs}
        for message in sent.messages:
            match message:
                case CheckpointWritten():
                    for run in message.runs:
                        runs[run] |= {"checkpoint": message.file, "checkpoint_step": message.step}
                case ResultWritten():
                    runs[message.run]["left"] = False
                case RunsFailed():
                    for run in message.runs:
                        runs[run]["left"] = False

    def train(self, kind: type[Message] = ActiveRuns, times: int = 2) -> None:
        """A process that is stopped at so many messages of a type, or else when its evaluation begins."""
        assert not self.process({ActiveRuns: 2, kind: times})

    def trained(self) -> dict[str, dict[str, bytes]]:
        """Weights, moments and orders in the newest checkpoint, of every run that is left."""
        rows = {run["id"]: row for row, run in enumerate(self.runs) if run["left"]}
        [name] = {self.runs[row]["checkpoint"] for row in rows.values()}
        content = (self.folder / name).read_bytes()
        assert read_header(content).finished
        return {run: {name: array[row].tobytes() for name, array in load(content).items()} for run, row in rows.items()}

    def batches(self) -> list[list[int]]:
        """The runs that would be trained together, by their numbers."""
        reporter = Reporter(self.folder, Sent(), threading.Event())
        runs = self._runs()
        return [[runs.index(run) for run in members] for members in batches(runs, reporter)]

    def results(self) -> list[dict[str, Any]]:
        return [json.loads((self.folder / message.file).read_text()) for message in self.sent(ResultWritten)]

    def sent(self, kind: type[Kind]) -> list[Kind]:
        return [message for process in self.processes for message in process.of(kind)]

    def found(self) -> dict[str, Any]:
        """Everything that may not depend on cuts: weights, curves, films and sentences of each run."""
        found: dict[str, Any] = {run["id"]: {"rows": {}, "film": {}} for run in self.runs}
        for row in self.sent(HistoryRow):
            found[row.run]["rows"][row.row["step"]] = {**row.row, "seconds": 0}
        for snapshot in self.sent(SnapshotWritten):
            found[snapshot.run]["film"][snapshot.step] = (self.folder / snapshot.file).read_bytes()
        for message, result in zip(self.sent(ResultWritten), self.results(), strict=True):
            weights = (self.folder / result["files"]["weights.safetensors"]).read_bytes()
            found[message.run] |= {"weights": weights, "document": result["document"]}
        for failure in self.sent(RunsFailed):
            for run in failure.runs:
                assert "failed" not in found[run], "it was reported twice"
                found[run]["failed"] = failure.sentence
        return found


def test_the_progress_of_a_run_rises_to_1_through_every_stage(tmp_path):
    job = Job(tmp_path, [tiny_spec(steps=400)])
    assert job.process()
    sent = job.sent(RunsProgress)
    fractions = [message.fraction for message in sent]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert list(dict.fromkeys(message.note.partition(":")[0] for message in sent)) == [
        "training",
        "the evidence begins",
        "pruning",
        "graph",
        "modules",
        "groups inside the modules",
        "communities",
        "readout",
        "summing up",
        "done",
        "pictures",
        "writing the results",
    ]


def test_a_run_that_goes_on_does_not_begin_at_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "MIN_TRAINING_SECONDS", 0.0)
    job = Job(tmp_path, [tiny_spec(steps=400)])
    assert not job.process({CheckpointWritten: 1})
    kept = job.sent(CheckpointWritten)[-1]
    assert 0 < kept.step < 400
    assert job.process()
    assert job.processes[-1].of(TrainingStarted)[0].step == kept.step
    assert job.processes[-1].of(RunsProgress)[0].fraction > 0


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job of three runs that are trained side by side, done without a break."""
    specs = [SIDE_BY_SIDE, SIDE_BY_SIDE, SIDE_BY_SIDE.at_cost_strength(0.1)]
    job = Job(tmp_path_factory.mktemp("three"), specs, [0, 1, 0])
    assert job.process()
    return job


def test_runs_are_replicas_of_one_batch_where_the_batched_stepper_trains_them(three):
    runs = ["run_0", "run_1", "run_2"]
    assert three.sent(TrainingStarted) == [TrainingStarted(runs=runs, stepper="batched", replicas=3, step=0)]
    assert [message.runs for message in three.sent(ActiveRuns)] == [runs, *([run] for run in runs)]
    assert [message.run for message in three.sent(ResultWritten)] == runs
    assert [result["replicas"] for result in three.results()] == [3, 3, 3]
    kept = three.sent(CheckpointWritten)
    assert [(message.step, message.runs) for message in kept] == [(step, runs) for step in (100, 200, 300, 400)]
    found = three.found()
    assert len({found[run]["weights"] for run in runs}) == 3
    assert [sorted(of["rows"]) for of in found.values()] == [[0, 100, 200, 300, 400]] * 3
    assert [sorted(of["film"]) for of in found.values()] == [[0, 400]] * 3


def test_a_run_reports_its_share_of_the_training_and_its_evidence_apart(three):
    results, curve = three.results(), three.sent(HistoryRow)[-1].row
    assert [one["training_seconds"] for one in results] == [pytest.approx(curve["seconds"] / 3, abs=1e-3)] * 3
    assert min(one["evidence_seconds"] for one in results) > 0


def test_the_training_of_a_batch_counts_for_every_run(three):
    """Until its evidence, a run has come as far as all the others have."""
    reached = dict.fromkeys(("run_0", "run_1", "run_2"), 0.0)
    bars = []
    for message in three.processes[0].messages:
        if isinstance(message, RunsProgress):
            reached |= dict.fromkeys(message.runs, message.fraction)
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
    assert Job(tmp_path, [spec] * 3).batches() == together


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_on_a_gpu_the_runs_of_a_job_are_one_batch_that_is_cut_and_resumed_with_the_same_bits(tmp_path):
    spec = tiny_spec(steps=400, stepper="auto", device="cuda")
    whole, cut = (Job(tmp_path / name, [spec] * 3) for name in ("whole", "cut"))
    for job in (whole, cut):
        job.folder.mkdir()
        assert job.batches() == [[0, 1, 2]]
    whole.train()
    cut.train(HistoryRow, 7)
    cut.train()
    assert [message.stepper for message in cut.sent(TrainingStarted)] == ["batched", "batched"]
    assert cut.trained() == whole.trained()


def test_runs_train_together_unless_they_differ_in_more_than_cost_strength(tmp_path):
    """Whichever of them have ended; and a batch whose runs have all ended is not named."""
    other = tiny_spec(steps=500, stepper="batched")
    job = Job(tmp_path, [SIDE_BY_SIDE, other, SIDE_BY_SIDE.at_cost_strength(0.1), other, SIDE_BY_SIDE])
    assert job.batches() == [[0, 2, 4], [1, 3]]
    for ended in (0, 4, 3):
        job.runs[ended]["left"] = False
        assert job.batches() == [[0, 2, 4], [1, 3]]
    job.runs[1]["left"] = False
    assert job.batches() == [[0, 2, 4]]


@settings(deadline=None, max_examples=12, phases=[Phase.explicit, Phase.generate])
@given(
    st.lists(
        st.tuples(st.sampled_from([TrainingStarted, HistoryRow, SnapshotWritten]), st.integers(1, 8)),
        min_size=1,
        max_size=4,
    )
)
def test_a_batch_cut_anywhere_and_resumed_trains_to_the_same_bits(whole, cuts):
    with tempfile.TemporaryDirectory() as folder:
        cut = Job(Path(folder), [SIDE_BY_SIDE] * 3)
        for kind, times in cuts:
            cut.train(kind, times)
        cut.train()
        assert cut.trained() == whole.trained()
        assert {message.replicas for message in cut.sent(TrainingStarted)} == {3}
        assert cut.found() == whole.found()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Trained in one go."""
    job = Job(tmp_path_factory.mktemp("whole"), [SIDE_BY_SIDE] * 3)
    job.train()
    assert len(job.sent(TrainingStarted)) == 1
    return job


def test_evidence_that_is_cut_goes_on_with_the_runs_that_are_left(tmp_path):
    job = Job(tmp_path, [SIDE_BY_SIDE] * 2)
    assert not job.process({ActiveRuns: 3})
    assert [run["left"] for run in job.runs] == [False, True]
    assert job.process()
    assert job.processes[1].of(TrainingStarted) == [
        TrainingStarted(runs=["run_1"], stepper="batched", replicas=2, step=400)
    ]
    assert not job.processes[1].of(HistoryRow)
    assert [message.run for message in job.sent(ResultWritten)] == ["run_0", "run_1"]
    for replica, saved in enumerate(load_weights(of["weights"]) for of in job.found().values()):
        theta = load((tmp_path / job.runs[1]["checkpoint"]).read_bytes())["theta"][replica]
        flat = torch.cat([parameter.detach().reshape(-1) for parameter in saved.trained.parameters()])
        assert flat.numpy().tobytes() == theta.tobytes()


def test_a_run_that_diverges_ends_alone_and_the_others_go_on_with_the_same_bits(tmp_path):
    seeds = [4, 5, 0]
    whole = Job(tmp_path / "whole", [wild_spec(steps=2000)] * 3, seeds)
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
        cut = Job(tmp_path / f"cut-{times}", [wild_spec(steps=2000)] * 3, seeds)
        cut.folder.mkdir()
        cut.train(HistoryRow, times)
        cut.train()
        assert cut.processes[1].of(TrainingStarted)[0].runs == left
        assert cut.trained() == trained
        for run, of in cut.found().items():
            assert of == found[run]


def test_a_run_that_failed_is_tried_again_in_the_batch_that_it_was_in(tmp_path):
    """The others have ended; it goes on from the checkpoint that it had, and gets the bits that it would have had."""
    job = Job(tmp_path, [SIDE_BY_SIDE] * 3)
    assert not job.process({HistoryRow: 7})
    older = {name: job.runs[1][name] for name in ("checkpoint", "checkpoint_step")}
    job.train()
    trained = job.trained()["run_1"]
    for run in job.runs:
        run["left"] = run["id"] == "run_1"
    job.runs[1] |= older
    job.train()
    [started] = job.processes[-1].of(TrainingStarted)
    assert (started.runs, started.replicas, started.step) == (["run_1"], 3, 200)
    assert job.trained()["run_1"] == trained


def test_runs_of_a_batch_with_several_checkpoints_go_on_from_the_oldest(tmp_path):
    """A run that failed early is tried again together with those that came further."""
    job = Job(tmp_path, [SIDE_BY_SIDE] * 2)
    assert not job.process({HistoryRow: 3})
    older = {name: job.runs[1][name] for name in ("checkpoint", "checkpoint_step")}
    assert not job.process({HistoryRow: 3})
    assert job.runs[0]["checkpoint_step"] > older["checkpoint_step"] == 100
    job.runs[1] |= older
    job.train()
    assert job.processes[-1].of(TrainingStarted)[0].step == 100
    job.runs[1] |= {"checkpoint": None, "checkpoint_step": None}
    job.train()
    assert job.processes[-1].of(TrainingStarted)[0].step == 0


def test_a_checkpoint_of_a_run_alone_is_gone_on_from_alone(tmp_path):
    """As where the job comes from a machine that had the kernel; the others begin as the batch that they would be."""
    job = Job(tmp_path, [SIDE_BY_SIDE])
    assert not job.process({HistoryRow: 2})
    begun = job.runs[0]
    job = Job(tmp_path, [SIDE_BY_SIDE] * 3)
    job.runs[0] = begun
    assert job.batches() == [[0], [0, 1, 2]]


def test_a_checkpoint_of_a_batch_is_gone_on_from_together_where_another_stepper_would_begin(tmp_path):
    job = Job(tmp_path, [SIDE_BY_SIDE] * 3)
    assert not job.process({HistoryRow: 7})
    for run in job.runs:
        run["spec"]["training"]["stepper"] = "autograd"
    assert job.batches() == [[0, 1, 2]]
    job.train()
    assert [message.stepper for message in job.sent(TrainingStarted)] == ["batched", "batched"]


def test_a_checkpoint_that_cannot_be_read_costs_the_training_only(tmp_path, caplog):
    job = Job(tmp_path, [SIDE_BY_SIDE] * 2)
    (tmp_path / "damaged").write_bytes(b"nonsense")
    for run in job.runs:
        run |= {"checkpoint": "damaged", "checkpoint_step": 300}
    job.train()
    assert job.sent(TrainingStarted)[0].step == 0
    assert "training starts from the beginning" in caplog.text


def test_a_run_whose_data_cannot_be_made_is_no_member_of_the_batch(tmp_path):
    """Of this formula some seeds draw one value only."""
    rare = {"kind": "formula", "formulas": ["max(x1, 1.6)"], "inputs": 1, "train": 8, "test": 8, "high": 2, "low": -2}
    spec = Spec.model_validate(SIDE_BY_SIDE.model_dump(mode="json") | {"dataset": rare})
    job = Job(tmp_path, [spec] * 6)
    job.train()
    failed = {run for message in job.sent(RunsFailed) for run in message.runs}
    assert 0 < len(failed) < 6
    assert all("same value everywhere" in message.sentence for message in job.sent(RunsFailed))
    assert [message.replicas for message in job.sent(TrainingStarted)] == [6 - len(failed)]


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
    sent = Sent()
    runs = [TrainingRun(RunRequest(id=f"run_{n}", seed=n, spec={}, left=n > 0)) for n in range(3)]
    with Reporter(tmp_path, sent, threading.Event()).fail_on_error(runs):
        torch.empty(1 << 60, dtype=torch.uint8)
    [failed] = sent.of(RunsFailed)
    assert failed.runs == ["run_1", "run_2"]
    assert "submit fewer seeds and cost strengths in one job" in failed.sentence


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("worker.training_process", ("torch", "bimt_engine.spec", "store")),
        ("bimt_engine.training.loop", ("sympy", "igraph", "matplotlib", "sklearn", "pandas")),
        ("bimt_engine.analysis.evidence", ("sklearn", "pandas", "networkx")),
        ("worker.operation_process", ("sympy", "igraph", "matplotlib", "sklearn", "pandas", "onnx", "store")),
    ],
)
def test_what_is_not_needed_yet_is_not_imported(module, without):
    """Imports are most of what a short job costs in a new process, and much of what an operation process holds."""
    look = f"import sys, {module}; print([name for name in {without!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_damaged_data_are_reported_before_anything_else(tmp_path):
    (tmp_path / "data").write_bytes(b"x,y")
    request = TrainingRequest(job="job_1", runs=[], content=tmp_path / "data", content_sha256="0" * 64)
    (tmp_path / "request.json").write_text(request.line())
    end = run_job(tmp_path, Reporter(tmp_path, Sent(), threading.Event()))
    assert isinstance(end, DataDamaged)
    assert (end.expected_sha256, end.found_sha256[:8]) == ("0" * 64, hashlib.sha256(b"x,y").hexdigest()[:8])


def without_times(folder: Path) -> dict[str, Any]:
    """All files that a job wrote, without the seconds that it took."""
    found: dict[str, Any] = {}
    for file in folder.iterdir():
        content = file.read_bytes()
        if file.name == "run_0-result.json":
            result = json.loads(content)
            found[file.name] = result | {"training_seconds": 0, "evidence_seconds": 0}
        elif "-checkpoint-" in file.name:
            arrays = {name: array.tobytes() for name, array in load(content).items()}
            found[file.name] = arrays, replace(read_header(content), seconds=0.0)
        elif file.name != "request.json":
            found[file.name] = content
    return found


def test_a_job_gives_the_same_bytes_in_a_new_process_and_after_another_job(tmp_path):
    """Weights, snapshots, checkpoints, evidence and figures, byte for byte."""
    processes = TrainingProcesses(
        spool=tmp_path / "spool", command=(sys.executable, "-m", "worker.training_process"), keep_waiting=True
    )

    def job(name: str, spec: Spec, seed: int) -> tuple[int, dict[str, Any]]:
        folder = tmp_path / name
        folder.mkdir()
        request = TrainingRequest(job=name, runs=[RunRequest(id="run_0", seed=seed, spec=spec.model_dump(mode="json"))])
        (folder / "request.json").write_text(request.line())
        with processes.borrow() as process:
            process.send(Work(folder=folder))
            while not isinstance(message := process.next_message(60), JobDone):
                assert not isinstance(message, RunsFailed)
            processes.keep(message.resident_bytes)
            assert list((processes.spool).glob("*/tmp/*")) == []
            return process.pid, without_times(folder)

    spec = tiny_spec(steps=400, stepper="auto")
    try:
        (first, fresh), (second, _), (third, after) = (
            job("fresh", spec, 0),
            job("another", tiny_spec(steps=300, precision="float32"), 1),
            job("after", spec, 0),
        )
    finally:
        processes.close()
    assert first == second == third
    assert len(fresh) > 10
    assert after == fresh


def test_a_full_disk_is_waited_for_and_told_once(tmp_path, monkeypatch):
    """The disk has room again at the third try; the file is whole, and no half of it was left meanwhile."""
    full = OSError(errno.ENOSPC, "No space left on device")
    tries = []

    def write(folder, name, content):
        tries.append(name)
        if len(tries) < 3:
            raise full
        return protocol.write_whole(folder, name, content)

    monkeypatch.setattr(batch, "write_whole", write)
    monkeypatch.setattr(batch, "ROOM_SECONDS", 0.0)
    sent = Sent()
    assert Reporter(tmp_path, sent, threading.Event()).write("checkpoint", b"bytes") == "checkpoint"
    assert (tmp_path / "checkpoint").read_bytes() == b"bytes"
    assert [message.type for message in sent.messages] == ["log"]


def test_a_run_does_not_fail_for_a_full_disk(tmp_path):
    sent = Sent()
    runs = [TrainingRun(RunRequest(id="run_0", seed=0, spec={}))]
    with pytest.raises(OSError, match="No space"), Reporter(tmp_path, sent, threading.Event()).fail_on_error(runs):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert runs[0].left
    assert sent.messages == []
