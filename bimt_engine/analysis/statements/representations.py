"""The sentences about the irreducible representations of a group that a network holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bimt_engine.analysis.statements.network import CARRIES
from bimt_engine.analysis.statements.wording import (
    MAX_NAMED,
    Document,
    counted,
    every,
    listed,
    percent,
    skipped_statement,
    stored,
)

PURE = 0.9  # of a neuron's variance: with so much in one irreducible representation it is counted for it
WORTH_NAMING = 0.03  # of the variance: a representation with less is left out of a sentence
FREQUENCY = "frequency "  # begins the names of the representations of abelian groups


@dataclass(frozen=True)
class NeuronRepresentation:
    """Which irreducible representation a neuron lies in.

    neuron     its id, such as hidden1:7. representation: that with the largest share of its variance; None where its
               mean over the pairs with the same product is constant.
    share      of that variance. rest: the others with a share worth naming.
    explained  how much of the neuron's variance over all pairs is that of the mean.
    """

    neuron: str
    representation: str | None
    share: float
    rest: tuple[tuple[str, float], ...]
    explained: float


@dataclass(frozen=True)
class RepresentationsStatement:
    """What a network that multiplies in a group holds of the group's irreducible representations.

    group       sentence: the group and its representations.
    embedding   sentence: where its tokens lie; None where it has no embedding.
    layers      sentence for each hidden layer: how many of its neurons lie in one representation, and in which.
    text        all of it: the stored field `reading`.
    """

    group: str
    embedding: str | None
    layers: tuple[str, ...]
    text: str


def representations_statement(document: Document) -> RepresentationsStatement:
    """The statement of a stored document of representations; of a skipped one, the reason as its `group`."""
    if "skipped" in document:
        said = skipped_statement("Representations", document["skipped"])
        return RepresentationsStatement(said, None, (), said)
    group, names = document["group"], document["names"]
    kind = "cyclic" if group["cyclic"] else "abelian" if group["abelian"] else "not abelian"
    said = f"The group has {counted(group['order'], 'element')} and is {kind}; "
    if group["abelian"]:
        said += f"its {len(names)} irreducible representations are frequencies."
    else:
        said += f"it has {len(names)} irreducible representations: {listed(names)}."
    embedding = None
    if document["embedding"] is not None:
        embedding = _embedding_representations(document)
    by_layer: dict[str, list[NeuronRepresentation]] = {}
    for neuron in neuron_representations(document):
        by_layer.setdefault(neuron.neuron.rpartition(":")[0], []).append(neuron)
    layers = tuple(_layer_representations(layer, neurons) for layer, neurons in by_layer.items())
    return RepresentationsStatement(said, embedding, layers, " ".join(filter(None, (said, embedding, *layers))))


def neuron_representations(document: Document) -> list[NeuronRepresentation]:
    """Which representation each hidden neuron lies in, in the order of the stored document."""
    found = []
    for neuron, of in (document.get("neurons") or {}).items():
        shares, names = of["product"]["shares"], document["names"]
        explained = stored(of["product"]["variance"]) / stored(of["variance"]) if of["variance"] else 0.0
        first, *others = _worth_naming(shares) or [0]
        name = names[first] if shares[first] > 0 else None
        rest = tuple((names[k], shares[k]) for k in others)
        found.append(NeuronRepresentation(neuron, name, shares[first], rest, min(explained, 1.0)))
    return found


def group_representations(document: Document, neurons: Sequence[str]) -> tuple[float, ...] | None:
    """The shares of a group of neurons, such as a module's, in each representation; None where none of them is hidden.

    Of the variance of all their means by product together.
    """
    of = [document["neurons"][neuron]["product"] for neuron in neurons if neuron in (document.get("neurons") or {})]
    total = sum(stored(each["variance"]) for each in of)
    if not of or not total > 0:
        return None
    weighted = [[stored(each["variance"]) * part for part in each["shares"]] for each in of]
    return tuple(sum(column) / total for column in zip(*weighted, strict=True))


def module_representations(document: Document, neurons: Sequence[str]) -> str | None:
    """Clause: which representations hold the variance of a module's neurons; None where none of them is hidden."""
    shares = group_representations(document, neurons)
    if shares is None:
        return None
    where = _in_representations(shares, document["names"])
    said = (
        "are spread over the representations" if where is None else f"have {where[0]} of their variance in {where[1]}"
    )
    return f"its hidden neurons, averaged over pairs with the same product, {said}"


