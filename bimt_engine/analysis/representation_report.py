"""What a network that multiplies in a group holds of each of the group's irreducible representations.

A network that has learnt a group, and not memorised its pairs, keeps its tokens, and each of its neurons, in few of
them. (arXiv 2305.08746, section 3.3)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.evaluator import Array, Masks, Values
from bimt_engine.analysis.extraction import neuron_id
from bimt_engine.analysis.hooked_network import as_tensor
from bimt_engine.analysis.reachability import touched_places
from bimt_engine.analysis.report import (
    EmbeddingRepresentations,
    FunctionShares,
    NeuronRepresentations,
    RepresentationsDocument,
)
from bimt_engine.analysis.representations import Group, Representation, representations, shares
from bimt_engine.analysis.statements.representations import representations_statement
from bimt_engine.analysis.statements.wording import skipped_statement, too_large

MAX_WORK = 5e10  # multiplications for all pairs: half a minute; MLPs of 100 neurons on 512 elements need 1e10
DIGITS = 6  # of a share


def representation_report(context: AnalysisContext, values: Values, masks: Masks) -> RepresentationsDocument | None:
    """The shares of embedding and hidden neurons in the representations; None where the data are no group's products.

    values, masks   of the pruned network.
    Too large a network or group is skipped with the reason.
    """
    table = context.dataset.group
    if table is None:
        return None
    work = context.general.work * table.size
    if work > MAX_WORK:
        return skipped_representations(too_large("the work of all pairs", work, MAX_WORK))
    group, parts = Group.of(table), representations(table)
    first = [int(members[0]) for members in group.classes]
    names = context.dataset.target_names
    document: RepresentationsDocument = {
        "group": {
            "order": group.order,
            "abelian": group.abelian,
            "cyclic": bool(group.element_orders.max() == group.order),
            "classes": [
                {"element": str(names[g]), "order": int(group.element_orders[g]), "size": len(members)}
                for g, members in zip(first, group.classes, strict=True)
            ],
        },
        "names": [part.name for part in parts],
        "dimensions": [part.dimension for part in parts],
        "types": [part.type for part in parts],
        "kernels": [int(part.kernel.sum()) for part in parts],
        "subspaces": [part.basis.shape[1] for part in parts],
        "characters": [np.round(part.character[first], DIGITS).tolist() for part in parts],
        "embedding": _of_embedding(context, values, masks, parts),
        "neurons": _of_neurons(context, values, masks, group, parts),
    }
    return {**document, "reading": representations_statement(document).text}


def skipped_representations(reason: str) -> RepresentationsDocument:
    """The document of representations that were not computed."""
    return {"skipped": reason, "reading": skipped_statement("Representations", reason)}


def live_dimensions(context: AnalysisContext, masks: Masks) -> Int[np.ndarray, " live"]:
    """The slots of the input layer that a kept connection leaves, from any of its copies."""
    layer = context.wiring.input_layer
    touched = touched_places(context.wiring, masks)[layer.name]
    return np.flatnonzero(touched.reshape(layer.copies, layer.neurons).any(axis=0))


def _of_embedding(
    context: AnalysisContext, values: Values, masks: Masks, parts: Sequence[Representation]
) -> EmbeddingRepresentations | None:
    wiring = context.wiring
    if len(wiring.embeddings) != 1:
        return None
    slots = live_dimensions(context, masks)
    vectors = values[wiring.embeddings[0]][:, slots]
    return {
        "slots": slots.tolist(),
        "dimensions": _documents(vectors, parts),
        "together": _together(vectors, parts),
    }


def _of_neurons(
    context: AnalysisContext, values: Values, masks: Masks, group: Group, parts: Sequence[Representation]
) -> dict[str, NeuronRepresentations]:
    """The hidden neurons that a connection is left of."""
    wiring = context.wiring
    ends = (wiring.input_layer.name, wiring.output_layer.name)
    live = {n: np.flatnonzero(of) for n, of in touched_places(wiring, masks).items() if n not in ends and of.any()}
    found: dict[str, NeuronRepresentations] = {}
    for name, means in _means(context, values, live, group).items():
        sources = {weights.source for weights in wiring.into(name)}
        reads_tokens = sources == {wiring.input_layer.name}
        of = {by: _documents(means[by], parts) for by in ("product", *(("a", "b") if reads_tokens else ()))}
        for column, place in enumerate(live[name].tolist()):
            neuron: NeuronRepresentations = {
                "variance": float(means["variance"][column]),
                "product": of["product"][column],
            }
            if reads_tokens:
                neuron |= {"a": of["a"][column], "b": of["b"][column]}
            found[neuron_id(name, place)] = neuron
    return found


def _means(
    context: AnalysisContext, values: Values, live: Mapping[str, Int[np.ndarray, " live"]], group: Group
) -> dict[str, dict[str, Array]]:
    """By neuron layer: the means of the activations by product, by a and by b, (order, live), and their variance.

    Time steps and pixels of one neuron are pooled.
    """
    general, order = context.general, group.order
    network = general.with_values(values)
    sums: dict[str, dict[str, Array]] = {
        name: {by: np.zeros((order, len(of))) for by in ("product", "a", "b", "squares")} for name, of in live.items()
    }
    at_once = max(1, general.at_once // order)
    for start in range(0, order, at_once):
        chosen = np.arange(start, min(start + at_once, order))
        pairs = np.stack(np.broadcast_arrays(chosen[:, None], np.arange(order)), axis=-1).reshape(-1, 2)
        with torch.no_grad():
            _, seen = network.forward_with_hooks(as_tensor(pairs))
        for name, of in live.items():
            rows = context.wiring.layer(name).to_places(seen[name]).numpy()
            rows = rows.reshape(len(chosen), order, -1, rows.shape[-1]).mean(axis=2)[..., of]
            sums[name]["a"][chosen] = rows.sum(axis=1)
            sums[name]["b"] += rows.sum(axis=0)
            sums[name]["squares"] += (rows**2).sum(axis=0)
            for a, row in zip(chosen.tolist(), rows, strict=True):
                sums[name]["product"][group.table[a]] += row
    means: dict[str, dict[str, Array]] = {}
    for name, of_layer in sums.items():
        means[name] = {by: of_layer[by] / order for by in ("product", "a", "b")}
        squares = of_layer["squares"].sum(axis=0) / order**2
        means[name]["variance"] = np.maximum(squares - means[name]["a"].mean(axis=0) ** 2, 0.0)
    return means


def _documents(functions: Float[np.ndarray, "order columns"], parts: Sequence[Representation]) -> list[FunctionShares]:
    variances = functions.var(axis=0).tolist()
    return [  # a column that is constant up to rounding has no shares, and its variance is 0
        {"shares": np.round(row, DIGITS).tolist(), "variance": variance if row.any() else 0.0}
        for row, variance in zip(shares(functions, parts), variances, strict=True)
    ]


def _together(functions: Float[np.ndarray, "order columns"], parts: Sequence[Representation]) -> FunctionShares:
    """All columns as one function whose values are vectors."""
    variances = functions.var(axis=0)
    total = float(variances.sum())
    of = variances @ shares(functions, parts) / total if total > 0 else np.zeros(len(parts))
    return {"shares": np.round(of, DIGITS).tolist(), "variance": total}
