"""A downloaded network gives the numbers of the network that was saved, whatever its kind."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bimt import WeightsError, columns
from bimt.columns import UnreadableCell, inputs_of
from bimt.networks import load_network, read_weights
from bimt_engine.data.dataset import Dataset, Scaling
from bimt_engine.data.encoding import ColumnSpec, TableEncoding
from bimt_engine.data.encoding import UnreadableCell as ServiceUnreadableCell
from bimt_engine.data.readers import Column, cells
from bimt_engine.exports.weights import load_weights, weights_file
from bimt_engine.networks.network import build_network
from bimt_engine.spec import Spec
from worker.predicting import predict

ROWS = 9


def table() -> Dataset:
    """A standardised regression of two targets on four columns."""
    inputs = np.random.default_rng(0).normal(3, 2, (ROWS, 4))
    targets = inputs[:, :2] * 5 - 1
    scaled = Scaling.of(inputs), Scaling.of(targets)
    parts = scaled[0].apply(inputs), scaled[1].apply(targets)
    return Dataset(
        *parts, *parts, "regression", ("a", "b", "c", "d"), ("y1", "y2"),
        input_scaling=scaled[0], target_scaling=scaled[1],
    )  # fmt: skip


def tokens() -> Dataset:
    """Sums modulo 5 of two tokens."""
    inputs = np.random.default_rng(1).integers(0, 5, (ROWS, 2))
    labels = inputs.sum(1) % 5
    return Dataset(inputs, labels, inputs, labels, "classification", ("a", "b"), tuple("01234"), tokens=5)


def sequences() -> Dataset:
    """Sequences of four steps, of which the third is predicted."""
    inputs = np.random.default_rng(2).normal(size=(ROWS, 4, 3))
    targets = inputs[..., :1]
    return Dataset(inputs, targets, inputs, targets, "regression", ("a", "b", "c"), ("y",), predicted_positions=(2,))


def text() -> Dataset:
    """Windows of four tokens, each with the one that follows it."""
    windows = np.random.default_rng(4).integers(0, 7, (ROWS, 5))
    parts = windows[:, :-1], windows[:, 1:]
    return Dataset(*parts, *parts, "classification", tuple("abcdefg"), tuple("abcdefg"), tokens=7)


def images() -> Dataset:
    """Three colours of 6 × 6 pixels, one after another."""
    inputs = np.random.default_rng(3).normal(size=(ROWS, 108))
    names = tuple(f"pixel {number}" for number in range(108))
    labels = np.arange(ROWS) % 4
    return Dataset(inputs, labels, inputs, labels, "classification", names, tuple("abcd"))


KINDS = {
    "mlp": ({"kind": "mlp", "hidden": [6, 5], "activation": "gelu"}, table),
    "mlp without a hidden layer": ({"kind": "mlp", "hidden": []}, table),
    "mlp over tokens": ({"kind": "mlp", "hidden": [7], "embedding_width": 3}, tokens),
    "grid_mlp": ({"kind": "grid_mlp", "hidden": [9], "activation": "relu"}, table),
    "recurrent": ({"kind": "recurrent", "hidden": 6}, sequences),
    "gru": ({"kind": "gru", "hidden": 5}, sequences),
    "transformer": ({"kind": "transformer", "width": 8, "blocks": 2, "heads": 2}, sequences),
    "transformer over text": ({"kind": "transformer", "width": 8, "positions": True}, text),
    "transformer over text with rms norms": (
        {"kind": "transformer", "width": 8, "heads": 2, "layer_norm": True, "norm": "rms"},
        text,
    ),
    "conv": ({"kind": "conv", "channels": [4, 5], "colours": 3}, images),
    "conv without norm": (
        {
            "kind": "conv",
            "channels": [4, 3, 3],
            "colours": 3,
            "batch_norm": False,
            "residual": False,
            "pooling": "mean",
        },
        images,
    ),
    "transformer with norms": ({"kind": "transformer", "width": 6, "layer_norm": True}, sequences),
}


def saved(kind: str) -> tuple[bytes, Dataset]:
    """A weights file of this kind whose neurons have all been exchanged, some of its weights cut."""
    network_spec, make = KINDS[kind]
    dataset = make()
    spec = Spec.model_validate({"dataset": {"kind": "two_moons"}, "network": network_spec})
    networks = []
    for seed in (1, 2):
        network = build_network(spec.network, dataset, generator=torch.Generator().manual_seed(seed))
        shuffled = torch.Generator().manual_seed(seed + 10)
        network.adopt_orders(
            {name: torch.randperm(len(order), generator=shuffled) for name, order in network.orders.items()}
        )
        networks.append(network)
    with torch.no_grad():
        for parameter in networks[1].parameters():
            parameter[parameter.abs() < 0.1] = 0
    return weights_file(networks[0], networks[1], spec=spec, seed=4, dataset=dataset), dataset


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_gives_the_engine_s_own_numbers_bit_for_bit(kind):
    content, dataset = saved(kind)
    x = torch.from_numpy(dataset.test_inputs)
    theirs = load_weights(content)
    assert torch.equal(load_network(content)(x), theirs.network(x))
    assert torch.equal(load_network(content, trained=True)(x), theirs.trained(x))


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_and_masks_have_the_names_of_the_file(kind):
    content, _ = saved(kind)
    network, theirs = load_network(content), load_weights(content)
    assert {name: p.shape for name, p in network.named_parameters()} == {
        name: p.shape for name, p in theirs.network.named_parameters()
    }
    assert network.masks.keys() == theirs.masks.keys()
    assert all(torch.equal(kept, theirs.masks[name]) for name, kept in network.masks.items())
    assert network.seed == 4
    assert network.spec == theirs.spec.model_dump(mode="json")


def test_predictions_are_in_the_units_of_the_data():
    content, dataset = saved("mlp")
    network, engine = load_network(content), load_weights(content).network
    raw = dataset.input_scaling.undo(dataset.test_inputs)
    with torch.no_grad():
        expected = dataset.target_scaling.undo(engine(torch.from_numpy(dataset.test_inputs)).numpy())
    np.testing.assert_allclose(network.predict(raw.tolist()).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(network.predict(torch.from_numpy(raw)).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_network_predicts_what_the_service_predicts_in_the_same_shape(kind):
    content, dataset = saved(kind)
    rows = dataset.test_inputs
    if dataset.input_scaling:
        rows = dataset.input_scaling.undo(rows)
    theirs = load_weights(content)
    answer = predict(theirs.network, theirs.data, rows.tolist())
    expected = np.array(answer["probabilities" if dataset.task == "classification" else "outputs"])
    ours = load_network(content).predict(rows).numpy()
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)


def test_columns_of_a_data_frame_are_found_by_name():
    pandas = pytest.importorskip("pandas")
    content, dataset = saved("mlp")
    network = load_network(content)
    assert (network.feature_names, network.target_names) == (["a", "b", "c", "d"], ["y1", "y2"])
    raw = pandas.DataFrame(dataset.input_scaling.undo(dataset.test_inputs), columns=network.feature_names)
    shuffled = raw.assign(other="text")[["d", "other", "b", "a", "c"]]
    assert torch.equal(network.predict(shuffled), network.predict(raw.to_numpy()))
    assert torch.equal(network.predict(shuffled[network.feature_names].to_numpy()), network.predict(raw.to_numpy()))


def test_tokens_are_predicted_as_they_stand():
    content, dataset = saved("mlp over tokens")
    shares = load_network(content).predict(dataset.test_inputs.tolist())
    assert shares.shape == (ROWS, 5)
    scores = load_weights(content).network(torch.from_numpy(dataset.test_inputs))
    assert torch.equal(shares, scores.softmax(-1).detach())


def test_a_loaded_network_can_go_on_being_trained_and_moved_to_another_precision():
    content, dataset = saved("mlp")
    network = load_network(content)
    x = torch.from_numpy(dataset.test_inputs)
    network(x).square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())
    single = load_network(content).float()
    torch.testing.assert_close(single(x).double(), network(x), atol=1e-5, rtol=1e-5)


def damaged(content: bytes) -> dict[str, bytes]:
    """The file, damaged in every way that is named."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])

    def with_header(changed: dict) -> bytes:
        text = json.dumps(changed).encode()
        return len(text).to_bytes(8, "little") + text + content[8 + length :]

    said = json.loads(header["__metadata__"]["bimt"])
    name = "weights.0"
    return {
        "nothing": b"",
        "no header": bytes(40),
        "text": b"this is not a network at all, only some words",
        "cut off": content[: len(content) // 2],
        "another format": with_header(header | {"__metadata__": {"bimt": json.dumps(said | {"format": "other/1"})}}),
        "no metadata": with_header({k: v for k, v in header.items() if k != "__metadata__"}),
        "metadata of another kind": with_header(header | {"__metadata__": {"bimt": "[]"}}),
        "a tensor outside": with_header(header | {name: header[name] | {"data_offsets": [0, 10**9]}}),
        "a tensor of another shape": with_header(header | {name: header[name] | {"shape": [1, 1]}}),
        "numbers of another kind": with_header(header | {name: header[name] | {"dtype": "F16"}}),
        "a parameter missing": with_header({k: v for k, v in header.items() if k != name}),
        "an unknown network": with_header(header | {"__metadata__": {"bimt": json.dumps(
            said | {"spec": said["spec"] | {"network": said["spec"]["network"] | {"kind": "quantum"}}})}}),
    }  # fmt: skip


CONTENT = saved("mlp")[0]


@pytest.mark.parametrize("how", damaged(CONTENT))
def test_damaged_bytes_are_refused_with_a_sentence(how):
    with pytest.raises(WeightsError, match=r"[.:] ?\w*"):
        load_network(damaged(CONTENT)[how])


def test_tensors_and_metadata_of_a_file_can_be_read_without_building_the_network():
    tensors, metadata = read_weights(CONTENT)
    assert tensors["weights.0"].shape == (6, 4)
    assert metadata["spec"]["network"]["hidden"] == [6, 5]


def test_rows_of_a_table_with_levels_gaps_and_dates_are_read_as_the_service_reads_them():
    draw = np.random.default_rng(5)
    hours = draw.integers(0, 9000, 60).astype("timedelta64[h]")
    columns = (
        Column("port", draw.choice(np.array(["C", "Q", "S", "rare", None], object), 60, p=[0.3, 0.3, 0.25, 0.05, 0.1])),
        Column("age", np.where(draw.random(60) < 0.2, np.nan, draw.normal(30, 9, 60))),
        Column("fare", np.exp(draw.normal(size=60))),
        Column("day", np.datetime64("2024-01-01", "us") + hours, found="date"),
        Column("member", draw.integers(0, 2, 60).astype(float), found="boolean"),
    )
    specs = {
        "port": ColumnSpec(type="category", missing="category", unseen="rare"),
        "age": ColumnSpec(missing="mean"),
        "fare": ColumnSpec(transform="log"),
        "day": ColumnSpec(type="date", dates="parts"),
        "member": ColumnSpec(type="boolean"),
    }
    encoding = TableEncoding.of(columns, specs, np.arange(40))
    inputs = encoding.apply(encoding.codes(columns))
    scaling = encoding.scaling(inputs)
    parts = scaling.apply(inputs), draw.normal(size=(60, 1))
    dataset = Dataset(*parts, *parts, "regression", encoding.inputs, ("y",), input_scaling=scaling, encoding=encoding)
    spec = Spec.model_validate({"dataset": {"kind": "two_moons"}, "network": {"kind": "mlp", "hidden": [4]}})
    network = build_network(spec.network, dataset, generator=torch.Generator().manual_seed(0))
    content = weights_file(network, network, spec=spec, seed=0, dataset=dataset)
    rows = [
        ["S", 41, 3.5, "2024-03-01", True],
        [None, None, 0, "2024-12-31T18:30:00", "no"],
        ["elsewhere", 12.5, 80.0, "2023-01-01", 0],
    ]
    theirs = load_weights(content)
    expected = predict(theirs.network, theirs.data, rows)["outputs"]
    loaded = load_network(content)
    assert loaded.column_names == ["port", "age", "fare", "day", "member"]
    np.testing.assert_allclose(loaded.predict(rows).numpy(), expected, rtol=1e-12)
    named = [dict(zip(loaded.column_names, row, strict=True)) for row in rows]
    np.testing.assert_allclose(loaded.predict(named).numpy(), expected, rtol=1e-12)
    with pytest.raises(UnreadableCell, match="no number"):
        loaded.predict([["S", "old", 1, "2024-03-01", 1]])


CELLS = [
    *[
        1.5,
        3,
        True,
        None,
        float("nan"),
        "1.500",
        "1,5",
        " 1,5 ",
        "1.234.567,8",
        "1,234.5",
        "5 %",
        "$ 3",
        "1_000",
        "inf",
    ],
    *["NA", " n/a", "none", "-", "", "05/03/2023", "13/01/2024", "01/13/2024", "31.12.99", "2024-02-29T12:00:00+02:00"],
    *[
        "20230501",
        "2023",
        2023,
        "now",
        "5 Mar 2023",
        "March 5th, 2023 6:30 pm",
        "2023-13-01",
        "yes",
        " F ",
        "maybe",
        "S",
    ],
]


@pytest.mark.parametrize(
    ("kind", "notation", "sign"),
    [
        *[("number", notation, sign) for notation in ("1,234.5", "1.234,5") for sign in ("", "%")],
        *[("date", notation, "") for notation in ("2024-12-31", "31/12/2024", "12/31/2024")],
        *[(kind, None, "") for kind in ("number", "date", "boolean", "category")],
    ],
)
def test_every_cell_is_read_as_the_service_reads_it(kind, notation, sign):
    given = {"name": "x", "type": kind, "allowed": True, "indicator": True}
    given |= {"levels": ["S", "none", "true"], "unseen": "zeros"} if kind == "category" else {"fills": [0.0]}
    given |= ({"notation": notation} if notation else {}) | ({"sign": sign} if sign else {})
    encoding = TableEncoding.from_json([given])
    for cell in CELLS:
        try:
            expected = encoding.apply(np.array([encoding.code_row([cell])]))[0].tolist()
        except ServiceUnreadableCell:
            with pytest.raises(UnreadableCell):
                inputs_of([given], [[cell]])
        else:
            assert inputs_of([given], [[cell]]) == [pytest.approx(expected, rel=1e-12)], cell


def test_the_words_for_no_value_are_those_of_the_service():
    assert columns.MISSING == cells.MISSING
    assert set(columns.TRUE + columns.FALSE) == set(cells.TRUTH)
