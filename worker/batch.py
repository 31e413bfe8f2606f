"""Runs that are trained side by side, as replicas of one training, and examined one after another.

A run that trains by itself is a batch of one; there is no other way.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bimt_engine.errors import BimtError, CheckpointError
from worker.bar import RunBar
from worker.examination import examine
from worker.reporter import Reporter
from worker.run import Run, ids
from worker.speech import Stopped

if TYPE_CHECKING:
    from bimt_engine.datasets.dataset import Dataset
    from bimt_engine.training.loop import Moment, Training

log = logging.getLogger("worker.child")


class Batch:
    """From data to results, for those of its runs that are left.

    members    all its runs, replica by replica. Those that have ended train along, because the last bits of the others
               depend on how many replicas there are; nothing is said of them.
    """

    def __init__(self, members: Sequence[Run], reporter: Reporter) -> None:
        self.members = list(members)
        self.reporter = reporter
        self._kept_at: int | None = None  # the step of the newest checkpoint

    @property
    def left(self) -> list[Run]:
        """Those that have not ended."""
        return [run for run in self.members if run.left]

    def do(self) -> None:
        """Train, then gather the evidence run by run. A run that cannot be done is told as failed. Raises Stopped."""
        reporter = self.reporter
        reporter.turn_to(self.left)
        with reporter.ending_only(self.members):
            datasets = self._data()
            if not self.left:
                return
            training = self._training(datasets)
            bar = RunBar(reporter.evidence_seconds, abreast=len(self.left))
            self._train(training, bar)
        for replica, run in enumerate(self.members):
            if run.left:
                with reporter.ending_only([run]), training.state.showing(replica):
                    examine(run, datasets[replica], training, reporter=reporter, bar=bar)

    def _data(self) -> list[Dataset]:
        """The data of each member. A run whose data cannot be made has failed, and is a member no more."""
        from bimt_engine.datasets.catalogue import differs_by_seed

        datasets: list[Dataset] = []
        members: list[Run] = []
        for number, run in enumerate(self.members):
            if number:
                self.reporter.progress(self.left, 0.0, "the data are made")
            try:
                same = bool(datasets) and not differs_by_seed(run.spec.dataset)
                datasets.append(datasets[0] if same else run.dataset())  # the same object: its memory is shared
                members.append(run)
            except BimtError as error:
                self.reporter.fail([run] if run.left else [], str(error))
        self.members = members
        return datasets

    # --- training ---------------------------------------------------------------------------------------

    def _training(self, datasets: list[Dataset]) -> Training:
        """The training where it goes on, or from its beginning; says which."""
        from bimt_engine.training.loop import Training

        specs, seeds = [run.spec for run in self.members], [run.seed for run in self.members]
        training = self._resumed(specs, datasets, seeds)
        if training is None:
            training = Training.begin_replicas(specs, datasets, seeds=seeds)
        how = {"stepper": training.stepper_name, "replicas": len(seeds), "step": training.state.step}
        self.reporter.voice.say("began", runs=ids(self.left), **how)
        return training

    def _resumed(self, specs: list[Any], datasets: list[Dataset], seeds: list[int]) -> Training | None:
        """The training at its checkpoint; None where there is none, or none that this version can read.

        All that are left have the same one, unless some failed before and are tried again: then they go on from the
        oldest, so that no curve has a gap.
        """
        from bimt_engine.training.loop import Training

        oldest = min(self.left, key=lambda run: run.checkpoint_step or 0)
        if oldest.checkpoint is None:
            return None
        content = (self.reporter.folder / oldest.checkpoint).read_bytes()
        try:
            return Training.resume_replicas(specs, datasets, content, seeds=seeds)
        except CheckpointError as error:
            log.warning("The checkpoint cannot be used, so training begins anew: %s", error)
            return None

    def _train(self, training: Training, bar: RunBar) -> None:
        """Train to the end, saying rows, snapshots and checkpoints as they come. Raises Stopped."""
        reporter = self.reporter
        if training.finished:  # only evidence was missing
            reporter.progress(self.left, bar.training(1.0, training.seconds), "training")
            return
        for moment in training.moments():
            self._tell(moment)
            if not self.left:
                return
            reporter.progress(self.left, bar.training(moment.fraction, training.seconds), "training")
            stopping = reporter.ears.stop.is_set()
            if moment.checkpoint_due or stopping:
                self._checkpoint(training)
            if stopping:
                raise Stopped
        if self._kept_at != training.state.step:  # evidence can be gathered from here without training again
            self._checkpoint(training)

    def _tell(self, moment: Moment) -> None:
        """Say what is new of each run that is left. One that has diverged ends here, alone."""
        reporter = self.reporter
        for replica, run in enumerate(self.members):
            if not run.left:
                continue
            if replica in moment.diverged:
                reporter.fail([run], moment.diverged[replica])
            if replica in moment.rows:
                reporter.voice.say("row", run=run.id, row=moment.rows[replica])
            if replica in moment.snapshots:
                name = reporter.leave(f"{run.id}-snapshot-{moment.step}", moment.snapshots[replica].to_bytes())
                reporter.voice.say("snapshot", run=run.id, step=moment.step, file=name)

    def _checkpoint(self, training: Training) -> None:
        """Leave one for the whole batch, those that have ended included."""
        step = training.state.step
        name = self.reporter.leave(f"{self.members[0].id}-checkpoint-{step}", training.checkpoint())
        self.reporter.voice.say("checkpoint", runs=ids(self.left), step=step, file=name)
        self._kept_at = step
