"""The loop: same bits twice, same bits after a cut, and a training that does what the method says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bimt_engine.errors import CheckpointError, SpecError, TrainingDiverged
from bimt_engine.spec import CostSpec, OptimiserSpec, Phase, PruningSpec, RelocationSpec
from bimt_engine.training.backends import STEPPERS
from bimt_engine.training.loop import Training, TrainingUpdate
from bimt_engine.training.state import Snapshot
from tests.engine.makers import ARCHITECTURES, spec_for, table_data

QUICK = {
    "steps": 60,
    "log_every": 20,
    "snapshot_every": 30,
    "checkpoint_every": 20,
    "relocation": RelocationSpec(relocate_every=10, final_restarts=2),
    "cost": CostSpec(bias_cost_from=0.5),
}


def run(training: Training) -> list[TrainingUpdate]:
    return list(training.updates())


def bits(training: Training) -> dict[str, bytes]:
    state = training.state
    return {
        "theta": state.theta.numpy().tobytes(),
        "first": state.first_moment.numpy().tobytes(),
        "second": state.second_moment.numpy().tobytes(),
        **{name: order.numpy().tobytes() for name, order in state.orders.items()},
    }


def available(name: str, stepper: str, **training: object) -> tuple:
    """A spec for this stepper, or a skip where the stepper does not take it."""
    spec, data = spec_for(name, **{**QUICK, "stepper": stepper, **training})
    if Training.begin(spec, data, seed=0).stepper_name != stepper:
        pytest.skip(f"the {stepper} stepper does not take a {name} here")
    return spec, data


@pytest.mark.parametrize("stepper", list(STEPPERS))
def test_two_runs_of_one_spec_are_equal_bit_for_bit(architecture: str, stepper: str) -> None:
    spec, data = available(architecture, stepper)
    one, other = (Training.begin(spec, data, seed=7) for _ in range(2))
    rows = [[{**m.row, "seconds": 0} for m in run(t) if m.row] for t in (one, other)]
    assert bits(one) == bits(other)
    assert rows[0] == rows[1]


cuts = st.fixed_dictionaries(
    {
        "cut": st.integers(1, 60),
        "batch_size": st.sampled_from([None, 5]),
        "precision": st.sampled_from(["float32", "float64"]),
        "optimiser": st.sampled_from([OptimiserSpec(kind=kind) for kind in ("adamw", "proximal")]),
        "pruning": st.sampled_from([None, PruningSpec(connections=11, prune_every=7)]),
    }
)


@settings(deadline=None, max_examples=25)
@given(stepper=st.sampled_from(list(STEPPERS)), name=st.sampled_from(list(ARCHITECTURES)), at=cuts)
def test_a_run_cut_at_any_step_and_resumed_is_bit_identical(stepper, name, at) -> None:
    cut_and_resume(name, **at, stepper=stepper)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("stepper", list(STEPPERS))
@settings(deadline=None, max_examples=20)
@given(at=cuts)
def test_twenty_cuts_of_every_network_by_every_stepper_are_bit_identical(stepper, name, at) -> None:
    available(name, stepper)
    cut_and_resume(name, **at, stepper=stepper)


def cut_and_resume(name: str, *, cut: int, **training: object) -> None:
    """A run cut after so many steps and resumed ends with the bits of one that was not."""
    phases = [Phase(until=0.4, cost_strength=1e-3), Phase(until=1.0, cost_strength=1e-2, learning_rate=5e-4)]
    training = {**training, "phases": phases}
    spec, data = spec_for(name, **QUICK, **training)
    whole = Training.begin(spec, data, seed=3)
    run(whole)
    # Checkpoints may be written at any step without making another training of it.
    often, _ = spec_for(name, **{**QUICK, "checkpoint_every": cut}, **training)
    first = Training.begin(often, data, seed=3)
    written = next(first.checkpoint() for update in first.updates() if update.checkpoint_due)
    assert first.state.step == cut
    resumed = Training.resume(spec, data, written)
    assert resumed.state.step == cut
    run(resumed)
    assert bits(resumed) == bits(whole)


def test_a_checkpoint_of_a_finished_run_has_nothing_left_to_do() -> None:
    spec, data = spec_for("mlp", **QUICK)
    training = Training.begin(spec, data, seed=0)
    run(training)
    resumed = Training.resume(spec, data, training.checkpoint())
    assert run(resumed) == []
    assert bits(resumed) == bits(training)


def test_a_checkpoint_of_another_training_is_refused() -> None:
    spec, data = spec_for("mlp", **QUICK)
    content = Training.begin(spec, data, seed=0).checkpoint()
    other, _ = spec_for("mlp", **{**QUICK, "steps": 61})
    with pytest.raises(CheckpointError, match="another spec"):
        Training.resume(other, data, content)
    with pytest.raises(CheckpointError, match="another spec"):
        Training.resume(spec, data, content, seed=1)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_damaged_checkpoints_are_refused(data) -> None:
    spec, dataset = spec_for("mlp", **QUICK)
    content = Training.begin(spec, dataset, seed=0).checkpoint()
    cut = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(CheckpointError):
        Training.resume(spec, dataset, content[:cut])


def test_the_loop_tells_what_is_due_and_when() -> None:
    spec, data = spec_for("mlp", **QUICK)
    updates = run(Training.begin(spec, data, seed=0))
    assert [m.step for m in updates if m.row] == [0, 20, 40, 60]
    assert [m.step for m in updates if m.snapshot] == [0, 30, 60]
    assert [m.step for m in updates if m.checkpoint_due] == [20, 40, 60]
    assert updates[-1].fraction == 1.0
    row = updates[-1].row
    assert row["total_loss"] == pytest.approx(row["prediction_loss"] + row["cost_strength"] * row["connection_cost"])


def test_a_classifier_s_rows_carry_accuracies() -> None:
    spec, data = spec_for("classifier", **QUICK)
    row = run(Training.begin(spec, data, seed=0))[-1].row
    assert 0 <= row["train_accuracy"] <= 1
    assert 0 <= row["test_accuracy"] <= 1


def test_the_network_is_always_up_to_date() -> None:
    spec, data = spec_for("mlp", **QUICK, stepper="autograd")
    training = Training.begin(spec, data, seed=0)
    for update in training.updates():
        if update.row:
            with torch.no_grad():
                outputs = training.network(torch.as_tensor(data.test_inputs))
            loss = float(((outputs - torch.as_tensor(data.test_targets)) ** 2).mean())
            assert update.row["test_prediction_loss"] == pytest.approx(loss)


def test_a_snapshot_survives_its_bytes() -> None:
    spec, data = spec_for("embedded mlp", **QUICK)
    training = Training.begin(spec, data, seed=0)
    snapshot = run(training)[-1].snapshot
    again = Snapshot.from_bytes(snapshot.to_bytes())
    assert again.step == snapshot.step == 60
    assert snapshot.to_bytes() == again.to_bytes()
    for name, parameter in training.network.named_parameters():
        np.testing.assert_array_equal(again.weights[name], parameter.detach().float().numpy())
    for name, order in training.network.orders.items():
        np.testing.assert_array_equal(again.orders[name], order.numpy())
    with pytest.raises(CheckpointError):
        Snapshot.from_bytes(b"nonsense")


def test_vanilla_pays_nothing_and_moves_no_neuron() -> None:
    spec, data = spec_for("mlp", **QUICK, method="vanilla", stepper="autograd")
    training = Training.begin(spec, data, seed=0)
    rows = [m.row for m in run(training) if m.row]
    assert {row["cost_strength"] for row in rows} == {0.0}
    for name, order in training.network.orders.items():
        assert order.tolist() == list(range(len(order))), name
    # and is plain AdamW
    torch.manual_seed(0)
    reference = Training.begin(spec, data, seed=0).network
    optimiser = torch.optim.AdamW(reference.parameters(), lr=2e-3, weight_decay=0.0)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(
            reference(torch.as_tensor(data.train_inputs)), torch.as_tensor(data.train_targets)
        ).backward()
        optimiser.step()
    for ours, theirs in zip(training.network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-10, atol=1e-12)


def test_the_cost_is_the_only_thing_that_relocation_changes() -> None:
    """With λ = 0 and exchanges every ten steps the network computes what it computes without them."""
    free = [Phase(until=1.0, cost_strength=0.0)]
    spec, data = spec_for("mlp", **QUICK, phases=free)
    still, _ = spec_for("mlp", **{**QUICK, "relocation": RelocationSpec(relocate_every=None)}, phases=free)
    one, other = Training.begin(spec, data, seed=0), Training.begin(still, data, seed=0)
    last, last_still = run(one)[-1].row, run(other)[-1].row
    assert last["test_prediction_loss"] == pytest.approx(last_still["test_prediction_loss"], rel=1e-9)
    assert last["connection_cost"] < last_still["connection_cost"]


def test_the_proximal_variant_gives_true_zeros() -> None:
    strong = {**QUICK, "steps": 400, "phases": [Phase(until=1.0, cost_strength=0.05)]}
    spec, data = spec_for("mlp", **strong, stepper="autograd", optimiser=OptimiserSpec(kind="proximal"))
    training = Training.begin(spec, data, seed=0)
    run(training)
    assert (training.state.theta == 0).double().mean() > 0.3
    residue, data = spec_for("mlp", **strong, stepper="autograd")
    training = Training.begin(residue, data, seed=0)
    run(training)
    assert (training.state.theta == 0).double().mean() < 0.01


def test_replicas_side_by_side_train_as_they_would_alone() -> None:
    spec, data = spec_for("mlp", **QUICK, stepper="autograd")
    specs = [spec.at_cost_strength(strength) for strength in (1e-3, 1e-2, 1e-3)]
    seeds = [0, 1, 2]
    datasets = [data, data, table_data(seed=5)]
    together = Training.begin_replicas(specs, datasets, seeds=seeds)
    rows = run(together)[-1].rows
    for replica, seed in enumerate(seeds):
        alone = Training.begin(specs[replica], datasets[replica], seed=seed)
        row = run(alone)[-1].row
        torch.testing.assert_close(together.state.theta[replica], alone.state.theta[0], rtol=0, atol=0)
        assert {**rows[replica], "seconds": 0} == {**row, "seconds": 0}
    halfway = Training.begin_replicas(specs, datasets, seeds=seeds)
    for update in halfway.updates():
        if update.step >= 33:
            break
    resumed = Training.resume_replicas(specs, datasets, halfway.checkpoint())
    run(resumed)
    assert bits(resumed) == bits(together)


def wild(**training: object) -> dict:
    """For 127 of 207 steps all weights grow by 1.1 a step; where they began large, the loss leaves float32's range."""
    phases = [Phase(until=127 / 207, cost_strength=1e-3, learning_rate=2.1), Phase(until=1.0, cost_strength=1e-3)]
    growing = {"optimiser": OptimiserSpec(learning_rate=0.02, weight_decay=1.0), "precision": "float32"}
    return {**QUICK, "steps": 207, "log_every": 10, "phases": phases, **growing, **training}


