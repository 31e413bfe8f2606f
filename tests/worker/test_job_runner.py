"""How a job ends, whatever its training process sends or does not send."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from obstore.exceptions import GenericError as FileStoreError

from store import jobs, runs
from store.database import Database
from store.errors import DamagedFile, StoreError
from store.tables import Attempt, Job, Run
from tests.store.makers import People, new_runs, submit
from tests.worker.conftest import SCRIPT, in_the_background, wait_for
from worker import protocol
from worker.job_runner import JobOutcome, JobRunner, run_next_job, run_waiting_jobs
from worker.protocol import Message

# One whole run: it trains, keeps a checkpoint, and leaves a result.
WHOLE_RUN = """
for run in left:
    send("training_started", runs=[run["id"]], stepper="kernel", replicas=1, step=0)
    send("history_row", run=run["id"], row={"step": 0, "prediction_loss": 2.0})
    send("history_row", run=run["id"], row={"step": 50, "prediction_loss": 1.0})
    send("snapshot_written", run=run["id"], step=50, file=write("snap" + run["id"]))
    send("checkpoint_written", runs=[run["id"]], step=50, file=write("check" + run["id"]))
    send("runs_progress", runs=[run["id"]], fraction=0.9, note="training")
    module = {"name": "A", "neurons": ["hidden1:0"], "inputs": ["x1"], "outputs": ["y1"], "connections": 2,
              "effects": {"y1": {"zero": 1.0, "mean": 1.0, "resample": 1.0, "p": 0.01, "p_holm": 0.02}},
              "selectivity": 1.0,
              "reading": "module A reads x1, decides y1"}
    document = {"metrics": {"test_prediction_loss": 0.5, "connection_cost": 3.0}, "prune_curve": [{"connections": 2}],
                "graph": {"nodes": [{"id": "input:0"}, {"id": "output:0"}], "edges": [{"source": "input:0"}]},
                "modules": [module], "effects": {"outputs": ["y1"]}, "communities": {"modularity": 0.3}}
    if run is left[0]:  # only data of a group have this part
        document["representations"] = {"names": ["trivial"]}
        group = {"name": "A1", "module": "A", "neurons": ["hidden1:0"], "trees": 1, "selectivity": 1.0,
                 "reads": [{"name": "x1", "share": 1.0}], "effects": [0.5], "works": True,
                 "strongest": [{"output": "y1", "effect": 0.5, "trained": 0.5}]}
        groups = [group, group | {"name": "A2", "strongest": [], "lies_in": [{"name": "sign", "share": 0.9}]}]
        partition = {"layer": "hidden1", "kind": "sum", "groups": groups, "largest_interaction": 0.0,
                     "trained_largest_interaction": 0.0, "trained_leak": 0.0, "p": 0.01, "random_partitions": 99,
                     "verdict": "supported"}
        document["interior"] = {"partitions": [partition], "primary": 0}
    result = {"document": document, "dataset": {"task": "regression"}, "stepper": "kernel", "device": "cpu",
              "replicas": 1, "training_seconds": 1.5, "evidence_seconds": 0.5,
              "files": {"weights.safetensors": write("w" + run["id"])},
              "figures": {"network.svg": write("s" + run["id"])}}
    send("result_written", run=run["id"], file=write("r" + run["id"], json.dumps(result).encode()))
send("job_done")
"""
# A training process that ignores every request to stop.
IGNORES_STOP = """
run = left[0]["id"]
send("training_started", runs=[run], stepper="kernel", replicas=1, step=0)
while True:
    send("runs_progress", runs=[run], fraction=0.1, note="training")
    time.sleep(0.05)
