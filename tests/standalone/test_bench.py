"""The benchmark's own promises."""

from __future__ import annotations

from standalone.bench.measure import measure, no_compiler


def test_without_a_compiler_the_batched_stepper_is_measured() -> None:
    with no_compiler():
        told = measure("independence", steps=50)
    assert told.stepper == "batched"
    assert told.relocate_ratio > 1
    assert told.job_ratio > 1