def test_a_replica_that_diverges_is_left_behind_and_the_others_keep_their_bits() -> None:
    """Nine seeds, of which some diverge; the others end as they do beside replicas of which none diverges."""
    spec, data = spec_for("mlp", **wild(stepper="batched"))
    seeds = list(range(9))
    training = Training.begin_replicas([spec] * 9, [data] * 9, seeds=seeds)
    lost: dict[int, int] = {}
    for update in training.updates():
        lost |= dict.fromkeys(update.diverged, update.step)
        if update.rows:
            assert list(update.rows) == training.active
        if update.snapshots:
            assert list(update.snapshots) == training.active
        for replica, sentence in update.diverged.items():
            assert sentence.startswith(f"After {update.step} steps")
            assert f"(seed {replica})" in sentence
    assert training.finished
    assert 0 < len(lost) < 9
    assert lost.keys() == training.diverged.keys()
    assert training.active == [replica for replica in seeds if replica not in lost]
    assert all(torch.isfinite(training.state.theta[replica]).all() for replica in training.active)

    # In place of one that diverges, one that does not: as many replicas, so the others have the same bits.
    tame = [seed if seed not in lost else training.active[0] for seed in seeds]
    beside = Training.begin_replicas([spec] * 9, [data] * 9, seeds=tame)
    run(beside)
    assert not beside.diverged
    for replica in training.active:
        assert training.state.theta[replica].numpy().tobytes() == beside.state.theta[replica].numpy().tobytes()