"""
# One that writes a checkpoint when it is asked to stop, as the real one does.
STOPS = """
run = left[0]["id"]
send("training_started", runs=[run], stepper="kernel", replicas=1, step=0)
send("runs_progress", runs=[run], fraction=0.1, note="training")
assert json.loads(sys.stdin.readline()) == {"type": "stop"}
send("checkpoint_written", runs=[run], step=70, file=write("check"))
send("job_stopped")
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
        chunks = runs.log_chunks(session, people.team, job_id)
        return "\n".join(line["text"] for chunk in chunks for line in chunk.lines)


def test_everything_that_a_run_reports_is_stored(context, training_does, database, people, job_id):
    training_does(WHOLE_RUN)
    assert run_next_job(context) is JobOutcome.DONE
    assert job_of(database, people, job_id).state == "succeeded"
    for run in runs_of(database, people, job_id):
        assert (run.state, run.stepper, run.test_metric, run.modules) == ("succeeded", "kernel", 0.5, 1)
        assert (run.connection_cost, run.selectivity, run.modularity) == (3.0, 1.0, 0.3)
        with database.read() as session:
            assert [row["step"] for row in runs.history(session, run.id)] == [0, 50]
            assert [kept.step for kept in runs.snapshots(session, run.id)] == [50]
            assert [module.name for module in runs.modules(session, run.id)] == ["A"]
            kept = runs.published_file(session, run.id, "weights.safetensors")
            assert context.files.read(kept.sha256) == b"bytes"
    with database.read() as session:
        found = [runs.body(session, run.id, "representations") for run in runs_of(database, people, job_id)]
    assert found == [{"names": ["trivial"]}, None]
    first, second = runs_of(database, people, job_id)
    with database.read() as session:
        assert (first.interior_modules, second.interior_modules) == (2, None)
        assert runs.body(session, first.id, "interior")["primary"] == 0
        groups = runs.groups(session, first.id)
        assert [(one.name, one.moves, one.representation) for one in groups] == [
            ("A1", "y1", None),
            ("A2", None, "sign"),
        ]
        assert {(one.is_primary, one.verdict, one.effect, one.neurons) for one in groups} == {
            (True, "supported", 0.5, 1)
        }
        assert len(runs.page(session, people.team, reads="x1", min_interior_modules=2).rows) == 1
    lines = log_of(database, people, job_id).splitlines()
    assert lines[:3] == [
        "attempt 1 begins, by worker tester@here",
        "the engine starts",
        "seed 0 begins, stepper kernel",
    ]
    assert lines[-1] == "seed 1 is done: 1 module, 1 connection"


def test_runs_of_several_cost_strengths_are_told_apart(context, training_does, database, people):
    of_two = [new_runs()[0] | {"cost_strength": strength} for strength in (1e-3, 0.02)]
    with database.write() as session:
        job_id = submit(session, people, datetime.now(UTC), runs=of_two).id
    failing = 'run = left.pop()["id"]\nsend("runs_failed", runs=[run], sentence="It diverged.")\n'
    training_does(failing + WHOLE_RUN)
    run_next_job(context)
    said = log_of(database, people, job_id)
    assert "seed 0 at λ = 0.001 begins, stepper kernel" in said
    assert "seed 0 at λ = 0.001 is done: 1 module, 1 connection" in said
    assert job_of(database, people, job_id).reason == "1 of 2 runs failed: seed 0 at λ = 0.02: It diverged."


