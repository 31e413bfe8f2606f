"""Weights and config.json of GPT-2 and Llama: the same function here, and their names on the way back."""

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
        ({"model_type": "bert"}, "as ONNX"), ({"model_type": ["gpt2"]}, "as ONNX"),
        ({"n_inner": 20}, "n_inner"), ({"activation_function": "mish"}, "mish"),
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


@pytest.mark.parametrize("config", ["CONFIG", "LLAMA"])
def test_the_api_reads_a_config_without_torch(config: str) -> None:
    program = "import sys, json; from bimt_engine.spec import NetworkConfig; "
    program += "NetworkConfig.model_validate(json.loads(sys.argv[1])); sys.exit('torch' in sys.modules)"
    said = json.dumps(globals()[config])
    assert subprocess.run([sys.executable, "-c", program, said], check=False).returncode == 0


# --- Llama ------------------------------------------------------------------------------------------

LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 24,
    "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
    "vocab_size": 17, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 500.0, "rope_scaling": None,
    "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "initializer_range": 0.02, "attention_dropout": 0.0, "use_cache": True,
}  # fmt: skip


def llama_tensors(*, shared: int = 2, tied: bool = False, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Weights as Llama names them, with the table of frequencies that older files hold."""
    torch.manual_seed(101)
    found = {"model.embed_tokens.weight": torch.randn(17, 24), "model.norm.weight": torch.rand(24) + 0.5}
    for block in range(2):
        shapes = {"self_attn.q_proj": (24, 24), "self_attn.k_proj": (4 * shared, 24)}
        shapes |= {"self_attn.v_proj": (4 * shared, 24), "self_attn.o_proj": (24, 24)}
        shapes |= {"mlp.gate_proj": (20, 24), "mlp.up_proj": (20, 24), "mlp.down_proj": (24, 20)}
        for name, shape in shapes.items():
            found[f"model.layers.{block}.{name}.weight"] = 0.3 * torch.randn(*shape)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"model.layers.{block}.{norm}.weight"] = torch.rand(24) + 0.5
        found[f"model.layers.{block}.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    found |= {} if tied else {"lm_head.weight": torch.randn(17, 24)}
    return {name: value.to(dtype) for name, value in found.items()}


def llama(given: dict[str, Tensor], tokens: Tensor, *, shared: int = 2, base: float = 500.0) -> Tensor:
    """What Llama computes, written down from its definition; positions as complex numbers, heads one after another."""
    w = {name.removeprefix("model."): value.double() for name, value in given.items()}
    x = w["embed_tokens.weight"][tokens]
    time = tokens.shape[1]
    turn = torch.polar(
        torch.ones(time, 2, dtype=torch.float64),
        torch.outer(torch.arange(time).double(), torch.tensor([1.0, base**-0.5], dtype=torch.float64)),
    )

    def norm(x: Tensor, name: str) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * w[f"{name}.weight"]

    def turned(x: Tensor) -> Tensor:  # (batch, time, 4), pairs (0, 2) and (1, 3)
        pairs = torch.complex(x[..., :2].contiguous(), x[..., 2:].contiguous()) * turn
        return torch.cat((pairs.real, pairs.imag), -1)

    for block in range(2):
        at = f"layers.{block}"
        here = norm(x, f"{at}.input_layernorm")
        q, k, v = (here @ w[f"{at}.self_attn.{part}_proj.weight"].T for part in "qkv")
        mixed = []
        for head in range(6):
            of = 4 * (head * shared // 6)
            query, key = turned(q[..., 4 * head : 4 * head + 4]), turned(k[..., of : of + 4])
            scores = (query @ key.transpose(1, 2) / 2.0).masked_fill(torch.ones(time, time).triu(1).bool(), -torch.inf)
            mixed.append(scores.softmax(-1) @ v[..., of : of + 4])
        x = x + torch.cat(mixed, -1) @ w[f"{at}.self_attn.o_proj.weight"].T
        here = norm(x, f"{at}.post_attention_layernorm")
        gate, up = (here @ w[f"{at}.mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        x = x + (gate * torch.sigmoid(gate) * up) @ w[f"{at}.mlp.down_proj.weight"].T
    return norm(x, "norm") @ w.get("lm_head.weight", w["embed_tokens.weight"]).T


@pytest.mark.parametrize("shared", [1, 2, 6])
@pytest.mark.parametrize("tied", [False, True])
def test_a_file_of_llama_computes_what_llama_does_and_comes_back(shared: int, tied: bool) -> None:
    given = llama_tensors(shared=shared, tied=tied, dtype=torch.bfloat16 if shared == 1 else torch.float32)
    said = LLAMA | {"num_key_value_heads": shared, "tie_word_embeddings": tied}
    content, config = save(given), NetworkConfig.model_validate(said).model_dump(mode="json")
    assert config["layout"] == "llama"
    network = engine_network(content, "safetensors", config)
    torch.testing.assert_close(network(TOKENS), llama(given, TOKENS, shared=shared), rtol=0, atol=1e-9)
    short = TOKENS[:, :5]
    torch.testing.assert_close(network(short), llama(given, short, shared=shared), rtol=0, atol=1e-9)
    assert network.wiring.layer("attention1").blocks == shared
    assert network.wiring.layer("attention1").moves == "blocks", "rotary positions pair neurons of a head"
    with torch.no_grad():  # as a training would leave it
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    back = with_numbers_of(network, content, "safetensors", config)
    named = load(back)
    kept = {name: tuple(value.shape) for name, value in given.items() if not name.endswith("inv_freq")}
    assert {name: tuple(value.shape) for name, value in named.items()} == kept
    torch.testing.assert_close(llama(named, TOKENS, shared=shared), network(TOKENS), rtol=0, atol=1e-9)
    again = engine_network(back, "safetensors", None)  # its config stands in the file
    torch.testing.assert_close(again(TOKENS), network(TOKENS), rtol=0, atol=1e-9)


def test_the_base_of_rotary_positions_stands_in_newer_configs_under_rope_parameters() -> None:
    said = {name: value for name, value in LLAMA.items() if name not in ("rope_theta", "rope_scaling")}
    read = NetworkConfig.model_validate(said | {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}})
    assert read == NetworkConfig.model_validate(LLAMA)
    assert NetworkConfig.model_validate(said).network.rotary == 10_000.0
    assert NetworkConfig.model_validate(LLAMA | {"max_position_embeddings": 131_072}).steps == 100_000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "`rope_scaling` must be null"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 500.0}}, "rope_parameters"),
        ({"rope_parameters": [1]}, "rope_parameters"), ({"sliding_window": 128}, "`sliding_window` must be null"),
        ({"attention_bias": True}, "`attention_bias` must be false"), ({"mlp_bias": True}, "mlp_bias"),
        ({"head_dim": 8}, "head_dim"), ({"num_attention_heads": 0}, "head_dim"), ({"hidden_act": "mish"}, "mish"),
        ({"num_key_value_heads": 4}, "must divide"), ({"num_attention_heads": 8}, "an even number"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"), ({"pretraining_tp": 2}, "pretraining_tp"),
        ({"hidden_size": 2048, "head_dim": None}, "width"), ({"num_hidden_layers": 80}, "blocks"),
        ({"intermediate_size": 14_336}, "hidden"), ({"vocab_size": 10**9}, "tokens"),
        ({"vocab_size": None}, "vocab_size"),
        ({"rope_theta": "big"}, "rotary"), ({"rope_theta": -1.0}, "rotary"), ({"rms_norm_eps": 0}, "norm_epsilon"),
        ({"hidden_size": [24]}, "hidden_size"), ({"model_type": "mistral"}, "as ONNX"),
    ],
)  # fmt: skip
def test_what_is_no_llama_of_ours_is_refused_with_a_sentence(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        NetworkConfig.model_validate(LLAMA | change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), r"lacks `expand\.1\.weight`"),
        (lambda t: t.pop("model.embed_tokens.weight"), r"lacks `read_in\.weight`"),
        (lambda t: t.update({"model.layers.0.self_attn.k_proj.weight": torch.zeros(12, 24)}), r"lacks `attend\.0\.w"),
        (lambda t: t.update({"model.layers.0.self_attn.o_proj.weight": torch.zeros(24, 20)}), r"`gather\.0\.weight`"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(7)}), r"`norms\.4\.weight` is"),
        (lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(24)}), r"also holds `layers\.0\.self"),
    ],
)  # fmt: skip
def test_a_file_of_llama_that_is_not_as_its_config_says_is_refused(change: Any, words: str) -> None:
    given = llama_tensors()
    change(given)
    with pytest.raises(NetworkFileError, match=words):
        read_network(save(given), "safetensors", LLAMA)


def test_a_tied_config_with_another_head_in_the_file_is_refused() -> None:
    given = llama_tensors()
    with pytest.raises(NetworkFileError, match=r"also holds `lm_head\.weight`"):
        read_network(save(given), "safetensors", LLAMA | {"tie_word_embeddings": True})
    given["lm_head.weight"] = given["model.embed_tokens.weight"].clone()
    assert read_network(save(given), "safetensors", LLAMA | {"tie_word_embeddings": True}).architecture.tied
