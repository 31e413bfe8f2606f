"""An upload is understood, its roles are checked, and its data set is split and scaled as promised."""

from __future__ import annotations

import io
import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.datasets import load_diabetes, load_iris

from bimt_engine.data.dataset import Scaling
from bimt_engine.data.preview import BINS, understand
from bimt_engine.data.readers import RefusedData
from bimt_engine.data.registry import make_dataset
from bimt_engine.data.roles import Roles, read_table
from bimt_engine.errors import DataError
from bimt_engine.spec import UploadedData
from tests.engine.data.makers import idx, npz, table


def frame_bytes(frame, *, format: str = "csv") -> bytes:
    if format == "csv":
        return frame.to_csv(index=False).encode()
    file = io.BytesIO()
    pl.DataFrame({name: frame[name].to_numpy() for name in frame.columns}).write_parquet(file)
    return file.getvalue()


def spec(**fields) -> UploadedData:
    return UploadedData(dataset_id="dataset_" + "0" * 26, sha256="0" * 64, **fields)


DIABETES = load_diabetes(as_frame=True, scaled=False).frame
IRIS = load_iris(as_frame=True).frame


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_a_real_table_is_understood(format):
    preview = understand(frame_bytes(DIABETES, format=format), format)
    assert preview["rows"] == 442
    assert preview["suggested"] == {"inputs": list(DIABETES.columns[:-1]), "targets": ["target"], "task": "regression"}
    by_name = {column["name"]: column for column in preview["columns"]}
    assert by_name["bmi"]["mean"] == pytest.approx(DIABETES["bmi"].mean())
    assert by_name["bmi"]["type"] == "number"
    assert by_name["sex"]["distinct"] == 2
    assert preview["first_rows"][0] == pytest.approx(DIABETES.iloc[0].to_dict())


def test_labels_are_taken_for_classes():
    assert understand(frame_bytes(IRIS), "csv")["suggested"]["task"] == "classification"
    named = IRIS.assign(target=[("setosa", "versicolor", "virginica")[i] for i in IRIS["target"]])
    preview = understand(frame_bytes(named), "csv")
    assert preview["suggested"]["task"] == "classification"
    assert preview["columns"][-1]["most"] == ["setosa", "versicolor", "virginica"]


def test_each_column_says_how_its_values_are_distributed():
    wide = ["1", "1e308", "-1e308", *["3"] * 57]  # its range is no number
    rows = [
        f"{i % 4},{i * i},{'abc'[i % 2]},2024-01-{i % 28 + 1:02},7,{wide[i]},{'' if i % 3 else i}" for i in range(60)
    ]
    preview = understand(
        "\n".join(["few,many,word,day,same,wide,holes", *rows]).encode(),
        "csv",
        {"inputs": ["few"], "targets": ["many"]},
    )
    found = {column["name"]: column for column in preview["columns"]}
    assert found["few"]["bins"] == [15, 15, 15, 15]  # one for each whole number
    assert len(found["many"]["bins"]) == BINS
    assert sum(found["many"]["bins"]) == sum(found["day"]["bins"]) == 60
    assert found["many"]["bins"][0] == sum(i * i < 59 * 59 / BINS for i in range(60))
    assert dict(zip(found["word"]["most"], found["word"]["counts"], strict=True)) == {"a": 30, "b": 30}
    assert sum(found["holes"]["bins"]) == 60 - found["holes"]["missing"] == 20
    assert not any("bins" in found[name] or "counts" in found[name] for name in ("same", "wide"))


def test_text_that_cannot_be_read_is_left_out_and_said():
    names = table().decode().splitlines()
    content = "\n".join(["owner," + names[0], *(f"owner {i},{line}" for i, line in enumerate(names[1:]))]).encode()
    preview = understand(content, "csv")
    assert preview["suggested"]["inputs"] == ["age", "height", "weight", "colour"]
    assert preview["notes"] == ["Text with many different values is not read, so it is left out: owner ('owner 0', …)."]


