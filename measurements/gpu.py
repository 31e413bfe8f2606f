"""`python -m measurements gpu`: everything that needs a CUDA device, in one command of at most eight minutes.

Parts, each in a process of its own with its own time: relocation (decided on the device, against the way over the CPU),
replicas (seeds × λ in one batch, against the compiled kernel on one core), recipes, modules that are attached, the
tests that need a device, and a job through the service. Two ways that are compared take turns in one run. Every row is
in reports/gpu.json as soon as it is measured, so that a run that is ended early keeps what it has. A row or a part that
fails says why, and the others go on. `--device cpu --small` takes the same way through the code within seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import traceback
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from bimt_engine.data.dataset import Dataset
from bimt_engine.data.registry import differs_by_seed, make_dataset
from bimt_engine.recipes import load_recipe, recipe_names
from bimt_engine.spec import EvidenceSpec, Spec
from bimt_engine.training.backends import _bytes_of_one, gains_by_replicas, most_side_by_side, resolve_device
from bimt_engine.training.backends.kernel import KernelUnavailable, Kind, Precision, load_kernel
from bimt_engine.training.loop import Training
from measurements.gpu_relocation import MODULES, Peak, Row, measure_attached, measure_relocation, spread, timed

Rows = Iterator[tuple[str, Callable[[], Row]]]

REPOSITORY = Path(__file__).resolve().parent.parent
LADDER = (0.3, 1.0, 3.0, 10.0)  # times the recipe's λ: a quarter of the replicas each
LAST_START = 0.85  # of a part's time; no row begins later
STOP_SECONDS = 15.0  # that a part is given to stop its own processes when its time is over
AGREEMENT_STEPS = 10  # at float64; rounding has not grown yet


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    slice_seconds  of one way, before the other takes its turn.
    turns          of each way.
    shapes         hidden widths and replicas that are relocated; `optimal` up to EXACT_WIDTH.
    modules        width of the attached modules.
    """

    slice_seconds: float
    turns: int
    replicas: tuple[int, ...]
    steps: int
    recipes: tuple[str, ...]
    shapes: tuple[tuple[tuple[int, ...], int], ...]
    modules: int
    seeds: int


FULL = Scale(
    slice_seconds=0.25,
    turns=3,
    replicas=(1, 8, 64),
    steps=400,
    recipes=tuple(name for name in recipe_names() if not load_recipe(name).needs_dataset),
    shapes=(((20, 20), 1), ((20, 20), 64), ((100, 100), 16), ((400, 400), 1), ((1000, 1000), 1), ((1000, 1000), 8)),
    modules=256,
    seeds=4,
)
SMALL = Scale(
    slice_seconds=0.002,
    turns=2,
    replicas=(1, 4),
    steps=20,
    recipes=("independence", "two_memories"),
    shapes=(((8, 6), 3),),
    modules=16,
    seeds=2,
)


@dataclass(frozen=True)
class Setting:
    """Where and how much is measured. device: cuda or cpu."""

    device: str
    scale: Scale
    report: Path


# --- the machine, relocation, replicas and recipes -----------------------------------------------------------


def machine_rows(setting: Setting) -> Rows:
    """What it is; and the compiled kernels, all of them now, so that no other part waits for its own."""
    yield setting.device, partial(describe_machine, setting.device)
    yield "kernels", build_kernels


def describe_machine(device: str) -> Row:
    """What the figures depend on."""
    row: Row = {"torch": torch.__version__, "cores": os.cpu_count(), "load": os.getloadavg()[0], "name": "the CPU"}
    if device == "cuda":
        of = torch.cuda.get_device_properties(0)
        row |= {"name": of.name, "capability": [of.major, of.minor], "bytes": of.total_memory}
        row["cuda"] = torch.version.cuda
    return row | {"said": f"{row['name']}, torch {row['torch']}, {row['cores']} cores"}


def build_kernels() -> Row:
    """What the CPU's side of every comparison runs; without a compiler it runs the batched stepper, which is said."""
    asked = list(itertools.product(get_args(Kind), get_args(Precision)))
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda kernel: load_kernel(*kernel), asked))
    except KernelUnavailable as why:
        return {"said": f"there are none: {why}"}
    return {"said": f"{len(asked)} are built"}


def relocation_rows(setting: Setting) -> Rows:
    """Every shape."""
    for widths, replicas in setting.scale.shapes:
        yield (
            f"{'-'.join(map(str, widths))} ×{replicas}",
            partial(measure_relocation, widths, replicas, device=setting.device, seconds=setting.scale.slice_seconds),
        )


def _on(spec: Spec, device: str, stepper: str = "auto", **changed: Any) -> Spec:
    """The same spec on this device."""
    training = spec.training.model_copy(update={"device": device, "stepper": stepper, **changed})
    return spec.model_copy(update={"training": training})


