"""What becomes of a job, whatever its training process says or does not say."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from store import jobs, progress, runs
from store.database import Database
from store.tables import Attempt, Job, Run
from tests.store.makers import People, new_runs, submit
from tests.worker.conftest import in_the_background
from worker.run_job import run_job

# One whole run: it trains, keeps a checkpoint, and leaves a result.
WHOLE_RUN = """
for run in left:
    say("began", runs=[run["id"]], stepper="kernel", replicas=1, step=0)
    say("row", run=run["id"], row={"step": 0, "prediction_loss": 2.0})
    say("row", run=run["id"], row={"step": 50, "prediction_loss": 1.0})
    say("snapshot", run=run["id"], step=50, file=leave("snap" + run["id"]))
    say("checkpoint", runs=[run["id"]], step=50, file=leave("check" + run["id"]))
    say("progress", runs=[run["id"]], fraction=0.9, note="training")
    module = {"name": "A", "neurons": ["hidden1:0"], "inputs": ["x1"], "outputs": ["y1"], "connections": 2,
              "effects": {"y1": {"zero": 1.0, "mean": 1.0, "resample": 1.0, "p": 0.01, "p_holm": 0.02}},
              "selectivity": 1.0,
              "reading": "module A reads x1, decides y1"}
    document = {"metrics": {"test_prediction_loss": 0.5, "connection_cost": 3.0}, "prune_curve": [{"connections": 2}],
                "graph": {"nodes": [{"id": "input:0"}, {"id": "output:0"}], "edges": [{"source": "input:0"}]},
                "modules": [module], "effects": {"outputs": ["y1"]}, "communities": {"modularity": 0.3}}
    result = {"document": document, "dataset": {"task": "regression"}, "stepper": "kernel", "device": "cpu",
              "replicas": 1, "training_seconds": 1.5, "evidence_seconds": 0.5,
              "files": {"weights.safetensors": leave("w" + run["id"])},
              "figures": {"network.svg": leave("s" + run["id"])}}
    say("result", run=run["id"], file=leave("r" + run["id"], json.dumps(result).encode()))
say("done")
"""
# What a training process does that ignores every request to end.
DEAF = """
run = left[0]["id"]
say("began", runs=[run], stepper="kernel", replicas=1, step=0)
while True:
    say("progress", runs=[run], fraction=0.1, note="training")
    time.sleep(0.05)