@pytest.mark.parametrize(
    ("header", "rows", "target", "says"),
    [
        ("a,y,z", "{i},{i}.5,{i}.25", "y", "because of its name"),
        ("a,b,c", "{i},{i}.5,7", "b", "'c', has the same value in every row"),
        ("a,b,c", "{i},{i}.5,word{i}", "b", "'c', holds text with too many values"),
        ("a,b,c", "{i},{i}.5,{i}.25", "c", None),
    ],
)
def test_where_the_target_is_not_the_last_column_it_is_said_why(header, rows, target, says):
    content = "\n".join([header, *(rows.format(i=i) for i in range(30))]).encode()
    preview = understand(content, "csv")
    assert preview["suggested"]["targets"] == [target]
    why = [note for note in preview["notes"] if note.startswith("No target was named")]
    assert (says in why[0]) if says else not why
    asked = understand(content, "csv", Roles(None, (target,), "regression"))
    assert not any("No target was named" in note for note in asked["notes"])


def test_a_cayley_table_is_understood():
    preview = understand(b"0,1,2\n1,2,0\n2,0,1\n", "cayley")
    assert preview["rows"] == 9
    assert preview["suggested"]["targets"] == ["product"]
    assert preview["notes"] == ["A group of 3 elements, commutative."]


@pytest.mark.parametrize(
    ("roles", "says"),
    [
        (Roles(("agee",), ("score",), "regression"), "no column 'agee'"),
        (Roles(("age",), ("scor",), "regression"), "no column 'scor'"),
        (Roles(("age", "score"), ("score",), "regression"), "both an input and a target"),
        (Roles(("age", "age"), ("score",), "regression"), "named twice among the inputs"),
        (Roles(None, ("colour",), "regression"), "'colour' holds text"),
        (Roles(None, ("score",), "classification"), "not whole"),
        (Roles(None, ("score", "age"), "classification"), "one target column"),
        (Roles((), ("score",), "regression"), "There is no input"),
    ],
)
def test_roles_that_do_not_fit_are_refused(roles, says):
    with pytest.raises(RefusedData) as caught:
        understand(table(), "csv", roles)
    assert says in caught.value.problems[0].detail
    chosen = spec(
        format="csv", inputs=roles.inputs and list(roles.inputs), targets=list(roles.targets), task=roles.task
    )
    if roles.inputs != ():
        with pytest.raises(DataError):
            make_dataset(chosen, seed=0, content=table())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"x,y\n1,2\n2,3\n3,5\n", "have 3 rows; at least 4"),
        (b"x\n1\n2\n3\n4\n", "have one column, 'x'"),
        (b"x,y\n1,5\n2,5\n3,5\n4,5\n", "The target 'y' has the same value in every row, so there is nothing to learn"),
        (b"x,z\n1,5\n2,5\n3,5\n4,5\n", "The target 'z' has the same value in every row, so there is nothing to learn"),
        (b"x,y\n1,1\n1,1\n1,1\n1,1\n", "The target 'y' has the same value"),
        (b"id,n\n1,anna\n2,ben\n3,carl\n4,dora\n", "No column can be predicted"),
        (b"x,y\na,1\nb,2\nc,3\nd,4\n", "Every column but the target is text"),
    ],
)
def test_a_table_with_nothing_to_learn_is_refused(content, says):
    with pytest.raises(RefusedData, match=says):
        understand(content, "csv")


def test_a_constant_column_is_not_guessed_to_be_the_target_where_another_can_be():
    rows = [f"{i * 7 % 5}.5,{i * 3 % 7}.5,5" for i in range(20)]
    found = understand("\n".join(["a,b,y", *rows]).encode(), "csv")
    assert found["suggested"]["targets"] == ["b"]
    assert "'y' has the same value in every row, so it is not the target: 'b' is." in found["notes"]


def test_columns_that_were_read_alike_share_one_note():
    rows = [f'"1,{i:03}.5","2,{i:03}.5","3,{i:03}.5",{i % 3}' for i in range(20)]
    notes = understand("\n".join(["a,b,c,y", *rows]).encode(), "csv")["notes"]
    assert [note for note in notes if "read as numbers" in note] == [
        "'a', 'b', 'c' are read as numbers, '1,000.5' as 1000.5."
    ]


PROSE = "It was the best of times when they met again in town"


