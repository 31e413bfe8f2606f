"""What is claimed of each case of the evidence report, as functions of the evidence's document."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bimt_engine.recipes.shelf import load_recipe
from bimt_engine.spec import Spec

Document = Mapping[str, Any]
Claim = Callable[[Document], bool]
ASYMMETRY = 0.05  # of the gradient; below it we say that only the difference is read
BLOCK = 1e-3  # of an output's variance: what a module may do to outputs that are not its own
MEETS = 0.999  # held-out R²
SIGNIFICANT = 0.05
TANGLED = ["(x1 + x2)*(x3 + x4)", "(x1 + x2 + x3 + x4)**3 / 8"]  # each needs all four inputs, together


def modules_of(document: Document) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """(inputs, outputs) of each module, in an order of its own."""
    return sorted((tuple(sorted(m["inputs"])), tuple(sorted(m["outputs"]))) for m in document["modules"])


def dependencies(document: Document) -> dict[str, list[str]]:
    """For each output, the inputs from which a path of connections leads to it."""
    graph = document["graph"]
    sources: dict[str, set[str]] = {}
    for edge in graph["edges"]:
        sources.setdefault(edge["target"], set()).add(edge["source"])
    layers = graph["graph"]["layers"]
    names = {node["id"]: node["name"] for node in graph["nodes"]}
    inputs = {node["id"] for node in graph["nodes"] if node["layer"] == layers[0]["name"]}
    read: dict[str, list[str]] = {}
    for output in (node for node in graph["nodes"] if node["layer"] == layers[-1]["name"]):
        reached, frontier = set(), [output["id"]]
        while frontier:
            here = frontier.pop()
            if here not in reached:
                reached.add(here)
                frontier.extend(sources.get(here, ()))
        read[output["name"]] = sorted(names[place] for place in reached & inputs)
    return read


def two_modules(document: Document) -> bool:
    """Exactly {x1, x3} → y1 and {x2, x4} → y2."""
    return modules_of(document) == [(("x1", "x3"), ("y1",)), (("x2", "x4"), ("y2",))]


def lower_triangular(document: Document) -> bool:
    """y1 reads x1; y2 reads x1 and x2; y3 reads all three; nothing else."""
    return dependencies(document) == {"y1": ["x1"], "y2": ["x1", "x2"], "y3": ["x1", "x2", "x3"]}


def only_differences(document: Document) -> bool:
    """The inputs are read only through x1 − x2 and x3 − x4."""
    (output,) = document["readout"]["outputs"]
    parts = {tuple(part["inputs"]): part for part in output["symmetry"]["through"]}
    return set(parts) == {("x1", "x2"), ("x3", "x4")} and all(
        part["coefficients"] == [1.0, -1.0] and part["asymmetry"] <= ASYMMETRY for part in parts.values()
    )


def no_module(document: Document) -> bool:
    """No module is called supported."""
    return not any(module["supported"] for module in document["modules"])


@dataclass(frozen=True)
class Case:
    """A recipe, what is changed in it, and what is claimed.

    changes    part of the spec -> field -> value.
    has_truth  False: there is nothing to find, so thresholds have nothing to be compared by.
    """

    recipe: str
    claim: Claim
    changes: Mapping[str, Mapping[str, Any]]
    has_truth: bool = True

    def spec(self) -> Spec:
        """The recipe's spec with the changes."""
        said = load_recipe(self.recipe).spec.model_dump(mode="json")
        for part, fields in self.changes.items():
            said[part] |= fields
        return Spec.model_validate(said)


CASES: dict[str, Case] = {
    "independence": Case("independence", two_modules, {}),
    "feature_sharing": Case("feature_sharing", lower_triangular, {}),
    "compositionality": Case("compositionality", only_differences, {}),
    "hemispheres": Case("hemispheres", only_differences, {}),
    "vanilla": Case("independence", no_module, {"training": {"method": "vanilla"}}, has_truth=False),
    "tangled": Case("independence", no_module, {"dataset": {"formulas": TANGLED}}, has_truth=False),
}


def details(document: Document) -> dict[str, Any]:
    """What else a row tells: who reads what, the effects off the block diagonal, p-values, formulas, parts apart."""
    found: dict[str, Any] = {
        "modules": [{"reads": list(reads), "decides": list(decides)} for reads, decides in modules_of(document)],
        "dependencies": dependencies(document),
    }
    if len(document["modules"]) > 1:
        found |= _effects(document)
    else:
        found |= {"block_diagonal": False, "significant": False}
    outputs = document["readout"]["outputs"]
    found["formulas"] = [output["formula"].get("text") for output in outputs]
    found["formulas_accepted"] = all(output["formula"]["accepted"] for output in outputs)
    found["formulas_true"] = found["formulas_accepted"] and all(
        (output["formula"].get("r2_of_targets") or 0) >= MEETS for output in outputs
    )
    found["layers_apart"] = [output["layers_apart"] for output in outputs]
    found["parts_apart"] = all(layers > 0 for layers in found["layers_apart"])
    found["asymmetry"] = max(
        (part["asymmetry"] for output in outputs for part in output["symmetry"]["through"]), default=0.0
    )
    return found


def _effects(document: Document) -> dict[str, Any]:
    """The largest effect on an output that is not a module's own, the smallest on its own, and the largest p (Holm)."""
    effects = document["effects"]
    own = {m["name"]: {effects["outputs"].index(o) for o in m["outputs"]} for m in document["modules"]}
    cells = [
        (matrix[row][column], column in own[name])
        for matrix in effects["matrices"].values()
        for row, name in enumerate(effects["modules"])
        for column in range(len(effects["outputs"]))
    ]
    corrected = effects["p_holm"]
    p_holm = [corrected[row][column] for row, name in enumerate(effects["modules"]) for column in sorted(own[name])]
    off = max((value for value, is_own in cells if not is_own), default=0.0)
    return {
        "off_diagonal": off,
        "least_own_effect": min(value for value, is_own in cells if is_own),
        "p_holm": max(p_holm),
        "block_diagonal": off < BLOCK,
        "significant": max(p_holm) < SIGNIFICANT,
    }
