"""The training process: `python -m worker.child FOLDER`, all runs of one job, batch after batch, then it ends.

It knows the engine and one folder, and nothing of the store: what it finds out it says, one JSON object a line, on
the pipe that it got as its standard output; what is large it leaves as files in the folder and says their names.
It hears one word on its standard input: `stop` (make a checkpoint and go). When its standard input closes, its
parent is gone, and it ends at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from setproctitle import setproctitle

from bimt_engine.errors import BimtError, CheckpointError
from worker.batch import Batch
from worker.reporter import Reporter
from worker.run import Run
from worker.speech import Ears, LogLines, Stopped, Voice, die_with_parent


def main(folder: Path) -> int:
    """Do the runs that FOLDER/order.json names; returns 0 where every run was dealt with or we were told to stop."""
    order = json.loads((folder / "order.json").read_text())
    die_with_parent(order["parent"])
    setproctitle(f"bimt training {order.get('job', '')}")  # so that `ps` says whose it is
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent decides; a signal to the whole group is for it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    voice = Voice(os.dup(1))
    os.dup2(2, 1)  # whatever prints, prints into the log
    ears = Ears()
    logging.basicConfig(level=logging.INFO, handlers=[LogLines(voice)], format="%(message)s")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # which fonts it finds is no news about a job
    content = folder / order["content"] if order.get("content") else None
    if content is not None and hashlib.file_digest(content.open("rb"), "sha256").hexdigest() != order["content_sha256"]:
        voice.say("broken", sentence="The stored data file is damaged: its SHA-256 is not its name.")
        return 0
    _one_thread()
    try:
        do_all([Run.of(told, content) for told in order["runs"]], Reporter(folder, voice, ears))
        voice.say("done")
    except Stopped:
        voice.say("stopped")
    return 0


def do_all(runs: Sequence[Run], reporter: Reporter) -> None:
    """Do the runs of one job that are left, batch after batch. Raises Stopped."""
    with reporter.ending_only(runs):
        for members in batches(runs, reporter):
            reporter.stop_if_asked()
            Batch(members, reporter).do()


def batches(runs: Sequence[Run], reporter: Reporter) -> Iterator[list[Run]]:
    """The runs of a job as they are trained: side by side where the stepper of this machine gains by that, else alone.

    Which runs would stand side by side follows from the job alone, whoever of them is left. A run that has a
    checkpoint goes on as the batch that wrote it, also on a machine where it would have begun otherwise.
    """
    from bimt_engine.training.replicas import alike, pieces

    kinds: dict[str, list[Run]] = {}
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


def _side_by_side(kind: Sequence[Run]) -> tuple[int, bool]:
    """How many runs of a kind stand side by side at most, and whether the stepper of this machine gains by that."""
    from bimt_engine.training.replicas import gains_by_replicas, most_side_by_side

    for run in kind if len(kind) > 1 else ():
        if run.left:
            with contextlib.suppress(BimtError):  # it will say so itself
                dataset = run.dataset(again=True)
                most = most_side_by_side(run.spec, dataset)
                return most, gains_by_replicas(run.spec, dataset, replicas=min(most, len(kind)))
    return 1, False


def _replicas_kept(run: Run, reporter: Reporter) -> int:
    """Of how many replicas its checkpoint is; 0 where there is none, or none that this version can read."""
    from bimt_engine.training.checkpoint import read_progress

    if run.checkpoint is None:
        return 0
    try:
        return len(read_progress((reporter.folder / run.checkpoint).read_bytes()).seeds)
    except CheckpointError:
        return 0


def _one_thread() -> None:
    """One thread for each training: on a shared machine more are many times slower."""
    import torch

    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
