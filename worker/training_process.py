"""The training process: `python -m worker.training_process FOLDER PARENT`. It runs jobs, one after another.

It has the engine and the folders named in its messages, and imports nothing of the store. Commands and messages are
those of worker/protocol.py. It imports everything that a job needs while it waits; between two jobs it resets all that
a job could leave behind, so that a job gives the same bytes in a new process and in one that served others.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import os
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from setproctitle import setproctitle

from bimt_engine.errors import BimtError, CheckpointError
from bimt_engine.networks.uploaded import provide_files, sha256_of
from worker.batch import Batch, Reporter, TrainingRun
from worker.protocol import (
    DataDamaged,
    DiskFull,
    JobDone,
    JobStopped,
    Ready,
    Stopped,
    TrainingRequest,
    is_disk_full,
    start_engine_process,
    temporary_folder,
)

# What training, evidence and figures import at the latest, so that no job waits for it.
IMPORTED_EARLY = (
    "bimt_engine.training.loop",
    "bimt_engine.training.backends",
    "bimt_engine.data.registry",
    "bimt_engine.analysis.evidence",
    "bimt_engine.exports.weights",
    "bimt_engine.figures.registry",
    "bimt_engine.figures.style",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
)


def main(folder: Path, parent: int) -> int:
    """Run jobs until the worker closes the pipe, which ends the process."""
    writer, commands = start_engine_process("bimt training, waiting", parent)
    for module in IMPORTED_EARLY:
        if commands.has_work:  # a job is here already: it starts at once, and imports the rest when it is needed
            break
        importlib.import_module(module)
    gc.freeze()  # collections skip what was imported, which is never garbage; see `clear`
    writer.send(Ready())
    while True:
        work = commands.next_work()
        prepare()
        end = run_job(work.folder, Reporter(work.folder, writer, commands.stop))
        if isinstance(end, JobDone):
            clear(temporary_folder(folder))
            end = JobDone(resident_bytes=psutil.Process().memory_info().rss)
        writer.send(end)


def run_job(folder: Path, reporter: Reporter) -> JobDone | JobStopped | DataDamaged | DiskFull:
    """Run what FOLDER/request.json asks for. Everything is reported on the way but the end, which is returned."""
    request = TrainingRequest.model_validate_json((folder / "request.json").read_bytes())
    setproctitle(f"bimt training {request.job}")
    uploads = ((request.content, request.content_sha256), (request.network, request.network_sha256))
    for path, expected in uploads:
        if path is not None and (found := sha256_of(path)) != expected:
            return DataDamaged(expected_sha256=str(expected), found_sha256=found)
    provide_files({} if request.network is None else {str(request.network_sha256): request.network})
    try:
        run_batches([TrainingRun(wanted, request.content) for wanted in request.runs], reporter)
    except Stopped:
        return JobStopped()
    except OSError as error:
        if not is_disk_full(error):
            raise
        return DiskFull()
    return JobDone()


def prepare() -> None:
    """Put everything that depends on what the process did before into the state of a new process.

    One thread for each training: on a shared machine more are many times slower.
    """
    import matplotlib
    import numpy as np
    import torch

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.manual_seed(0)  # nothing should draw from the global generators; if something does, it draws the same
    np.random.seed(0)
    random.seed(0)
    np.seterr(divide="warn", over="warn", under="ignore", invalid="warn")
    matplotlib.rcdefaults()


def clear(temporary: Path) -> None:
    """Drop everything that belongs to the job: caches, the files in the temporary folder, printed output, memory."""
    for name, module in list(sys.modules.items()):
        if name.startswith("bimt_engine.") and "kernel" not in name:  # loaded kernels belong to no job
            for value in list(vars(module).values()):
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()
    if "sympy" in sys.modules:
        from sympy.core.cache import clear_cache

        clear_cache()
    for entry in temporary.iterdir():
        shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
    os.ftruncate(2, 0)
    setproctitle("bimt training, waiting")
    gc.collect()
    gc.freeze()  # what the first job imported, too: walking that took a tenth of each small job
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).malloc_trim(0)


def run_batches(runs: Sequence[TrainingRun], reporter: Reporter) -> None:
    """Train and evaluate the runs of one job that are left, batch after batch. Raises Stopped."""
    with reporter.fail_on_error(runs):
        for members in batches(runs, reporter):
            reporter.stop_if_asked()
            Batch(members, reporter).run()


def batches(runs: Sequence[TrainingRun], reporter: Reporter) -> Iterator[list[TrainingRun]]:
    """The runs of a job as they are trained: side by side where the stepper gains by that on this machine, else alone.

    Which runs train side by side follows from all runs of the job, whether or not they have ended. A run that has a
    checkpoint resumes in the batch that wrote it, also on a machine where it would have begun otherwise.
    """
    from bimt_engine.training.backends import alike, pieces

    kinds: dict[str, list[TrainingRun]] = {}
    for run in runs:
        kinds.setdefault(alike(run.spec), []).append(run)
    for kind in kinds.values():
        most, gains = _side_by_side(kind)
        for piece in pieces(len(kind), most):
            members = kind[piece]
            kept = {run.id: _replicas_kept(run, reporter) for run in members if run.left}
            alone = [run for run in members if run.left and kept[run.id] == 1]
            others = [run for run in members if run.left and kept[run.id] != 1]
            yield from ([run] for run in alone)
            if others and (gains or any(kept[run.id] for run in others)):
                yield members  # of these, the others are left now
            else:
                yield from ([run] for run in others)


def _side_by_side(kind: Sequence[TrainingRun]) -> tuple[int, bool]:
    """How many runs of a kind train side by side at most, and whether the stepper of this machine gains by that."""
    from bimt_engine.training.backends import gains_by_replicas, most_side_by_side

    for run in kind if len(kind) > 1 else ():
        if run.left:
            with contextlib.suppress(BimtError):  # the run reports it itself
                dataset = run.dataset(keep=True)
                most = most_side_by_side(run.spec, dataset)
                return most, gains_by_replicas(run.spec, dataset, replicas=min(most, len(kind)))
    return 1, False


def _replicas_kept(run: TrainingRun, reporter: Reporter) -> int:
    """Of how many replicas its checkpoint is; 0 where there is none, or none that this version can read."""
    from bimt_engine.training.state import read_header

    if run.checkpoint is None:
        return 0
    try:
        return len(read_header((reporter.folder / run.checkpoint).read_bytes()).seeds)
    except CheckpointError:
        return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