@pytest.mark.parametrize("first", [PROSE, f"{PROSE}, and the rain had ended by the time we left. " + PROSE * 40])
def test_prose_is_told_from_a_table(first):
    with pytest.raises(RefusedData, match="not look like a table: .* texts to learn from are UTF-8 files in a ZIP"):
        understand(f"{first}\nand, so, it, went\nand the rain\n\nfell, they\n".encode(), "csv")


def test_a_constant_target_is_refused():
    with pytest.raises(RefusedData, match="'y' has the same value in every row"):
        understand(b"x,y\n1,5\n2,5\n3,5\n4,5\n", "csv", Roles(("x",), ("y",), "regression"))
    with pytest.raises(RefusedData, match="'y' has one class only"):
        understand(b"x,y\n1,5\n2,5\n3,5\n4,5\n", "csv", Roles(("x",), ("y",), "classification"))


def test_a_table_is_split_by_the_seed_and_scaled_by_its_training_part():
    content = frame_bytes(DIABETES)
    chosen = spec(format="csv", targets=["target"], task="regression", test_fraction=0.25)
    data, again, other = (make_dataset(chosen, seed=seed, content=content) for seed in (0, 0, 1))
    assert len(data.test_inputs) == round(0.25 * 442)
    assert np.array_equal(data.train_inputs, again.train_inputs)
    assert not np.array_equal(data.train_inputs, other.train_inputs)
    np.testing.assert_allclose(data.train_inputs.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(data.train_inputs.std(0), 1)
    assert abs(data.test_inputs.mean(0)).max() > 1e-3  # testing rows have no part in the scaling
    parts = [data.part(name) for name in ("train", "validation", "test")]
    whole = np.concatenate([data.input_scaling.undo(inputs) for inputs, _ in parts])
    targets = data.target_scaling.undo(np.concatenate([targets for _, targets in parts]))
    found = np.concatenate([whole, targets], axis=1)
    found, truth = (array[np.lexsort(array.T)] for array in (found, DIABETES.to_numpy().astype(float)))
    np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-9)  # every row is there once


def grouped(rows: int = 60) -> bytes:
    """Rows of twelve patients, five each, on consecutive days."""
    draw = np.random.default_rng(0)
    lines = [
        f"{x},{2 * x},p{i % 12},2024-{1 + i // 28:02d}-{1 + i % 28:02d}" for i, x in enumerate(draw.normal(size=rows))
    ]
    return "\n".join(["x,y,patient,day", *lines]).encode()


@pytest.mark.parametrize("inputs", [None, ["x"]])
def test_rows_of_one_group_stay_in_one_part_and_the_column_is_no_input(inputs) -> None:
    chosen = spec(
        format="csv", inputs=inputs, targets=["y"], task="regression", split={"by": "group", "column": "patient"}
    )
    data = make_dataset(chosen, seed=0, content=grouped())
    assert data.feature_names == ("x",)
    x = np.array([float(line.split(",")[0]) for line in grouped().decode().splitlines()[1:]])
    patients = []
    for part in ("train", "validation", "test"):
        rows = data.input_scaling.undo(data.part(part)[0])[:, 0]
        patients.append({int(np.abs(x - value).argmin()) % 12 for value in rows})
    assert sum(map(len, patients)) == 12
    assert [len(of) for of in patients] == [8, 2, 2]


def test_a_split_by_time_tests_on_the_latest_rows() -> None:
    chosen = spec(format="csv", inputs=["x"], targets=["y"], task="regression", split={"by": "time", "column": "day"})
    data = make_dataset(chosen, seed=0, content=grouped())
    x = [float(line.split(",")[0]) for line in grouped().decode().splitlines()[1:]]
    np.testing.assert_allclose(data.input_scaling.undo(data.test_inputs)[:, 0], x[51:])
    np.testing.assert_allclose(data.input_scaling.undo(data.train_inputs)[:, 0], x[:42])


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ({"by": "group"}, "needs the `column`"),
        ({"by": "random", "column": "day"}, "takes no `column`"),
        ({"by": "group", "column": "y"}, "cannot be an input or a target too"),
        ({"by": "group", "column": "x"}, "cannot be an input or a target too"),
    ],
)
def test_a_split_that_cannot_be_is_refused_by_the_spec(split, says) -> None:
    with pytest.raises(ValueError, match=says):
        spec(format="csv", inputs=["x"], targets=["y"], task="regression", split=split)


