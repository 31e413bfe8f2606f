"""How far a run is, and how long the job will still take."""

from __future__ import annotations

import time
from collections.abc import Callable

EVIDENCE_SECONDS = 4.0  # of a small network, before any run of the job has been evaluated
EVIDENCE_SHARE = 0.1  # of the training's time, where that is more
FIGURES_SHARE = 0.4  # of the evidence's part
MIN_TRAINING_SECONDS = 0.2  # a shorter training says nothing about its speed
MIN_OBSERVED_SECONDS = 2.0  # likewise for the time that is left


class RunProgress:
    """How far a run is, from 0 to 1: training first, then evidence and figures, each with its share of the time.

    evidence_seconds   what evidence and figures took in a run like this one; None where there was none.
    replicas           so many runs share the time of their training; their evidence comes one after another.

    The shares are fixed as soon as the speed of the training is known, and until then progress stays at 0, so that it
    never falls.
    """

    def __init__(self, evidence_seconds: float | None = None, *, replicas: int = 1) -> None:
        self._expected = evidence_seconds
        self._replicas = replicas
        self._training_share: float | None = None

    def training(self, fraction: float, seconds: float) -> float:
        """Progress at a fraction of the training, which took `seconds`, those of earlier attempts included."""
        if self._training_share is None:
            if fraction < 1 and (fraction <= 0 or seconds < MIN_TRAINING_SECONDS):
                return 0.0
            whole = seconds / fraction / self._replicas
            evidence = self._expected or max(EVIDENCE_SECONDS, EVIDENCE_SHARE * whole)
            self._training_share = whole / (whole + evidence)
        return self._training_share * fraction

    def evidence(self, fraction: float) -> float:
        """Progress at a fraction of the evidence, after the training."""
        return self._after_training((1 - FIGURES_SHARE) * fraction)

    def figures(self, fraction: float) -> float:
        """Progress at a fraction of the figures, after the evidence."""
        return self._after_training(1 - FIGURES_SHARE + FIGURES_SHARE * fraction)

    def _after_training(self, fraction: float) -> float:
        share = self._training_share or 0.0
        return share + (1 - share) * fraction


class Eta:
    """How long the work will take at its present speed, observed from the first fraction on.

    Earlier attempts, the wait in the queue and the start of the engine count neither as time nor as work. Where the
    fraction falls, as after a crash of the training process, observation begins again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: tuple[float, float] | None = None  # when, and at which fraction
        self._fraction = 0.0

    def observe(self, fraction: float) -> None:
        """The fraction that is done now."""
        if self._began is None or fraction < self._fraction:
            self._began = (self._clock(), fraction)
        self._fraction = fraction

    def seconds_left(self) -> float | None:
        """Seconds to the end; None before the speed is known."""
        if self._began is None:
            return None
        at, fraction = self._began
        spent, gained = self._clock() - at, self._fraction - fraction
        if spent < MIN_OBSERVED_SECONDS or gained <= 0:
            return None
        return spent * (1 - self._fraction) / gained
