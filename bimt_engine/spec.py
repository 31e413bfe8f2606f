"""The spec of a run: plain data, every default filled, every bad field named.

A `Spec` says everything about a training but the seed. Importing this module loads no torch.
Names are the field's own (docs/glossary.md); numbers are those of arXiv 2305.08746 and its notebooks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from bimt_engine.data.kinds.uploaded import SplitSpec as SplitSpec
from bimt_engine.data.kinds.uploaded import UploadedData as UploadedData
from bimt_engine.data.registry import DatasetSpec as DatasetSpec
from bimt_engine.networks.architecture import MAX_WIDTH, Architecture, architectures
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.networks.uploaded import UploadedNetwork as UploadedNetwork
from bimt_engine.spec_part import Name as Name
from bimt_engine.spec_part import Part as Part

MOST_KEPT = {"log_every": 20_000, "snapshot_every": 2_000, "checkpoint_every": 10_000}  # records of one run
MAX_STEPS = 10_000_000  # a month of kernel time on a small network; more is a mistake
MAX_PARAMETERS = 20_000_000

# --- network ------------------------------------------------------------------------------------

if TYPE_CHECKING:
    NetworkSpec = Architecture
else:
    NetworkSpec = Annotated[reduce(or_, architectures()), Field(discriminator="kind")]

# --- training -----------------------------------------------------------------------------------


class Phase(Part):
    """From the end of the phase before until this fraction of the steps, λ is `cost_strength`."""

    until: float = Field(gt=0, le=1)
    cost_strength: float = Field(ge=0, le=1e6)
    learning_rate: float | None = Field(default=None, gt=0, le=10, description="Null: the optimiser's.")


class CostSpec(Part):
    """What a connection costs: |w| · (locality · length + layer_spacing)."""

    locality: float = Field(default=1.0, ge=0, le=1e3)
    layer_spacing: float = Field(default=0.1, ge=0, le=1e3)
    reduction: Literal["sum", "mean"] = Field(
        default="sum",
        description="`mean`: over each weight matrix, bias vector and embedding. Its λ is not the λ of `sum`.",
    )
    bias_cost_from: float | None = Field(default=0.0, ge=0, le=1, description="Fraction of training; null: never.")
    last_layer_locality: bool = Field(
        default=True, description="False: length does not count in the last weight layer."
    )


class RelocationSpec(Part):
    """When and how neurons exchange slots."""

    method: Literal["optimal", "greedy"] = "optimal"
    relocate_every: int | None = Field(default=200, ge=1, le=MAX_STEPS, description="Steps; null: never.")
    relocation_candidates: int = Field(default=5, ge=1, le=MAX_WIDTH, description="Greedy only.")
    judged_by_locality: float | None = Field(
        default=None, ge=0, le=1e3, description="Locality that exchanges are judged by; null: the trained one."
    )
    carry_moments: bool = Field(
        default=True,
        description="False: as published, Adam's moments stay in their slots, but for those of an embedding.",
    )
    final_restarts: int = Field(default=8, ge=0, le=256, description="Restarts of the layout after training.")


class OptimiserSpec(Part):
    """AdamW as published, or its proximal variant, which soft-thresholds and so gives true zeros."""

    kind: Literal["adamw", "proximal"] = "adamw"
    learning_rate: float = Field(default=2e-3, gt=0, le=10)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0, le=100)


class PruningSpec(Part):
    """Connections taken away for good while the network still learns: the weakest first, fewer and fewer at a time.

    When a share s of the way from `begin` to `end` is over, connections + (all − connections) · (1 − s)³ are left.
    The weakest have the smallest |w| · standard deviation of what they carry. Embeddings and biases are no connections:
    they stay.
    """

    connections: int = Field(ge=1, le=MAX_PARAMETERS, description="How many are left at `end` and ever after.")
    begin: float = Field(default=0.2, ge=0, lt=1, description="Fraction of the steps.")
    end: float = Field(default=0.6, gt=0, le=1, description="Fraction of the steps.")
    prune_every: int = Field(default=200, ge=1, le=MAX_STEPS, description="Steps.")

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> PruningSpec:
        if not self.begin < self.end:
            raise ValueError(f"`begin` ({self.begin}) must be below `end` ({self.end}).")
        return self


BALANCED_CLASSES = (
    "`balance_outputs` divides squared errors, but this loss is the cross entropy: leave it out or set `loss` to `mse`."
)
NO_CLASSES = "`loss: cross_entropy` needs classes, but these targets are numbers: use `mse`."
TEXT_LOSS = "Text is learnt by the cross entropy of the next token: leave `loss` out."
Method = Literal["vanilla", "l1", "l1_local", "l1_swap", "bimt"]


class TrainingSpec(Part):
    """One training: minimise prediction_loss + λ · connection_cost, relocating on the way."""

    method: Method = "bimt"
    steps: int = Field(default=20_000, ge=0, le=MAX_STEPS, description="0: an uploaded network is only analysed.")
    batch_size: int | None = Field(default=None, ge=1, le=1_000_000, description="Null: all examples at every step.")
    loss: Literal["mse", "cross_entropy"] | None = Field(default=None, description="Null: as the data's task asks.")
    balance_outputs: bool | None = Field(
        default=None,
        description="Divide each output's squared error by the output's variance over the training rows. Null: where "
        "several targets of an uploaded table, or several formulas, are predicted.",
    )
    precision: Literal["float32", "float64"] = "float64"
    optimiser: OptimiserSpec = OptimiserSpec()
    phases: list[Phase] = Field(
        default=[
            Phase(until=0.25, cost_strength=1e-3),
            Phase(until=0.75, cost_strength=1e-2),
            Phase(until=1.0, cost_strength=1e-3),
        ],
        min_length=1,
        max_length=64,
    )
    cost: CostSpec = CostSpec()
    relocation: RelocationSpec = RelocationSpec()
    pruning: PruningSpec | None = Field(default=None, description="While training; null: nothing is taken away.")
    log_every: int = Field(default=200, ge=1, le=MAX_STEPS)
    snapshot_every: int | None = Field(default=200, ge=1, le=MAX_STEPS)
    checkpoint_every: int = Field(default=2_000, ge=1, le=MAX_STEPS)
    stepper: Literal["auto", "autograd", "batched", "kernel"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    @field_validator("phases")
    @classmethod
    def _phases_rise_to_the_end(cls, phases: list[Phase]) -> list[Phase]:
        ends = [phase.until for phase in phases]
        if ends != sorted(set(ends)) or ends[-1] != 1.0:
            raise ValueError(f"`until` must rise from phase to phase and end at 1.0; it reads {ends}.")
        return phases

    @model_validator(mode="after")
    def _balances_squared_errors(self) -> TrainingSpec:
        if self.balance_outputs and self.loss == "cross_entropy":
            raise ValueError(BALANCED_CLASSES)
        return self

    @model_validator(mode="after")
    def _leaves_no_more_than_can_be_looked_at(self) -> TrainingSpec:
        for name, most in MOST_KEPT.items():
            every = getattr(self, name)
            if every is not None and self.steps // every > most:
                raise ValueError(
                    f"{self.steps:,} steps with `{name}` {every:,} are {self.steps // every:,} records, more than the "
                    f"{most:,} that are kept of one run; raise `{name}` to {-(-self.steps // most):,} or more."
                )
        return self


# --- evidence -----------------------------------------------------------------------------------

OLD_REFIT_LIMIT = 60  # what any larger `refit_steps` of the previous version came to


class EvidenceSpec(Part):
    """How the trained network is pruned and its modules are tested."""

    tolerance: float = Field(default=5e-4, gt=0, lt=1, description="ε: the loss may rise by this share of Var(y).")
    refit_evaluations: int = Field(
        default=OLD_REFIT_LIMIT,
        ge=0,
        le=10_000,
        description="Gradient evaluations in one refit after a removal. Small perceptrons are refitted to the minimum.",
    )
    random_groups: int = Field(default=200, ge=0, le=10_000, description="Random groups for each p-value.")
    leiden_seeds: int = Field(default=0, ge=0, le=1_000, description="Runs of Leiden on the weights; 0: none.")
    formula_searches: int = Field(
        default=8,
        ge=0,
        le=64,
        description="Genetic searches for formulas of the outputs that the library has none for: seconds each.",
    )
    evidence_version: Literal[1, 2, 3, 4] = Field(
        default=4,
        description="4: groups inside a module that is not supported are not supported either. 3: they are tested by "
        "themselves; over an embedding, neurons are grouped by the functions of the token that they have in common. "
        "2: by any two reading the same function. 1: so, and pruned as before 2, from which on a constant answer is "
        "kept unless the network is clearly better.",
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_refit_steps(cls, fields: Any) -> Any:
        """The previous version's `refit_steps`, with the effect that it had: 60 at most, whatever was asked for."""
        if not isinstance(fields, dict) or "refit_steps" not in fields:
            return fields
        fields = dict(fields)
        steps = fields.pop("refit_steps")
        fields.setdefault("refit_evaluations", min(steps, OLD_REFIT_LIMIT) if isinstance(steps, int) else steps)
        return fields