def test_a_batch_goes_on_after_one_of_it_has_diverged_with_the_same_bits() -> None:
    spec, data = spec_for("mlp", **wild(stepper="batched", checkpoint_every=7))
    seeds = list(range(9))
    whole = Training.begin_replicas([spec] * 9, [data] * 9, seeds=seeds)
    written = [whole.checkpoint() for update in whole.updates() if update.checkpoint_due]
    assert whole.diverged
    for content in written[14:-1:2]:
        resumed = Training.resume_replicas([spec] * 9, [data] * 9, content, seeds=seeds)
        run(resumed)
        assert resumed.diverged.keys() <= whole.diverged.keys()
        for replica in whole.active:
            assert resumed.state.theta[replica].numpy().tobytes() == whole.state.theta[replica].numpy().tobytes()


@pytest.mark.parametrize("stepper", list(STEPPERS))
def test_weights_that_are_no_numbers_spoil_no_other_replica(architecture: str, stepper: str) -> None:
    spec, data = available(architecture, stepper)
    undisturbed, training = (Training.begin_replicas([spec] * 3, [data] * 3, seeds=[0, 1, 2]) for _ in range(2))
    run(undisturbed)
    told = {}
    for update in training.updates():
        told |= dict.fromkeys(update.diverged, update.step)
        if training.state.step == 10:
            training.state.theta[1, 0] = float("nan")
    assert told == {1: 20}
    assert training.finished
    for replica in (0, 2):
        assert training.state.theta[replica].numpy().tobytes() == undisturbed.state.theta[replica].numpy().tobytes()


