"""Weights and config.json of GPT-2: the same function here, and the same file with other numbers on the way back."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

from bimt_engine.networks.files.onnx_file import NetworkFileError
from bimt_engine.networks.files.reading import engine_network, read_network, with_numbers_of
from bimt_engine.spec import NetworkConfig

CONFIG: dict[str, Any] = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new", "n_embd": 12,
    "n_layer": 2, "n_head": 3, "vocab_size": 17, "n_positions": 8, "n_ctx": 8, "layer_norm_epsilon": 1e-5,
    "n_inner": None, "attn_pdrop": 0.1, "initializer_range": 0.02,
}  # fmt: skip


def tensors(*, prefix: str = "transformer.", head: bool = False) -> dict[str, Tensor]:
    """Weights as GPT-2 names them, masks of older files included."""
    torch.manual_seed(100)
    found = {"wte.weight": torch.randn(17, 12), "wpe.weight": torch.randn(8, 12)}
    for block in range(2):
        shapes = {"attn.c_attn": (12, 36), "attn.c_proj": (12, 12), "mlp.c_fc": (12, 48), "mlp.c_proj": (48, 12)}
        for name, (rows, columns) in shapes.items():
            found[f"h.{block}.{name}.weight"] = 0.3 * torch.randn(rows, columns)
            found[f"h.{block}.{name}.bias"] = 0.3 * torch.randn(columns)
        for norm in ("ln_1", "ln_2"):
            found |= {f"h.{block}.{norm}.weight": torch.rand(12) + 0.5, f"h.{block}.{norm}.bias": torch.randn(12)}
        found[f"h.{block}.attn.bias"] = torch.ones(1, 1, 8, 8)
    found |= {"ln_f.weight": torch.rand(12) + 0.5, "ln_f.bias": torch.randn(12)}
    named = {f"{prefix}{name}": value for name, value in found.items()}
    return named | ({"lm_head.weight": torch.randn(17, 12)} if head else {})


def gpt2(given: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """What GPT-2 computes, written down from its definition: x @ W + b, where W lies (in, out)."""
    w = {name.removeprefix("transformer."): value.double() for name, value in given.items()}
    x = w["wte.weight"][tokens] + w["wpe.weight"][: tokens.shape[1]]

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, (12,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    def conv1d(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    for block in range(2):
        at = f"h.{block}"
        heads = conv1d(norm(x, f"{at}.ln_1"), f"{at}.attn.c_attn").split(12, -1)
        q, k, v = (part.unflatten(-1, (3, 4)).transpose(1, 2) for part in heads)
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + conv1d(mixed, f"{at}.attn.c_proj")
        up = gelu(conv1d(norm(x, f"{at}.ln_2"), f"{at}.mlp.c_fc"), approximate="tanh")
        x = x + conv1d(up, f"{at}.mlp.c_proj")
    out = norm(x, "ln_f") @ w.get("lm_head.weight", w["wte.weight"]).T
    return out + w.get("lm_head.bias", torch.zeros(17))


TOKENS = torch.randint(17, (5, 8), generator=torch.Generator().manual_seed(100))


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("head", [False, True])
def test_a_file_of_gpt2_computes_what_gpt2_does_and_comes_back(prefix: str, head: bool) -> None:
    given = tensors(prefix=prefix, head=head)
    content, config = save(given), NetworkConfig.model_validate(CONFIG).model_dump(mode="json")
    assert config["layout"] == "gpt2"
    network = engine_network(content, "safetensors", config)
    expected = gpt2(given, TOKENS)
    torch.testing.assert_close(network(TOKENS), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(network(TOKENS[:, :5]), gpt2(given, TOKENS[:, :5]), rtol=0, atol=1e-9)
    with torch.no_grad():  # as a training would leave it
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    back = with_numbers_of(network, content, "safetensors", config)
    torch.testing.assert_close(gpt2(load(back), TOKENS), network(TOKENS), rtol=0, atol=1e-9)
    again = engine_network(back, "safetensors", None)  # its config stands in the file
    torch.testing.assert_close(again(TOKENS), network(TOKENS), rtol=0, atol=1e-9)


def test_a_config_json_may_stand_in_the_metadata_of_the_file() -> None:
    given = tensors()
    network = read_network(save(given, {"config": json.dumps(CONFIG)}), "safetensors")
    torch.testing.assert_close(network(TOKENS), gpt2(given, TOKENS), rtol=0, atol=1e-9)
    assert isinstance(network, nn.Module)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "llama"}, "as ONNX"), ({"n_inner": 20}, "n_inner"), ({"activation_function": "mish"}, "mish"),
        ({"layer_norm_epsilon": 1e-3}, "layer_norm_epsilon"), ({"n_head": 5}, "must divide"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn"), ({"n_embd": None}, "n_embd"),
        ({"n_embd": "12"}, "n_embd"), ({"n_embd": []}, "n_embd"), ({"activation_function": []}, "not known"),
        ({"n_layer": 10**9}, "blocks"),
    ],
)  # fmt: skip
def test_what_the_built_in_transformer_has_not_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        NetworkConfig.model_validate({name: value for name, value in (CONFIG | change).items() if value is not None})


def test_a_file_that_lacks_a_tensor_is_refused() -> None:
    given = tensors()
    del given["transformer.h.1.ln_2.bias"]
    with pytest.raises(NetworkFileError, match=r"lacks `norms\.3\.bias`"):
        read_network(save(given), "safetensors", CONFIG)


def test_the_api_reads_a_config_without_torch() -> None:
    program = "import sys, json; from bimt_engine.spec import NetworkConfig; "
    program += "NetworkConfig.model_validate(json.loads(sys.argv[1])); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program, json.dumps(CONFIG)], check=False).returncode == 0
