"""The sentences about a network as a whole: its picture, how modular its weights are, whether claims hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bimt_engine.analysis.statements.modules import SIGNIFICANT
from bimt_engine.analysis.statements.wording import Document, counted, listed, skipped_statement

if TYPE_CHECKING:
    from bimt_engine.analysis.graph import Graph, Neuron

MAX_NETWORK_MODULES = 8  # modules that are listed one by one in the description of a figure

FIGURE_LABELS = {
    "network": "The network in layers, inputs below and outputs above; colours are modules, dashes negative weights.",
    "effects": "What each module does to each output, as a matrix.",
    "fit": "True against predicted values on test examples: a good network lies on the diagonal.",
    "prune-curve": "The loss as connections are taken away, and where the network was cut.",
    "embedding": (
        "What the network has learned to know of its tokens: their vectors in the irreducible representations of "
        "their group that hold the most, for numbers modulo n its frequencies."
    ),
    "strips": (
        "What each dimension of the embedding tells apart: one strip for each, with the tokens at their values, and "
        "the representation that holds the most of it."
    ),
    "features": "What neurons of the first hidden layer respond to in an image: their incoming weights as pictures.",
    "decision": "Where the classifier of two inputs draws its line.",
    "ranks": "Weights from heavy to light: how many are needed, and where the rest begins.",
    "pareto": "Held-out loss against wiring of each run; the line joins the runs that no other beats in both.",
}
"""Name in the figure registry -> what the figure shows."""

CAUTION = (
    "Rejecting a null says that the weights are not placed at random. It does not say that these groups are the right "
    "ones, or that they do anything: that is what the effects of the modules are for."
)


def network_statement(graph: Graph) -> str:
    """What the picture of a network shows, for readers who do not see it: its size, and which ends belong together."""
    used = {end for c in graph.connections for end in (c.source, c.target)}
    stated = [layer["name"] for layer in graph.meta.get("layers", ()) if isinstance(layer, Mapping) and "name" in layer]
    layers = stated or list(dict.fromkeys(neuron.layer for neuron in graph.neurons))
    if not layers:
        return "The network has no neurons."
    there = {layer: [n for n in graph.neurons if n.layer == layer and n.id in used] for layer in layers}
    first, last = layers[0], layers[-1]
    hidden = [str(len(there[layer])) for layer in layers[1:-1]]
    size = f"{counted(len(there[first]), 'input')} and {counted(len(there[last]), 'output')} in use"
    if hidden:
        size += f", with {listed(hidden)} neurons in {counted(len(hidden), 'layer')} between them"
    letters = sorted({n.module for n in graph.neurons if n.module}, key=lambda m: (len(m), m))
    said = [f"{size}, joined by {counted(len(graph.connections), 'connection')}."]
    if len(letters) > 1:
        said.append(f"It falls into {len(letters)} modules that share no connection.")
    for letter in letters[:MAX_NETWORK_MODULES]:
        reads, decides = (
            listed([neuron_label(n) for n in there[layer] if n.module == letter]) for layer in (first, last)
        )
        said.append(f"Module {letter} leads from {reads or 'no input'} to {decides or 'no output'}.")
    if groups := graph.meta.get("groups"):
        named = [f"{name} {label}" for name, label in list(groups.items())[:MAX_NETWORK_MODULES]]
        said.append(f"Colours are groups inside: {'; '.join(named)}.")
    return " ".join(said)


def neuron_label(neuron: Neuron) -> str:
    """The name of a neuron's feature or target; of a hidden neuron its layer and slot."""
    return neuron.name or neuron.id.replace(":", " ", 1)


def communities_statement(document: Document) -> str:
    """How modular the weights are, from the stored `communities`: the field `reading`."""
    if "skipped" in document:
        return skipped_statement("Communities", document["skipped"])
    if document["modularity"] is None:
        return "No connection is left, so there is nothing to group."
    if document.get("method") == "modules":
        return _modularity_of_parts(document)
    groups, score = len(document["groups"]), document["modularity"]
    start = f"Leiden parts the weights into {counted(groups, 'group')} (layered Q = {score:.3f})"
    if not document["nulls"]:
        return f"{start}; no null was drawn, so this says nothing yet."
    p = document["nulls"]["degree_preserving"]["p"]
    chance = document["nulls"]["degree_preserving"]["mean"]
    if p < SIGNIFICANT:
        return f"{start}, more than rewired graphs reach ({chance:.3f}, p = {p:.3g}). {CAUTION}"
    return (
        f"{start}, no more than rewired graphs reach ({chance:.3f}, p = {p:.3g}): by weights alone the groups are not "
        "distinguishable from chance. Trust the effects of the modules instead."
    )


def _modularity_of_parts(document: Document) -> str:
    parts, score, null = document["parts"], document["modularity"], document["nulls"].get("degree_preserving")
    said = f"The layered modularity of the {counted(parts, 'part')} is Q = {score:.3f}"
    if null is None:
        said = f"{said}; one part alone has nothing to be compared with."
    else:
        more = "more than" if null["p_fixed"] <= SIGNIFICANT else "no more than"
        said += f", {more} in rewired graphs ({null['mean']:.3f}, p = {null['p_fixed']:.3g}). {CAUTION}"
    return f"{said} Leiden’s groups: {document['leiden']}." if "leiden" in document else said


def verification_statement(document: Document) -> str:
    """Whether the claims agree with the stored weights, from `agrees` and `checks`: the stored field `reading`."""
    checks = document["checks"]
    if document["agrees"]:
        other = [check["what"] for check in checks if not check["agrees"]]
        note = f" Not the same, and not needed: {', '.join(other)}." if other else ""
        return f"What was claimed is what the stored weights give.{note}"
    wrong = ", ".join(check["what"] for check in checks if check["needed"] and not check["agrees"])
    return f"The stored weights do not give what was claimed: {wrong}."
