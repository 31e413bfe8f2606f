"""What a job holds in memory: less than the textbook does, and nothing once it is over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]

MANY = """
import json, os
from pathlib import Path
import torch
from bimt_engine.data.registry import make_dataset
from bimt_engine.recipes import load_recipe
from bimt_engine.training.loop import Training

torch.set_num_threads(1)
page = os.sysconf("SC_PAGE_SIZE")
held = []
for number in range(100):
    name = ("independence", "two_moons", "s4")[number % 3]
    spec = load_recipe(name).spec
    spec = spec.model_copy(update={"training": spec.training.model_copy(update={"steps": 210, "stepper": STEPPER})})
    training = Training.begin(spec, make_dataset(spec.dataset, seed=number), seed=number)
    for update in training.updates():
        if update.checkpoint_due:
            training.checkpoint()
    held.append(int(Path("/proc/self/statm").read_text().split()[1]) * page)
print(json.dumps(held))
"""

ONE = """
import torch
from bimt_engine.data.registry import make_dataset
from bimt_engine.networks.network import build_network
from bimt_engine.random import torch_generator
from bimt_engine.recipes import load_recipe

torch.set_num_threads(1)
spec = load_recipe(RECIPE).spec.expanded()
spec = spec.model_copy(update={"training": spec.training.model_copy(update={"steps": 210})})
training = spec.training
dataset = make_dataset(spec.dataset, seed=0)
if WHO == "engine":
    from bimt_engine.training.loop import Training

    job = Training.begin(spec, dataset, seed=0)
    for update in job.updates():
        if update.checkpoint_due:
            job.checkpoint()
else:
    from standalone.bench.oracle import Oracle

    generator = torch_generator(0, "network")
    network = build_network(spec.network, dataset, precision=training.precision, generator=generator)
    oracle = Oracle(network, dataset, training)
    for _ in range(30):
        oracle.step(1e-3)
    for layer in network.wiring.neuron_layers:
        oracle.relocate_layer(layer, 1)
# ru_maxrss would hold the peak of the process that started this one.
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def run(script: str, **names: str) -> object:
    """What a process of its own prints, as JSON."""
    lines = [f"{name} = {value!r}" for name, value in names.items()]
    finished = subprocess.run(
        [sys.executable, "-c", "\n".join([*lines, script])],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=280,
        check=True,
    )
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("stepper", ["auto", "batched", "autograd"])
def test_a_hundred_jobs_hold_no_more_than_ten(stepper: str) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("the memory of a process is read from /proc, which this system does not have")
    held = run(MANY, STEPPER=stepper)
    assert isinstance(held, list)
    assert held[-1] == pytest.approx(held[9], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["independence", "modular_addition", "in_context", "mnist"])
def test_a_job_needs_less_memory_than_the_textbook(recipe: str, request: pytest.FixtureRequest) -> None:
    if recipe == "mnist":
        request.getfixturevalue("mnist")
    assert run(ONE, RECIPE=recipe, WHO="engine") < run(ONE, RECIPE=recipe, WHO="oracle")  # type: ignore[operator]