LADDER = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""What `auto` multiplies the spec's cost strength by: steps of half a decade, three decades in all."""


class Spec(Part):
    """Everything about a run but its seed."""

    dataset: DatasetSpec
    network: NetworkSpec = MlpNetwork()
    training: TrainingSpec = TrainingSpec()
    evidence: EvidenceSpec = EvidenceSpec()

    @field_validator("training")
    @classmethod
    def _trains_what_is_drawn(cls, training: TrainingSpec, info: Any) -> TrainingSpec:
        network = info.data.get("network")
        if training.steps == 0 and network is not None and network.kind != "uploaded":
            raise ValueError("Only an uploaded network can be analysed without training: give `steps` of 1 or more.")
        return training

    @classmethod
    def from_stored(cls, document: Mapping[str, Any]) -> Spec:
        """The spec that a run or a weights file holds. See `with_absent_fields`."""
        return cls.model_validate(with_absent_fields(document))

    @property
    def balances_outputs(self) -> bool:
        """Whether each output's squared error is divided by its variance: as asked, or else as the data suggest."""
        asked = self.training.balance_outputs
        return self.dataset.several_own_targets if asked is None else asked

    def misfits(self) -> list[tuple[str, str]]:
        """What parts of the spec ask of data that are of another kind: (JSON Pointer within the spec, sentence).

        It is asked before a job is queued, not of every spec: those that failed for it are still read.
        """
        training, data = self.training, self.dataset
        loss = training.loss or ("cross_entropy" if data.has_classes else "mse")
        found = []
        if sentence := self.network.misfit(data.examples):
            found.append(("/network", sentence))
        if loss == "cross_entropy" and not data.has_classes:
            found.append(("/training/loss", NO_CLASSES))
        if loss == "mse" and data.examples == "text":
            found.append(("/training/loss", TEXT_LOSS))
        if loss == "cross_entropy" and training.balance_outputs:
            found.append(("/training/balance_outputs", BALANCED_CLASSES))
        return found

    def ladder(self) -> list[float]:
        """The cost strengths that `auto` stands for: LADDER times λ of the first phase that costs anything.

        Raises ValueError where no phase costs anything, and where a strength would be beyond what is allowed.
        """
        phases = self.expanded().training.phases
        first = next((phase.cost_strength for phase in phases if phase.cost_strength > 0), None)
        if first is None:
            raise ValueError(
                "`auto` tries multiples of the spec's λ, and here no phase costs anything: give `phases` with a "
                "`cost_strength`, another `method`, or the cost strengths themselves."
            )
        strengths = [float(f"{first * factor:.6g}") for factor in LADDER]  # 0.0003 rather than 0.00029999999999999997
        for strength in strengths:
            self.at_cost_strength(strength)
        return strengths

    def at_cost_strength(self, cost_strength: float | None) -> Spec:
        """The same spec with its phases scaled so that the first one that costs anything costs this; None: as it is.

        Raises ValidationError where another phase would then cost more than is allowed.
        """
        if cost_strength is None:
            return self
        first = next((p.cost_strength for p in self.training.phases if p.cost_strength > 0), None)
        scaled = [cost_strength * p.cost_strength / first if first else cost_strength for p in self.training.phases]
        phases = [  # validated again, not copied, so that a λ beyond the bounds is noticed
            Phase(**p.model_dump() | {"cost_strength": strength})
            for p, strength in zip(self.training.phases, scaled, strict=True)
        ]
        return self.model_copy(update={"training": self.training.model_copy(update={"phases": phases})})

    def expanded(self) -> Spec:
        """The same spec with its method and `balance_outputs` written out, which is what is stored and trained.

        vanilla    λ = 0 and no relocation
        l1         locality 0, no relocation
        l1_local   no relocation
        l1_swap    trained at locality 0; exchanges are judged by the locality that was asked for
        bimt       as it is
        """
        training = self.training
        cost, relocation, phases = training.cost, training.relocation, training.phases
        if training.method == "vanilla":
            phases = [phase.model_copy(update={"cost_strength": 0.0}) for phase in phases]
        if training.method in ("l1", "l1_swap"):
            cost = cost.model_copy(update={"locality": 0.0})
        if training.method == "l1_swap" and relocation.judged_by_locality is None:
            relocation = relocation.model_copy(update={"judged_by_locality": training.cost.locality or 1.0})
        if training.method in ("vanilla", "l1", "l1_local"):
            relocation = relocation.model_copy(update={"relocate_every": None})
        update = {
            "cost": cost,
            "relocation": relocation,
            "phases": phases,
            "balance_outputs": self.balances_outputs,
        }
        return self.model_copy(update={"training": training.model_copy(update=update)})


