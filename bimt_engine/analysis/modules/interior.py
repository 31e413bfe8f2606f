"""Groups inside the modules, as a document: partitions of the hidden neurons, the role of each group, cheapest cuts.

`nested.py` finds and tests the partitions; `statements/interior.py` makes the sentences about them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.evaluator import Connection, Masks, Values
from bimt_engine.analysis.extraction import neuron_id, place_name
from bimt_engine.analysis.graph import Graph
from bimt_engine.analysis.modules.effects import Ablator, selectivity
from bimt_engine.analysis.modules.effects import Group as Places
from bimt_engine.analysis.modules.nested import RANDOM_PARTITIONS, Partition, partitions_of
from bimt_engine.analysis.modules.structure import Cut, Group, Terminal, TieGraph, cheapest_cut, depths
from bimt_engine.analysis.report import (
    CutDocument,
    Direction,
    InteriorDocument,
    InteriorGroup,
    PartitionDocument,
    RepresentationsDocument,
    TiedBy,
)
from bimt_engine.analysis.statements.interior import (
    EMBEDDING,
    LEAST_EFFECT,
    cut_statement,
    group_label,
    groups_shown,
    interior_statement,
    partition_statement,
    partition_verdict,
    parts_modules,
)
from bimt_engine.analysis.statements.representations import group_representations

MAX_OUTPUTS = 128  # whose effects are listed one by one
MAX_READS = 32  # terminals that are listed of one group, those read most first
MAX_DIRECTIONS = 3  # of the outputs, in which a group moves them
LEAST_DIRECTION = 0.02  # of a group's contribution: directions that carry less are left out
NAMED_OUTPUTS = 5  # of one direction, and among those that a group moves most
LEAST_SHARE = 0.01  # of a group's variance: representations that hold less are left out
NOT_READ = 1e-3  # of all reading of a group: terminals below are left out


def examine_interior(
    context: AnalysisContext,
    pruned: Ablator,
    trained: Ablator,
    values: Values,
    masks: Masks,
    *,
    module_of: Mapping[str, str],
    costs: Mapping[Connection, float],
    representations: RepresentationsDocument | None = None,
    rejected: Collection[str] | None = (),
    tied_by: TiedBy = "common_functions",
    random_partitions: int = RANDOM_PARTITIONS,
    seed: int = 0,
) -> InteriorDocument:
    """Partition the live hidden neurons at every depth, test each partition, and say what each group does.

    module_of   neuron id -> letter of its module.
    costs       what the training loss gains without each connection, for cuts; {}: not known.
    representations   where the data are the products of a group: those in which neurons lie say what they compute.
    rejected  letters of modules that are not supported: then no group in them is. None: by specs of earlier versions,
              which did not ask.
    tied_by   as in the document; an earlier method for specs of earlier versions, and to verify their documents.
    """
    count = min(random_partitions, RANDOM_PARTITIONS)
    proposed = depths(context.wiring, masks)
    at, partitions = partitions_of(pruned, trained, proposed, tied_by=tied_by, random_partitions=count, seed=seed)
    documents = [
        _partition_document(context, pruned, masks, partition, module_of, rejected, representations)
        for partition in partitions
    ]
    documents = [document for document in documents if parts_modules(document)]
    document: InteriorDocument = {
        "tied_by": tied_by,
        "layers": [{"layer": depth.layer, "groups": len(depth.groups), "trees": len(depth.trees)} for depth in at],
        "partitions": documents,
        "primary": primary(documents),
        "trees": _trees(context, masks),
        "cuts": _cuts(context, values, masks, costs),
        "reading": "",
    }
    return document | {"reading": interior_statement(document)}


def skipped_interior(reason: str) -> InteriorDocument:
    """The document where groups were not sought."""
    document: InteriorDocument = {"skipped": reason, "layers": [], "partitions": [], "primary": None, "cuts": []}
    return document | {"trees": [], "reading": interior_statement(document)}


def primary(partitions: Sequence[PartitionDocument]) -> int | None:
    """Which partition is drawn and reported first: a sum before a composition, then most groups, then the deepest."""
    if not partitions:
        return None
    return max(range(len(partitions)), key=lambda i: (partitions[i]["kind"] == "sum", len(partitions[i]["groups"]), i))


def with_groups(graph: Graph, document: InteriorDocument) -> Graph:
    """The graph with the groups of the primary partition: its neurons, and the terminals that one group alone reads.

    Groups that the tests rejected are left out, so that a picture never shows what the verdict rejects.
    """
    groups = groups_shown(document)
    if not groups:
        return graph
    group_of = {identifier: group["name"] for group in groups for identifier in group["neurons"]}
    readers: dict[str, set[str | None]] = {}
    for connection in graph.connections:
        readers.setdefault(connection.source, set()).add(group_of.get(connection.target))
    for terminal, of in readers.items():
        if terminal not in group_of and len(of) == 1 and (only := next(iter(of))) is not None:
            group_of[terminal] = only
    labels = {group["name"]: group_label(group) for group in groups}
    # A terminal is no hidden neuron: one that is read deeper in, by neurons of no group, has None among its readers.
    return graph.with_groups(group_of, labels)


# --- partitions -------------------------------------------------------------------------------------


def _partition_document(
    context: AnalysisContext,
    pruned: Ablator,
    masks: Masks,
    partition: Partition,
    module_of: Mapping[str, str],
    rejected: Collection[str] | None,
    representations: RepresentationsDocument | None,
) -> PartitionDocument:
    # Trees are those of the layers that the partition has: of a sum at layer 1, connections into layer 2 do not count.
    names = [layer.name for layer in context.wiring.hidden_layers]
    graph = TieGraph(context.wiring, masks, names[: names.index(partition.layer) + 1])
    trees = graph.groups(by_terminals=False)
    order = np.argsort(-partition.effects.max(axis=1, initial=0.0), kind="stable")
    letters: dict[str, int] = {}
    modules = [_module(group, module_of) for group in partition.groups]
    groups: list[InteriorGroup] = []
    for number in order.tolist():
        group = partition.groups[number]
        identifiers = _ids(group.places)
        module = modules[number]
        letters[module] = letters.get(module, 0) + 1
        name = module if modules.count(module) == 1 else f"{module}{letters[module]}"
        own = sum(_inside(tree.places, group.places) for tree in trees)
        described = _group_document(context, pruned, partition, number, name, module, own)
        if representations is not None and "skipped" not in representations:
            described["lies_in"] = _lies_in(representations, identifiers)
        groups.append(described)
    document: PartitionDocument = {
        "layer": partition.layer,
        "kind": partition.kind,
        "groups": groups,
        "interaction": _rows(partition.interaction[np.ix_(order, order)]),
        "trained_interaction": _rows(partition.trained_interaction[np.ix_(order, order)]),
        "largest_interaction": partition.worst,
        "trained_largest_interaction": partition.trained_worst,
        "leak": max(0.0, partition.leak),
        "trained_leak": max(0.0, partition.trained_leak),
        "p": partition.p,
        "random_partitions": partition.compared,
        "verdict": "",
        "why_not": None,
        "reading": "",
    }
    if rejected is not None:
        document["rejected_modules"] = sorted(set(modules) & set(rejected))
    verdict, reason = partition_verdict(document)
    document = document | {"verdict": verdict, "why_not": reason}
    return document | {"reading": partition_statement(document).text}


def _module(group: Group, module_of: Mapping[str, str]) -> str:
    return next((module_of[i] for i in _ids(group.places) if i in module_of), "")


def _group_document(
    context: AnalysisContext,
    pruned: Ablator,
    partition: Partition,
    number: int,
    name: str,
    module: str,
    trees: int,
) -> InteriorGroup:
    group = partition.groups[number]
    outputs = [str(output) for output in context.dataset.target_names]
    effects = _pooled(partition.effects[number], len(outputs))
    trained = _pooled(partition.trained_effects[number], len(outputs))
    shares = partition.reading.of(group.places)
    read = np.argsort(-shares, kind="stable")
    reads = [
        {"name": terminal_name(context, partition.reading.terminals[i]), "share": float(shares[i])}
        for i in read.tolist()
        if shares[i] > NOT_READ
    ]
    strongest = np.argsort(-effects, kind="stable")[:NAMED_OUTPUTS]
    return {
        "name": name,
        "module": module,
        "neurons": _ids(group.places),
        "trees": int(trees),
        "terminals": len(partition.reading.terminals),
        "reads": reads[:MAX_READS],
        "effects": [float(e) for e in effects[:MAX_OUTPUTS]],
        "trained_effects": [float(e) for e in trained[:MAX_OUTPUTS]],
        "strongest": [
            {"output": outputs[o], "effect": float(effects[o]), "trained": float(trained[o])}
            for o in strongest.tolist()
            if effects[o] >= LEAST_EFFECT
        ],
        "selectivity": float(selectivity(effects)),
        "works": bool(effects.max(initial=0.0) >= LEAST_EFFECT),
        "says": directions(pruned, group.places, outputs),
    }


def _lies_in(representations: RepresentationsDocument, neurons: Sequence[str]) -> list[dict[str, Any]]:
    """The irreducible representations in which the neurons of a group lie, those with the largest share first."""
    shares = group_representations(representations, neurons)
    if shares is None:
        return []
    named = sorted(zip(shares, representations["names"], strict=True), reverse=True)
    return [{"name": name, "share": float(share)} for share, name in named if share >= LEAST_SHARE]


def directions(ablator: Ablator, group: Places, outputs: Sequence[str]) -> list[Direction]:
    """The directions of the outputs in which a group moves them: the leading singular vectors of its contribution."""
    contribution = ablator.outputs - ablator.outputs_without([group], "mean")[0]
    contribution = contribution - contribution.mean(axis=0)
    if contribution.shape[1] != len(outputs):  # several time steps of each output, side by side: their mean
        contribution = contribution.reshape(len(contribution), -1, len(outputs)).mean(axis=1)
    _, sizes, vectors = np.linalg.svd(contribution, full_matrices=False)
    power = sizes**2 / max(float((sizes**2).sum()), 1e-300)
    found: list[Direction] = []
    for share, vector in zip(power[:MAX_DIRECTIONS].tolist(), vectors[:MAX_DIRECTIONS], strict=True):
        if share < LEAST_DIRECTION:
            break
        vector = vector * (1.0 if vector[np.abs(vector).argmax()] > 0 else -1.0)
        strongest = np.argsort(-np.abs(vector), kind="stable")[:NAMED_OUTPUTS]
        found.append(
            {
                "share": share,
                "outputs": [{"output": outputs[o], "weight": float(vector[o])} for o in strongest.tolist()],
            }
        )
    return found


def _trees(context: AnalysisContext, masks: Masks) -> list[list[str]]:
    """The ids of the neurons of each tree through all hidden layers."""
    graph = TieGraph(context.wiring, masks, [layer.name for layer in context.wiring.hidden_layers])
    return [_ids(tree.places) for tree in graph.groups(by_terminals=False)]


# --- cuts -------------------------------------------------------------------------------------------


def _cuts(
    context: AnalysisContext, values: Values, masks: Masks, costs: Mapping[Connection, float]
) -> list[CutDocument]:
    """Where one component is nearly two: at the outputs, and inside. Only single components have a cut."""
    hidden = [layer.name for layer in context.wiring.hidden_layers]
    output = context.wiring.output_layer.name
    found = []
    for level, layers, holding in (("outputs", [*hidden, output], output), ("inside", hidden, None)):
        cut = cheapest_cut(context.wiring, masks, layers, costs, holding=holding)
        if cut is not None:
            found.append(_cut_document(context, values, cut, level))
    return found


def _cut_document(context: AnalysisContext, values: Values, cut: Cut, level: str) -> CutDocument:
    changed = {name: value.copy() for name, value in values.items()}
    connections = []
    for parameter, row, column in cut.connections:
        weights = next(w for w in context.wiring.weight_layers if w.parameter == parameter)
        source = column % context.wiring.layer(weights.source).places
        target = row % context.wiring.layer(weights.target).neurons
        connections.append(
            {
                "key": f"{parameter}[{row},{column}]",
                "source": place_name(context, weights.source, source),
                "target": place_name(context, weights.target, target),
                "weight": float(values[parameter][row, column]),
            }
        )
        changed[parameter][row, column] = 0.0
    before, after = (
        float(context.losses(context.outputs(of, context.validation), context.validation).mean())
        for of in (values, changed)
    )
    document: CutDocument = {
        "level": level,
        "connections": connections,
        "loss": after,
        "loss_change": after / before - 1 if before > 0 else 0.0,
        "loss_rise": (after - before) / context.scale,
        "parts": [_part_document(context, part) for part in cut.parts],
        "reading": "",
    }
    return document | {"reading": cut_statement(document)}


def _part_document(context: AnalysisContext, part: Group) -> dict[str, object]:
    names = list(dict.fromkeys(terminal_name(context, terminal) for terminal in sorted(part.terminals)))
    return {"neurons": part.size, "reads": names[:MAX_READS]}


# --- names ------------------------------------------------------------------------------------------


def terminal_name(context: AnalysisContext, terminal: Terminal) -> str:
    """x1; embedding dimension 17 (its index before any relocation); residual 3."""
    layer, slot = terminal
    if layer == context.wiring.input_layer.name and context.wiring.embeddings:
        return f"{EMBEDDING}{int(context.network.orders[layer][slot])}"
    return place_name(context, layer, slot)


def _ids(places: Places) -> list[str]:
    return [neuron_id(layer, int(slot)) for layer, of in places.items() for slot in np.flatnonzero(of)]


def _inside(part: Places, whole: Places) -> bool:
    return all(layer in whole and bool((~own | whole[layer]).all()) for layer, own in part.items())


def _pooled(effects: Float[np.ndarray, " columns"], outputs: int) -> Float[np.ndarray, " outputs"]:
    """Columns of several time steps of each output, side by side -> the mean of each output."""
    return effects if effects.size == outputs else effects.reshape(-1, outputs).mean(axis=0)


def _rows(matrix: Float[np.ndarray, "groups groups"]) -> list[list[float]]:
    return [[float(value) for value in row] for row in matrix]