def test_a_column_to_split_by_must_be_there_and_differ() -> None:
    chosen = spec(format="csv", inputs=["x"], targets=["y"], task="regression", split={"by": "group", "column": "z"})
    with pytest.raises(DataError, match="no column 'z'"):
        make_dataset(chosen, seed=0, content=grouped())
    two = b"x,y,g\n" + b"".join(f"{i},{i * i},{i % 2}\n".encode() for i in range(20))
    chosen = spec(format="csv", inputs=["x"], targets=["y"], task="regression", split={"by": "group", "column": "g"})
    with pytest.raises(DataError, match="2 different values; 3 parts need at least 3"):
        make_dataset(chosen, seed=0, content=two)


def test_numbers_stay_as_they_are_when_no_scaling_is_asked_for():
    chosen = spec(format="csv", targets=["target"], task="regression", standardise=False)
    data = make_dataset(chosen, seed=0, content=frame_bytes(DIABETES))
    assert data.input_scaling is data.target_scaling is None
    assert data.train_targets.max() > 300


def test_classes_keep_their_names_and_shares():
    named = IRIS.assign(target=[("setosa", "versicolor", "virginica")[i] for i in IRIS["target"]])
    chosen = spec(format="csv", targets=["target"], task="classification")
    data = make_dataset(chosen, seed=0, content=frame_bytes(named))
    assert data.target_names == ("setosa", "versicolor", "virginica")
    assert np.bincount(data.train_targets).tolist() == [35, 35, 35]
    assert np.bincount(data.validation_targets).tolist() in ([8, 7, 8], [7, 8, 8], [8, 8, 7], [7, 8, 7], [8, 7, 7])


def test_images_keep_their_split_and_become_numbers_between_0_and_1():
    images = np.random.default_rng(0).integers(0, 256, (12, 5, 4)).astype(np.uint8)
    labels = (np.arange(12) % 3).astype(np.uint8)
    content = idx(images) + idx(labels) + idx(images[:6]) + idx(labels[:6])
    chosen = spec(format="idx", targets=["labels"], task="classification")
    data = make_dataset(chosen, seed=0, content=content)
    np.testing.assert_allclose(data.train_inputs, images.reshape(12, -1) / 255, rtol=1e-6)
    assert data.train_inputs.dtype == np.float32
    assert len(data.validation_inputs) == len(data.test_inputs) == 3
    assert data.feature_names[5] == "images[1,1]"
    assert data.target_names == ("0", "1", "2")


def test_arrays_may_have_several_targets_and_chosen_numbers_as_inputs():
    x, y = np.random.default_rng(0).normal(size=(2, 30, 3))
    chosen = spec(format="npz", inputs=["x[0]", "x[2]"], targets=["y"], task="regression")
    data = make_dataset(chosen, seed=0, content=npz(x=x, y=y))
    assert data.feature_names == ("x[0]", "x[2]")
    assert data.target_names == ("y[0]", "y[1]", "y[2]")


def test_an_uploaded_group_is_learned_like_a_named_one():
    chosen = spec(format="cayley", targets=["product"], task="classification")
    data = make_dataset(chosen, seed=0, content=b"e,a,b\na,b,e\nb,e,a\n")
    assert data.tokens == 3
    assert data.target_names == ("e", "a", "b")
    assert len(data.train_inputs) == 6


def test_the_content_of_an_upload_may_not_be_missing():
    with pytest.raises(DataError, match="content of the uploaded data set"):
        make_dataset(spec(format="csv", targets=["y"], task="regression"), seed=0)


@pytest.mark.parametrize("damage", [slice(0, 100), slice(4, None), slice(0, -4)])
def test_damaged_parquet_is_refused(damage):
    with pytest.raises(RefusedData, match="cannot be read as Parquet"):
        understand(frame_bytes(DIABETES, format="parquet")[damage], "parquet")


