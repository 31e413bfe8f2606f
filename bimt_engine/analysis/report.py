"""The evidence of one run as typed data: the documents that are stored, served and compared, and the whole of them.

A document is plain JSON: dicts, lists, strings, numbers, null. Numbers that JSON cannot hold are null (`Number`). The
sentences that are made from these documents are in `statements/`. No torch.

Every shape of a stored document stands in one place, so that a reader of the API finds all of them in one file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

import numpy as np

if TYPE_CHECKING:
    from bimt_engine.analysis.graph import Graph
    from bimt_engine.networks.network import Network

TiedBy = Literal["common_functions", "functions", "dimensions"]
Number = float | None
"""A float; None where it is not finite."""


class Skipped(TypedDict):
    """A part of the evidence that was not computed: too large, or it failed."""

    skipped: NotRequired[str]


class Score(TypedDict, total=False):
    """How well one target is predicted on some rows, against a constant answer.

    r2                   of a number. recall, precision, mistaken: of a class; `mistaken` is the share of other rows
                         that are taken for the class.
    standard_error       of r2, or of recall less `mistaken`.
    learnt               None where the rows are too few to decide, or all equal.
    """

    r2: Number
    recall: Number
    precision: Number
    mistaken: Number
    standard_error: Number
    learnt: bool | None
    rows: int


class OutputScore(TypedDict):
    """How well one target is predicted: pruned and as trained on validation rows, as trained on its training rows.

    reached   whether a kept connection leads to the output.
    learnt    judged by the validation rows.
    measure   "r2" or "recall": which number of a score counts.
    rows      for validation; of a class, its own.
    test      the pruned network on rows that nothing was chosen by. Absent in runs that had one held-out part for both,
              which `rows`, `pruned` and `trained` are of then.
    """

    output: str
    reached: bool
    learnt: bool | None
    measure: str
    rows: int
    pruned: Score
    trained: Score
    trained_on_training_rows: Score
    test: NotRequired[Score]


class AnswerScore(TypedDict):
    """How well one target column is predicted, pruned: `accuracy`, or `r2` in the units of the data and `r2_log`."""

    target: str
    validation: dict[str, float | None]
    test: dict[str, float | None]


class ModuleEffect(TypedDict):
    """What switching a module off does to one output, as a share of the output's variance.

    zero, mean, resample   in the pruned network, by what its neurons were set to. trained: the mean, as trained.
    p, p_holm              against random groups of neurons, before and after Holm's correction.
    """

    zero: Number
    mean: Number
    resample: Number
    p: Number
    p_holm: Number
    trained: Number


class ModuleDocument(TypedDict):
    """A module: a component of the pruned network that holds an output, with what its tests found.

    neurons           ids of all its places, inputs and outputs included.
    selectivity       1 when one output takes all the effect, 0 when all take the same.
    sufficiency       what is left of its outputs when only this module is kept.
    trained_effect    least effect on an output of its own in the network as trained; trained_leak: greatest on others.
    random_groups     how many it was compared with; all_groups_tried: there are no more of its size.
    verdict           supported, not supported, not testable, one piece.
    why_not           why it is not supported. reading: all of it in one sentence (`statements.network`).
    """

    name: str
    neurons: list[str]
    inputs: list[str]
    outputs: list[str]
    connections: int
    effects: dict[str, ModuleEffect]
    selectivity: Number
    sufficiency: Number
    trained_effect: Number
    trained_leak: Number
    random_groups: int
    all_groups_tried: bool
    supported: bool
    verdict: str
    why_not: str | None
    reading: str


class EffectsDocument(Skipped, total=False):
    """The effects of all modules (rows) on all outputs (columns), as matrices.

    matrices            by what the neurons were set to; cross_entropy and accuracy likewise, for classes.
    trained, p, p_holm  as in `ModuleEffect`.
    interaction         E(m ∪ n) - E(m) - E(n), modules by modules by outputs.
    upstream            permuting each input (rows) moves the activity of each module (columns) by so much.
    limits              what the verdict asks for.
    reduced             matrix -> why it is empty, or why there are fewer random groups than were asked for.
    """

    outputs: list[str]
    modules: list[str]
    judged_by: str
    measure: str
    matrices: dict[str, list[list[Number]]]
    cross_entropy: dict[str, list[list[Number]]]
    accuracy: dict[str, list[list[Number]]]
    trained: list[list[Number]]
    p: list[list[Number]]
    p_holm: list[list[Number]]
    selectivity: list[Number]
    sufficiency: list[list[Number]]
    interaction: list[list[list[Number]]]
    upstream: dict[str, Any]
    random_groups: int
    limits: dict[str, float]
    reduced: dict[str, str]
    verdict: str


class Direction(TypedDict):
    """One direction of the outputs: its share of what a group contributes, and the outputs that weigh most in it."""

    share: float
    outputs: list[dict[str, Any]]


class InteriorGroup(TypedDict):
    """Hidden neurons that are separate from the other groups of a partition.

    name              letter of its module and a number: A2.
    trees             into how many parts it falls where common terminals do not count; terminals: of the partition.
    reads             [{name, share}] of what moves its neurons, most first. strongest: the outputs that it moves most.
    effects           of holding it at its mean, as a share of each output's variance; trained_effects: as trained.
    works             whether it moves some output by 1 % of its variance.
    says              the directions in which it moves the outputs.
    lies_in           [{name, share}] of the group's irreducible representations, where the data are its products.
    computes          formulas of what it adds to the outputs that it moves most, up to a constant; where groups of a
                      perceptron on plain numbers are added up.
    """

    name: str
    module: str
    neurons: list[str]
    trees: int
    terminals: int
    reads: list[dict[str, Any]]
    effects: list[float]
    trained_effects: list[float]
    strongest: list[dict[str, Any]]
    selectivity: float
    works: bool
    says: list[Direction]
    lies_in: NotRequired[list[dict[str, Any]]]
    computes: NotRequired[list[GroupFormula]]


class PartitionDocument(TypedDict):
    """Groups of the hidden neurons up to one layer, with their tests; see `modules/nested.py`.

    kind          "sum": the outputs add up what the groups give; "composition": later layers combine it.
    interaction   of every two groups, the largest over the outputs, as a share of its variance.
    leak          share of what moves the neurons that crosses between groups.
    p             among random partitions of the same sizes.
    rejected_modules   names of the modules that the groups lie in and that are not supported; absent up to
                  evidence_version 3, where it made no difference.
    """

    layer: str
    kind: str
    groups: list[InteriorGroup]
    rejected_modules: NotRequired[list[str]]
    interaction: list[list[float]]
    trained_interaction: list[list[float]]
    largest_interaction: float
    trained_largest_interaction: float
    leak: float
    trained_leak: float
    p: float
    random_partitions: int
    verdict: str
    why_not: str | None
    reading: str


class CutDocument(TypedDict):
    """The cheapest connections without which one module becomes several parts.

    level         "outputs": parts that each hold an output; "inside": groups of hidden neurons.
    loss          held out, without them and with nothing refitted; loss_change: as a share of the loss before,
                  loss_rise: of the loss of a constant.
    """

    level: str
    connections: list[dict[str, Any]]
    loss: float
    loss_change: float
    loss_rise: float
    parts: list[dict[str, Any]]
    reading: str


class InteriorDocument(Skipped, total=False):
    """The groups inside the modules; see `modules/interior.py`.

    layers    at each hidden layer, into how many groups and trees the live neurons up to it fall.
    primary   number of the partition that is drawn and reported first; None: there is none.
    trees     ids of the neurons that kept connections between hidden neurons tie, through all layers.
    tied_by   over an embedding, what ties the neurons of a group. common_functions: they have more in common with one
              another, of the functions of the token that they read, than with others. functions: some two of them read
              the same function (up to evidence_version 2). dimensions, in documents without the field: dimensions of
              the embedding that they read.
    """

    tied_by: TiedBy
    layers: list[dict[str, Any]]
    partitions: list[PartitionDocument]
    primary: int | None
    trees: list[list[str]]
    cuts: list[CutDocument]
    reading: str


class Community(TypedDict):
    """One group of neurons, by id."""

    name: str
    neurons: list[str]


class NullDocument(TypedDict):
    """The layered Q of chance graphs of one kind; `p` re-optimised for each, `p_fixed` for this partition.

    Where nothing was re-optimised, `mean` and `std` are of the fixed partition and `p` is None.
    """

    graphs: int
    mean: float
    std: float
    p: float | None
    p_fixed: float
    parity_only: bool


class CommunitiesDocument(Skipped, total=False):
    """How modular the weights are; see `communities.py`.

    method   "modules": scores are of the `parts` that were found by cause, and there are no other groups. "leiden": of
             Leiden's groups, with nulls that were re-optimised.
    leiden   why Leiden's groups are not there, where they were asked for.
    """

    method: str
    parts: int
    leiden: str
    groups: list[Community]
    modularity: Number
    modularity_of_modules: float
    directed_modularity: float
    normalised_cut: float
    nulls: dict[str, NullDocument]
    stability: dict[str, float]
    variation_of_information_to_modules: float
    caution: str
    spectral: dict[str, Any]
    reading: str


class CombinationDocument(TypedDict):
    """Inputs that the network reads as one number only, Σ coefficient · input; `reading` writes the sum.

    columns   that the inputs belong to; absent in older documents.
    """

    inputs: list[str]
    columns: NotRequired[list[str]]
    coefficients: list[float]
    asymmetry: float
    reading: str


class SymmetryDocument(TypedDict):
    """What an output depends on: the inputs it reads, the parts that add up, the numbers that it reads them through.

    part_shares   of the output's variance that each part carries, with the others at their medians.
    """

    reads: list[str]
    additive_parts: list[list[str]]
    part_shares: NotRequired[list[Number]]
    through: list[CombinationDocument]
    interactions: list[list[float]]


class FormulaScores(TypedDict):
    """R² of a formula against the network and against the data, and R² of the network against the data."""

    r2: Number
    r2_of_targets: Number
    network_r2_of_targets: Number


class FormulaDocument(TypedDict, total=False):
    """A formula for one output and what it was compared with, on validation rows.

    inputs                those that the formula reads. searcher: library or genetic.
    columns               that these inputs belong to, such as `port` of `port[C]`; absent in older documents.
    complexity            its inputs, numbers and operations, counted.
    accepted              meets_network or better_than_network; in older documents meets_network, on test rows.
    meets_network         R² and the loss of the network with the formula in the output's place are within the limits.
    meets_data            it is off the data by no more than the network, and the tolerance; None for classes.
    better_than_network   it is off the data by less than the network is, beyond chance.
    r2                    against the network; r2_of_targets: against the data; network_r2_of_targets: of the network.
    test                  the same three numbers on rows that nothing was chosen by; None: it has no value for some.
    substitution_loss     of the network with the formula in the output's place; at most loss_limit to meet the network.
    reason                why it does not meet the network, or why there is none.
    predicted             False where the network does not predict the output, so that nothing was sought.
    search_skipped        why a search that was due was left out.
    """

    text: str | None
    latex: str
    inputs: list[str]
    columns: list[str]
    searcher: str
    complexity: float
    accepted: bool
    meets_network: bool
    meets_data: bool | None
    better_than_network: bool
    r2: Number
    r2_of_targets: Number
    network_r2_of_targets: Number
    test: FormulaScores | None
    substitution_loss: float
    loss: float
    loss_limit: float
    reason: str | None
    predicted: bool
    search_skipped: str


class GroupFormula(TypedDict):
    """A formula for what a group of neurons adds to one output; judged as a formula of an output is."""

    output: str
    formula: FormulaDocument


class OutputReadout(TypedDict):
    """One output written down.

    expression           exactly as the pruned network computes it; None where it is none or too large.
    expression_skipped   then: why it was not composed.
    layers_apart         through how many hidden layers the parts of `symmetry.through` are in neurons of their own.
    """

    output: str
    expression: str | None
    expression_skipped: NotRequired[str]
    symmetry: SymmetryDocument
    layers_apart: int
    formula: FormulaDocument


class ReadoutDocument(Skipped, total=False):
    """Every output as formula and expression; see `readout/formulas.py`."""

    outputs: list[OutputReadout]
    reading: str
    units: str
    needs_r2: float
    tolerance: float


class ConjugacyClass(TypedDict):
    """A class of conjugate elements: the name of its first element, the order of each, how many they are."""

    element: str
    order: int
    size: int


class FunctionShares(TypedDict):
    """How a function on a group divides among its irreducible representations.

    shares    of its variance, in the order of the representations; the trivial one, which holds the mean, has none.
    variance  of the function.
    """

    shares: list[float]
    variance: Number


class NeuronRepresentations(TypedDict):
    """What a neuron knows of the group, from its activation on all pairs (a, b), in the pruned network.

    variance   of its activation over all pairs.
    product    of its mean over the pairs with the same product, as a function of the product.
    a, b       of its mean as a function of the first and of the second element; of neurons that read tokens alone.
    """

    variance: Number
    product: FunctionShares
    a: NotRequired[FunctionShares]
    b: NotRequired[FunctionShares]


class EmbeddingRepresentations(TypedDict):
    """The embedding, in the dimensions that a connection leaves: their slots, each of them alone, and all together."""

    slots: list[int]
    dimensions: list[FunctionShares]
    together: FunctionShares


class GroupDocument(TypedDict):
    """A finite group."""

    order: int
    abelian: bool
    cyclic: bool
    classes: list[ConjugacyClass]


class RepresentationsDocument(Skipped, total=False):
    """The irreducible representations of the data's group, and what the network's parts hold of each.

    names, dimensions, types   of the representations.
    kernels      how many elements each maps to 1.
    subspaces    the dimension of the functions on the group that lie in each.
    characters   the trace on each class, one row for each representation.
    embedding    None where the network has none.
    neurons      by id, of the hidden neurons that a connection is left of.
    """

    group: GroupDocument
    names: list[str]
    dimensions: list[int]
    types: list[str]
    kernels: list[int]
    subspaces: list[int]
    characters: list[list[float]]
    embedding: EmbeddingRepresentations | None
    neurons: dict[str, NeuronRepresentations]
    reading: str


class BaselineScore(TypedDict):
    """How well one method predicts: R², or of classes the accuracy; None where the targets do not vary."""

    name: str
    validation: Number
    test: Number


class BaselinesDocument(TypedDict):
    """What other methods reach on the same rows of a table, beside the pruned network.

    better        which of the two is, decided on validation rows.
    gap           its score on test rows less that of the network.
    connections   that the network keeps.
    """

    measure: Literal["r2", "accuracy"]
    network: BaselineScore
    linear: BaselineScore
    boosted: BaselineScore
    better: Literal["linear", "boosted"]
    gap: Number
    connections: int
    reading: str


class EvidenceDocument(TypedDict):
    """All of the evidence but the network itself. `representations`: of data that are the products of a group."""

    metrics: dict[str, Any]
    prune_curve: list[dict[str, Any]]
    graph: dict[str, Any]
    modules: list[ModuleDocument]
    effects: EffectsDocument
    interior: NotRequired[InteriorDocument]
    communities: CommunitiesDocument
    readout: ReadoutDocument
    representations: NotRequired[RepresentationsDocument]


@dataclass(frozen=True)
class Evidence:
    """What the analysis of a run finds.

    network   pruned and refitted, float64; its masks are the graph's connections.
    metrics   numbers of the run by name, and under `outputs` an `OutputScore` for each target.
    trained   the network as training left it, float64; its weights are not part of the document.
    representations   None where the data are not the products of a group.
    """

    network: Network
    metrics: dict[str, Any]
    prune_curve: list[dict[str, Any]]
    graph: Graph
    modules: list[ModuleDocument]
    effects: EffectsDocument
    communities: CommunitiesDocument
    readout: ReadoutDocument
    interior: InteriorDocument
    trained: Network | None = None
    representations: RepresentationsDocument | None = None

    def document(self) -> EvidenceDocument:
        """Everything but the network, for JSON: no NaN, no infinity, plain Python numbers."""
        document: EvidenceDocument = finite_json(
            {
                "metrics": self.metrics,
                "prune_curve": self.prune_curve,
                "graph": self.graph.to_json(),
                "modules": self.modules,
                "effects": self.effects,
                "interior": self.interior,
                "communities": self.communities,
                "readout": self.readout,
                **({} if self.representations is None else {"representations": self.representations}),
            }
        )
        return document


def finite_json(value: Any) -> Any:
    """The same document with null for NaN and infinities, and plain Python numbers, lists and keys."""
    if isinstance(value, dict):
        return {str(key): finite_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