def _in_representations(shares: Sequence[float | int], names: Sequence[str]) -> tuple[str, str] | None:
    """("97%", "frequencies 4, 11 and 24"); None where a few hold less than half."""
    named = _worth_naming(shares)
    carried = sum(shares[k] for k in named)
    if carried < CARRIES:
        return None
    return percent(carried), representation_names([names[k] for k in named])


def _worth_naming(shares: Sequence[float | int]) -> list[int]:
    """The numbers of the representations that are named in a sentence, that with the largest share first."""
    ranked = sorted(range(len(shares)), key=lambda k: -shares[k])
    return [k for k in ranked if shares[k] >= WORTH_NAMING][:MAX_NAMED]


def _embedding_representations(document: Document) -> str:
    """Which representations hold the variance of the embedding, and how much of that of random vectors they would."""
    shares = document["embedding"]["together"]["shares"]
    if not any(shares):
        return "The embedding is the same for all elements."
    said = _in_representations(shares, document["names"])
    if said is None:
        return f"The embedding is spread over its representations: none holds more than {percent(max(shares))}."
    chance = sum(document["subspaces"][k] for k in _worth_naming(shares)) / (document["group"]["order"] - 1)
    of, where = said
    return f"{of} of the embedding’s variance lies in {where}, where random vectors would have {percent(chance)}."


def _layer_representations(layer: str, neurons: Sequence[NeuronRepresentation]) -> str:
    pure = [neuron for neuron in neurons if neuron.representation is not None and neuron.share >= PURE]
    all_of, mean = f"{len(neurons)} neurons of {layer}", "averaged over pairs with the same product,"
    if not pure and len(neurons) == 1:
        return (
            f"The only neuron of {layer}, {mean} has less than {percent(PURE)} of its variance in each representation."
        )
    if not pure:
        return f"None of the {all_of}, {mean} has {percent(PURE)} of its variance in one representation."
    counts: dict[str, int] = {}
    for neuron in pure:
        counts[str(neuron.representation)] = counts.get(str(neuron.representation), 0) + 1
    where = [f"{number} in {name}" for name, number in sorted(counts.items(), key=lambda pair: -pair[1])]
    which = (
        f"{every(len(neurons), 'neuron')} of {layer}" if len(pure) == len(neurons) else f"{len(pure)} of the {all_of}"
    )
    if len(neurons) == 1:
        which = f"The only neuron of {layer}"
    least, have = percent(min(n.share for n in pure)), "has" if len(pure) == 1 else "have"
    whose = "its" if len(pure) == 1 else "their"
    ending = ", …" if len(where) > MAX_NAMED else ""
    shown = ", ".join(where[:MAX_NAMED])
    return f"{which}, {mean} {have} {least} or more of {whose} variance in one representation: {shown}{ending}."


def representation_names(names: Sequence[str]) -> str:
    """Frequencies 4, 11 and 24; the sign and the 2-dimensional representation; as they stand in a sentence."""
    if all(name.startswith(FREQUENCY) for name in names):
        numbers = [name.removeprefix(FREQUENCY) for name in names]
        shown = numbers[:MAX_NAMED] + ([f"{len(numbers) - MAX_NAMED} more"] if len(numbers) > MAX_NAMED else [])
        joined = " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]
        return f"{'frequency' if len(names) == 1 else 'frequencies'} {joined}"
    return f"{listed([f'the {name}' for name in names])} representation{'' if len(names) == 1 else 's'}"
