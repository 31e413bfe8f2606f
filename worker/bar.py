"""The bar of a run: training first, then the evidence with its pictures, each with the share that its time has."""

from __future__ import annotations

EVIDENCE_SECONDS = 4.0  # of a small network, for a bar that knows of no run before it
EVIDENCE_SHARE = 0.1  # of what training takes, where that is more
PICTURES_SHARE = 0.4  # of the evidence's part of the bar
SHORTEST_LOOK = 0.2  # seconds of training; less says nothing about its pace


class RunBar:
    """How far a run is, from 0 to 1.

    evidence_seconds   what evidence and pictures took in a run like this one; None where there was none.
    abreast            so many runs share the time of their training, and this bar; their evidence comes one by one.

    The shares are fixed as soon as the training has a pace, and until then the bar waits at 0: so it never goes back.
    """

    def __init__(self, evidence_seconds: float | None = None, *, abreast: int = 1) -> None:
        self._expected = evidence_seconds
        self._abreast = abreast
        self._training: float | None = None  # its share

    def training(self, fraction: float, seconds: float) -> float:
        """So far for a fraction of the training, which took so many seconds, those of earlier attempts included."""
        if self._training is None:
            if fraction < 1 and (fraction <= 0 or seconds < SHORTEST_LOOK):
                return 0.0
            whole = seconds / fraction / self._abreast
            evidence = self._expected or max(EVIDENCE_SECONDS, EVIDENCE_SHARE * whole)
            self._training = whole / (whole + evidence)
        return self._training * fraction

    def evidence(self, fraction: float) -> float:
        """So far for a fraction of the evidence, all training being done."""
        return self._after_training((1 - PICTURES_SHARE) * fraction)

    def pictures(self, fraction: float) -> float:
        """So far for a fraction of the pictures, all evidence being gathered."""
        return self._after_training(1 - PICTURES_SHARE + PICTURES_SHARE * fraction)

    def _after_training(self, fraction: float) -> float:
        share = self._training or 0.0
        return share + (1 - share) * fraction