def test_the_next_attempt_continues_the_progress_of_the_one_before(
    context, training_does, database, people, job_id, monkeypatch
):
    monkeypatch.setattr("worker.lease.MIN_OBSERVED_SECONDS", 0.0)
    with database.write() as session:
        long_ago = datetime.now(UTC) - timedelta(hours=1)
        lost = jobs.claim(session, job_id, worker="w", now=long_ago, lease_seconds=60)
        jobs.renew(session, lost, now=long_ago, lease_seconds=60, progress=0.12)
        assert jobs.reap(session, now=datetime.now(UTC)) == [job_id]
    training_does(
        f"""
        proceed = pathlib.Path({str(context.settings.home)!r}) / "proceed"
        while not proceed.exists():
            time.sleep(0.01)
        run = left[0]["id"]
        send("training_started", runs=[run], stepper="kernel", replicas=1, step=0)
        send("runs_progress", runs=[run], fraction=0.1, note="training")
        send("runs_progress", runs=[run], fraction=0.2, note="training")
        wait_to_be_ended()
        """
    )
    work = in_the_background(lambda: run_next_job(context))
    wait_for(lambda: job_of(database, people, job_id).note == "the engine starts")
    assert job_of(database, people, job_id).progress == 0.12
    (context.settings.home / "proceed").touch()
    wait_for(lambda: job_of(database, people, job_id).due_at is not None)
    assert job_of(database, people, job_id).progress == 0.12, "0.2 / 2 is behind the attempt before"
    context.shutting_down.set()
    work.join()
    job = job_of(database, people, job_id)
    assert (job.state, job.due_at, job.progress) == ("queued", None, 0.12)
    assert "attempt 2 begins, by worker tester@here" in log_of(database, people, job_id)
    assert [attempt.number for attempt in attempts_of(database, people, job_id)] == [1, 2]


def test_nothing_is_left_on_the_worker_s_disk(context, training_does, job_id, tmp_path):
    training_does(WHOLE_RUN)
    run_next_job(context)
    assert list((tmp_path / "home" / "spool").iterdir()) == []


def test_a_second_message_finds_nothing_to_do(context, training_does, job_id):
    training_does(WHOLE_RUN)
    run_next_job(context)
    assert run_next_job(context) is None


def test_one_message_is_enough_for_all_jobs_that_wait(context, training_does, database, people, job_id):
    training_does(WHOLE_RUN)
    with database.write() as session:
        others = [submit(session, people, datetime.now(UTC), runs=new_runs(2)).id for _ in range(2)]
    run_waiting_jobs(context)
    assert {job_of(database, people, one).state for one in (job_id, *others)} == {"succeeded"}


def test_a_worker_that_ends_takes_no_further_job(context, training_does, database, people, job_id):
    training_does(WHOLE_RUN)
    with database.write() as session:
        second = submit(session, people, datetime.now(UTC), runs=new_runs(2)).id
    context.shutting_down.set()
    run_waiting_jobs(context)
    assert job_of(database, people, second).state == "queued"


def test_one_failed_run_leaves_the_others_their_results(context, training_does, database, people, job_id):
    failing = 'run = left.pop(0)["id"]\nsend("runs_failed", runs=[run], sentence="The loss is no number any more.")\n'
    training_does(failing + WHOLE_RUN)
    run_next_job(context)
    job = job_of(database, people, job_id)
    assert (job.state, job.reason) == ("failed", "1 of 2 runs failed: seed 0: The loss is no number any more.")
    assert [run.state for run in runs_of(database, people, job_id)] == ["failed", "succeeded"]


def test_a_run_that_failed_in_an_attempt_before_is_not_forgotten(context, training_does, database, people, job_id):
    with database.write() as session:
        now = datetime.now(UTC)
        lost = jobs.claim(session, job_id, worker="w", now=now, lease_seconds=60)
        runs.fail(session, lost, lost.runs[0].id, reason="It diverged.", now=now)
        assert jobs.reap(session, now=now + timedelta(seconds=61)) == [job_id]
    training_does(WHOLE_RUN)
    run_next_job(context)
    job = job_of(database, people, job_id)
    assert (job.state, job.reason) == ("failed", "1 of 2 runs failed: seed 0: It diverged.")
    assert [run.state for run in runs_of(database, people, job_id)] == ["failed", "succeeded"]


