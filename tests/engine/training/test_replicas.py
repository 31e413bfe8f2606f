"""Who is trained side by side with whom: a matter of specs and data, and of nothing that may be otherwise tomorrow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimt_engine.data.kinds.synthetic import FormulaData
from bimt_engine.training import backends
from bimt_engine.training.backends import MAX_REPLICAS, alike, gains_by_replicas, most_side_by_side, pieces
from bimt_engine.training.loop import Training
from tests.engine.makers import spec_for, table_data


@given(number=st.integers(1, 500), most=st.integers(1, 64))
def test_pieces_are_few_and_equal_and_lose_no_run(number, most) -> None:
    cut = [range(number)[piece] for piece in pieces(number, most)]
    assert [run for piece in cut for run in piece] == list(range(number))
    sizes = [len(piece) for piece in cut]
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    assert (len(sizes) - 1) * most < number


def test_runs_are_alike_that_differ_in_cost_strength_only() -> None:
    spec, data = spec_for("mlp", steps=10)
    assert alike(spec) == alike(spec.at_cost_strength(0.5)) == alike(spec.expanded())
    for other in (spec_for("mlp", steps=11)[0], spec_for("deep mlp", steps=10)[0]):
        assert alike(other) != alike(spec)
    Training.begin_replicas([spec, spec.at_cost_strength(0.5)], [data, data], seeds=[0, 0])


def test_small_networks_stand_together_up_to_a_bound() -> None:
    spec, data = spec_for("mlp")
    assert most_side_by_side(spec, data) == MAX_REPLICAS


def test_large_data_and_networks_leave_room_for_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, data = spec_for("mlp", precision="float64")
    drawn = 8 * 2 * 24 * (4 + 2)
    rest = 8 * (5 * (4 * 7 + 7 + 7 * 5 + 5 + 5 * 2 + 2) + 3 * 24 * (4 + 7 + 5 + 2))
    monkeypatch.setattr(backends, "REPLICA_BYTES", 3 * (drawn + rest))
    assert most_side_by_side(spec, data) == 3
    halves, _ = spec_for("mlp", precision="float32")
    assert most_side_by_side(halves, data) == 6
    assert most_side_by_side(spec, table_data(examples=48)) == 1
    same = spec.model_copy(update={"dataset": FormulaData(formulas=["x1"], inputs=1, seed=7)})
    monkeypatch.setattr(backends, "REPLICA_BYTES", drawn + 3 * rest)
    assert most_side_by_side(spec, data) == 2
    assert most_side_by_side(same, data) == 3  # data that all share count once
    monkeypatch.setattr(backends, "REPLICA_BYTES", 1)
    assert most_side_by_side(spec, data) == 1


@pytest.mark.parametrize(("stepper", "gains"), [("batched", True), ("autograd", False)])
def test_the_batched_stepper_alone_gains(stepper, gains) -> None:
    spec, data = spec_for("mlp", stepper=stepper, device="cpu")
    assert gains_by_replicas(spec, data, replicas=20) is gains


def test_a_network_that_the_batched_stepper_does_not_take_gains_nothing(caplog: pytest.LogCaptureFixture) -> None:
    spec, data = spec_for("transformer", stepper="batched", device="cpu")
    assert not gains_by_replicas(spec, data, replicas=20)
    assert not caplog.records  # the training itself says why


@pytest.mark.gpu
@pytest.mark.skipif(not __import__("torch").cuda.is_available(), reason="no CUDA device on this machine")
def test_on_a_gpu_perceptrons_gain_by_replicas() -> None:
    spec, data = spec_for("mlp", device="cuda")
    assert gains_by_replicas(spec, data, replicas=20)
