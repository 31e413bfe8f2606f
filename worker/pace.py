"""The pace of what is being done: how long it will take if it goes on as it does."""

from __future__ import annotations

import time
from collections.abc import Callable

SHORTEST_LOOK = 2.0  # seconds; what goes on for less has no pace yet


class Pace:
    """Looks at a fraction that grows, from the first time that it is told.

    What went before counts neither as time nor as work done: not an earlier attempt, not the wait for the next, not
    the start of the engine. Where the fraction falls, as after a death of the training process, the look begins anew.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: tuple[float, float] | None = None  # when, and at which fraction
        self._fraction = 0.0

    def see(self, fraction: float) -> None:
        """The fraction that is done now."""
        if self._began is None or fraction < self._fraction:
            self._began = (self._clock(), fraction)
        self._fraction = fraction

    def seconds_left(self) -> float | None:
        """Seconds to the end; None before there is a pace."""
        if self._began is None:
            return None
        at, fraction = self._began
        spent, gained = self._clock() - at, self._fraction - fraction
        if spent < SHORTEST_LOOK or gained <= 0:
            return None
        return spent * (1 - self._fraction) / gained
