"""The evidence of one run as typed data: the documents that are stored, served and compared, and the whole of them.

A document is plain JSON: dicts, lists, strings, numbers, null. Numbers that JSON cannot hold are null (`Number`). The
sentences that are made from these documents are in `statements.py`. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from bimt_engine.json_utils import finite_json

if TYPE_CHECKING:
    from bimt_engine.analysis.graph import Graph
    from bimt_engine.networks.network import Network

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
    learnt               None where the rows are too few to tell, or all alike.
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
    why_not           why it is not supported. reading: all of it in one sentence (`statements.module_statement`).
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


class Community(TypedDict):
    """One group of neurons, by id."""

    name: str
    neurons: list[str]


class NullDocument(TypedDict):
    """The layered Q of chance graphs of one kind; `p` re-optimised for each, `p_fixed` for this partition."""

    graphs: int
    mean: float
    std: float
    p: float
    p_fixed: float
    parity_only: bool


class CommunitiesDocument(Skipped, total=False):
    """Leiden's groups of the weights, with scores, nulls and stability; see `communities.py`."""

    method: str
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
    """Inputs that the network reads as one number only, Σ coefficient · input; `reading` writes the sum."""

    inputs: list[str]
    coefficients: list[float]
    asymmetry: float
    reading: str


class SymmetryDocument(TypedDict):
    """What an output depends on: the inputs it reads, the parts that add up, the numbers that it reads them through."""

    reads: list[str]
    additive_parts: list[list[str]]
    through: list[CombinationDocument]
    interactions: list[list[float]]


class FormulaDocument(TypedDict, total=False):
    """A formula for one output and what it was compared with; `reason` says why it is not accepted.

    r2                  held out, against the network; r2_of_targets: against the data.
    substitution_loss   of the network with the formula in the output's place; at most loss_limit to be accepted.
    predicted           False where the network does not predict the output, so that nothing was sought.
    """

    text: str | None
    latex: str
    accepted: bool
    r2: float
    r2_of_targets: Number
    substitution_loss: float
    loss: float
    loss_limit: float
    reason: str | None
    predicted: bool


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


class EvidenceDocument(TypedDict):
    """All of the evidence but the network itself."""

    metrics: dict[str, Any]
    prune_curve: list[dict[str, Any]]
    graph: dict[str, Any]
    modules: list[ModuleDocument]
    effects: EffectsDocument
    communities: CommunitiesDocument
    readout: ReadoutDocument


@dataclass(frozen=True)
class Evidence:
    """What the analysis of a run finds.

    network   pruned and refitted, float64; its masks are the graph's connections.
    metrics   numbers of the run by name, and under `outputs` an `OutputScore` for each target.
    trained   the network as training left it, float64; its weights are not part of the document.
    """

    network: Network
    metrics: dict[str, Any]
    prune_curve: list[dict[str, Any]]
    graph: Graph
    modules: list[ModuleDocument]
    effects: EffectsDocument
    communities: CommunitiesDocument
    readout: ReadoutDocument
    trained: Network | None = None

    def document(self) -> EvidenceDocument:
        """Everything but the network, for JSON: no NaN, no infinity, plain Python numbers."""
        document: EvidenceDocument = finite_json(
            {
                "metrics": self.metrics,
                "prune_curve": self.prune_curve,
                "graph": self.graph.to_json(),
                "modules": self.modules,
                "effects": self.effects,
                "communities": self.communities,
                "readout": self.readout,
            }
        )
        return document