"""
# One that keeps a checkpoint when it is asked to stop, as the real one does.
POLITE = """
run = left[0]["id"]
say("began", runs=[run], stepper="kernel", replicas=1, step=0)
say("progress", runs=[run], fraction=0.1, note="training")
assert sys.stdin.readline() == "stop\\n"
say("checkpoint", runs=[run], step=70, file=leave("check"))
say("stopped")
"""


@pytest.fixture
def job_id(database: Database, people: People) -> str:
    with database.write() as session:
        return submit(session, people, datetime.now(UTC), runs=new_runs(2)).id


def job_of(database: Database, people: People, job_id: str) -> Job:
    with database.read() as session:
        return jobs.get(session, people.team, job_id)


def runs_of(database: Database, people: People, job_id: str) -> list[Run]:
    with database.read() as session:
        return runs.of_job(session, people.team, job_id)


def attempts_of(database: Database, people: People, job_id: str) -> list[Attempt]:
    with database.read() as session:
        return jobs.attempts(session, jobs.get(session, people.team, job_id))


def log_of(database: Database, people: People, job_id: str) -> str:
    with database.read() as session:
        chunks = progress.log_chunks(session, people.team, job_id)
        return "\n".join(line["text"] for chunk in chunks for line in chunk.lines)


def wait_for(look: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_everything_that_a_run_says_is_stored(workplace, training_says, database, people, job_id):
    training_says(WHOLE_RUN)
    assert run_job(job_id, here=workplace) == "done"
    assert job_of(database, people, job_id).state == "succeeded"
    for run in runs_of(database, people, job_id):
        assert (run.state, run.stepper, run.test_metric, run.modules) == ("succeeded", "kernel", 0.5, 1)
        assert (run.connection_cost, run.selectivity, run.modularity) == (3.0, 1.0, 0.3)
        with database.read() as session:
            assert [row["step"] for row in progress.history(session, run.id)] == [0, 50]
            assert [kept.step for kept in progress.snapshots(session, run.id)] == [50]
            assert [module.name for module in runs.modules(session, run.id)] == ["A"]
            kept = runs.published_file(session, run.id, "weights.safetensors")
            assert workplace.files.read(kept.sha256) == b"bytes"
    lines = log_of(database, people, job_id).splitlines()
    assert lines[:3] == [
        "attempt 1 begins, by worker tester@here",
        "the engine starts",
        "seed 0 begins, stepper kernel",
    ]
    assert lines[-1] == "seed 1 is published: 1 module, 1 connection"


def test_runs_of_several_cost_strengths_are_told_apart(workplace, training_says, database, people):
    of_two = [new_runs()[0] | {"cost_strength": strength} for strength in (1e-3, 0.02)]
    with database.write() as session:
        job_id = submit(session, people, datetime.now(UTC), runs=of_two).id
    failing = 'run = left.pop()["id"]\nsay("failed", runs=[run], sentence="It diverged.")\n'
    training_says(failing + WHOLE_RUN)
    run_job(job_id, here=workplace)
    said = log_of(database, people, job_id)
    assert "seed 0 at λ = 0.001 begins, stepper kernel" in said
    assert "seed 0 at λ = 0.001 is published: 1 module, 1 connection" in said
    assert job_of(database, people, job_id).reason == "1 of 2 runs failed: seed 0 at λ = 0.02: It diverged."


def test_the_next_attempt_goes_on_where_the_bar_was_and_is_counted_as_people_count(
    workplace, training_says, database, people, job_id
):
    """The second attempt works at its own pace, 5 % a second, whatever time passed between the two."""
    with database.write() as session:
        long_ago = datetime.now(UTC) - timedelta(hours=1)
        lost = jobs.claim(session, job_id, worker="w", now=long_ago, lease_seconds=60)
        jobs.renew(session, lost, now=long_ago, lease_seconds=60, progress=0.12)
        assert jobs.reap(session, now=datetime.now(UTC)) == [job_id]
    training_says(
        """
        time.sleep(1)  # the engine starts
        run = left[0]["id"]
        say("began", runs=[run], stepper="kernel", replicas=1, step=0)
        for twentieths in range(4, 41):
            say("progress", runs=[run], fraction=twentieths / 20, note="training")
            time.sleep(0.5)
        """
    )
    work = in_the_background(lambda: run_job(job_id, here=workplace))
    wait_for(lambda: job_of(database, people, job_id).note == "the engine starts")
    assert job_of(database, people, job_id).progress == 0.12
    wait_for(lambda: job_of(database, people, job_id).due_at is not None)
    job = job_of(database, people, job_id)
    assert job.progress >= 0.12
    left = (job.due_at - datetime.now(UTC)).total_seconds()
    assert left == pytest.approx(20 * (1 - job.progress), rel=0.5)
    workplace.going_home.set()
    work.join(10)
    job = job_of(database, people, job_id)
    assert (job.state, job.due_at) == ("queued", None)
    assert job.progress >= 0.12
    assert "attempt 2 begins, by worker tester@here" in log_of(database, people, job_id)
    assert [attempt.number for attempt in attempts_of(database, people, job_id)] == [1, 2]


def test_nothing_is_left_on_the_worker_s_disk(workplace, training_says, job_id, tmp_path):
    training_says(WHOLE_RUN)
    run_job(job_id, here=workplace)
    assert list((tmp_path / "home" / "spool").iterdir()) == []


def test_a_second_message_finds_nothing_to_do(workplace, training_says, job_id):
    training_says(WHOLE_RUN)
    run_job(job_id, here=workplace)
    assert run_job(job_id, here=workplace) is None


def test_one_failed_run_leaves_the_others_their_results(workplace, training_says, database, people, job_id):
    failing = 'run = left.pop(0)["id"]\nsay("failed", runs=[run], sentence="The loss is not a number any more.")\n'
    training_says(failing + WHOLE_RUN)
    run_job(job_id, here=workplace)
    job = job_of(database, people, job_id)
    assert (job.state, job.reason) == ("failed", "1 of 2 runs failed: seed 0: The loss is not a number any more.")
    assert [run.state for run in runs_of(database, people, job_id)] == ["failed", "succeeded"]


def test_a_run_that_failed_in_an_attempt_before_is_not_forgotten(workplace, training_says, database, people, job_id):
    with database.write() as session:
        now = datetime.now(UTC)
        lost = jobs.claim(session, job_id, worker="w", now=now, lease_seconds=60)
        runs.fail(session, lost, lost.runs[0].id, reason="It diverged.", now=now)
        assert jobs.reap(session, now=now + timedelta(seconds=61)) == [job_id]
    training_says(WHOLE_RUN)
    run_job(job_id, here=workplace)
    job = job_of(database, people, job_id)
    assert (job.state, job.reason) == ("failed", "1 of 2 runs failed: seed 0: It diverged.")
    assert [run.state for run in runs_of(database, people, job_id)] == ["failed", "succeeded"]


def test_a_training_that_dies_goes_on_from_its_checkpoint(workplace, training_says, database, people, job_id):
    dying = """
    run = left[0]
    if run["checkpoint"] is None:
        say("began", runs=[run["id"]], stepper="kernel", replicas=1, step=0)
        say("row", run=run["id"], row={"step": 10, "prediction_loss": 2.0})
        say("checkpoint", runs=[run["id"]], step=10, file=leave("check", b"the state at 10"))
        say("row", run=run["id"], row={"step": 20, "prediction_loss": 1.0})
        os.kill(os.getpid(), signal.SIGKILL)
    assert (folder / run["checkpoint"]).read_bytes() == b"the state at 10"
    """
    training_says(dying + WHOLE_RUN.replace("\n", "\n    "))
    assert run_job(job_id, here=workplace) == "done"
    assert job_of(database, people, job_id).state == "succeeded"
    assert "killed by signal 9" in log_of(database, people, job_id)
    assert len(attempts_of(database, people, job_id)) == 1


def test_a_training_that_dies_after_its_last_run_has_done_its_job(workplace, training_says, database, people, job_id):
    training_says(WHOLE_RUN.replace('say("done")', "os.kill(os.getpid(), signal.SIGKILL)"))
    assert run_job(job_id, here=workplace) == "done"
    assert job_of(database, people, job_id).state == "succeeded"
    assert "All its runs had been published." in log_of(database, people, job_id)


def test_a_training_that_always_dies_fails_its_run_and_spares_the_next(
    workplace, training_says, database, people, job_id
):
    dying = """
    if len(left) == 2:
        say("began", runs=[left[0]["id"]], stepper="kernel", replicas=1, step=0)
        sys.exit("there is no memory left")
    """
    training_says(dying + WHOLE_RUN.replace("\n", "\n    "))
    run_job(job_id, here=workplace)
    first, second = runs_of(database, people, job_id)
    assert (first.state, second.state) == ("failed", "succeeded")
    assert "there is no memory left" in first.reason
    assert "died 3 times" in first.reason


def test_a_hung_training_is_ended(workplace, training_says, database, people, job_id):
    workplace.settings = replace(workplace.settings, silence_seconds=1.0)
    training_says('say("began", runs=[left[0]["id"]], stepper="kernel", replicas=1, step=0)\ntime.sleep(60)')
    run_job(job_id, here=workplace)
    assert job_of(database, people, job_id).state == "failed"
    assert "made no progress for 1 s" in job_of(database, people, job_id).reason


def test_cancel_is_heard_and_what_was_reached_is_kept(workplace, training_says, database, people, job_id):
    training_says(POLITE)
    work = in_the_background(lambda: run_job(job_id, here=workplace))
    wait_for(lambda: job_of(database, people, job_id).progress > 0)
    asked = time.monotonic()
    with database.write() as session:
        jobs.request_cancel(session, people.team, job_id, datetime.now(UTC))
    work.join(10)
    assert time.monotonic() - asked < 3
    assert job_of(database, people, job_id).state == "cancelled"
    assert [run.checkpoint_step for run in runs_of(database, people, job_id)] == [70, None]


def test_a_training_that_does_not_hear_of_cancel_is_ended_hard(workplace, training_says, database, people, job_id):
    training_says(DEAF)
    work = in_the_background(lambda: run_job(job_id, here=workplace))
    wait_for(lambda: job_of(database, people, job_id).progress > 0)
    with database.write() as session:
        jobs.request_cancel(session, people.team, job_id, datetime.now(UTC))
    work.join(10)
    assert job_of(database, people, job_id).state == "cancelled"


@pytest.mark.parametrize(("training", "step"), [(POLITE, 70), (DEAF, None)], ids=["polite", "deaf"])
def test_a_worker_that_goes_home_hands_its_job_back(workplace, training_says, database, people, job_id, training, step):
    training_says(training)
    work = in_the_background(lambda: run_job(job_id, here=workplace))
    wait_for(lambda: job_of(database, people, job_id).progress > 0)
    workplace.going_home.set()
    work.join(10)
    assert job_of(database, people, job_id).state == "queued"
    assert runs_of(database, people, job_id)[0].checkpoint_step == step
    assert [attempt.ended_how for attempt in attempts_of(database, people, job_id)] == ["handed_back"]


def test_an_attempt_that_lost_its_lease_writes_nothing_more(workplace, training_says, database, people, job_id):
    training_says(DEAF)
    ended: list[str | None] = []
    work = in_the_background(lambda: ended.append(run_job(job_id, here=workplace)))
    wait_for(lambda: job_of(database, people, job_id).progress > 0)
    with database.write() as session:
        assert jobs.reap(session, now=datetime.now(UTC) + timedelta(seconds=60)) == [job_id]
    work.join(10)
    assert ended == ["lost"]
    assert job_of(database, people, job_id).state == "queued"


def test_a_fault_of_ours_is_named_in_the_job_s_reason(workplace, training_says, database, people, job_id):
    training_says('say("result", run=left[0]["id"], file="is-not-there")\ntime.sleep(60)')
    assert run_job(job_id, here=workplace) == "failed"
    job = job_of(database, people, job_id)
    assert job.state == "failed"
    assert "A fault of ours" in job.reason


def test_data_that_are_gone_fail_the_job_with_a_sentence(workplace, database, people):
    gone = {"dataset": {"kind": "uploaded", "sha256": "0" * 64}}
    with database.write() as session:
        job_id = submit(session, people, datetime.now(UTC), spec=gone).id
    assert run_job(job_id, here=workplace) == "failed"
    assert "There is no file" in job_of(database, people, job_id).reason


def test_the_most_urgent_job_goes_first_whichever_was_announced(workplace, training_says, database, people, job_id):
    training_says(WHOLE_RUN)
    with database.write() as session:
        urgent = submit(session, people, datetime.now(UTC), priority=9).id
    run_job(job_id, here=workplace)
    assert job_of(database, people, urgent).state == "succeeded"
    assert job_of(database, people, job_id).state == "queued"


def test_a_cpu_worker_leaves_gpu_jobs_alone(workplace, training_says, database, people):
    training_says(WHOLE_RUN)
    with database.write() as session:
        job_id = submit(session, people, datetime.now(UTC), queue="gpu").id
    assert run_job(job_id, here=workplace) is None
    assert job_of(database, people, job_id).state == "queued"


# Runs side by side: one checkpoint for both; the process is killed in mid-training unless it goes on from it.
SIDE_BY_SIDE = """
ids = [run["id"] for run in left]
say("at", runs=ids)
names = {run["checkpoint"] for run in left}
if names == {None}:
    say("began", runs=ids, stepper="batched", replicas=len(order["runs"]), step=0)
    for run in ids:
        say("row", run=run, row={"step": 0, "prediction_loss": 2.0})
    say("checkpoint", runs=ids, step=10, file=leave("check10", b"both at 10"))
    say("checkpoint", runs=ids, step=20, file=leave("check20", b"both at 20"))
    say("progress", runs=ids, fraction=0.25, note="training")
    say("log", level="info", text="of all")
    os.kill(os.getpid(), signal.SIGKILL)
