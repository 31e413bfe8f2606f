"""Modules: the connected components of the pruned network, and the causal tests that they must pass.

A module is a connected component of the kept connections that holds an output. A component alone proves nothing, since
pruning can separate what the trained network mixed. So each module is tested twice: in the pruned network, against
random groups of live neurons, and in the network as it was trained, where the same neurons must carry their outputs and
leave the others unchanged. Only a module that passes both tests is called supported.

The separation itself is that of arXiv 2305.08746, section 3.1; the tests are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.evaluator import Masks
from bimt_engine.analysis.extraction import neuron_id
from bimt_engine.analysis.modules.effects import (
    ABLATIONS,
    Ablator,
    Do,
    Effects,
    Group,
    interaction,
    selectivity,
    sufficiency,
    upstream_effects,
)
from bimt_engine.analysis.modules.significance import holm, p_value, random_groups, specific_effect
from bimt_engine.analysis.reachability import component_labels, touched_places
from bimt_engine.analysis.report import EffectsDocument, ModuleDocument, Number
from bimt_engine.analysis.statements.network import CARRIES, EXCLUSIVE, LEAK, SIGNIFICANT, module_statement, verdict
from bimt_engine.analysis.statements.wording import skipped_statement, too_large

GROUPS_PER_CLAIM = 40  # random groups for each claim tested, at least: with fewer, Holm alone forbids any p below 0.05
JUDGED_BY: Do = "mean"  # zero may lie far outside the range of activations in training; resampling adds noise
MAX_ANSWERS = 2**27  # numbers in the outputs of the groups that are ablated at a time: 1 GiB
MAX_GROUP_WORK = 2e13  # multiplications of all random groups together: about an hour; MNIST needs 2e11
MAX_PAIRED_MODULES = 64  # whose interaction is measured for every two of them
MAX_PERMUTED_INPUTS = 4_096  # each is permuted once, for the upstream effects


@dataclass(frozen=True)
class Module:
    """One component: its places by neuron layer, the columns it reads, the targets it reaches."""

    name: str
    places: dict[str, Bool[np.ndarray, " _"]]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    connections: int


@dataclass(frozen=True)
class _Tested:
    """What the tests of all modules gave: a row for each module, a column for each output.

    effects        by what the neurons were set to, in the pruned network; trained: at their mean, in that as trained.
    p, p_holm      as in `ModuleEffect`.
    compared       with how many random groups each module was compared; exhausted: whether these are all there are.
    """

    effects: dict[Do, Effects]
    trained: Float[np.ndarray, "modules outputs"]
    p: Float[np.ndarray, "modules outputs"]
    p_holm: Float[np.ndarray, "modules outputs"]
    compared: list[int]
    exhausted: list[bool]
    selectivity: Float[np.ndarray, " modules"]
    sufficiency: Float[np.ndarray, "modules outputs"]


@dataclass(frozen=True)
class ModuleReport:
    """Every module with its tests, the effects of all of them, and the verdict in one sentence.

    module_of   neuron id -> the name of its module, for those that belong to one.
    """

    modules: list[ModuleDocument]
    effects: EffectsDocument
    module_of: dict[str, str]
    verdict: str

    @property
    def supported(self) -> int:
        """How many modules passed both tests."""
        return sum(bool(module["supported"]) for module in self.modules)

    @property
    def rejected(self) -> list[str]:
        """The names of those that could be tested and did not pass."""
        return [module["name"] for module in self.modules if module["verdict"] == "not supported"]


def letter(number: int) -> str:
    """0 → A, 25 → Z, 26 → AA."""
    name = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        name = chr(ord("A") + rest) + name
    return name


def find_modules(subject: AnalysisContext, masks: Masks) -> list[Module]:
    """The components that hold an output, in the order of their first target."""
    wiring = subject.wiring
    labels = component_labels(wiring, masks)
    output_order = subject.network.output_order.numpy()
    found = []
    for label in sorted(set(labels[wiring.output_layer.name].tolist()) - {-1}):
        places = {layer: of == label for layer, of in labels.items()}
        outputs = tuple(sorted(int(i) for i in output_order[places[wiring.output_layer.name]]))
        here = np.flatnonzero(places[wiring.input_layer.name])
        column_of = subject.dataset.column_of
        read = {int(column_of[feature]) for place in here for feature in subject.features(int(place))}
        connections = 0
        for weights in wiring.weight_layers:
            rows = np.tile(places[weights.target], weights.target_copies)
            connections += int(masks[weights.parameter][rows].sum())
        found.append(Module("", places, tuple(sorted(read)), outputs, connections))
    found.sort(key=lambda m: m.outputs)
    return [Module(letter(i), m.places, m.inputs, m.outputs, m.connections) for i, m in enumerate(found)]


def switchable(
    subject: AnalysisContext, places: dict[str, Bool[np.ndarray, " _"]]
) -> dict[str, Bool[np.ndarray, " _"]]:
    """The places that are ablated to test a module: its hidden neurons.

    Ablating an output proves nothing, nor does ablating an input, since the data already say which output needs it. A
    module without hidden neurons is tested by its inputs.
    """
    wiring = subject.wiring
    ends = (wiring.input_layer.name, wiring.output_layer.name)
    inner = {layer: p for layer, p in places.items() if layer not in ends}
    if any(p.any() for p in inner.values()):
        return inner
    return {wiring.input_layer.name: places[wiring.input_layer.name]}


def examine_modules(
    subject: AnalysisContext,
    pruned: Ablator,
    trained: Ablator,
    masks: Masks,
    *,
    random_group_count: int,
    seed: int,
) -> ModuleReport:
    """Find the modules of the pruned network and test each: effect, exclusiveness, chance, sufficiency, and transfer.

    pruned, trained   the pruned, refitted network and the network as it was trained, on the same examples.
    """
    modules = find_modules(subject, masks)
    outputs = [str(name) for name in subject.dataset.target_names]
    groups = [switchable(subject, module.places) for module in modules]
    live = touched_places(subject.wiring, masks)
    pool = {layer: p for layer, p in live.items() if any(layer in group for group in groups)}
    # Random groups are as large as all live neurons of a module, the inputs it reads among them. In the pruned network
    # that adds nothing to the module's own effect, but a small network would otherwise have too few other groups.
    # A column of several inputs is one neuron among them: the first of its slots stands for all.
    last = subject.wiring.output_layer.name
    dealt = [{name: _standing(subject, name, p) for name, p in m.places.items() if name != last} for m in modules]
    stakes = {name: _standing(subject, name, p) for name, p in live.items() if name != last}
    if not modules:
        return ModuleReport([], {"outputs": outputs, "modules": []}, {}, verdict([]))

    matrices = {do: pruned.effects(groups, do) for do in ABLATIONS}
    matrix = matrices[JUDGED_BY].matrix
    claims = np.array([[o in module.outputs for o in range(len(outputs))] for module in modules])
    if random_group_count:
        random_group_count = max(random_group_count, GROUPS_PER_CLAIM * int(claims.sum()))
    reduced: dict[str, str] = {}
    work = len(modules) * len(pruned.inputs) * sum(mask.size for mask in masks.values())  # of one group for each module
    if random_group_count * work > MAX_GROUP_WORK:
        reduced["random_groups"] = too_large("the work of the random groups", random_group_count * work, MAX_GROUP_WORK)
        random_group_count = int(MAX_GROUP_WORK // work)
    p_raw, compared, exhausted = _chance(modules, dealt, stakes, pruned, random_group_count, seed)
    # Two families of questions: does a module decide its outputs, and does it leave each of the others alone?
    p_holm = np.ones_like(p_raw)
    for family in (claims, ~claims):
        p_holm[family] = holm(p_raw[family])
    kept = sufficiency(pruned, groups, pool, do=JUDGED_BY)
    pairs: Float[np.ndarray, "modules modules outputs"] = np.zeros((0, 0, 0))
    if len(modules) <= MAX_PAIRED_MODULES:
        pairs = interaction(pruned, groups, do=JUDGED_BY)
    else:
        reduced["interaction"] = too_large("the number of modules", len(modules), MAX_PAIRED_MODULES)
    select = selectivity(matrix)
    upstream: Float[np.ndarray, "inputs modules"] = np.zeros((0, len(modules)))
    if subject.dataset.is_text:
        reduced["upstream"] = "tokens exclude one another, so that none can be permuted alone"
    elif pruned.inputs.shape[-1] <= MAX_PERMUTED_INPUTS:
        # Elsewhere an input may reach neurons by parameters that the wiring does not list.
        read = None if subject.plain is None else {number for module in modules for number in module.inputs}
        upstream = upstream_effects(pruned, groups, read)
    else:
        reduced["upstream"] = too_large("the number of inputs", pruned.inputs.shape[-1], MAX_PERMUTED_INPUTS)
    in_trained = trained.effects(groups, JUDGED_BY).matrix

    tested = _Tested(matrices, in_trained, p_raw, p_holm, compared, exhausted, select, kept)
    documents = [_module_document(subject, modules, tested, number) for number in range(len(modules))]
    effects: EffectsDocument = {
        "outputs": outputs,
        "modules": [module.name for module in modules],
        "judged_by": JUDGED_BY,
        "measure": f"share of the variance of each {'class score' if pruned.classes else 'output'}",
        "matrices": {do: rows(matrices[do].matrix) for do in ABLATIONS},
        "cross_entropy": {do: rows(c) for do in ABLATIONS if (c := matrices[do].cross_entropy) is not None},
        "accuracy": {do: rows(a) for do in ABLATIONS if (a := matrices[do].accuracy) is not None},
        "trained": rows(in_trained),
        "p": rows(p_raw),
        "p_holm": rows(p_holm),
        "selectivity": [finite(s) for s in select],
        "sufficiency": rows(kept),
        "interaction": [rows(pair) for pair in pairs],
        "upstream": {"inputs": list(subject.dataset.column_names), "matrix": rows(upstream)},
        "random_groups": random_group_count,
        "limits": {"exclusive": EXCLUSIVE, "leak": LEAK, "carries": CARRIES, "significant": SIGNIFICANT},
    }
    if reduced:
        effects["reduced"] = reduced
    module_of = {i: m["name"] for m in documents for i in m["neurons"]}
    return ModuleReport(documents, effects, module_of, verdict(documents))


def _module_document(
    subject: AnalysisContext, modules: Sequence[Module], tested: _Tested, number: int
) -> ModuleDocument:
    """One of the modules with what its tests found, and whether it is supported."""
    module, matrix = modules[number], tested.effects[JUDGED_BY].matrix
    outputs = [str(name) for name in subject.dataset.target_names]
    own = list(module.outputs)
    others = [o for o in range(len(outputs)) if o not in own]
    worst = float(matrix[number, others].max()) if others else 0.0
    leak = float(tested.trained[number, others].max()) if others else 0.0
    carries = float(tested.trained[number, own].min())
    supported = (
        len(modules) > 1
        and worst < EXCLUSIVE
        and float(matrix[number, own].min()) >= CARRIES
        and leak < LEAK
        and carries >= CARRIES
        and float(tested.p_holm[number, own].max()) < SIGNIFICANT
    )
    document: ModuleDocument = {
        "name": module.name,
        "neurons": _ids({name: _standing(subject, name, p) for name, p in module.places.items()}),
        "inputs": [subject.dataset.column_names[i] for i in module.inputs],
        "outputs": [outputs[o] for o in own],
        "connections": module.connections,
        "effects": {
            outputs[o]: {
                "zero": finite(tested.effects["zero"].matrix[number, o]),
                "mean": finite(tested.effects["mean"].matrix[number, o]),
                "resample": finite(tested.effects["resample"].matrix[number, o]),
                "p": finite(tested.p[number, o]),
                "p_holm": finite(tested.p_holm[number, o]),
                "trained": finite(tested.trained[number, o]),
            }
            for o in range(len(outputs))
        },
        "selectivity": finite(tested.selectivity[number]),
        "sufficiency": finite(tested.sufficiency[number, own].min()),
        "trained_effect": finite(carries),
        "trained_leak": finite(leak) if others else None,
        "random_groups": int(tested.compared[number]),
        "all_groups_tried": bool(tested.exhausted[number]),
        "supported": bool(supported),
        "verdict": "",
        "why_not": None,
        "reading": "",
    }
    said = module_statement(document, len(modules))
    return document | {"verdict": said.verdict or "", "why_not": said.reason, "reading": said.text}


def skipped_modules(outputs: Sequence[str], reason: str) -> ModuleReport:
    """The report of modules that could not be examined."""
    effects: EffectsDocument = {"skipped": reason, "outputs": [str(name) for name in outputs], "modules": []}
    return ModuleReport([], effects, {}, skipped_statement("Modules", reason))


def _chance(
    modules: Sequence[Module],
    groups: Sequence[Group],
    pool: Group,
    ablator: Ablator,
    count: int,
    seed: int,
) -> tuple[Float[np.ndarray, "modules outputs"], list[int], list[bool]]:
    """A p-value for every module and output, from random groups of live neurons matched in size per layer.

    Beside it, how many groups each module was compared with, and whether these are all there are.

    For an output of the module: how many groups change it as much and all others as little. For any other output: how
    many groups change it as little.
    """
    matrix = ablator.effects(groups, JUDGED_BY).matrix
    p = np.ones_like(matrix)
    compared, exhausted = [0] * len(modules), [False] * len(modules)
    for number, (module, group) in enumerate(zip(modules, groups, strict=True)):
        generator = np.random.default_rng([seed, 3, number])
        chance = random_groups(group, pool, count, generator=generator)
        compared[number], exhausted[number] = len(chance), len(chance) < count
        if not chance:
            continue  # no other neuron has connections: there is no other group to compare it with
        effects = _effects_in_parts(ablator, chance)
        for output in range(matrix.shape[1]):
            if output in module.outputs:
                p[number, output] = p_value(
                    float(_aimed_at(matrix[number], output, module.outputs)), _aimed_at(effects, output, module.outputs)
                )
            else:
                p[number, output] = p_value(-float(matrix[number, output]), -effects[:, output])
    return p, compared, exhausted


def _effects_in_parts(ablator: Ablator, groups: Sequence[Group]) -> Float[np.ndarray, "groups outputs"]:
    """The effects of many groups, as many at a time as have outputs of at most MAX_ANSWERS numbers."""
    at_once = max(1, MAX_ANSWERS // ablator.outputs.size)
    parts = [groups[start : start + at_once] for start in range(0, len(groups), at_once)]
    return np.concatenate([ablator.effects(part, JUDGED_BY).matrix for part in parts])


def _aimed_at(
    effects: Float[np.ndarray, "*groups outputs"], output: int, own: tuple[int, ...]
) -> Float[np.ndarray, "*groups"]:
    """The specific effect on one output of a module; its other own outputs do not count as side effects."""
    others = [o for o in range(effects.shape[-1]) if o not in own]
    return specific_effect(effects[..., [output, *others]], 0)


def _standing(subject: AnalysisContext, layer: str, places: Bool[np.ndarray, " _"]) -> Bool[np.ndarray, " _"]:
    """The same places, but only the first of each run of slots."""
    first = subject.wiring.layer(layer).first_of_run
    return places & (first == np.arange(first.size))


def _ids(places: dict[str, Bool[np.ndarray, " _"]]) -> list[str]:
    return [neuron_id(layer, int(slot)) for layer, of in places.items() for slot in np.flatnonzero(of)]


def finite(number: Any) -> Number:
    """A float for JSON; what is not finite becomes null."""
    value = float(number)
    return value if math.isfinite(value) else None


def rows(matrix: Float[np.ndarray, " ..."]) -> list[list[Number]]:
    """A matrix as JSON rows."""
    return [[finite(v) for v in row] for row in np.atleast_2d(matrix)]