ABSENT: dict[str, dict[str, Any]] = {
    "dataset": {"split_version": 1},
    "training": {"balance_outputs": False},
    "evidence": {"evidence_version": 1},
}
"""What the absence of a field means in a stored spec, by part: it was written before the field existed."""


def with_absent_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """A stored spec with the fields that did not exist when it was written, at the values that have the old effect.

    A spec that is submitted gets the values of today instead, and from then on has them written in it.
    """
    return dict(document) | {part: fields | dict(document.get(part) or {}) for part, fields in ABSENT.items()}


def spec_schema() -> dict[str, Any]:
    """JSON Schema of a spec, for forms and editors."""
    return Spec.model_json_schema()


# --- networks that users bring ------------------------------------------------------------------

NetworkFormat = Literal["onnx", "safetensors"]


class NetworkConfig(Part):
    """What the weights in a safetensors file are of: one of the architectures, and the shape of its data."""

    network: NetworkSpec
    inputs: int = Field(ge=1, le=1_000_000, description="Numbers, channels or positions of one example.")
    targets: int = Field(ge=1, le=100_000, description="Targets, or classes.")
    task: Literal["regression", "classification"] = "regression"
    tokens: int | None = Field(
        default=None, ge=2, le=1_000_000, description="How many tokens there are; null: numbers."
    )
    steps: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Time steps of a sequence, or with `tokens` of a text; null: none.",
    )
    layout: Literal["bimt", "gpt2", "llama"] = Field(
        default="bimt",
        exclude_if=lambda layout: layout == "bimt",
        description="How the tensors are named and lie in the file. A config.json whose `model_type` is `gpt2` or "
        "`llama` says it all: send it as it is.",
    )

    @model_validator(mode="before")
    @classmethod
    def _as_config_json_has_it(cls, said: Any) -> Any:
        if not isinstance(said, dict) or "model_type" not in said:
            return said
        from bimt_engine.networks.files.config_json import config_of

        return config_of(said)