def test_missing_values_and_nested_columns_of_parquet_are_named():
    file = io.BytesIO()
    pl.DataFrame(
        {"x": [1.0, None, float("inf"), 4], "t": ["a", None, "b", "c"], "n": [[1], [2], [3], [4]]}
    ).write_parquet(file)
    with pytest.raises(RefusedData) as caught:
        understand(file.getvalue(), "parquet")
    assert [(p.row, p.column) for p in caught.value.problems] == [(3, "x")]
    with pytest.raises(RefusedData) as caught:
        read_table(file.getvalue(), "parquet")
    assert {(p.row, p.column) for p in caught.value.problems} == {(2, "x"), (3, "x"), (2, "t"), (None, "n")}


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_columns_without_a_role_are_in_the_preview_so_that_the_roles_can_be_changed(format):
    roles = Roles(("age", "bmi"), ("target",), "regression")
    faulty = DIABETES.assign(bp=DIABETES["bp"].where(DIABETES.index > 2), s1=DIABETES["s1"] * 1e250)
    preview = understand(frame_bytes(faulty, format=format), format, roles)
    assert [column["name"] for column in preview["columns"]] == list(DIABETES.columns)
    assert (preview["suggested"]["inputs"], preview["suggested"]["targets"]) == (["age", "bmi"], ["target"])
    by_name = {column["name"]: column for column in preview["columns"]}
    assert by_name["s2"]["mean"] == pytest.approx(DIABETES["s2"].mean())
    assert (by_name["bp"]["missing"], preview["first_rows"][0]["bp"]) == (3, None)
    with pytest.raises(RefusedData, match="'s1'"):
        understand(frame_bytes(faulty, format=format), format, Roles(("age", "s1"), ("target",), "regression"))


def test_what_of_a_parquet_file_cannot_be_read_is_left_out_where_it_is_not_used():
    frame = pl.DataFrame({"x": range(9), "when": ["2026-11-25"] * 9, "y": [i * i for i in range(9)]})
    file = io.BytesIO()
    frame.with_columns(pl.col("when").str.to_date(), nested=[[i] for i in range(9)]).write_parquet(file)
    preview = understand(file.getvalue(), "parquet", Roles(("x",), ("y",), "regression"))
    assert [(column["name"], column["type"]) for column in preview["columns"]] == [
        ("x", "integer"),
        ("when", "date"),
        ("y", "integer"),
    ]
    assert preview["notes"] == ["These columns are of types that are not read, or too many: nested."]
    with pytest.raises(RefusedData, match="'nested' is of type List"):
        understand(file.getvalue(), "parquet", Roles(("x", "nested"), ("y",), "regression"))


def test_a_training_reads_only_the_columns_of_a_parquet_file_that_it_uses():
    content = frame_bytes(DIABETES, format="parquet")
    assert read_table(content, "parquet", used=frozenset({"age", "target"}), whole=False).names() == ("age", "target")


@given(hnp.arrays(np.float64, st.tuples(st.integers(2, 20), st.integers(1, 5)), elements=st.floats(-1e6, 1e6)))
def test_scaling_is_undone_exactly_enough(values):
    scaling = Scaling.of(values)
    scaled = scaling.apply(values)
    assert np.isfinite(scaled).all()
    np.testing.assert_allclose(scaling.undo(scaled), values, rtol=1e-9, atol=1e-6)
    saved = Scaling.from_json(scaling.to_json())
    assert np.array_equal(saved.mean, scaling.mean)
    assert np.array_equal(saved.std, scaling.std)


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_numbers_whose_square_is_not_finite_are_refused(format):
    frame = DIABETES.assign(bmi=DIABETES["bmi"] * 1e200)
    with pytest.raises(DataError, match="'bmi' holds numbers as large as .*rescale"):
        understand(frame_bytes(frame, format=format), format)
    understand(frame_bytes(DIABETES.assign(bmi=DIABETES["bmi"] * 1e90), format=format), format)


def test_a_fault_in_an_unused_column_is_no_fault_and_no_number():
    content = b"a,b,y\n" + b"".join(f"{i},{'blue' if i == 3 else i},{2 * i}\n".encode() for i in range(12))
    with pytest.raises(RefusedData):
        understand(content, "csv")
    preview = understand(content, "csv", Roles(("a",), ("y",), "regression"))
    json.dumps(preview, allow_nan=False)
    assert preview["columns"][1]["missing"] == 1
    assert [row["b"] for row in preview["first_rows"][2:5]] == [2.0, None, 4.0]
