"""What a run found is published all at once, once, and read back by its parts."""

from __future__ import annotations

import dataclasses

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from store import jobs, runs
from store.errors import NotFound
from store.tables import Effect, Figure, File, Graph, Module, Run, RunBody
from tests.store.makers import SMALL_SVG, claim, new_runs, result, submit


@pytest.fixture
def claimed(database, people, clock):
    with database.write() as session:
        got = claim(session, submit(session, people, clock.now, runs=new_runs(2)).id, clock.now)
        runs.start(session, got, got.runs[0].id, clock.now)
    return got


def count(database, table):
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(table))


def test_a_published_run_is_read_back_by_its_parts(database, people, clock, files, claimed):
    run_id = claimed.runs[0].id
    found = result(files)
    with database.write() as session:
        assert runs.publish(session, claimed, run_id, found, clock.pass_seconds(9))
    with database.read() as session:
        run = runs.get(session, people.team, run_id)
        assert (run.state, run.ended_at, run.stepper, run.device) == ("succeeded", clock.now, "kernel", "cpu")
        assert (run.replicas, run.training_seconds, run.evidence_seconds) == (20, 1.5, 0.5)
        assert (run.test_metric_name, run.test_metric, run.connections, run.modules) == ("mse", 5e-4, 8, 2)
        assert (run.modularity, run.selectivity, run.spec, run.step) == (0.5, 1.0, {"seed": 0}, 100)
        assert run.bytes > len(b"weights" + SMALL_SVG), "documents and graph count, too"
        assert runs.body(session, run_id, "metrics") == {"test_mse": 5e-4, "not_a_number": None}
        assert runs.body(session, run_id, "readout") is None
        assert set(runs.bodies(session, run_id)) == {"metrics", "effects", "prune_curve", "communities"}
        graph = runs.graph(session, run_id)
        assert (graph.neurons, graph.connections, graph.body) == (12, 8, found.graph["body"])
        modules = runs.modules(session, run_id)
        assert [(one.name, one.neurons, one.connections) for one in modules] == [("A", 3, 4), ("B", 3, 4)]
        assert modules[0].reading == "module A reads x1 and x3, decides y1"
        assert modules[0].body == found.modules[0]
        effects = session.scalars(select(Effect).where(Effect.run_id == run_id).order_by(Effect.module))
        assert [(one.module, one.target, one.zero, one.p, one.p_holm) for one in effects] == [
            ("A", "y1", 1.0, 0.005, 0.01), ("B", "y2", 1.0, 0.005, 0.01),
        ]  # fmt: skip
        figures = runs.figures(session, run_id)
        assert [(one.name, files.read(one.sha256)) for one in figures] == [("network.svg", SMALL_SVG)]
        assert files.read(runs.published_file(session, run_id, "weights.safetensors").sha256) == b"weights"
        with pytest.raises(NotFound):
            runs.published_file(session, run_id, "nothing.svg")


def test_publishing_twice_keeps_the_first_result(database, people, clock, files, claimed):
    run_id = claimed.runs[0].id
    with database.write() as session:
        assert runs.publish(session, claimed, run_id, result(files), clock.now) is True
    other = dataclasses.replace(result(files), stepper="autograd")
    with database.write() as session:
        assert runs.publish(session, claimed, run_id, other, clock.now) is False
    with database.read() as session:
        assert runs.get(session, people.team, run_id).stepper == "kernel"
    assert count(database, Module) == 2


def test_a_publication_that_breaks_half_way_leaves_nothing(database, people, clock, files, claimed):
    run_id = claimed.runs[0].id
    twice = dataclasses.replace(result(files), modules=[*result(files).modules, *result(files).modules])
    with pytest.raises(IntegrityError), database.write() as session:
        runs.publish(session, claimed, run_id, twice, clock.now)
    for table in (Graph, Module, Effect, RunBody, Figure, File):
        assert count(database, table) == 0
    with database.read() as session:
        assert runs.get(session, people.team, run_id).state == "running"
    with database.write() as session:
        assert runs.publish(session, claimed, run_id, result(files), clock.now)


def test_a_run_of_another_job_or_one_that_failed_cannot_be_published(database, people, clock, files, claimed):
    with database.write() as session:
        stranger = claim(session, submit(session, people, clock.now).id, clock.now)
        runs.fail(session, claimed, claimed.runs[1].id, reason="it diverged", now=clock.now)
        runs.fail(session, claimed, claimed.runs[1].id, reason="it diverged", now=clock.now)
    for run_id in (stranger.runs[0].id, claimed.runs[1].id):
        for write in (
            lambda session, run_id=run_id: runs.publish(session, claimed, run_id, result(files), clock.now),
            lambda session, run_id=run_id: runs.start(session, claimed, run_id, clock.now),
            lambda session, run_id=run_id: runs.append_history(session, claimed, run_id, [{"step": 1}]),
        ):
            with pytest.raises(NotFound), database.write() as session:
                write(session)