[name] = names
assert {run["checkpoint_step"] for run in left} == {20}
assert (folder / name).read_bytes() == b"both at 20"
assert not (folder / "check10").exists()
"""


def test_runs_side_by_side_share_one_checkpoint_and_go_on_together(workplace, training_says, database, people, job_id):
    training_says(SIDE_BY_SIDE + WHOLE_RUN.replace("replicas=1, step=0", "replicas=2, step=20"))
    assert run_job(job_id, here=workplace) == "done"
    assert [run.state for run in runs_of(database, people, job_id)] == ["succeeded", "succeeded"]
    lines = log_of(database, people, job_id).splitlines()
    assert "2 runs begin, stepper batched, 2 side by side" in lines
    assert "seed 0 goes on at step 20, stepper kernel, 2 side by side" in lines
    with database.read() as session:
        said = [line for chunk in progress.log_chunks(session, people.team, job_id) for line in chunk.lines]
        assert [line.get("run_id") for line in said if line["text"] == "of all"] == [None]
        for run in runs_of(database, people, job_id):
            assert [row["step"] for row in progress.history(session, run.id)] == [0, 50]


def test_the_bar_of_a_job_counts_every_run_of_a_batch(workplace, training_says, database, people, job_id):
    training_says(
        """
        ids = [run["id"] for run in left]
        say("began", runs=ids, stepper="batched", replicas=2, step=0)
        say("progress", runs=ids, fraction=0.5, note="training")
        say("at", runs=ids[:1])
        say("progress", runs=ids[:1], fraction=0.75, note="pruning")
        sys.stdin.readline()
        say("stopped")
        """
    )
    work = in_the_background(lambda: run_job(job_id, here=workplace))
    wait_for(lambda: job_of(database, people, job_id).progress == (0.75 + 0.5) / 2)
    assert job_of(database, people, job_id).note == "seed 0: pruning"
    workplace.going_home.set()
    work.join(10)


def test_a_batch_that_always_dies_is_given_up_as_a_whole_and_spares_the_rest(
    workplace, training_says, database, people
):
    with database.write() as session:
        job_id = submit(session, people, datetime.now(UTC), runs=new_runs(3)).id
    dying = """
    if len(left) == 3:
        say("at", runs=[run["id"] for run in left[:2]])
        sys.exit("there is no memory left")
    """
    training_says(dying + WHOLE_RUN.replace("\n", "\n    "))
    run_job(job_id, here=workplace)
    first, second, third = runs_of(database, people, job_id)
    assert [first.state, second.state, third.state] == ["failed", "failed", "succeeded"]
    assert "died 3 times while it trained these 2 runs side by side" in first.reason
    assert "there is no memory left" in first.reason
    assert second.reason == first.reason
    assert job_of(database, people, job_id).reason == f"2 of 3 runs failed: seed 0, seed 1: {first.reason}"


def test_a_death_during_evidence_counts_against_the_run_that_was_examined(
    workplace, training_says, database, people, job_id
):
    dying = """
    ids = [run["id"] for run in left]
    if len(ids) == 2:
        say("began", runs=ids, stepper="batched", replicas=2, step=0)
        say("at", runs=ids[:1])
        sys.exit("it cannot be drawn")
    """
    training_says(dying + WHOLE_RUN.replace("\n", "\n    "))
    run_job(job_id, here=workplace)
    first, second = runs_of(database, people, job_id)
    assert (first.state, second.state) == ("failed", "succeeded")
    assert "died 3 times in this run" in first.reason
