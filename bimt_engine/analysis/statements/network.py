"""The sentences about a network: its picture, its modules, how modular its weights are, whether its claims hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bimt_engine.analysis.statements.wording import (
    Document,
    counted,
    every,
    listed,
    names_in,
    number,
    short,
    skipped_statement,
    stored,
)

if TYPE_CHECKING:
    from bimt_engine.analysis.graph import Graph, Neuron

# What the tests of a module ask for (`analysis/modules/find.py` applies these limits).
EXCLUSIVE = 1e-3  # of an output's variance: a module of the pruned network may do no more to outputs not its own
LEAK = 0.01  # the same in the network as trained, which the |w| penalty leaves with residue
CARRIES = 0.5  # of an output's variance must go when its module is switched off in the network as trained
SIGNIFICANT = 0.05  # p-value after Holm's correction

MAX_NETWORK_MODULES = 8  # modules that are listed one by one in the description of a figure

FIGURE_LABELS = {
    "network": "The network in layers, inputs below and outputs above; colours are modules, dashes negative weights.",
    "effects": "What each module does to each output, as a matrix.",
    "fit": "True against predicted values on test examples: a good network lies on the diagonal.",
    "prune-curve": "The loss as connections are taken away, and where the network was cut.",
    "embedding": (
        "What the network has learned about its tokens: their vectors in the irreducible representations of "
        "their group that hold the most, for numbers modulo n its frequencies."
    ),
    "strips": (
        "What each dimension of the embedding distinguishes: one strip for each, with the tokens at their values, and "
        "the representation that holds the most of it."
    ),
    "features": "What neurons of the first hidden layer respond to in an image: their incoming weights as pictures.",
    "decision": "The decision boundary of the classifier of two inputs.",
    "ranks": "Weights from heavy to light: how many are needed, and where the rest begins.",
    "pareto": "Held-out loss against wiring of each run; the line joins the runs that no other beats in both.",
}
"""Name in the figure registry -> what the figure shows."""

CAUTION = (
    "Rejecting a null says that the weights are not placed at random. It does not say that these groups are the right "
    "ones, or that they do anything: that is what the effects of the modules are for."
)

MAX_ABLATED_EXAMPLES = 512  # examples that groups are ablated on; for text, predicted steps
ABLATED_ON = f"computed on {MAX_ABLATED_EXAMPLES} training and validation examples at most"

SUPPORTED_MEANS = (
    f"A supported module moves its own outputs by {CARRIES:g} at least, and all others by less than {LEAK:g}."
)
"""Of the network as trained."""

INTERVENTION_LABELS = {
    "mean": "held at its mean in the pruned network",
    "resample": "given its values from other examples",
    "zero": "set to zero",
    "trained": "held at its mean in the network as trained, before it was pruned",
}
"""Kind of an effect matrix -> how the modules were treated, to follow "when a module is …"."""


@dataclass(frozen=True)
class ModuleStatement:
    """What is said of one module.

    evidence   clauses: the numbers behind it, in the pruned network and in the network as trained.
    verdict    supported, not supported, not testable, one piece; None of a document that does not say.
    reason     clause: why it is not supported; None where it is, and where the network is one piece.
    text       all of it in one sentence, without a full stop: the stored field `reading`.
    """

    evidence: tuple[str, ...]
    reason: str | None
    text: str
    verdict: str | None = None


def module_statement(module: Document, modules: int) -> ModuleStatement:
    """The statement of a stored module.

    In the pruned network a component cannot move another's outputs, and random groups seldom do as well: that is how
    it was cut. What the same neurons do in the network as trained was not decided by any cut.

    modules   how many modules the network has.
    Documents without effects, of runs of older versions, have no evidence; their stored `reading` is the text.
    """
    name, inputs, outputs = str(module.get("name", "")), names_in(module, "inputs"), names_in(module, "outputs")
    what = f"reads {listed(inputs) or 'nothing'}, decides {listed(outputs)}"
    effects = module.get("effects") or {}
    if not outputs or any(output not in effects for output in outputs) or "trained_leak" not in module:
        reason = module.get("why_not")
        said = {True: "supported", False: "not supported", None: None}[module.get("supported")]
        return ModuleStatement((), reason, str(module.get("reading", "")), said)
    own = [stored(effects[output].get("mean")) for output in outputs]
    others = [stored(effect.get("mean")) for output, effect in effects.items() if output not in outputs]
    worst = max(others, default=0.0)
    strength = f"effect {min(own):.2f}"
    if modules == 1:
        one = f"the whole network in one piece ({strength})"
        return ModuleStatement((one,), None, f"module {name} {what}: {one}", "one piece")
    leak = module["trained_leak"]
    apart = "there are no others" if leak is None else f"others {_below(worst)}"
    end = (
        ", nothing else"
        if worst < EXCLUSIVE
        else f", and moves other outputs by up to {short(worst)} of their variance"
    )
    p_holm = max(stored(effects[output].get("p_holm")) for output in outputs)
    beside = "" if leak is None else f", others by {short(leak)} at most"
    evidence = (
        f"{strength}, {apart}, p = {p_holm:.3g} (Holm) in the pruned network, where it is separate by construction",
        f"in the network as trained its neurons move {listed(outputs)} by {stored(module['trained_effect']):.2f} of "
        f"{'its' if len(outputs) == 1 else 'their'} variance{beside}",
    )
    verdict, reason = ("supported", None) if module.get("supported") else not_supported(module, modules)
    clauses = [*evidence, *([f"{verdict}: {reason}"] if reason else [])]
    text = f"module {name} {what}{end}: {'; '.join(clauses)}"
    return ModuleStatement(evidence, reason, text, verdict)


def not_supported(module: Document, modules: int) -> tuple[str, str]:
    """(not supported | not testable, why as a clause that stands alone): the stored fields `verdict`, `why_not`."""
    name, leak, carries = (
        module["name"],
        stored(module["trained_leak"] or 0.0),
        stored(module["trained_effect"]),
    )
    if leak >= LEAK:
        return "not supported", (
            f"in the network as trained, the neurons of {name} also move other outputs (by {short(leak)} of "
            "their variance): pruning made this separation, training did not"
        )
    if carries < CARRIES:
        return "not supported", (
            f"in the network as trained, the neurons of {name} carry only {short(carries)} of the variance of "
            f"{listed(names_in(module, 'outputs'))}, where {CARRIES:g} is asked for: other neurons carry the rest"
        )
    if module["all_groups_tried"] and module["random_groups"] < 1 / SIGNIFICANT * modules:
        return "not testable", (
            f"so few neurons have connections that only {module['random_groups']} other groups are of the size of "
            f"{name}: chance cannot be ruled out"
        )
    return "not supported", f"random groups of neurons do as well as {name}"


def verdict(modules: Sequence[Document]) -> str:
    """Which modules can be trusted, and of the others, why not."""
    if not modules:
        return "No module is supported: no connection is left."
    supported = [module["name"] for module in modules if module["supported"]]
    if len(modules) == 1:
        return "No separate module is supported: the pruned network is one piece."
    if len(supported) == len(modules):
        return f"{every(len(modules), 'module')} are supported: {listed(supported)}."
    said = [f"Supported: {listed(supported)}."] if supported else []
    for which, alone in (("not supported", "No module is supported"), ("not testable", "No module is testable")):
        if reasons := [module["why_not"] for module in modules if module["verdict"] == which]:
            said.append(f"{which.capitalize() if said else alone}: {'; '.join(reasons)}.")
    return " ".join(said)


def _below(value: float) -> str:
    """A small number as the power of ten it stays below."""
    if value <= 1e-12:
        return "< 10⁻¹²"
    return f"< {number(10.0 ** (math.floor(math.log10(value)) + 1))}" if value < EXCLUSIVE else short(value)


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
    start = f"Leiden divides the weights into {counted(groups, 'group')} (layered Q = {score:.3f})"
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
        if not other:
            return "The stored weights reproduce every claim."
        return (
            f"The stored weights reproduce every claim that must agree. Different, as they may be: {', '.join(other)}."
        )
    wrong = ", ".join(check["what"] for check in checks if check["needed"] and not check["agrees"])
    return f"The stored weights do not reproduce these claims: {wrong}."
