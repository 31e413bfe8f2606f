"""Weights and config.json as GPT-2 and Llama have them, onto the built-in transformer and back. Plain data and tensors.

GPT-2: the stream, the norms before each part, learnt positions and attention are the same; matrices lie transposed in
the file (`Conv1D`), queries, keys and values side by side. The token embedding of a tied file becomes read-in and
read-out, two tensors from then on, since what is pruned of one may be needed of the other.

Llama: root mean square norms, rotary positions, gated layers, and key and value heads that several heads of queries
share; no biases. Projections of queries, keys and values lie one after another in our matrix, and query heads that
share are apart by a whole set of shared heads (transformer.py says why). A tied embedding stays one tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the API reads configs and never loads torch
    from torch import Tensor

    from bimt_engine.networks.transformer import TransformerNetwork

# --- GPT-2 ------------------------------------------------------------------------------------------

PREFIX = "transformer."
PARTS = (  # of a block: theirs, ours, whether it lies transposed
    ("attn.c_attn", "attend", True),
    ("attn.c_proj", "gather", True),
    ("mlp.c_fc", "expand", True),
    ("mlp.c_proj", "contract", True),
)
MASKS = (".attn.bias", ".attn.masked_bias")  # buffers that older files hold


def from_gpt2(tensors: Mapping[str, Tensor], network: TransformerNetwork) -> dict[str, Tensor]:
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


def to_gpt2(named: Mapping[str, Tensor], network: TransformerNetwork) -> dict[str, Tensor]:
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


def _config_of_gpt2(said: Mapping[str, Any]) -> dict[str, Any]:
    activation = _activation(said, "activation_function", "gelu_new")
    if said.get("n_inner") not in (None, 4 * said["n_embd"]):
        raise ValueError("`n_inner` must be null or four times `n_embd`; export the network as ONNX instead.")
    network = {"kind": "transformer", "width": said["n_embd"], "blocks": said["n_layer"], "heads": said["n_head"]}
    network |= {"layer_norm": True, "positions": True, "activation": activation}
    return {"network": network, "tokens": said["vocab_size"], "steps": said["n_positions"]}


# --- Llama ------------------------------------------------------------------------------------------

LLAMA_PREFIX = "model."
LLAMA_NORMS = ("input_layernorm", "post_attention_layernorm")
LLAMA_SIZES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"),
    "max_position_embeddings",
)
LLAMA_FIXED: dict[str, tuple[Any, ...]] = {
    "rope_scaling": (None,),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "sliding_window": (None,),
    "partial_rotary_factor": (None, 1, 1.0),
    "pretraining_tp": (1, None),
    "quantization_config": (None,),
}
MAX_STEPS = 100_000  # of a config; rotary positions have no parameters, so that longer texts are read all the same


def from_llama(tensors: Mapping[str, Tensor], network: TransformerNetwork) -> dict[str, Tensor]:
    """Parameters by the names of the built-in transformer; what has no place there keeps its own name."""
    import torch

    left = {name.removeprefix(LLAMA_PREFIX): value for name, value in tensors.items()}
    left = {name: value for name, value in left.items() if not name.endswith("rotary_emb.inv_freq")}
    found: dict[str, Tensor] = {}
    if network.tied:
        kept, again = left.pop("embed_tokens.weight", None), left.pop("lm_head.weight", None)
        if again is not None and kept is not None and not torch.equal(again, kept):
            left["lm_head.weight"] = again  # not tied, whatever the config says: it is reported as one tensor too many
        if (kept := again if kept is None else kept) is not None:
            found["read_out.weight"] = kept
    else:
        if (embedding := left.pop("embed_tokens.weight", None)) is not None:
            found["read_in.weight"] = embedding.T.contiguous()
        if (head := left.pop("lm_head.weight", None)) is not None:
            found["read_out.weight"] = head
    rows = (network.width, *[network.shared_heads * network.head_size] * 2)
    for ours, theirs in _llama_names(network).items():
        parts = [left.get(name) for name in theirs]
        if any(part is None or part.dim() != (1 if ours.startswith("norms") else 2) for part in parts):
            continue  # named as missing, or reported as one of another shape
        given = [part for part in parts if part is not None]
        if ours.startswith("attend"):
            if [len(part) for part in given] != list(rows):
                continue
            given[0] = _regrouped(given[0], network)
        elif ours.startswith("gather") and given[0].shape[1] == network.width:
            given[0] = _regrouped(given[0].T, network).T.contiguous()
        if len({tuple(part.shape[1:]) for part in given}) == 1:
            found[ours] = torch.cat(given) if len(given) > 1 else given[0]
            for name in theirs:
                del left[name]
    return found | left


def to_llama(named: Mapping[str, Tensor], network: TransformerNetwork) -> dict[str, Tensor]:
    """The inverse. A tied file has the embedding alone."""
    found = {"lm_head.weight": named["read_out.weight"]}
    if network.tied:
        found = {f"{LLAMA_PREFIX}embed_tokens.weight": named["read_out.weight"]}
    else:
        found[f"{LLAMA_PREFIX}embed_tokens.weight"] = named["read_in.weight"].T.contiguous()
    shared = network.shared_heads * network.head_size
    for ours, theirs in _llama_names(network).items():
        value = named[ours]
        if ours.startswith("gather"):
            value = _regrouped(value.T, network, back=True).T.contiguous()
        sizes = {"attend": [network.width, shared, shared], "expand": [network.hidden_width] * 2}
        parts = list(value.split(sizes.get(ours.split(".")[0], [len(value)])))
        if ours.startswith("attend"):
            parts[0] = _regrouped(parts[0], network, back=True)
        found |= {f"{LLAMA_PREFIX}{name}": part.clone() for name, part in zip(theirs, parts, strict=True)}
    return found


def _llama_names(network: TransformerNetwork) -> dict[str, tuple[str, ...]]:
    """Our parameter -> theirs, whose rows lie one after another in it."""
    found: dict[str, tuple[str, ...]] = {f"norms.{2 * network.blocks}.weight": ("norm.weight",)}
    for block in range(network.blocks):
        at = f"layers.{block}"
        for number, norm in enumerate(LLAMA_NORMS):
            found[f"norms.{2 * block + number}.weight"] = (f"{at}.{norm}.weight",)
        found[f"attend.{block}.weight"] = tuple(f"{at}.self_attn.{part}_proj.weight" for part in "qkv")
        found[f"gather.{block}.weight"] = (f"{at}.self_attn.o_proj.weight",)
        found[f"expand.{block}.weight"] = tuple(f"{at}.mlp.{part}_proj.weight" for part in ("gate", "up"))
        found[f"contract.{block}.weight"] = (f"{at}.mlp.down_proj.weight",)
    return found


def _regrouped(rows: Tensor, network: TransformerNetwork, *, back: bool = False) -> Tensor:
    """Rows of query heads: theirs that share one head lie side by side, ours a set of shared heads apart."""
    apart = (network.shared_heads, network.queries)
    return rows.unflatten(0, (*(apart[::-1] if back else apart), network.head_size)).transpose(0, 1).flatten(0, 2)


def _config_of_llama(said: Mapping[str, Any]) -> dict[str, Any]:
    width, heads = said["hidden_size"], said["num_attention_heads"]
    if heads < 1 or said.get("head_dim") not in (None, width // heads):
        raise ValueError("`head_dim` must be null or `hidden_size` / `num_attention_heads`; export ONNX instead.")
    shared = said.get("num_key_value_heads")
    rope = said.get("rope_parameters") or {}
    if not isinstance(rope, Mapping) or rope.get("rope_type", "default") != "default":
        raise ValueError("Of `rope_parameters` only the `rope_type` `default` is computed here; export ONNX instead.")
    network = {
        "kind": "transformer",
        "width": width,
        "blocks": said["num_hidden_layers"],
        "heads": heads,
        "key_value_heads": None if shared == heads else shared,
        "hidden": said["intermediate_size"],
        "activation": _activation(said, "hidden_act", "silu"),
        "gated": True,
        "rotary": rope.get("rope_theta", said.get("rope_theta", 10_000.0)),
        "layer_norm": True,
        "norm": "rms",
        "norm_epsilon": said.get("rms_norm_eps", 1e-6),
        "biases": False,
        "tied": said.get("tie_word_embeddings", False),
    }
    return {"network": network, "tokens": said["vocab_size"], "steps": min(said["max_position_embeddings"], MAX_STEPS)}


# --- config.json ------------------------------------------------------------------------------------

LAYOUTS = {"gpt2": (from_gpt2, to_gpt2), "llama": (from_llama, to_llama)}
"""`layout` of a NetworkConfig -> tensors of a file as parameters, and back."""

MODELS = {
    "gpt2": (SIZES, FIXED, _config_of_gpt2),
    "llama": (LLAMA_SIZES, LLAMA_FIXED, _config_of_llama),
}
"""`model_type` -> sizes that it must give, fields that must have these values, what it is here."""


def config_of(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a `NetworkConfig` says, from the fields of a config.json; those that change nothing are passed over.

    Raises ValueError with a sentence for another model, a missing field, and what the built-in transformer has not.
    """
    kind = said.get("model_type")
    if not isinstance(kind, str) or kind not in MODELS:
        raise ValueError(
            f"`model_type` {str(kind)[:40]!r} is not read from weights; of config.json files those of "
            f"{' and '.join(f'`{name}`' for name in MODELS)} are. Export the network as ONNX."
        )
    sizes, fixed, config = MODELS[kind]
    missing = [name for name in sizes if type(said.get(name)) is not int]
    if missing:
        raise ValueError(f"The config.json of a `{kind}` network needs whole numbers in {', '.join(missing)}.")
    for name, allowed in fixed.items():
        if said.get(name, allowed[0]) not in allowed:
            wanted = "null" if allowed[0] is None else json.dumps(allowed[0])
            raise ValueError(f"`{name}` must be {wanted}; export the network as ONNX instead.")
    found = config(said)
    tokens = found["tokens"]
    return found | {"task": "classification", "layout": kind, "inputs": tokens, "targets": tokens}


def _activation(said: Mapping[str, Any], field: str, default: str) -> str:
    """The built-in transformer's name of an activation function."""
    activation = str(said.get(field, default))
    if activation not in ACTIVATIONS:
        raise ValueError(f"`{field}` {activation[:40]!r} is not known here: {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[activation]