def test_a_training_that_dies_goes_on_from_its_checkpoint(context, training_does, database, people, job_id):
    dying = """
    run = left[0]
    if run["checkpoint"] is None:
        send("training_started", runs=[run["id"]], stepper="kernel", replicas=1, step=0)
        send("history_row", run=run["id"], row={"step": 10, "prediction_loss": 2.0})
        send("checkpoint_written", runs=[run["id"]], step=10, file=write("check", b"the state at 10"))
        send("history_row", run=run["id"], row={"step": 20, "prediction_loss": 1.0})
        os.kill(os.getpid(), signal.SIGKILL)
    assert (folder / run["checkpoint"]).read_bytes() == b"the state at 10"
    """
    training_does(dying + WHOLE_RUN.replace("\n", "\n    "))
    assert run_next_job(context) is JobOutcome.DONE
    assert job_of(database, people, job_id).state == "succeeded"
    assert "killed by signal 9" in log_of(database, people, job_id)
    assert len(attempts_of(database, people, job_id)) == 1


def test_a_checkpoint_that_is_damaged_during_an_outage_is_forgotten(
    context, training_does, database, people, job_id, monkeypatch
):
    """It was whole when the training began; when the store is back and it is read, it is not."""
    answers = [FileStoreError("away"), DamagedFile("0" * 64)]

    def read(sha256: str) -> bytes:
        raise answers.pop(0)

    monkeypatch.setattr(context.files, "read", read)
    dying = """
    run = left[0]
    if not (folder / "died").exists():
        (folder / "died").touch()
        send("training_started", runs=[run["id"]], stepper="kernel", replicas=1, step=0)
        send("history_row", run=run["id"], row={"step": 10, "prediction_loss": 2.0})
        send("checkpoint_written", runs=[run["id"]], step=10, file=write("check", b"the state at 10"))
        os.kill(os.getpid(), signal.SIGKILL)
    assert run["checkpoint"] is None
    """
    training_does(dying + WHOLE_RUN.replace("\n", "\n    "))
    assert run_next_job(context) is JobOutcome.DONE
    assert job_of(database, people, job_id).state == "succeeded", job_of(database, people, job_id).reason
    assert answers == []
    assert "training starts from the beginning" in log_of(database, people, job_id)
    assert runs_of(database, people, job_id)[0].checkpoint_sha256 is None


def test_a_training_that_dies_after_its_last_run_has_done_its_job(context, training_does, database, people, job_id):
    training_does(WHOLE_RUN.replace('send("job_done")', "os.kill(os.getpid(), signal.SIGKILL)"))
    assert run_next_job(context) is JobOutcome.DONE
    assert job_of(database, people, job_id).state == "succeeded"
    assert "All its results had been stored." in log_of(database, people, job_id)


def test_a_training_that_always_dies_fails_its_run_and_spares_the_next(
    context, training_does, database, people, job_id
):
    dying = """
    if len(left) == 2:
        send("training_started", runs=[left[0]["id"]], stepper="kernel", replicas=1, step=0)
        sys.exit("there is no memory left")
    """
    training_does(dying + WHOLE_RUN.replace("\n", "\n    "))
    run_next_job(context)
    first, second = runs_of(database, people, job_id)
    assert (first.state, second.state) == ("failed", "succeeded")
    assert "there is no memory left" in first.reason
    assert "died 3 times at one checkpoint, so the run was given up" in first.reason


