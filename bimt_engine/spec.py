"""What a researcher asks for: plain data, every default filled, every bad field named.

A `Spec` says everything about a training but the seed. Importing this module loads no torch.
Names are the field's own (docs/glossary.md); numbers are those of arXiv 2305.08746 and its notebooks.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from bimt_engine.datasets.formulas import check_formula, check_values
from bimt_engine.datasets.groups import check_group

MOST_KEPT = {"log_every": 20_000, "snapshot_every": 2_000, "checkpoint_every": 10_000}  # records of one run
MAX_STEPS = 10_000_000  # a month of kernel time on a small network; more is a mistake
MAX_WIDTH = 4096  # neurons in one layer; relocation solves an assignment of this size
MAX_PARAMETERS = 20_000_000
MAX_WEIGHT_STEPS = 10**14  # parameters × steps × examples a step would be days of one core

Name = Annotated[str, Field(min_length=1, max_length=120)]


class Part(BaseModel):
    """A part of a spec: unknown fields are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# --- data ---------------------------------------------------------------------------------------


class Drawn(Part):
    """A data set that is drawn at random."""

    seed: int | None = Field(
        default=None, ge=0, lt=2**32, description="Seed of the draw; null: each run draws anew with its own seed."
    )


def _readable(formula: str, info: Any) -> str:  # a ValidationInfo, which no type check at run time can take
    if (inputs := info.data.get("inputs")) is not None:  # None: that field is wrong, and says so itself
        check_formula(formula, inputs=inputs)
    return formula


Formula = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_readable)]


class FormulaData(Drawn):
    """Targets computed from uniform inputs by formulas such as `(x1 + x3)**3`."""

    kind: Literal["formula"] = "formula"
    inputs: int = Field(ge=1, le=256, description="How many inputs: x1 … xn.")  # the formulas are read against it
    formulas: list[Formula] = Field(min_length=1, max_length=64)
    low: float = -1.0
    high: float = 1.0
    train: int = Field(default=100, ge=2, le=1_000_000)
    test: int = Field(default=100, ge=1, le=1_000_000)

    @model_validator(mode="after")
    def _values_are_finite(self) -> FormulaData:
        if not self.low < self.high:
            raise ValueError(f"`low` ({self.low}) must be below `high` ({self.high}).")
        if not math.isfinite(self.high - self.low):
            raise ValueError("`low` and `high` are further apart than a number can say; bring them together.")
        for formula in self.formulas:
            check_values(formula, inputs=self.inputs, low=self.low, high=self.high)
        return self


class TwoMoonsData(Drawn):
    kind: Literal["two_moons"] = "two_moons"
    noise: float = Field(default=0.1, ge=0, le=10)
    train: int = Field(default=200, ge=2, le=1_000_000)
    test: int = Field(default=200, ge=1, le=1_000_000)


class ModularAdditionData(Drawn):
    """All pairs (a, b) with the label (a + b) mod p."""

    kind: Literal["modular_addition"] = "modular_addition"
    modulus: int = Field(default=59, ge=2, le=512)
    train_fraction: float = Field(default=0.8, gt=0, lt=1)


class GroupData(Drawn):
    """All pairs of a finite group with their product: Z_n, S_n, D_n (of order 2n), Q8, or a Cayley table."""

    kind: Literal["group"] = "group"
    group: str = Field(default="S4", pattern=r"^(Z|S|D)[1-9][0-9]{0,2}$|^Q8$|^table$")
    cayley_table: list[list[int]] | None = Field(default=None, description="With group `table`: row · column.")
    train_fraction: float = Field(default=0.8, gt=0, lt=1)

    @model_validator(mode="after")
    def _is_a_group(self) -> GroupData:
        check_group(self.group, self.cayley_table)
        return self


class InContextRegressionData(Drawn):
    """Sequences (x₁, y₁), (x₂, ?) with y = w·x and one w for each sequence: predict y₂."""

    kind: Literal["in_context_regression"] = "in_context_regression"
    sequences: int = Field(default=10_000, ge=10, le=1_000_000)
    train_fraction: float = Field(default=0.8, gt=0, lt=1)


