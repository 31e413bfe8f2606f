"""Data whose modules are known: the tasks that `measurements/truth.py` trains networks on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bimt_engine.recipes import load_recipe
from bimt_engine.spec import Spec

METHODS = ("bimt", "l1_swap", "l1_local", "l1", "vanilla")
COMPARED = ("bimt", "l1_swap", "l1", "vanilla")  # for whom modules are sought in every case
Changes = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Case:
    """One task with known parts.

    recipe     whose spec is taken, with `changes` (part of the spec -> field -> value).
    parts      sets of input names or patterns of names: a neuron's part is the set that moves it most. (): by
               irreducible representation, or none at all.
    has_truth  False: there is nothing to find, and every module that is claimed is false.
    layer      the neurons that are scored: up to this hidden layer; None: those that the reported partition has.
    methods    those that are compared.
    """

    title: str
    recipe: str
    changes: Changes = field(default_factory=dict)
    parts: tuple[frozenset[str], ...] = ()
    has_truth: bool = True
    layer: str | None = None
    methods: tuple[str, ...] = COMPARED

    def spec(self, method: str, *, cost_factor: float = 1.0) -> Spec:
        """The spec that is trained, with every λ of its schedule multiplied by this factor."""
        said = load_recipe(self.recipe).spec.model_dump(mode="json")
        for part, fields in self.changes.items():
            said[part] = dict(fields) if part == "dataset" else said[part] | dict(fields)
        said["training"]["method"] = method
        for phase in said["training"]["phases"]:
            phase["cost_strength"] *= cost_factor
        return Spec.model_validate(said)


def formulas(*texts: str, inputs: int, rows: int = 400) -> dict[str, Any]:
    """Data of formulas."""
    return {"kind": "formula", "formulas": list(texts), "inputs": inputs, "train": rows, "test": rows}


def named(*groups: str) -> tuple[frozenset[str], ...]:
    """named("x1 x3", "x2 x4") as sets."""
    return tuple(frozenset(group.split()) for group in groups)


# A third of the recipe's λ, and a fifth of its tolerance: with more, neurons of the first layer serve several products.
GENTLE: dict[str, Any] = {
    "training": {
        "phases": [
            {"until": 0.25, "cost_strength": 3e-4},
            {"until": 0.75, "cost_strength": 3e-3},
            {"until": 1.0, "cost_strength": 3e-4},
        ]
    },
    "evidence": {"tolerance": 1e-4},
}
SIX_BY_SIX = [[6 * ((a // 6 + b // 6) % 6) + (a + b) % 6 for b in range(36)] for a in range(36)]
CASES: dict[str, Case] = {
    "independence": Case("two outputs that share nothing", "independence", parts=named("x1 x3", "x2 x4")),
    "two_products": Case(
        "x1·x2 + x3·x4",
        "independence",
        {"dataset": formulas("x1*x2 + x3*x4", inputs=4), **GENTLE},
        named("x1 x2", "x3 x4"),
    ),
    "three_products": Case(
        "x1·x2 + x3·x4 + x5·x6",
        "independence",
        {"dataset": formulas("x1*x2 + x3*x4 + x5*x6", inputs=6), "network": {"hidden": [40, 40]}, **GENTLE},
        named("x1 x2", "x3 x4", "x5 x6"),
    ),
    "product_of_sums": Case(
        "(x1 + x2)·(x3 + x4)",
        "independence",
        {"dataset": formulas("(x1 + x2)*(x3 + x4)", inputs=4)},
        named("x1 x2", "x3 x4"),
        layer="hidden1",
    ),
    "tree": Case(
        "(x1·x2 + x3·x4)·(x5·x6 + x7·x8)",
        "independence",
        {
            "dataset": formulas("(x1*x2 + x3*x4)*(x5*x6 + x7*x8)", inputs=8, rows=4000),
            "network": {"hidden": [40, 40, 40]},
        },
        named("x1 x2", "x3 x4", "x5 x6", "x7 x8"),
        layer="hidden1",
    ),
    "modular_addition": Case("a + b mod 59: the frequencies", "modular_addition", methods=("bimt", "l1_swap", "l1")),
    "s4": Case("products in S4: the representations", "s4", layer="hidden1", methods=("bimt", "l1_swap", "l1")),
    "product_group": Case(
        "Z6 × Z6 as one table: the representations",
        "s4",
        {"dataset": {"kind": "group", "group": "table", "cayley_table": SIX_BY_SIX, "train_fraction": 0.8}},
        layer="hidden1",
        methods=("bimt",),
    ),
    "two_memories": Case("two memories of a sequence", "two_memories", parts=named("x1", "x2")),
    "parities": Case("three parities of disjoint bits", "parities", parts=named("x1 x2 x3", "x4 x5 x6", "x7 x8 x9")),
    "digit_pair": Case("two digits side by side", "digit_pair", parts=named("left*", "right*")),
    "digit_pair_larger": Case(
        "two digits, and which is larger",
        "digit_pair",
        {"dataset": {"kind": "digit_pair", "train": 2000, "test": 1000, "larger": True}},
        named("left*", "right*"),
        layer="hidden1",
        methods=("bimt",),
    ),
    "tangled": Case(
        "x1·x2 + x2·x3 + x3·x1: every two inputs meet",
        "independence",
        {"dataset": formulas("x1*x2 + x2*x3 + x3*x1", "(x1 + x2 + x3)**3 / 8", inputs=3)},
        has_truth=False,
    ),
}