def _here(spec: Spec, setting: Setting, **changed: Any) -> Spec:
    """The same on the device that is measured, by the stepper that a CUDA device would have."""
    return _on(spec, setting.device, "batched" if setting.device == "cpu" else "auto", **changed)


def begin(spec: Spec, data: Dataset, replicas: int = 1) -> Training:
    """So many replicas: the strengths of LADDER, times as many seeds as that takes. data: of seed 0."""
    first = next((phase.cost_strength for phase in spec.training.phases if phase.cost_strength > 0), 0.0)
    specs = [spec.at_cost_strength(first * LADDER[n % len(LADDER)]) if replicas > 1 else spec for n in range(replicas)]
    seeds = [number // len(LADDER) for number in range(replicas)]
    known = {0: data}
    for seed in set(seeds[1:]) - {0} if differs_by_seed(spec.dataset) else ():
        known[seed] = make_dataset(spec.dataset, seed=seed)
    return Training.begin_replicas(specs, [known.get(seed, data) for seed in seeds], seeds=seeds)


def side_by_side(here: Training, cpu: Training, setting: Setting) -> Row:
    """Milliseconds of a step of both, in turns, and the ratio: steps of all replicas a second, of the CPU's as 1.

    The CPU's figures are those of one core and one replica. So the ratio says how many cores the device is worth.
    """

    def stepping(training: Training) -> Callable[[int], None]:
        price = training._price(training.schedule.stage(0))
        return lambda steps: training.stepper.advance(steps, price=price)

    ways = [(stepping(here), setting.device), (stepping(cpu), "cpu")]
    counts = []
    for step, device in ways:
        step(2)
        seconds = timed(partial(step, 2), device) / 2
        counts.append(max(1, int(setting.scale.slice_seconds / seconds)))
    taken: list[list[float]] = [[], []]
    for _ in range(setting.scale.turns):
        for (step, device), count, found in zip(ways, counts, taken, strict=True):
            found.append(1e3 * timed(partial(step, count), device) / count)
    replicas = here.state.replicas
    return {
        "device_step_ms": spread(taken[0]),
        "cpu_step_ms": spread(taken[1]),
        "ratio": spread([replicas * slow / fast for fast, slow in zip(*taken, strict=True)]),
        "device_stepper": here.stepper_name,
        "cpu_stepper": cpu.stepper_name,
    }


def _memory(training: Training, data: Dataset, peak: Peak) -> Row:
    """The peak, and what is reckoned with when runs are put side by side, in bytes."""
    of_data, of_one = _bytes_of_one(training.network, data, training.specs[0])
    replicas = training.state.replicas
    copies = replicas if differs_by_seed(training.specs[0].dataset) else 1
    return {"peak_bytes": peak.bytes(), "reckoned_bytes": copies * of_data + replicas * of_one}


def _auto(training: Training, data: Dataset) -> str:
    """The device that `auto` would take."""
    asked = training.specs[0].training.model_copy(update={"device": "auto"})
    return resolve_device(asked, training.network, data, replicas=training.state.replicas)


def attached_rows(setting: Setting) -> Rows:
    """Two modules of a user's own."""
    for name in MODULES:
        yield name, partial(measure_attached, name, setting.scale.modules, device=setting.device)


def replica_rows(setting: Setting) -> Rows:
    """Every recipe whose replicas are trained in one call on this device."""
    for name in setting.scale.recipes:
        yield name, partial(measure_replicas, setting, name)


def measure_replicas(setting: Setting, name: str) -> Row:
    """One recipe by the number of replicas: seeds × λ in one batch, against the CPU's stepper on one core."""
    spec = _here(load_recipe(name).spec, setting)
    data = make_dataset(spec.dataset, seed=0)
    if not gains_by_replicas(spec, data, replicas=max(setting.scale.replicas)):
        return {"said": "no stepper takes its replicas in one call"}
    cpu = begin(_on(spec, "cpu"), data)
    most = most_side_by_side(spec, data)
    by_replicas: dict[str, Row] = {}
    for replicas in dict.fromkeys(min(most, asked) for asked in setting.scale.replicas):
        peak = Peak(setting.device)
        here = begin(spec, data, replicas)
        by_replicas[str(replicas)] = side_by_side(here, cpu, setting) | {
            "memory": _memory(here, data, peak),
            "auto": _auto(here, data),
        }
        del here
    said = ", ".join(f"{count}: {row['ratio']['median']:.3g}×" for count, row in by_replicas.items())
    return {
        "precision": spec.training.precision,
        "parameters": cpu.state.size,
        "by_replicas": by_replicas,
        "said": f"cores that the device is worth, by replicas: {said}",
    }


def recipe_rows(setting: Setting) -> Rows:
    """Every recipe."""
    for name in setting.scale.recipes:
        yield name, partial(measure_recipe, setting, name)


def measure_recipe(setting: Setting, name: str) -> Row:
    """A short training with all that belongs to one, the arithmetic against the CPU's, and a step of each.

    difference   the largest of θ after AGREEMENT_STEPS steps at float64, between the device and the CPU.
    """
    spec = load_recipe(name).spec
    data = make_dataset(spec.dataset, seed=0)
    doubled = (_here(spec, setting, precision="float64"), _on(spec, "cpu", precision="float64"))
    exact = [begin(each, data) for each in doubled]
    for training in exact:
        training.stepper.advance(AGREEMENT_STEPS, price=training._price(training.schedule.stage(0)))
    difference = float((exact[0].state.theta.cpu() - exact[1].state.theta).abs().max())
    peak = Peak(setting.device)
    steps = setting.scale.steps
    half = max(1, steps // 2)
    short = begin(_here(spec, setting, steps=steps, log_every=half, checkpoint_every=half), data)
    began = time.perf_counter()
    for update in short.updates():
        if update.checkpoint_due:
            short.checkpoint()
        last = update.row
    seconds = time.perf_counter() - began
    assert last is not None  # a training ends with a row
    row: Row = {
        "difference": difference,
        "training": {"steps": steps, "seconds": round(seconds, 3), "loss": last["prediction_loss"]},
        "memory": _memory(short, data, peak),
        "auto": _auto(short, data),
    }
    row |= side_by_side(begin(_here(spec, setting), data), begin(_on(spec, "cpu"), data), setting)
    said = f"{row['ratio']['median']:.3g} cores, {steps} steps in {seconds:.2f} s, θ differs by {difference:.1e}"
    return row | {"said": f"{said}; auto takes the {row['auto']}"}


# --- the tests, and the service -----------------------------------------------------------------


def device_test_rows(setting: Setting) -> Rows:
    """One row for all."""
    yield "tests", partial(measure_tests, setting)


def measure_tests(setting: Setting) -> Row:
    """The tests marked `gpu`. On a machine without a device all of them are skipped."""
    if importlib.util.find_spec("pytest") is None:
        return {"said": "not run: pytest is not installed (`make env-dev` installs it)"}
    mark = "@pytest.mark." + "gpu"
    files = sorted(path for path in REPOSITORY.glob("tests/**/test_*.py") if mark in path.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="bimt-gpu-") as folder:
        result = Path(folder) / "result.xml"
        options = ["-m", "gpu", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--junitxml={result}"]
        command = [sys.executable, "-m", "pytest", *options, *map(str, files)]
        limit = 0.9 * PARTS["tests"].seconds
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=limit, check=False)
        if not result.exists():
            raise RuntimeError(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-400:]}")
        cases = list(ElementTree.parse(result).iter("testcase"))
    names = {kind: [_name(case) for case in cases if case.find(kind) is not None] for kind in ("failure", "error")}
    failed = [*names["failure"], *names["error"]]
    skipped = sum(case.find("skipped") is not None for case in cases)
    said = f"{len(cases) - len(failed) - skipped} passed, {len(failed)} failed, {skipped} skipped"
    row: Row = {"tests": len(cases), "skipped": skipped, "said": said}
    return row | ({"failed": f"{said}: {', '.join(failed)}", "output": done.stdout[-4000:]} if failed else {})


def _name(case: ElementTree.Element) -> str:
    return f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"


def service_rows(setting: Setting) -> Rows:
    """One row for the whole."""
    yield "job", partial(measure_service, setting)


def measure_service(setting: Setting) -> Row:
    """A job from submitted to published by a worker of the device's queue, on a service of its own."""
    from measurements.job import own_service, published
    from standalone.supervisor import stop_at_signals

    first, *_ = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")
    spec = _here(load_recipe("independence").spec, setting, steps=50 * setting.scale.steps)
    spec = spec.model_copy(update={"evidence": EvidenceSpec(random_groups=20, formula_searches=0)})
    seeds = list(range(setting.scale.seeds))
    body = {"spec": spec.model_dump(mode="json"), "seeds": seeds}
    stopping = stop_at_signals()
    with own_service(stopping, gpus=(first,) if setting.device == "cuda" else ()) as (connection, started):
        took = published(connection, stopping, body)
        runs = json.loads(connection.ask("GET", f"/jobs/{took.id}/runs")[1])["items"]
    devices = sorted({run["device"] for run in runs})
    if any(not device.startswith(setting.device) for device in devices):
        raise RuntimeError(f"the job asked for {setting.device} and was trained on {', '.join(devices)}")
    return {
        "start_seconds": round(started, 2),
        "published_seconds": round(took.seconds, 2),
        "runs": len(runs),
        "training_seconds": [round(run["training_seconds"], 3) for run in runs],
        "evidence_seconds": [round(run["evidence_seconds"], 3) for run in runs],
        "devices": devices,
        "steppers": sorted({run["stepper"] for run in runs}),
        "said": f"{len(runs)} runs on {', '.join(devices)} published after {took.seconds:.1f} s",
    }


# --- parts, and the report ----------------------------------------------------------------------


@dataclass(frozen=True)
class PartOfReport:
    """What is measured in one process. seconds: after which it is ended."""

    seconds: float
    rows: Callable[[Setting], Rows]


PARTS = {
    "machine": PartOfReport(40, machine_rows),
    "relocation": PartOfReport(60, relocation_rows),
    "replicas": PartOfReport(105, replica_rows),
    "recipes": PartOfReport(100, recipe_rows),
    "attached": PartOfReport(25, attached_rows),
    "tests": PartOfReport(65, device_test_rows),
    "service": PartOfReport(55, service_rows),
}
"""In this order; 450 s together. Only a part that does not end when it is told to takes up to STOP_SECONDS more."""


def update(path: Path, name: str, **fields: Any) -> Row:
    """Change one part of the report on the disk; whatever happens, there is a whole report. Returns the part."""
    report = json.loads(path.read_text(encoding="utf-8"))
    part: Row = report["parts"].setdefault(name, {})
    part |= fields
    whole = path.with_suffix(".part")
    whole.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    whole.replace(path)
    return part


def measure_part(name: str, setting: Setting) -> None:
    """Measure one part, in this process. What is raised in a row is its answer."""
    began, rows = time.monotonic(), {}
    for key, measure in PARTS[name].rows(setting):
        row_began = time.monotonic()
        if row_began - began > LAST_START * PARTS[name].seconds:
            row: Row = {"left_out": "the time of this part is over"}
        else:
            try:
                row = measure()
            except Exception as error:
                traceback.print_exc()
                row = {"failed": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
        row["seconds"] = round(time.monotonic() - row_began, 2)
        rows[key] = row
        update(setting.report, name, rows=rows)
        said = row.get("failed") or row.get("left_out") or row["said"]
        print(f"{name:11} {key:18} {'FAILED: ' if 'failed' in row else ''}{said}", flush=True)
    update(setting.report, name, state="measured")


def run_part(name: str, setting: Setting) -> Row:
    """Measure one part in a process of its own, so that an error of the device ends no other; the part as reported."""
    update(setting.report, name, state="begun", rows={})
    context = multiprocessing.get_context("forkserver")  # a process that has used CUDA cannot be forked
    context.set_forkserver_preload(["measurements.gpu"])
    process = context.Process(target=measure_part, args=(name, setting), daemon=True)
    began = time.monotonic()
    process.start()
    process.join(PARTS[name].seconds)
    late = process.is_alive()
    if late:
        process.terminate()
        process.join(STOP_SECONDS)
        process.kill()
        process.join()
    seconds = round(time.monotonic() - began, 1)
    if late:
        why = f"ended after {seconds:.0f} s, its time; the rows that it had are kept"
        print(f"{name:11} {why}", flush=True)
        return update(setting.report, name, state="cut", why=why, seconds=seconds)
    if process.exitcode:
        why = f"its process ended with {process.exitcode}"
        print(f"{name:11} FAILED: {why}", flush=True)
        return update(setting.report, name, state="failed", why=why, seconds=seconds)
    return update(setting.report, name, seconds=seconds)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a line for each row, write the report. 1: something failed; 0 too where there is no device."""
    parser = argparse.ArgumentParser(prog="python -m measurements gpu", description="All that needs a CUDA device.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try this command out")
    parser.add_argument("--small", action="store_true", help="a little of everything, within seconds")
    parser.add_argument("--only", action="append", choices=tuple(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--folder", type=Path, default=Path("reports"))
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("Nothing is measured: this machine shows no CUDA device (`--device cpu --small` tries the command out).")
        return 0
    args.folder.mkdir(parents=True, exist_ok=True)
    setting = Setting(args.device, SMALL if args.small else FULL, (args.folder / "gpu.json").resolve())
    report = {"device": args.device, "small": args.small, "parts": {}}
    setting.report.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    parts = {name: run_part(name, setting) for name in args.only or PARTS}
    failed = [name for name, part in parts.items() if part["state"] != "measured"]
    failed += [f"{name}: {key}" for name, part in parts.items() for key, row in part["rows"].items() if "failed" in row]
    print(f"Wrote {args.folder}/gpu.json." + (f" Not measured: {', '.join(failed)}." if failed else ""))
    return bool(failed)
