"""Modules: the parts that the pruned network falls into, and the causal tests that they must pass.

A module is a connected component of the kept connections that holds an output. The picture alone settles nothing, and
pruning can cut a tangled network into pretty parts. So each module is tested twice: in the pruned network, against
random groups of live neurons, and in the network as it was trained, where the very same neurons must carry their
outputs and leave the others alone. Only what passes both is called supported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bimt_engine.analysis.components import component_labels
from bimt_engine.analysis.effects import (
    DOS,
    Do,
    Group,
    Probe,
    interaction,
    selectivity,
    sufficiency,
    upstream_effects,
)
from bimt_engine.analysis.extraction import neuron_id, touched_places
from bimt_engine.analysis.paths import Masks
from bimt_engine.analysis.plain_mlp import Array
from bimt_engine.analysis.significance import holm, p_value, random_groups, specific_effect
from bimt_engine.analysis.subject import Subject

EXCLUSIVE = 1e-3  # of an output's variance: a module of the pruned network may do no more to outputs not its own
LEAK = 0.01  # the same in the network as trained, which the |w| penalty leaves with residue
CARRIES = 0.5  # of an output's variance must go when its module is switched off in the network as trained
SIGNIFICANT = 0.05
GROUPS_PER_CLAIM = 40  # random groups for each claim tested, at least: with fewer, Holm alone forbids any p below 0.05
JUDGED_BY: Do = "mean"  # zero may lie far outside what later neurons ever see; resampling adds noise of its own


@dataclass(frozen=True)
class Module:
    """One component: its places by neuron layer, the features it reads, the targets it reaches."""

    name: str
    places: dict[str, Array]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    connections: int


@dataclass(frozen=True)
class ModuleReport:
    """Every module in plain words and numbers, the effects of all of them, and the verdict in one sentence."""

    modules: list[dict[str, Any]]
    effects: dict[str, Any]
    module_of: dict[str, str]
    verdict: str

    @property
    def supported(self) -> int:
        return sum(bool(module["supported"]) for module in self.modules)


def letter(number: int) -> str:
    """0 → A, 25 → Z, 26 → AA."""
    name = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        name = chr(ord("A") + rest) + name
    return name


def find_modules(subject: Subject, masks: Masks) -> list[Module]:
    """The components that hold an output, in the order of their first target."""
    wiring = subject.wiring
    labels = component_labels(wiring, masks)
    output_order = subject.network.output_order.numpy()
    input_order = subject.network.input_order.numpy()
    width = wiring.input_layer.neurons
    found = []
    for label in sorted(set(labels[wiring.output_layer.name].tolist()) - {-1}):
        places = {layer: of == label for layer, of in labels.items()}
        outputs = tuple(sorted(int(i) for i in output_order[places[wiring.output_layer.name]]))
        here = np.flatnonzero(places[wiring.input_layer.name])
        embedded = subject.dataset.tokens is not None
        read = {int(i // width) if embedded else int(input_order[i % width]) for i in here}
        connections = 0
        for weights in wiring.weight_layers:
            rows = np.tile(places[weights.target], weights.target_fold)
            connections += int(masks[weights.parameter][rows].sum())
        found.append(Module("", places, tuple(sorted(read)), outputs, connections))
    found.sort(key=lambda m: m.outputs)
    return [Module(letter(i), m.places, m.inputs, m.outputs, m.connections) for i, m in enumerate(found)]


def switchable(subject: Subject, places: dict[str, Array]) -> dict[str, Array]:
    """The places that are switched off to test a module: its neurons between inputs and outputs.

    To switch off an output proves nothing, and an input neither: the data say already which output needs it. Only a
    module that has no other neurons is tested by its inputs.
    """
    wiring = subject.wiring
    ends = (wiring.input_layer.name, wiring.output_layer.name)
    inner = {layer: p for layer, p in places.items() if layer not in ends}
    if any(p.any() for p in inner.values()):
        return inner
    return {wiring.input_layer.name: places[wiring.input_layer.name]}


def examine_modules(
    subject: Subject,
    pruned: Probe,
    trained: Probe,
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
    live = touched_places(subject, masks)
    pool = {layer: p for layer, p in live.items() if any(layer in group for group in groups)}
    # Chance deals all live neurons of a module, the inputs it reads among them. In the pruned network that adds nothing
    # to the module's own effect, but in a small network there would otherwise be too few other groups to compare with.
    dealt = [{layer: p for layer, p in m.places.items() if layer != subject.wiring.output_layer.name} for m in modules]
    stakes = {layer: p for layer, p in live.items() if layer != subject.wiring.output_layer.name}
    if not modules:
        nothing = "No module is supported: no connection is left."
        return ModuleReport([], {"outputs": outputs, "modules": []}, {}, nothing)

    matrices = {do: pruned.effects(groups, do) for do in DOS}
    matrix = matrices[JUDGED_BY].matrix
    claims = np.array([[o in module.outputs for o in range(len(outputs))] for module in modules])
    if random_group_count:
        random_group_count = max(random_group_count, GROUPS_PER_CLAIM * int(claims.sum()))
    p_raw, compared, exhausted = _chance(modules, dealt, stakes, pruned, random_group_count, seed)
    # Two families of questions: does a module decide its outputs, and does it leave each of the others alone?
    p_holm = np.ones_like(p_raw)
    for family in (claims, ~claims):
        p_holm[family] = holm(p_raw[family])
    kept = sufficiency(pruned, groups, pool, do=JUDGED_BY)
    pairs = interaction(pruned, groups, do=JUDGED_BY)
    select = selectivity(matrix)
    upstream = upstream_effects(pruned, groups)
    in_trained = trained.effects(groups, JUDGED_BY).matrix

    documents: list[dict[str, Any]] = []
    for number, module in enumerate(modules):
        own = list(module.outputs)
        others = [o for o in range(len(outputs)) if o not in own]
        worst = float(matrix[number, others].max()) if others else 0.0
        leak = float(in_trained[number, others].max()) if others else 0.0
        carries = float(in_trained[number, own].min())
        p_own = float(p_holm[number, own].max())
        supported = (
            len(modules) > 1
            and worst < EXCLUSIVE
            and float(matrix[number, own].min()) >= CARRIES
            and leak < LEAK
            and carries >= CARRIES
            and p_own < SIGNIFICANT
        )
        reads = [subject.dataset.feature_names[i] for i in module.inputs]
        reaches = [outputs[o] for o in own]
        documents.append(
            {
                "name": module.name,
                "neurons": _ids(module.places),
                "inputs": reads,
                "outputs": reaches,
                "connections": module.connections,
                "effects": {
                    outputs[o]: {
                        **{do: finite(matrices[do].matrix[number, o]) for do in DOS},
                        "p": finite(p_raw[number, o]),
                        "p_holm": finite(p_holm[number, o]),
                        "trained": finite(in_trained[number, o]),
                    }
                    for o in range(len(outputs))
                },
                "selectivity": finite(select[number]),
                "sufficiency": finite(kept[number, own].min()),
                "trained_effect": finite(carries),
                "trained_leak": finite(leak) if others else None,
                "random_groups": int(compared[number]),
                "all_groups_tried": bool(exhausted[number]),
                "supported": bool(supported),
            }
        )
        why_not = None if supported or len(modules) == 1 else _why_not(documents[-1], leak, carries, len(modules))
        reading = _reading(documents[-1], matrix[number, own], p_own, worst, len(modules))
        documents[-1] |= {"why_not": why_not, "reading": f"{reading}; not supported: {why_not}" if why_not else reading}
    effects = {
        "outputs": outputs,
        "modules": [module.name for module in modules],
        "judged_by": JUDGED_BY,
        "measure": f"share of the variance of each {'class score' if pruned.classes else 'output'}",
        "matrices": {do: rows(matrices[do].matrix) for do in DOS},
        "cross_entropy": {do: rows(c) for do in DOS if (c := matrices[do].cross_entropy) is not None},
        "accuracy": {do: rows(a) for do in DOS if (a := matrices[do].accuracy) is not None},
        "trained": rows(in_trained),
        "p": rows(p_raw),
        "p_holm": rows(p_holm),
        "selectivity": [finite(s) for s in select],
        "sufficiency": rows(kept),
        "interaction": [rows(pair) for pair in pairs],
        "upstream": {"inputs": list(subject.dataset.feature_names), "matrix": rows(upstream)},
        "random_groups": random_group_count,
        "limits": {"exclusive": EXCLUSIVE, "leak": LEAK, "carries": CARRIES, "significant": SIGNIFICANT},
    }
    module_of = {i: m["name"] for m in documents for i in m["neurons"]}
    return ModuleReport(documents, effects, module_of, _verdict(documents))


def _chance(
    modules: Sequence[Module],
    groups: Sequence[Group],
    pool: Group,
    probe: Probe,
    count: int,
    seed: int,
) -> tuple[Array, list[int], list[bool]]:
    """A p-value for every module and output, from random groups of live neurons matched in size per layer.

    Beside it, how many groups each module was compared with, and whether these are all there are.

    An output of the module's own: how many groups do as much to it and as little to all others. Another output: how
    many groups leave it as much alone.
    """
    matrix = probe.effects(groups, JUDGED_BY).matrix
    p = np.ones_like(matrix)
    compared, exhausted = [0] * len(modules), [False] * len(modules)
    for number, (module, group) in enumerate(zip(modules, groups, strict=True)):
        generator = np.random.default_rng([seed, 3, number])
        chance = random_groups(group, pool, count, generator=generator)
        compared[number], exhausted[number] = len(chance), len(chance) < count
        if not chance:
            continue  # the module is all that lives: there is no other group to compare it with
        effects = probe.effects(chance, JUDGED_BY).matrix
        for output in range(matrix.shape[1]):
            if output in module.outputs:
                p[number, output] = p_value(
                    float(_aimed_at(matrix[number], output, module.outputs)), _aimed_at(effects, output, module.outputs)
                )
            else:
                p[number, output] = p_value(-float(matrix[number, output]), -effects[:, output])
    return p, compared, exhausted


def _aimed_at(effects: Array, output: int, own: tuple[int, ...]) -> Array:
    """The specific effect on one output of a module, its other outputs not held against it."""
    others = [o for o in range(effects.shape[-1]) if o not in own]
    return specific_effect(effects[..., [output, *others]], 0)


def _reading(document: dict[str, Any], effects: Array, p_holm: float, worst: float, of: int) -> str:
    """One sentence a person can check against the picture: what the parts do by construction, and what training made.

    In the pruned network a component cannot move another's outputs, and random groups seldom do as well: that is how it
    was cut. What the same neurons do in the network as trained was not decided by any cut.
    """
    what = f"module {document['name']} reads {listed(document['inputs']) or 'nothing'}"
    what += f", decides {listed(document['outputs'])}"
    strength = f"effect {effects.min():.2f}"
    if of == 1:
        return f"{what}: the whole network in one piece ({strength})"
    leak = document["trained_leak"]
    alone = "there are no others" if leak is None else f"others {_below(worst)}"
    end = ", nothing else" if worst < EXCLUSIVE else f", and moves other outputs by up to {worst:.2g} of their variance"
    beside = "" if leak is None else f", others by {leak:.2g} at most"
    return (
        f"{what}{end}: {strength}, {alone}, p = {p_holm:.3g} (Holm) in the pruned network, where it is apart by "
        f"construction; in the network as trained its neurons move {listed(document['outputs'])} by "
        f"{document['trained_effect']:.2f} of {'its' if len(document['outputs']) == 1 else 'their'} variance{beside}"
    )


def _why_not(document: dict[str, Any], leak: float, carries: float, of: int) -> str:
    """Why a module is not supported, in words that stand alone."""
    if leak >= LEAK:
        return (
            f"in the network as trained, the neurons of {document['name']} also move other outputs (by {leak:.2g} of "
            "their variance): pruning made this separation, training did not"
        )
    if carries < CARRIES:
        return (
            f"in the network as trained, the neurons of {document['name']} carry only {carries:.2g} of the variance of "
            f"{listed(document['outputs'])}, where {CARRIES:g} is asked for: other neurons carry the rest"
        )
    if document["all_groups_tried"] and document["random_groups"] < 1 / SIGNIFICANT * of:
        return (
            f"so few neurons live that only {document['random_groups']} other groups are of the size of "
            f"{document['name']}: chance cannot be ruled out"
        )
    return f"random groups of neurons do as well as {document['name']}"


def _verdict(documents: list[dict[str, Any]]) -> str:
    """Which modules can be trusted, and if none, why."""
    supported = [m["name"] for m in documents if m["supported"]]
    if len(documents) == 1:
        return "No separate module is supported: the pruned network is one piece."
    if len(supported) == len(documents):
        return f"All {len(documents)} modules are supported: {listed(supported)}."
    reasons = [m["why_not"] for m in documents if not m["supported"]]
    start = f"Supported: {listed(supported)}. Not supported" if supported else "No module is supported"
    return f"{start}: {'; '.join(reasons)}."


def _ids(places: dict[str, Array]) -> list[str]:
    return [neuron_id(layer, int(slot)) for layer, of in places.items() for slot in np.flatnonzero(of)]


def listed(names: Sequence[str]) -> str:
    """a; a and b; a, b and c. A long list is cut short."""
    shown = list(names[:8])
    if len(names) > 8:
        return f"{', '.join(shown)} and {len(names) - 8} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def _below(value: float) -> str:
    """A small number as the power of ten it stays below."""
    if value <= 1e-12:
        return "< 1e-12"
    return f"< 1e{int(np.floor(np.log10(value))) + 1}" if value < EXCLUSIVE else f"{value:.2g}"


def finite(number: Any) -> float | None:
    """A float for JSON; what is not finite becomes null."""
    value = float(number)
    return value if np.isfinite(value) else None


def rows(matrix: Array) -> list[list[float | None]]:
    """A matrix as JSON rows."""
    return [[finite(v) for v in row] for row in np.atleast_2d(matrix)]
