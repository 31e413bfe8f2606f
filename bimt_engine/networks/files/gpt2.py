"""Weights and config.json as GPT-2 has them, onto the built-in transformer and back. Plain data and tensors.

The stream, the norms before each part, learnt positions and attention are the same; matrices lie transposed in the file
(`Conv1D`), queries, keys and values side by side. The token embedding of a tied file becomes read-in and read-out, two
tensors from then on, since what is pruned of one may be needed of the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the API reads configs and never loads torch
    from torch import Tensor

PREFIX = "transformer."
PARTS = (  # of a block: theirs, ours, whether it lies transposed
    ("attn.c_attn", "attend", True),
    ("attn.c_proj", "gather", True),
    ("mlp.c_fc", "expand", True),
    ("mlp.c_proj", "contract", True),
)
MASKS = (".attn.bias", ".attn.masked_bias")  # buffers that older files hold


def from_gpt2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters by the names of the built-in transformer; what has no place there keeps its own name."""
    left = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
    left = {name: value for name, value in left.items() if not name.endswith(MASKS)}
    found: dict[str, Tensor] = {}
    if (embedding := left.pop("wte.weight", None)) is not None:
        found["read_in.weight"] = embedding.T.contiguous()
        found["read_in.bias"] = embedding.new_zeros(embedding.shape[1])
        read_out = left.pop("lm_head.weight", embedding)
        found["read_out.weight"] = read_out.clone()
        found["read_out.bias"] = left.pop("lm_head.bias", embedding.new_zeros(read_out.shape[0]))
    blocks = sum(name.startswith("h.") and name.endswith(".ln_1.weight") for name in left)
    for theirs, ours, transposed in _names(blocks):
        if theirs in left:
            value = left.pop(theirs)
            found[ours] = value.T.contiguous() if transposed and value.dim() == 2 else value
    return found | left


def to_gpt2(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse. The bias of the read-in joins the positions; `lm_head` stands apart from `wte`."""
    found = {
        "wte.weight": named["read_in.weight"].T.contiguous(),
        "wpe.weight": named["positions"] + named["read_in.bias"],
        "lm_head.weight": named["read_out.weight"],
    }
    if bool(named["read_out.bias"].any()):
        found["lm_head.bias"] = named["read_out.bias"]
    blocks = sum(name.startswith("attend.") and name.endswith(".weight") for name in named)
    for theirs, ours, transposed in _names(blocks):
        if theirs not in found and ours in named:
            found[theirs] = named[ours].T.contiguous() if transposed and named[ours].dim() == 2 else named[ours]
    return found


def _names(blocks: int) -> list[tuple[str, str, bool]]:
    """Theirs, ours, and whether a matrix lies transposed."""
    found = [("wpe.weight", "positions", False)]
    for kind in ("weight", "bias"):
        found.append((f"ln_f.{kind}", f"norms.{2 * blocks}.{kind}", False))
        for block in range(blocks):
            found += [(f"h.{block}.ln_{n + 1}.{kind}", f"norms.{2 * block + n}.{kind}", False) for n in range(2)]
            found += [(f"h.{block}.{theirs}.{kind}", f"{ours}.{block}.{kind}", t) for theirs, ours, t in PARTS]
    return found


ACTIVATIONS = {
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh"), "gelu_tanh"),
    **{"gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu"},
}
SIZES = ("n_embd", "n_layer", "n_head", "vocab_size", "n_positions")
FIXED: dict[str, tuple[Any, ...]] = {  # fields whose other values compute something else
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "reorder_and_upcast_attn": (False,),
    "add_cross_attention": (False,),
}


def config_of_gpt2(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a `NetworkConfig` says, from the fields of a config.json; those that change nothing are passed over.

    Raises ValueError with a sentence for another model, a missing field, and what the built-in transformer has not.
    """
    kind = said.get("model_type")
    if kind != "gpt2":
        raise ValueError(
            f"`model_type` {str(kind)[:40]!r} is not read from weights; of config.json files those of `gpt2` are. "
            "Export the network as ONNX (rotary positions, gated layers and grouped queries are read from there)."
        )
    missing = [name for name in SIZES if type(said.get(name)) is not int]
    if missing:
        raise ValueError(f"The config.json of a `gpt2` network needs whole numbers in {', '.join(missing)}.")
    activation = str(said.get("activation_function", "gelu_new"))
    if activation not in ACTIVATIONS:
        raise ValueError(f"`activation_function` {activation[:40]!r} is not known here: {', '.join(ACTIVATIONS)}.")
    if said.get("n_inner") not in (None, 4 * said["n_embd"]):
        raise ValueError("`n_inner` must be null or four times `n_embd`; export the network as ONNX instead.")
    for name, allowed in FIXED.items():
        if said.get(name, allowed[0]) not in allowed:
            raise ValueError(f"`{name}` must be {allowed[0]}; export the network as ONNX instead.")
    network = {"kind": "transformer", "width": said["n_embd"], "blocks": said["n_layer"], "heads": said["n_head"]}
    network |= {"layer_norm": True, "positions": True, "activation": ACTIVATIONS[activation]}
    tokens = said["vocab_size"]
    shape = {"inputs": tokens, "targets": tokens, "tokens": tokens, "steps": said["n_positions"]}
    return {"network": network, "task": "classification", "layout": "gpt2"} | shape
