"""A table whose parts are known: one acts through a category, one has gaps, two columns are idle.

Of 800 rows, `y1` is what `dose` does at a strength that the category `drug` decides, `y2` what `age` and `load` do,
15 % of the ages being hidden after `y2` was computed from them; `noise` and `clinic` have to do with nothing. A run is
right when it has exactly two modules: one reads `drug` and `dose` and decides `y1`, one reads `age` and `load` and
decides `y2`. Trained and examined with the recipe `table`, as a user's own table is. Designed on seeds from 100 on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bimt_engine.data.encoding import ColumnSpec
from bimt_engine.data.readers import Column, Table
from bimt_engine.recipes import load_recipe
from bimt_engine.spec import Spec, UploadedData

ROWS = 800
HIDDEN_SHARE = 0.15
STRENGTHS = {"a": 1.5, "b": -1.0, "c": 0.25, "d": 0.75}  # of each drug
CLINICS = ("north", "south", "west")
PARTS = {"y1": {"drug", "dose"}, "y2": {"age", "load"}}
COLUMNS = {
    "drug": ColumnSpec(type="category", missing="category"),
    "clinic": ColumnSpec(type="category", missing="category"),
    "age": ColumnSpec(missing="median"),
    "dose": ColumnSpec(),
    "load": ColumnSpec(),
    "noise": ColumnSpec(),
    "y1": ColumnSpec(missing="drop"),
    "y2": ColumnSpec(missing="drop"),
}


def planted_table(seed: int) -> Table:
    """The typed columns, a function of the seed."""
    draw = np.random.default_rng([seed, 35])
    drug = np.array(list(STRENGTHS), object)[draw.integers(len(STRENGTHS), size=ROWS)]
    dose, load, noise = draw.normal(size=(3, ROWS))
    age = draw.normal(50, 15, size=ROWS)
    years = (age - 50) / 15
    y1 = np.array([STRENGTHS[name] for name in drug]) * dose + 0.05 * draw.normal(size=ROWS)
    y2 = np.tanh(years) + 0.5 * load**2 + 0.05 * draw.normal(size=ROWS)
    hidden = draw.random(ROWS) < HIDDEN_SHARE
    clinic = np.array(CLINICS, object)[draw.integers(len(CLINICS), size=ROWS)]
    values: dict[str, Any] = {
        "drug": drug,
        "age": np.where(hidden, np.nan, age),
        "noise": noise,
        "dose": dose,
        "clinic": clinic,
        "load": load,
        "y1": y1,
        "y2": y2,
    }
    return Table(
        tuple(
            Column(name, of, missing=hidden if name == "age" else None, found=COLUMNS[name].type)
            for name, of in values.items()
        )
    )


def planted_spec() -> Spec:
    """What is trained on it: the recipe `table`, every column as its default."""
    data = UploadedData(
        dataset_id=f"dataset_{0:026d}",
        sha256="0" * 64,
        format="csv",
        inputs=["drug", "age", "noise", "dose", "clinic", "load"],
        targets=["y1", "y2"],
        task="regression",
        columns=COLUMNS,
    )
    return load_recipe("table").spec_for(data)


def partition(modules: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Of each output that one module alone decides, the columns which that module reads."""
    return {module["outputs"][0]: set(module["inputs"]) for module in modules if len(module["outputs"]) == 1}


def run_planted(seed: int) -> dict[str, Any]:
    """Train and examine one seed; plain JSON. `right`: the modules are the planted parts, column by column."""
    from bimt_engine.analysis.evidence import gather_evidence
    from bimt_engine.data.kinds.uploaded import dataset_of
    from bimt_engine.training.loop import Training

    spec = planted_spec().expanded()
    assert isinstance(spec.dataset, UploadedData)
    dataset = dataset_of(planted_table(seed), spec.dataset, seed=seed)
    training = Training.begin(spec, dataset, seed=seed)
    for _ in training.updates():
        pass
    document = gather_evidence(training.network, dataset, spec, seed=seed).document()
    modules = [dict(module) for module in document["modules"]]
    return {
        "seed": seed,
        "right": len(modules) == len(PARTS) and partition(modules) == PARTS,
        "modules": [{"reads": m["inputs"], "decides": m["outputs"], "supported": m["supported"]} for m in modules],
        "connections": document["metrics"]["connections"],
        "test_r2": document["metrics"]["test_r2"],
        "baselines": document["metrics"].get("baselines"),
    }