def test_a_training_that_gets_further_before_each_death_is_not_given_up(
    context, training_does, database, people, job_id
):
    dying = """
    run, deaths = left[0], len(list(folder.glob("death-*")))
    if deaths < 5 and len(left) == 2:
        assert (run["checkpoint_step"] or 0) == 10 * deaths, run
        (folder / f"death-{deaths}").touch()
        send("training_started", runs=[run["id"]], stepper="kernel", replicas=1, step=10 * deaths)
        state = write(f"check-{deaths}", b"the state after death %d" % deaths)
        send("checkpoint_written", runs=[run["id"]], step=10 * (deaths + 1), file=state)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    training_does(dying + WHOLE_RUN.replace("\n", "\n    "))
    assert run_next_job(context) is JobOutcome.DONE
    assert job_of(database, people, job_id).state == "succeeded", job_of(database, people, job_id).reason
    assert log_of(database, people, job_id).count("started again from its newest checkpoint") == 5


def test_a_training_that_needs_too_much_memory_fails_its_run_at_once_and_spares_the_next(
    context, training_does, database, people, job_id
):
    context.settings = replace(context.settings, job_memory_bytes=200 << 20)
    growing = """
    if len(left) == 2:
        send("training_started", runs=[left[0]["id"]], stepper="kernel", replicas=1, step=0)
        held = b"x" * (400 << 20)
        wait_to_be_ended()
    """
    training_does(growing + WHOLE_RUN.replace("\n", "\n    "))
    run_next_job(context)
    first, second = runs_of(database, people, job_id)
    assert (first.state, second.state) == ("failed", "succeeded")
    assert re.match(r"It held 0\.\d\d GiB of memory; one job may have 0\.20 GiB", first.reason), first.reason
    assert "started again" not in log_of(database, people, job_id)


def test_a_hung_training_is_ended(context, training_does, database, people, job_id):
    context.settings = replace(context.settings, idle_seconds=1.0)
    training_does('send("active_runs", runs=[left[0]["id"]])\nwait_to_be_ended()')
    run_next_job(context)
    assert job_of(database, people, job_id).state == "failed"
    assert "made no progress for 1 s" in job_of(database, people, job_id).reason


def test_a_cancelled_training_keeps_its_last_checkpoint(context, training_does, database, people, job_id):
    training_does(STOPS)
    work = in_the_background(lambda: run_next_job(context))
    wait_for(lambda: job_of(database, people, job_id).progress > 0)
    with database.write() as session:
        jobs.request_cancel(session, people.team, job_id, datetime.now(UTC))
    work.join()
    assert job_of(database, people, job_id).state == "cancelled"
    assert [run.checkpoint_step for run in runs_of(database, people, job_id)] == [70, None]


def test_a_training_that_ignores_cancel_is_killed(context, training_does, database, people, job_id):
    training_does(IGNORES_STOP)
    work = in_the_background(lambda: run_next_job(context))
    wait_for(lambda: job_of(database, people, job_id).progress > 0)
    with database.write() as session:
        jobs.request_cancel(session, people.team, job_id, datetime.now(UTC))
    work.join()
    assert job_of(database, people, job_id).state == "cancelled"


@pytest.mark.parametrize(("training", "step"), [(STOPS, 70), (IGNORES_STOP, None)], ids=["stops", "ignores"])
def test_a_worker_that_shuts_down_releases_its_job(context, training_does, database, people, job_id, training, step):
    training_does(training)
    work = in_the_background(lambda: run_next_job(context))
    wait_for(lambda: job_of(database, people, job_id).progress > 0)
    context.shutting_down.set()
    work.join()
    assert job_of(database, people, job_id).state == "queued"
    assert runs_of(database, people, job_id)[0].checkpoint_step == step
    assert [attempt.ended_how for attempt in attempts_of(database, people, job_id)] == ["handed_back"]


def test_an_attempt_that_lost_its_lease_writes_nothing_more(context, training_does, database, people, job_id):
    training_does(IGNORES_STOP)
    ended: list[JobOutcome | None] = []
    work = in_the_background(lambda: ended.append(run_next_job(context)))
    wait_for(lambda: job_of(database, people, job_id).progress > 0)
    with database.write() as session:
        assert jobs.reap(session, now=datetime.now(UTC) + timedelta(seconds=60)) == [job_id]
    work.join()
    assert ended == [JobOutcome.LEASE_LOST]
    assert job_of(database, people, job_id).state == "queued"


def test_a_fault_of_the_service_is_named_in_the_job_s_reason(context, training_does, database, people, job_id):
    training_does('send("result_written", run=left[0]["id"], file="is-not-there")\nwait_to_be_ended()')
    assert run_next_job(context) is JobOutcome.FAILED
    job = job_of(database, people, job_id)
    assert job.state == "failed"
    assert "A fault of the service" in job.reason


def test_data_that_are_gone_fail_the_job_with_a_sentence(context, database, people):
    gone = {"dataset": {"kind": "uploaded", "sha256": "0" * 64}}
    with database.write() as session:
        job_id = submit(session, people, datetime.now(UTC), spec=gone).id
    assert run_next_job(context) is JobOutcome.FAILED
    assert "There is no file" in job_of(database, people, job_id).reason


def test_the_most_urgent_job_goes_first_whichever_was_announced(context, training_does, database, people, job_id):
    training_does(WHOLE_RUN)
    with database.write() as session:
        urgent = submit(session, people, datetime.now(UTC), priority=9).id
    run_next_job(context)
    assert job_of(database, people, urgent).state == "succeeded"
    assert job_of(database, people, job_id).state == "queued"


def test_a_cpu_worker_leaves_gpu_jobs_alone(context, training_does, database, people):
    training_does(WHOLE_RUN)
    with database.write() as session:
        job_id = submit(session, people, datetime.now(UTC), queue="gpu").id
    assert run_next_job(context) is None
    assert job_of(database, people, job_id).state == "queued"


# Runs side by side: one checkpoint for both; the process is killed in mid-training unless it goes on from it.
SIDE_BY_SIDE = """
ids = [run["id"] for run in left]
send("active_runs", runs=ids)
names = {run["checkpoint"] for run in left}
if names == {None}:
    send("training_started", runs=ids, stepper="batched", replicas=len(request["runs"]), step=0)
    for run in ids:
        send("history_row", run=run, row={"step": 0, "prediction_loss": 2.0})
    send("checkpoint_written", runs=ids, step=10, file=write("check10", b"both at 10"))
    send("checkpoint_written", runs=ids, step=20, file=write("check20", b"both at 20"))
    send("runs_progress", runs=ids, fraction=0.25, note="training")
    send("log", level="info", text="of all")
    os.kill(os.getpid(), signal.SIGKILL)
