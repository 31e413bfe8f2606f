"""Every architecture says the truth about its wiring, and positions are where the paper puts them."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from bimt_engine.errors import SpecError
from bimt_engine.networks.conv import ConvNetwork
from bimt_engine.networks.geometry import SHAPES, place_layers
from bimt_engine.networks.mlp import GridMlpNetwork, MlpNetwork
from bimt_engine.networks.network import Network, build_network
from bimt_engine.networks.recurrent import GruNetwork, RecurrentNetwork
from bimt_engine.networks.transformer import TransformerNetwork, attention
from bimt_engine.networks.wiring import WeightLayer, Wiring
from tests.engine.makers import build, image_data, sequence_data, table_data, text_data, token_data


def as_tensor(data, part="train_inputs"):
    values = torch.as_tensor(getattr(data, part))
    return values if values.dtype == torch.int64 else values.double()


def test_every_port_is_as_long_as_its_neuron_layer(architecture: str) -> None:
    network, _ = build(architecture)
    parameters = dict(network.named_parameters())
    for layer in network.wiring.neuron_layers:
        for port in layer.ports:
            assert parameters[port.parameter].shape[port.axis] == port.copies * layer.neurons, (layer.name, port)


def test_every_axis_of_every_parameter_is_a_port_but_the_vocabulary_and_the_time(architecture: str) -> None:
    network, _ = build(architecture)
    ports = [(port.parameter, port.axis) for layer in network.wiring.neuron_layers for port in layer.ports]
    assert len(ports) == len(set(ports))
    for name, parameter in network.named_parameters():
        for axis in range(parameter.dim()):
            assert (name, axis) in ports or (name, axis) in (("embedding", 0), ("positions", 0))


def test_weight_layers_and_ports_tell_the_same_story(architecture: str) -> None:
    network, _ = build(architecture)
    wiring, parameters = network.wiring, dict(network.named_parameters())
    for weights in wiring.weight_layers:
        assert wiring.lengths(weights).shape == parameters[weights.parameter].shape
        source, target = wiring.layer(weights.source), wiring.layer(weights.target)
        assert any(p.parameter == weights.parameter and p.copies == weights.source_copies for p in source.ports)
        assert any(p.parameter == weights.parameter and p.copies == weights.target_copies for p in target.ports)
        if weights.bias is not None:
            assert any(p.parameter == weights.bias for p in target.ports)


def with_ports(wiring: Wiring, change) -> Wiring:
    """The wiring with each port of a layer as `change` gives it back; None takes it away."""
    layers = tuple(
        replace(layer, ports=tuple(new for port in layer.ports if (new := change(layer, port)) is not None))
        for layer in wiring.neuron_layers
    )
    return replace(wiring, neuron_layers=layers)


def test_a_port_that_a_weight_layer_needs_cannot_be_forgotten_or_have_other_copies(architecture: str) -> None:
    wiring = build(architecture)[0].wiring
    needed = [(w.target, w.parameter, 0) for w in wiring.weight_layers]
    needed += [(w.source, w.parameter, 1) for w in wiring.weight_layers]
    needed += [(w.target, w.bias, 0) for w in wiring.weight_layers if w.bias is not None]
    for layer, parameter, axis in needed:

        def wrong(port, owner, *, ports=(layer, parameter, axis)):
            return (owner.name, port.parameter, port.axis) == ports

        said = rf"neuron layer '{layer}' needs Port\('{parameter}', {axis}, "
        with pytest.raises(ValueError, match=said):
            with_ports(wiring, lambda owner, port, wrong=wrong: None if wrong(port, owner) else port)
        with pytest.raises(ValueError, match=said):
            with_ports(wiring, lambda owner, port, wrong=wrong: replace(port, copies=5) if wrong(port, owner) else port)


def test_a_parameter_is_as_long_as_its_ports_say(architecture: str) -> None:
    network, _ = build(architecture)
    parameters = dict(network.named_parameters())
    for layer in network.wiring.neuron_layers:
        port = layer.ports[-1]
        longer = torch.cat([parameters[port.parameter]] * 2, dim=port.axis)
        with pytest.raises(ValueError, match=f"axis {port.axis} of '{port.parameter}' must have"):
            Network(network.architecture, network.wiring, parameters | {port.parameter: longer})
        fewer = {name: value for name, value in parameters.items() if name != port.parameter}
        with pytest.raises(ValueError, match=f"there is no parameter '{port.parameter}'"):
            Network(network.architecture, network.wiring, fewer)


def test_names_of_layers_and_of_roles_are_checked() -> None:
    wiring = build("recurrent")[0].wiring
    first, *others = wiring.neuron_layers
    with pytest.raises(ValueError, match="must be called 'input'"):
        replace(wiring, neuron_layers=(replace(first, name="entry"), *others))
    with pytest.raises(ValueError, match="must be called 'input'"):
        replace(wiring, neuron_layers=(first, *others[:-1], replace(others[-1], name="exit")))
    with pytest.raises(ValueError, match="names 'nowhere'"):
        replace(wiring, weight_layers=(replace(wiring.weight_layers[0], target="nowhere"),))
    with pytest.raises(ValueError, match="2 roles for 3 target copies"):
        WeightLayer("read", "input", "hidden1", target_copies=3, roles=("keep", "write"))


def test_what_is_recorded_of_a_sequence_holds_every_time_step(architecture: str) -> None:
    network, data = build(architecture)
    if not data.is_sequence:
        pytest.skip("no sequences")
    steps = data.train_inputs.shape[1]
    _, seen = network.forward_with_hooks(as_tensor(data))
    for layer in network.wiring.neuron_layers:
        time, *copies = (seen[layer.name].shape[axis] for axis in layer.samples)
        assert time == steps, layer.name
        assert copies in ([], [getattr(network.architecture, "queries", None)]), layer.name


def test_hooks_see_the_outputs_of_forward_and_every_activation(architecture: str) -> None:
    network, data = build(architecture)
    x = as_tensor(data)
    outputs, seen = network.forward_with_hooks(x)
    assert torch.equal(outputs, network(x))
    assert set(seen) == {layer.name for layer in network.wiring.neuron_layers}
    for layer in network.wiring.neuron_layers:
        places = layer.to_places(seen[layer.name])
        assert places.dim() == 2 + len(layer.samples)
        assert places.shape[-1] == layer.places
        assert torch.equal(layer.from_places(places), seen[layer.name])


def test_an_edit_flows_on(architecture: str) -> None:
    network, data = build(architecture)
    x = as_tensor(data)
    plain = network(x)
    for layer in network.wiring.neuron_layers:
        same, _ = network.forward_with_hooks(x, lambda name, activation: activation)
        assert torch.equal(same, plain)
        changed, _ = network.forward_with_hooks(
            x, lambda name, activation, at=layer.name: torch.zeros_like(activation) if name == at else activation
        )
        assert not torch.allclose(changed, plain), layer.name


def test_a_network_is_drawn_by_its_generator_alone(architecture: str) -> None:
    one, again, other = (build(architecture, seed=seed)[0] for seed in (3, 3, 4))
    for a, b in zip(one.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_float32_starts_where_float64_does(architecture: str) -> None:
    exact, _ = build(architecture, precision="float64")
    short, _ = build(architecture, precision="float32")
    for a, b in zip(exact.parameters(), short.parameters(), strict=True):
        assert torch.equal(a.float(), b)


def test_a_causal_transformer_does_not_look_ahead() -> None:
    network, data = build("transformer")
    x = as_tensor(data)
    later = x.clone()
    later[:, -1] += 1
    before, after = network(x), network(later)
    torch.testing.assert_close(before[:, :-1], after[:, :-1], rtol=0, atol=0)
    assert not torch.allclose(before[:, -1], after[:, -1])


def test_attention_agrees_with_torch() -> None:
    network, _ = build("transformer")
    heads = network.architecture.heads
    rows = torch.randn(5, 3, 3 * 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    query, key, value = (part.view(5, 3, heads, -1).transpose(1, 2) for part in rows.chunk(3, dim=-1))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(attention(rows, heads), expected.transpose(1, 2).reshape(5, 3, -1))


def test_no_step_of_a_text_sees_a_later_one_and_order_matters_by_positions_alone() -> None:
    network, data = build("text transformer")
    x = torch.from_numpy(data.test_inputs)
    later = x.clone()
    later[:, 2:] = (later[:, 2:] + 1) % 5
    assert torch.equal(network(later)[:, :2], network(x)[:, :2])
    assert not torch.equal(network(later)[:, 2:], network(x)[:, 2:])
    torch.testing.assert_close(network(x[:, :3]), network(x)[:, :3])  # fewer steps than it was built for
    swapped = x[:, [1, 0, 2, 3]]
    apart = x[:, 0] != x[:, 1]
    assert not torch.allclose(network(swapped)[apart, -1], network(x)[apart, -1])
    with torch.no_grad():
        network.positions.zero_()
    torch.testing.assert_close(network(swapped)[:, -1], network(x)[:, -1])


def test_a_token_is_the_neuron_of_its_slot() -> None:
    network, data = build("text transformer")
    x = torch.from_numpy(data.test_inputs)
    before, order = network(x), torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        network.read_in.weight.copy_(network.read_in.weight[:, order].clone())
    network.adopt_orders({"input": order})
    torch.testing.assert_close(network(x), before)
    assert torch.equal(network.forward_with_hooks(x)[0], network(x))


def test_root_mean_square_norms_are_those_of_torch() -> None:
    network, data = build("text transformer")
    seen = network.forward_with_hooks(torch.from_numpy(data.test_inputs))[1]
    norm = torch.nn.RMSNorm(6, eps=1e-5).double()
    with torch.no_grad():
        network.norms[2].weight.uniform_(generator=torch.Generator().manual_seed(0))
        norm.weight.copy_(network.norms[2].weight)
    read = torch.nn.functional.linear(norm(seen["residual"]), network.read_out.weight, network.read_out.bias)
    torch.testing.assert_close(network(torch.from_numpy(data.test_inputs)), read)
    assert not [name for name, _ in network.named_parameters() if name.startswith("norms") and name.endswith("bias")]


def test_the_gated_network_agrees_with_torch() -> None:
    network, data = build("gru")
    theirs = torch.nn.GRU(data.inputs, 5, batch_first=True).double()
    ours = (network.read_in, network.recur, network.hidden_bias, network.recur_bias)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours, strict=True)))
    x = torch.from_numpy(data.test_inputs)
    expected = torch.nn.functional.linear(theirs(x)[0], network.read_out, network.output_bias)
    torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-14)


def test_the_recurrent_network_agrees_with_torch() -> None:
    network, data = build("recurrent")
    x = as_tensor(data)
    reference = torch.nn.RNN(3, 6, batch_first=True).double()
    with torch.no_grad():
        reference.weight_ih_l0.copy_(network.read_in)
        reference.weight_hh_l0.copy_(network.recur)
        reference.bias_ih_l0.copy_(network.hidden_bias)
        reference.bias_hh_l0.zero_()
    torch.testing.assert_close(network.forward_with_hooks(x)[1]["hidden1"], reference(x)[0])


def test_a_line_puts_neuron_i_of_n_at_i_and_a_half() -> None:
    assert SHAPES["line"](4)[:, 0].tolist() == [0.125, 0.375, 0.625, 0.875]


def test_hemispheres_are_near_within_and_far_between() -> None:
    positions = SHAPES["hemispheres"](9)[:, 0]
    apart = (positions[:, None] - positions).abs()
    left, right = slice(0, 4), slice(4, 9)
    assert apart[left, left].max() < 0.1
    assert apart[right, right].max() < 0.1
    assert apart[left, right].min() > 0.8
    assert SHAPES["hemispheres"](1).item() == 0.5


def test_a_grid_is_row_major() -> None:
    positions = SHAPES["grid"](9)
    assert positions[1].tolist() == pytest.approx([0.5, 1 / 6])
    assert positions[3].tolist() == pytest.approx([1 / 6, 0.5])


def test_a_ring_has_a_radius_of_a_quarter() -> None:
    positions = SHAPES["ring"](10) - 0.5
    assert positions.norm(dim=1).tolist() == pytest.approx([0.25] * 10)
    assert math.atan2(positions[0, 1], positions[0, 0]) == pytest.approx(math.pi / 10)


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("neurons", [1, 2, 5, 8, 27, 30])
def test_no_two_neurons_share_a_place(shape: str, neurons: int) -> None:
    positions = SHAPES[shape](neurons)
    assert positions.shape[0] == neurons == len({tuple(p) for p in positions.tolist()})
    assert positions.min() > 0
    assert positions.max() < 1


def test_layers_of_different_shapes_lie_in_one_space() -> None:
    line, ring = place_layers([3, 4], ["line", "ring"])
    assert line.shape == (3, 2)
    assert line[:, 1].tolist() == [0.5] * 3
    assert ring.shape == (4, 2)


def test_custom_coordinates_are_taken_as_they_are() -> None:
    points = [[[0.0, 0.0], [1.0, 0.0]], [[0.0, 2.0]], [[0.5, 3.0]]]
    spec = MlpNetwork(hidden=[1], coordinates=points)
    network = build_network(spec, table_data(2, 1), generator=torch.Generator())
    assert [layer.positions.tolist() for layer in network.wiring.neuron_layers] == points
    assert network.wiring.distances(network.wiring.weight_layers[0]).tolist() == [[2.0, 3.0]]


@pytest.mark.parametrize(
    ("spec", "data", "word"),
    [
        (MlpNetwork(hidden=[3]), token_data(), "embedding_width"),
        (MlpNetwork(hidden=[3], embedding_width=2), table_data(), "embedding_width"),
        (MlpNetwork(hidden=[3]), sequence_data(), "sequences"),
        (GridMlpNetwork(hidden=[4]), token_data(), "grid_mlp"),
        (TransformerNetwork(), table_data(), "transformer"),
        (RecurrentNetwork(), table_data(), "recurrent"),
        (GruNetwork(), table_data(), "gru"),
        (GruNetwork(), text_data(), "gru"),
        (RecurrentNetwork(), text_data(), "recurrent"),
        (MlpNetwork(hidden=[3], embedding_width=2), text_data(), "sequences"),
        (ConvNetwork(), table_data(3, 2), "square images"),
        (ConvNetwork(), sequence_data(), "square images"),
        (ConvNetwork(colours=3), image_data(), "square images of 3 colours"),
        (MlpNetwork(hidden=[3], coordinates=[[[0.0]]]), table_data(), "coordinates"),
        (MlpNetwork(hidden=[2], coordinates=[[[0.0]] * 4, [[0.0]], [[0.0]] * 2]), table_data(), r"coordinates\[1\]"),
    ],
)
def test_a_network_that_does_not_fit_its_data_is_refused_in_a_sentence(spec, data, word: str) -> None:
    with pytest.raises(SpecError, match=word):
        build_network(spec, data, generator=torch.Generator())


def test_specs_are_read_where_neither_torch_nor_jaxtyping_are_installed() -> None:
    code = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "jaxtyping"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
from bimt_engine.spec import Spec, spec_schema
from bimt_engine.networks.architecture import architectures
kinds = {each.model_fields["kind"].default for each in architectures()}
assert kinds >= {"mlp", "grid_mlp", "transformer", "recurrent", "gru", "conv"}
assert "ConvNetwork" in spec_schema()["$defs"]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fast_paths_take_what_is_a_chain_by_its_wiring(architecture: str) -> None:
    network, _ = build(architecture)
    chain = network.wiring.chain
    assert (chain is not None) is (network.kind in ("mlp", "grid_mlp"))
    if chain is not None:
        assert chain.weights == tuple(weights.parameter for weights in network.wiring.weight_layers)
        assert chain.activation == network.architecture.activation or len(network.wiring.neuron_layers) == 2