class TwoMemoriesData(Drawn):
    """Sequences of two numbers and two things to remember: the first, one step later, and a fading sum of the second.

    y₁(t) = x₁(t − 1), and 0 at the first step; y₂(t) = x₂(t) + ½·y₂(t − 1). The last step's are predicted.
    """

    kind: Literal["two_memories"] = "two_memories"
    time: int = Field(default=6, ge=2, le=256, description="Steps of each sequence.")
    train: int = Field(default=200, ge=2, le=1_000_000)
    test: int = Field(default=200, ge=1, le=1_000_000)


class DigitsData(Drawn):
    """scikit-learn's 1 797 handwritten digits of 8×8 pixels."""

    kind: Literal["digits"] = "digits"
    train_fraction: float = Field(default=0.8, gt=0, lt=1)


class ImagesData(Part):
    """The MNIST files from the folder that `BIMT_MNIST` names, or uploaded IDX/NPZ images."""

    kind: Literal["mnist"] = "mnist"
    train: int | None = Field(default=None, ge=10, description="Use only this many; null: all.")
    test: int | None = Field(default=None, ge=10)
    deskew: bool = Field(default=False, description="Take the slant out of every image and centre it, test images too.")


class UploadedData(Drawn):
    """A table or a set of arrays that a team uploaded, with the roles of its columns."""

    kind: Literal["uploaded"] = "uploaded"
    dataset_id: Annotated[str, Field(pattern=r"^[a-z]+_[0-9a-z]{26}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    format: Literal["csv", "npz", "parquet", "idx", "cayley"]
    inputs: list[Name] | None = Field(default=None, description="Columns to read; null: all that are not targets.")
    targets: list[Name] = Field(min_length=1, max_length=256)
    task: Literal["regression", "classification"]
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    standardise: bool = Field(default=True, description="Scale inputs and regression targets to mean 0, variance 1.")


DatasetSpec = Annotated[
    FormulaData
    | TwoMoonsData
    | ModularAdditionData
    | GroupData
    | InContextRegressionData
    | TwoMemoriesData
    | DigitsData
    | ImagesData
    | UploadedData,
    Field(discriminator="kind"),
]

# --- network ------------------------------------------------------------------------------------

Activation = Literal["silu", "relu", "tanh", "gelu", "gelu_tanh"]
Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
Geometry = Literal["line", "hemispheres", "grid", "ring", "box"]


class MlpNetwork(Part):
    """A multilayer perceptron; inputs and outputs are as wide as the data. Neuron layers lie on lines unless told.

    embedding_width   with token data: each token becomes a learned vector of this width; the vectors of one
                      example lie side by side and share one set of positions (a fold).
    """

    kind: Literal["mlp"] = "mlp"
    hidden: list[Width] = Field(default=[20, 20], max_length=16)
    activation: Activation = "silu"
    embedding_width: int | None = Field(default=None, ge=1, le=1024)
    geometry: Geometry = Field(default="line", description="Where the hidden and input neurons lie.")
    output_geometry: Geometry | None = Field(default=None, description="Null: as `geometry`.")
    coordinates: list[list[list[float]]] | None = Field(
        default=None, description="Custom positions: neuron layer × neuron × axis; replaces both geometries."
    )
    move_inputs: bool = True
    move_outputs: bool = True


class GridMlpNetwork(Part):
    """Sheets of neurons on 2-D grids, inputs fixed on theirs, outputs on a ring of radius 0.25."""

    kind: Literal["grid_mlp"] = "grid_mlp"
    hidden: list[Width] = Field(default=[100, 100], max_length=16)
    activation: Activation = "silu"
    move_inputs: bool = False
    move_outputs: bool = True


class TransformerNetwork(Part):
    """A causal transformer whose residual stream is one neuron layer."""

    kind: Literal["transformer"] = "transformer"
    width: int = Field(default=32, ge=1, le=1024)
    blocks: int = Field(default=2, ge=1, le=24)
    heads: int = Field(default=1, ge=1, le=64)
    layer_norm: bool = False
    activation: Activation = "gelu_tanh"

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> TransformerNetwork:
        if self.width % self.heads:
            raise ValueError(f"`heads` ({self.heads}) must divide `width` ({self.width}).")
        return self


class RecurrentNetwork(Part):
    """One sheet of hidden neurons that read the sequence and one another."""

    kind: Literal["recurrent"] = "recurrent"
    hidden: Width = 32
    activation: Activation = "tanh"
    geometry: Geometry = "line"


NetworkSpec = Annotated[
    MlpNetwork | GridMlpNetwork | TransformerNetwork | RecurrentNetwork, Field(discriminator="kind")
]

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
        description="`mean`: of each weight matrix, bias vector and embedding. Its λ is not the λ of `sum`.",
    )
    bias_cost_from: float | None = Field(default=0.0, ge=0, le=1, description="Fraction of training; null: never.")
    last_layer_locality: bool = Field(default=True, description="False: the last weight layer pays no length.")


class RelocationSpec(Part):
    """When and how neurons trade places."""

    method: Literal["optimal", "greedy"] = "optimal"
    relocate_every: int | None = Field(default=200, ge=1, le=MAX_STEPS, description="Steps; null: never.")
    relocation_candidates: int = Field(default=5, ge=1, le=MAX_WIDTH, description="Greedy only.")
    judged_by_locality: float | None = Field(
        default=None, ge=0, le=1e3, description="Locality that exchanges are judged by; null: the trained one."
    )
    carry_moments: bool = Field(default=True, description="False: as published, Adam's moments stay behind.")
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


Method = Literal["vanilla", "l1", "l1_local", "l1_swap", "bimt"]


class TrainingSpec(Part):
    """One training: minimise prediction_loss + λ · connection_cost, relocating on the way."""

    method: Method = "bimt"
    steps: int = Field(default=20_000, ge=1, le=MAX_STEPS)
    batch_size: int | None = Field(default=None, ge=1, le=1_000_000, description="Null: all examples at every step.")
    loss: Literal["mse", "cross_entropy"] | None = Field(default=None, description="Null: as the data's task asks.")
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


class EvidenceSpec(Part):
    """How the trained network is pruned and its modules are tested."""

    tolerance: float = Field(default=5e-4, gt=0, lt=1, description="ε: the loss may rise by this share of Var(y).")
    refit_steps: int = Field(default=1_000, ge=0, le=100_000, description="Steps of refit after each removal.")
    random_groups: int = Field(default=200, ge=0, le=10_000, description="Random groups for each p-value.")
    leiden_seeds: int = Field(default=20, ge=1, le=1_000)


class Spec(Part):
    """Everything about a run but its seed."""

    dataset: DatasetSpec
    network: NetworkSpec = MlpNetwork()
    training: TrainingSpec = TrainingSpec()
    evidence: EvidenceSpec = EvidenceSpec()

    def at_cost_strength(self, cost_strength: float | None) -> Spec:
        """The same spec with its phases scaled so that the first one that costs anything costs this; None: as it is.

        Raises ValidationError where another phase would then cost more than is allowed.
        """
        if cost_strength is None:
            return self
        first = next((p.cost_strength for p in self.training.phases if p.cost_strength > 0), None)
        scaled = [cost_strength * p.cost_strength / first if first else cost_strength for p in self.training.phases]
        phases = [  # made anew, not copied, so that a λ beyond the bounds is noticed
            Phase(**p.model_dump() | {"cost_strength": strength})
            for p, strength in zip(self.training.phases, scaled, strict=True)
        ]
        return self.model_copy(update={"training": self.training.model_copy(update={"phases": phases})})

    def expanded(self) -> Spec:
        """The same spec with its method written out in numbers, which are what is stored and trained.

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
        update = {"cost": cost, "relocation": relocation, "phases": phases}
        return self.model_copy(update={"training": training.model_copy(update=update)})


def spec_schema() -> dict[str, Any]:
    """JSON Schema of a spec, for forms and editors."""
    return Spec.model_json_schema()
