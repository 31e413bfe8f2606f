"""`python -m standalone.bench [--only TASK]`: the engine against the oracle. Writes reports/bench.json."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

# Before numpy or torch is imported: one thread each, or CPU time would count waiting threads.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

WITHOUT_COMPILER = "independence_without_compiler"
TASKS = (
    "independence",
    WITHOUT_COMPILER,
    "feature_sharing",
    "compositionality",
    "two_moons",
    "s4",
    "modular_addition",
    "mnist",
    "in_context",
)
JOB_GOALS = {
    "independence": 80,
    WITHOUT_COMPILER: 12,
    "two_moons": 60,
    "s4": 20,
    "modular_addition": 8,
    "mnist": 75,
    "in_context": 30,
}
RELOCATE_GOALS = {"independence": 200, "s4": 1_000, "mnist": 5_000}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m standalone.bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=TASKS, metavar="TASK", help="one of " + ", ".join(TASKS))
    parser.add_argument("--steps", type=int, help="train for so many steps instead of the recipe's: a quick look")
    parser.add_argument("--stepper", default="auto", choices=("auto", "kernel", "batched", "autograd"))
    parser.add_argument("--report", type=Path, default=Path("reports/bench.json"))
    asked = parser.parse_args(arguments)

    from standalone.bench.measure import measure, no_compiler

    report = json.loads(asked.report.read_text(encoding="utf-8")) if asked.report.exists() and asked.only else {}
    print(f"{'task':30}{'stepper':9}{'step':>9}{'relocate':>10}{'job':>8}{'goal':>6}{'our job':>10}{'oracle*':>11}")
    for task in asked.only or TASKS:
        with no_compiler() if task == WITHOUT_COMPILER else nullcontext():
            recipe = "independence" if task == WITHOUT_COMPILER else task
            told = measure(recipe, steps=asked.steps, stepper=asked.stepper)
        goal = JOB_GOALS.get(task)
        print(
            f"{task:30}{told.stepper:9}{told.step_ratio:>8.0f}×{told.relocate_ratio:>9.0f}×{told.job_ratio:>7.0f}×"
            f"{f'≥{goal}' if goal else '':>6}{told.seconds_cpu:>9.2f}s{told.oracle_seconds_cpu:>10.0f}s"
            f"   step {told.oracle_step_ms:.3f} → {told.step_ms:.4f} ms, pass {told.oracle_relocate_ms:.0f} → "
            f"{told.relocate_ms:.2f} (same exchanges) / {told.optimal_ms:.2f} ms (optimal)",
            flush=True,
        )
        report[task] = told.to_json()
        asked.report.parent.mkdir(parents=True, exist_ok=True)
        asked.report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print("* extrapolated from the medians of its steps and passes, which ran between slices of our job.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