[name] = names
assert {run["checkpoint_step"] for run in left} == {20}
assert (folder / name).read_bytes() == b"both at 20"
assert not (folder / "check10").exists()
"""


def test_runs_side_by_side_share_one_checkpoint_and_go_on_together(context, training_does, database, people, job_id):
    training_does(SIDE_BY_SIDE + WHOLE_RUN.replace("replicas=1, step=0", "replicas=2, step=20"))
    assert run_next_job(context) is JobOutcome.DONE
    assert [run.state for run in runs_of(database, people, job_id)] == ["succeeded", "succeeded"]
    lines = log_of(database, people, job_id).splitlines()
    assert "2 runs begin, stepper batched, 2 side by side" in lines
    assert "seed 0 goes on at step 20, stepper kernel, 2 side by side" in lines
    with database.read() as session:
        said = [line for chunk in runs.log_chunks(session, people.team, job_id) for line in chunk.lines]
        assert [line.get("run_id") for line in said if line["text"] == "of all"] == [None]
        for run in runs_of(database, people, job_id):
            assert [row["step"] for row in runs.history(session, run.id)] == [0, 50]


def test_the_bar_of_a_job_counts_every_run_of_a_batch(context, training_does, database, people, job_id):
    training_does(
        """
        ids = [run["id"] for run in left]
        send("training_started", runs=ids, stepper="batched", replicas=2, step=0)
        send("runs_progress", runs=ids, fraction=0.5, note="training")
        send("active_runs", runs=ids[:1])
        send("runs_progress", runs=ids[:1], fraction=0.75, note="pruning")
        sys.stdin.readline()
        send("job_stopped")
        """
    )
    work = in_the_background(lambda: run_next_job(context))
    wait_for(lambda: job_of(database, people, job_id).progress == (0.75 + 0.5) / 2)
    assert job_of(database, people, job_id).note == "seed 0: pruning"
    context.shutting_down.set()
    work.join()


def test_a_batch_that_always_dies_is_given_up_as_a_whole_and_spares_the_rest(context, training_does, database, people):
    with database.write() as session:
        job_id = submit(session, people, datetime.now(UTC), runs=new_runs(3)).id
    dying = """
    if len(left) == 3:
        send("active_runs", runs=[run["id"] for run in left[:2]])
        sys.exit("there is no memory left")
    """
    training_does(dying + WHOLE_RUN.replace("\n", "\n    "))
    run_next_job(context)
    first, second, third = runs_of(database, people, job_id)
    assert [first.state, second.state, third.state] == ["failed", "failed", "succeeded"]
    assert "died 3 times at one checkpoint of these 2 runs, which train side by side" in first.reason
    assert "there is no memory left" in first.reason
    assert second.reason == first.reason
    assert job_of(database, people, job_id).reason == f"2 of 3 runs failed: seed 0, seed 1: {first.reason}"


def test_a_death_during_evidence_counts_against_the_run_that_was_examined(
    context, training_does, database, people, job_id
):
    dying = """
    ids = [run["id"] for run in left]
    if len(ids) == 2:
        send("training_started", runs=ids, stepper="batched", replicas=2, step=0)
        send("active_runs", runs=ids[:1])
        sys.exit("it cannot be drawn")
    """
    training_does(dying + WHOLE_RUN.replace("\n", "\n    "))
    run_next_job(context)
    first, second = runs_of(database, people, job_id)
    assert (first.state, second.state) == ("failed", "succeeded")
    assert "died 3 times at one checkpoint, so the run" in first.reason


# --- the protocol --------------------------------------------------------------------------------------


def test_damaged_data_end_the_job_at_once_with_a_sentence_that_names_the_file(
    context, training_does, database, people, files
):
    stored = files.put_bytes(b"x,y")
    spec = {"dataset": {"kind": "uploaded", "sha256": stored.sha256}}
    with database.write() as session:
        job_id = submit(session, people, datetime.now(UTC), spec=spec).id
    training_does(
        """
        send("data_damaged", expected_sha256=request["content_sha256"], found_sha256="0" * 64)
        wait_to_be_ended()
        """
    )
    assert run_next_job(context) is JobOutcome.FAILED
    job = job_of(database, people, job_id)
    assert (job.state, len(attempts_of(database, people, job_id))) == ("failed", 1)
    assert f"The stored file {stored.sha256} is damaged: its bytes have the SHA-256 {'0' * 64}." in job.reason
    assert log_of(database, people, job_id).count("the engine starts") == 1


def test_a_training_that_ends_with_code_0_in_mid_work_is_a_fault(context, training_does, database, people, job_id):
    training_does("sys.exit(0)")
    run_next_job(context)
    reason = job_of(database, people, job_id).reason
    assert "The training process ended without an error, but before it had finished its work." in reason


def test_a_training_that_reports_done_but_not_all_runs_is_a_fault(context, training_does, database, people, job_id):
    training_does('send("job_done")\nwait_to_be_ended()')
    run_next_job(context)
    assert "ended the job, but did not report all of its runs" in job_of(database, people, job_id).reason


@pytest.mark.parametrize(
    "line", ['{"type": "unknown"}', '{"type": "runs_failed", "runs": "all"}', "Segmentation fault"]
)
def test_a_message_that_cannot_be_read_is_a_fault(context, training_does, database, people, job_id, line):
    training_does(f"print({line!r}, flush=True)\nwait_to_be_ended()")
    run_next_job(context)
    assert "sent a message that this worker cannot read" in job_of(database, people, job_id).reason


EXAMPLES: dict[type[Message], Message] = {
    type(example): example
    for example in (
        protocol.Ready(),
        protocol.LogLine(level="info", text="a line"),
        protocol.ActiveRuns(runs=["RUN"]),
        protocol.TrainingStarted(runs=["RUN"], stepper="kernel", replicas=1, step=0),
        protocol.HistoryRow(run="RUN", row={"step": 0, "prediction_loss": float("nan")}),
        protocol.SnapshotWritten(run="RUN", step=0, file="snapshot"),
        protocol.CheckpointWritten(runs=["RUN"], step=0, file="checkpoint"),
        protocol.RunsProgress(runs=["RUN"], fraction=0.5, note="training"),
        protocol.ResultWritten(run="RUN", file="result"),
        protocol.RunsFailed(runs=["RUN"], sentence="It diverged."),
        protocol.DataDamaged(expected_sha256="a", found_sha256="b"),
        protocol.JobDone(resident_bytes=1),
        protocol.JobStopped(),
        protocol.DiskFull(),
    )
}


@pytest.mark.parametrize("kind", get_args(protocol.TrainingMessage), ids=lambda kind: kind.__name__)
def test_every_message_survives_the_pipe_and_is_handled(context, people, database, job_id, tmp_path, kind):
    sent = EXAMPLES[kind]
    received = protocol.TRAINING_MESSAGES.validate_json(sent.line())
    assert received.line() == sent.line()
    claim = context.claim()
    runner = JobRunner(context, claim, context.lease(claim), tmp_path)
    received = protocol.TRAINING_MESSAGES.validate_json(sent.line().replace("RUN", claim.runs[0].id))
    match received:
        case protocol.DataDamaged():
            with pytest.raises(StoreError, match="is damaged"):
                runner._handle_message(received)
        case protocol.ResultWritten():
            with pytest.raises(FileNotFoundError):
                runner._handle_message(received)
        case _:
            runner._handle_message(received)


# --- the waiting process -------------------------------------------------------------------------------

COUNTING = """
import json, os, pathlib, sys
for line in sys.stdin:
    folder = pathlib.Path(json.loads(line)["folder"])
    request = json.loads((folder / "request.json").read_text())
    left = [run["id"] for run in request["runs"] if run["left"]]
    print(json.dumps({"type": "runs_failed", "runs": left, "sentence": str(os.getpid())}), flush=True)
    print(json.dumps({"type": "job_done", "resident_bytes": 1}), flush=True)