def test_runs_that_did_not_end_fail_with_their_job(database, people, clock, files, claimed):
    with database.write() as session:
        runs.publish(session, claimed, claimed.runs[0].id, result(files), clock.now)
        jobs.finish(session, claimed, state="succeeded", now=clock.now)
    with database.read() as session:
        assert [run.state for run in runs.of_job(session, people.team, claimed.job_id)] == ["succeeded", "failed"]
        assert jobs.get(session, people.team, claimed.job_id).progress == 1.0


def test_another_team_sees_none_of_it(database, people, clock, claimed):
    with database.read() as session:
        with pytest.raises(NotFound):
            runs.get(session, people.other_team, claimed.runs[0].id)
        with pytest.raises(NotFound):
            runs.of_job(session, people.other_team, claimed.job_id)
        with pytest.raises(NotFound):
            runs.log_chunks(session, people.other_team, claimed.job_id)
        assert runs.page(session, people.other_team).rows == []


def test_runs_are_found_by_what_was_found_in_them(database, people, clock, files, claimed):
    good, bad = (run.id for run in claimed.runs)
    with database.write() as session:
        runs.publish(session, claimed, good, result(files), clock.now)
        runs.fail(session, claimed, bad, reason="it diverged", now=clock.now)
    with database.read() as session:

        def found(**wanted):
            return [run.id for run in runs.page(session, people.team, **wanted).rows]

        assert found() == [bad, good]
        assert found(state="failed") == [bad]
        assert found(min_modules=2, max_connections=8) == [good]
        assert found(max_connections=7) == []
        assert found(job_id=claimed.job_id, limit=1) == [bad]


def test_the_learning_curve_keeps_each_step_once_in_order(database, people, clock, claimed):
    run_id = claimed.runs[0].id

    def row(step, loss):
        return {"step": step, "prediction_loss": loss}

    with database.write() as session:
        runs.append_history(session, claimed, run_id, [row(0, 3.0), row(10, 2.0)])
        runs.append_history(session, claimed, run_id, [row(20, 1.5), row(30, 1.0)])
        runs.append_history(session, claimed, run_id, [])
        runs.append_history(session, claimed, run_id, [row(20, 1.4), row(30, 0.9), row(40, float("nan"))])
    with database.read() as session:
        losses = [(one["step"], one["prediction_loss"]) for one in runs.history(session, run_id)]
        assert losses == [(0, 3.0), (10, 2.0), (20, 1.4), (30, 0.9), (40, None)]
        assert [one["step"] for one in runs.history(session, run_id, after=10)] == [20, 30, 40]
        assert runs.get(session, people.team, run_id).step == 40


def test_snapshots_are_listed_after_a_step(database, people, clock, files, claimed):
    run_id = claimed.runs[0].id
    with database.write() as session:
        for step in (0, 10, 20, 10):
            runs.append_snapshot(session, claimed, run_id, step, files.put_bytes(b"%d" % step), now=clock.now)
    with database.read() as session:
        assert [one.step for one in runs.snapshots(session, run_id)] == [0, 10, 20]
        assert [files.read(one.sha256) for one in runs.snapshots(session, run_id, after=0)] == [b"10", b"20"]


def test_the_log_is_read_on_from_where_one_was(database, people, clock, claimed):
    with database.write() as session:
        runs.append_log(session, claimed, [{"level": "info", "text": "one"}], now=clock.now)
        runs.append_log(session, claimed, [{"level": "info", "text": "two"}], now=clock.now)
        runs.append_log(session, claimed, [], now=clock.now)
    with database.read() as session:
        first, second = runs.log_chunks(session, people.team, claimed.job_id)
        assert [line["text"] for line in first.lines + second.lines] == ["one", "two"]
        assert runs.log_chunks(session, people.team, claimed.job_id, after=first.id) == [second]
        newest = runs.last_log_lines(session, people.team, claimed.job_id, limit=1)
        assert newest == second.lines[-1:]
        every = runs.last_log_lines(session, people.team, claimed.job_id, limit=9)
        assert every == [*first.lines, *second.lines]


def test_what_is_worked_out_later_replaces_what_was_there(database, people, clock, files, claimed):
    run_id = claimed.runs[0].id
    with database.write() as session:
        runs.publish(session, claimed, run_id, result(files), clock.now)
    with database.write() as session:
        runs.add_body(session, run_id, "readout", {"y1": "(x1 + x3)**3"})
        runs.add_body(session, run_id, "readout", {"y1": None})
        runs.add_file(session, run_id, "film.gif", files.put_bytes(b"gif"), now=clock.now)
        runs.add_file(session, run_id, "film.gif", files.put_bytes(b"gif2"), now=clock.now)
    with database.read() as session:
        assert runs.body(session, run_id, "readout") == {"y1": None}
        assert runs.published_file(session, run_id, "film.gif").bytes == 4


def test_the_database_itself_refuses_a_state_that_cannot_be(database, people, clock, claimed):
    for change in ({"state": "thinking"}, {"state": "succeeded", "ended_at": None}, {"job_id": "job_nowhere"}):
        with pytest.raises(IntegrityError), database.write() as session:
            session.query(Run).filter(Run.id == claimed.runs[0].id).update(change)
