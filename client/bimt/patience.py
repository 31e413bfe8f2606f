"""How long to try: pauses that double, spread by chance so that many clients do not come back in step."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Patience:
    """How often a request is sent before it is given up, and what happens in between.

    attempts   of one request, the first included
    first      seconds of the first pause at most; each later one may be twice as long
    longest    seconds that no pause exceeds, unless the service asks for more
    contact    seconds for which a job is watched without any sign of the service, a closed laptop for instance
    chance     a number from 0 to 1; handed in by tests
    """

    attempts: int = 6
    first: float = 0.5
    longest: float = 20.0
    contact: float = 900.0
    chance: Callable[[], float] = field(default=random.random, repr=False)
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def pause(self, attempt: int, *, asked: float | None = None) -> float:
        """Seconds to wait after attempt number `attempt`, counted from 1.

        asked   what Retry-After says: never less than that, and a little more by chance.
        """
        ceiling = min(self.longest, self.first * 2 ** min(attempt - 1, 30))
        drawn = ceiling * (0.5 + 0.5 * self.chance())
        return drawn if asked is None else asked + min(1.0, ceiling) * self.chance()

    def rest(self, attempt: int, *, asked: float | None = None) -> None:
        """Wait that long."""
        self.sleep(self.pause(attempt, asked=asked))