def test_a_training_ends_when_every_replica_has_diverged() -> None:
    spec, data = spec_for("mlp", **wild(phases=[Phase(until=1.0, cost_strength=1e-3, learning_rate=10.0)]))
    training = Training.begin_replicas([spec] * 2, [data] * 2, seeds=[3, 4])
    with pytest.raises(TrainingDiverged, match=r"\(seed 3\).*\(seed 4\)"):
        run(training)
    assert not training.finished


def test_replicas_that_differ_in_more_than_seed_and_strength_are_refused() -> None:
    spec, data = spec_for("mlp", **QUICK)
    other, _ = spec_for("mlp", **{**QUICK, "log_every": 7})
    with pytest.raises(SpecError, match="seed and cost strengths only"):
        Training.begin_replicas([spec, other], [data, data], seeds=[0, 1])


def test_a_training_that_diverges_says_so() -> None:
    wild = OptimiserSpec(learning_rate=10.0, weight_decay=1.0)
    spec, data = spec_for("mlp", **{**QUICK, "steps": 4000}, optimiser=wild, precision="float32")
    with pytest.raises(TrainingDiverged, match="learning_rate"):
        run(Training.begin(spec, data, seed=0))


def test_a_loss_that_does_not_fit_the_task_is_refused() -> None:
    spec, data = spec_for("mlp", **QUICK, loss="cross_entropy")
    with pytest.raises(SpecError, match="cross_entropy"):
        Training.begin(spec, data, seed=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    spec, data = spec_for("mlp", **QUICK, device="cuda")
    with pytest.raises(SpecError, match="CUDA"):
        Training.begin(spec, data, seed=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("stepper", ["autograd", "batched"])
def test_a_gpu_trains_to_where_the_cpu_does(architecture: str, stepper: str) -> None:
    spec, data = available(architecture, stepper)
    on_gpu, _ = spec_for(architecture, **QUICK, stepper=stepper, device="cuda")
    one, other = Training.begin(spec, data, seed=0), Training.begin(on_gpu, data, seed=0)
    run(one)
    run(other)
    torch.testing.assert_close(one.state.theta, other.state.theta.cpu(), rtol=1e-8, atol=1e-10)
    resumed = Training.resume(on_gpu, data, other.checkpoint())
    assert run(resumed) == []