"""


def test_a_process_that_reported_a_failure_serves_no_other_job(context, tmp_path, database, people):
    script = tmp_path / "training.py"
    script.write_text(COUNTING)
    context.training_command, context.keep_waiting = (sys.executable, "-S", str(script)), True
    pids = []
    try:
        for _ in range(2):
            with database.write() as session:
                job_id = submit(session, people, datetime.now(UTC)).id
            run_next_job(context)
            pids.append(job_of(database, people, job_id).reason.rpartition(" ")[2])
    finally:
        context.training_processes.close()
    assert len(set(pids)) == 2


def test_a_process_whose_job_succeeded_serves_the_next(context, training_does, tmp_path, database, people):
    each = "for line in sys.stdin:\n" + "    folder = pathlib.Path(json.loads(line)['folder'])\n"
    each += "    left = [run for run in json.loads((folder / 'request.json').read_text())['runs'] if run['left']]\n"
    each += WHOLE_RUN.replace("\n", "\n    ").replace('stepper="kernel"', "stepper=str(os.getpid())")
    script = tmp_path / "serving.py"
    script.write_text(SCRIPT.split("folder =")[0] + "def send" + SCRIPT.split("def send")[1] + each)
    context.training_command, context.keep_waiting = (sys.executable, "-S", str(script)), True
    pids = []
    try:
        for _ in range(2):
            with database.write() as session:
                job_id = submit(session, people, datetime.now(UTC)).id
            assert run_next_job(context) is JobOutcome.DONE
            pids.append(log_of(database, people, job_id).partition("stepper ")[2].split()[0])
    finally:
        context.training_processes.close()
    assert len(set(pids)) == 1
