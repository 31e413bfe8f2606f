"""What the compiled kernels are told, as C lays it out: networks, examples, the optimiser's rule and a score.

The same structures stand at the top of kernel.cpp, kernel_transformer.cpp and kernel_door.h; change both or neither.
"""

from __future__ import annotations

from ctypes import POINTER, Structure, c_double, c_int32, c_int64, c_uint8, c_void_p

from bimt_engine.networks.mlp import Mlp
from bimt_engine.networks.network import Network
from bimt_engine.networks.transformer import MLP_WIDTH, Transformer
from bimt_engine.training.batches import TensorData
from bimt_engine.training.state import TrainingState

MAX_LAYERS = 32  # weight layers of a perceptron; the spec allows 17
MAX_BLOCKS = 32  # blocks of a transformer; the spec allows 24


class Examples(Structure):
    _fields_ = (
        ("count", c_int64),
        ("inputs", c_void_p),
        ("tokens", c_void_p),
        ("targets", c_void_p),
        ("labels", c_void_p),
        ("sparse", c_int32),
    )


class Rule(Structure):
    _fields_ = (
        ("learning_rate", c_double),
        ("beta1", c_double),
        ("beta2", c_double),
        ("epsilon", c_double),
        ("weight_decay", c_double),
        ("proximal", c_int32),
    )


class Score(Structure):
    _fields_ = (("loss", c_double), ("correct", c_double))


class PerceptronShape(Structure):
    _fields_ = (
        ("parameters", c_int64),
        ("embedding_at", c_int64),
        ("weight_at", c_int64 * MAX_LAYERS),
        ("bias_at", c_int64 * MAX_LAYERS),
        ("layers", c_int32),
        ("activation", c_int32),
        ("cross_entropy", c_int32),
        ("tokens", c_int32),
        ("positions", c_int32),
        ("embedding", c_int32),
        ("widths", c_int32 * (MAX_LAYERS + 1)),
    )


class Affine(Structure):
    _fields_ = (("weight", c_int64), ("bias", c_int64))


class TransformerShape(Structure):
    _fields_ = (
        ("parameters", c_int64),
        ("read_in", Affine),
        ("attend", Affine * MAX_BLOCKS),
        ("gather", Affine * MAX_BLOCKS),
        ("expand", Affine * MAX_BLOCKS),
        ("contract", Affine * MAX_BLOCKS),
        ("read_out", Affine),
        ("inputs", c_int32),
        ("outputs", c_int32),
        ("width", c_int32),
        ("hidden", c_int32),
        ("blocks", c_int32),
        ("heads", c_int32),
        ("activation", c_int32),
        ("time", c_int32),
        ("first_predicted", c_int32),
        ("predicted", c_int32),
        ("counts", POINTER(c_uint8)),
    )


def shape_of(state: TrainingState, data: TensorData) -> PerceptronShape | TransformerShape:
    """The network as its kernel knows it: how wide it is, and where each parameter begins in the flat vector."""
    network = state.network
    if isinstance(network, Transformer):
        return _transformer(network, state, data)
    assert isinstance(network, Mlp)
    return _perceptron(network, state, data)


def _perceptron(network: Mlp, state: TrainingState, data: TensorData) -> PerceptronShape:
    layers = len(network.weights)
    weights = [state.place(f"weights.{layer}") for layer in range(layers)]
    shape = PerceptronShape(
        parameters=state.size,
        layers=layers,
        activation=_activation(network.activation),
        cross_entropy=data.loss == "cross_entropy",
    )
    if network.embedded:
        place = state.place("embedding")
        shape.embedding_at = place.offset
        shape.tokens, shape.embedding = place.shape
        shape.positions = network.fold
    shape.widths[0] = weights[0].shape[1]
    for layer, place in enumerate(weights):
        shape.weight_at[layer] = place.offset
        shape.bias_at[layer] = state.place(f"biases.{layer}").offset
        shape.widths[layer + 1] = place.shape[0]
    return shape


def _transformer(network: Transformer, state: TrainingState, data: TensorData) -> TransformerShape:
    time = data.train_inputs.shape[2]
    counting = set(range(time)) if data.predicted_positions is None else {t % time for t in data.predicted_positions}

    def affine(name: str) -> Affine:
        return Affine(state.place(f"{name}.weight").offset, state.place(f"{name}.bias").offset)

    shape = TransformerShape(
        parameters=state.size,
        read_in=affine("read_in"),
        read_out=affine("read_out"),
        inputs=state.place("read_in.weight").shape[1],
        outputs=state.place("read_out.weight").shape[0],
        width=network.width,
        hidden=MLP_WIDTH * network.width,
        blocks=network.blocks,
        heads=network.heads,
        activation=_activation(network.activation),
        time=time,
        first_predicted=min(counting),
        predicted=len(counting),
        counts=(c_uint8 * time)(*(t in counting for t in range(time))),
    )
    for block in range(network.blocks):
        for name in ("attend", "gather", "expand", "contract"):
            getattr(shape, name)[block] = affine(f"{name}.{block}")
    return shape


def _activation(name: str) -> int:
    """Its number in kernel_vectors.h."""
    return ["silu", "relu", "tanh", "gelu", "gelu_tanh"].index(name)


def whats_in_the_way(network: Network, loss: str) -> str | None:
    """Why no kernel takes this network; None when one does."""
    if isinstance(network, Mlp):
        if len(network.weights) > MAX_LAYERS:
            return f"it takes {MAX_LAYERS} weight layers at most, not {len(network.weights)}"
        return None
    if isinstance(network, Transformer):
        if network.layer_norm:
            return "it knows no layer norm"
        if network.blocks > MAX_BLOCKS:
            return f"it takes {MAX_BLOCKS} blocks at most, not {network.blocks}"
        return None if loss == "mse" else "it knows the squared error only, for sequences"
    return f"it knows perceptrons and transformers, not a {type(network).__name__}"