# --- what a training needs ----------------------------------------------------------------------
# Known before it begins: at the least, so that what cannot end well is refused, and about. The least counts what is
# certain alone, so a training that is let through may still need more.

ITEM_BYTES = {"float32": 4, "float64": 8}
COPIES = 5  # of each weight: itself, its gradient, two moments, and the mask or the best so far
WORK = 6  # floating-point operations for each weight, example and step: forward once, backward twice, two each
CORE_SPEED = 1e11  # of them a second, on one core of the fastest processors: no training is faster
PROCESS_BYTES = 400_000_000  # of a training process that holds next to no data, as measured (docs/log.md, 2026-11-25)


@dataclass(frozen=True)
class Needs:
    """The least that one run needs.

    examples   train together in one step
    weights    of the network; 0 where only the data are counted
    bytes      of memory, at once
    seconds    of one processor core
    """

    examples: int
    weights: int
    bytes: int
    seconds: float


def least(spec: Spec, *, rows: int | None = None) -> Needs | None:
    """What one run of this spec needs at the least; None where nothing is certain: on a GPU, or of unknown data.

    rows   of an uploaded table. A part of them is for testing, and a column may become several inputs or none, so half
           of the rows are counted, and one input where the spec does not say how many.
    """
    data = spec.dataset
    examples = getattr(data, "train", None) or (rows or 0) // 2
    inputs = getattr(data, "inputs", None) or 1
    if not isinstance(inputs, int):
        inputs = len(inputs)
    if spec.training.device not in ("cpu", "auto") or not examples:
        return None
    item = ITEM_BYTES[spec.training.precision]
    together = min(spec.training.batch_size or examples, examples)
    kept = examples * (inputs + 1) * item
    if not isinstance(spec.network, MlpNetwork):
        return Needs(together, 0, kept, 0.0)
    widths = [inputs, *spec.network.hidden, 1]
    weights = sum(before * after for before, after in pairwise(widths))
    at_once = together * max(before + after for before, after in pairwise(widths)) * item
    seconds = WORK * weights * together * spec.training.steps / CORE_SPEED
    return Needs(together, weights, kept + COPIES * weights * item + at_once, seconds)


def about_bytes(spec: Spec, *, numbers: int) -> int:
    """The memory of a training process, about: what it holds before any data, and an uploaded table.

    numbers   in all rows of the table, each as wide as the spec computes
    """
    return PROCESS_BYTES + numbers * ITEM_BYTES[spec.training.precision]
