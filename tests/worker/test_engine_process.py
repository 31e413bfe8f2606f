"""The worker's handle on a training process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from store import settings
from worker.engine_process import (
    MAX_JOBS,
    MAX_RESIDENT_BYTES,
    EngineDied,
    EngineProcess,
    TrainingProcesses,
    scratch_folder,
    sweep,
    training_process,
)
from worker.protocol import JobStopped, Ready, TrainingMessage


def start(folder: Path, lines: str) -> EngineProcess[TrainingMessage]:
    script = folder / "script.py"
    script.write_text("import json, os, signal, sys\n" + textwrap.dedent(lines))
    return training_process(folder, (sys.executable, "-S", str(script)))


def ended(process: EngineProcess[TrainingMessage]) -> str:
    """How the process is said to have ended."""
    try:
        while process.next_message(60) is not None:
            pass
    except EngineDied as death:
        return str(death)
    pytest.fail("it has not ended")


def test_it_never_waits_for_its_reader(tmp_path):
    many = """
    for number in range(20_000):
        print(json.dumps({"type": "history_row", "run": "x" * 100, "row": {"step": number}}))
    """
    with start(tmp_path, many) as training:
        training._popen.wait()  # it has ended before anything is read here
        assert [training.next_message(60).row["step"] for _ in range(20_000)] == list(range(20_000))


def test_a_line_cut_by_a_kill_is_no_line(tmp_path):
    cut = """
    print(json.dumps({"type": "job_stopped"}), flush=True)
    os.write(1, b'{"type": "job_st')
    os.kill(os.getpid(), 9)
    """
    with start(tmp_path, cut) as training:
        assert training.next_message(60) == JobStopped()
        assert "killed by signal 9" in ended(training)


def test_the_last_line_of_its_output_is_quoted(tmp_path):
    with start(tmp_path, 'sys.exit("out of memory at step 7")') as training:
        sentence = ended(training)
    assert "ended with code 1" in sentence
    assert "out of memory at step 7" in sentence


def test_it_knows_no_secret_of_the_worker(tmp_path, monkeypatch):
    for name in ("BIMT_DATABASE_URL", "BIMT_SECRET_KEY", "AWS_SECRET_ACCESS_KEY", "BIMT_BROKER_URL", "MY_TOKEN"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("BIMT_KERNEL_CACHE", "/kernels")
    lines = 'print(json.dumps({"type": "log", "level": "info", "text": json.dumps(dict(os.environ))}))'
    with start(tmp_path, lines) as training:
        environment = json.loads(training.next_message(60).text)
    assert "secret" not in environment.values()
    assert environment["BIMT_KERNEL_CACHE"] == "/kernels"
    assert environment["TMPDIR"] == str(tmp_path / "tmp")


def test_it_is_the_first_to_go_where_memory_is_short(tmp_path):
    with training_process(tmp_path, (sys.executable, "-m", "worker.training_process")) as process:
        assert isinstance(process.next_message(120), Ready)
        assert Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip() == "500"


@pytest.mark.parametrize(("asked", "held"), [(5, 5), (0, 9)])
def test_what_one_job_may_hold_is_asked_for_or_nine_tenths_of_what_there_is(asked, held, tmp_path, monkeypatch):
    group = tmp_path / "memory.max"
    group.write_text("10\n")
    monkeypatch.setattr(settings, "CGROUP_LIMITS", (tmp_path / "none", group))
    assert settings.job_memory(asked) == held
    group.write_text("max\n")
    assert settings.job_memory(0) == psutil.virtual_memory().total * 9 // 10


def test_it_ends_with_its_handle(tmp_path):
    with start(tmp_path, "signal.pause()") as training:
        pid = training.pid
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_real_one_ends_when_its_worker_is_killed(tmp_path, number):
    worker_script = tmp_path / "parent.py"
    worker_script.write_text(
        textwrap.dedent(
            """
            import pathlib, signal, sys
            from worker.engine_process import training_process
            folder = pathlib.Path(sys.argv[1])
            print(training_process(folder, (sys.executable, "-m", "worker.training_process")).pid, flush=True)
            signal.pause()
            """
        )
    )
    root = Path(__file__).resolve().parent.parent.parent
    with subprocess.Popen(
        [sys.executable, str(worker_script), str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(root)},
    ) as worker:
        assert worker.stdout is not None
        training = psutil.Process(int(worker.stdout.readline()))
        worker.send_signal(number)
        worker.wait()
        psutil.wait_procs([training])


class Pool:
    """TrainingProcesses whose processes do nothing, and the process that each job had."""

    def __init__(self, spool: Path, *, keep_waiting: bool = True) -> None:
        command = (sys.executable, "-S", "-c", "import sys; sys.stdin.read()")
        self.processes = TrainingProcesses(spool=spool, command=command, keep_waiting=keep_waiting)

    def job(self, resident_bytes: int | None = 1) -> int:
        """The process id of a job that ends well with so much memory; None: that does not end well."""
        with self.processes.borrow() as process:
            if resident_bytes is not None:
                self.processes.keep(resident_bytes)
            return process.pid


@pytest.fixture
def pool(tmp_path):
    made = Pool(tmp_path / "spool")
    yield made
    made.processes.close()
    assert list((tmp_path / "spool").iterdir()) == []


def test_one_process_serves_jobs_until_one_does_not_end_well(pool):
    first = [pool.job(), pool.job(), pool.job(None)]
    assert len(set(first)) == 1
    assert pool.job() != first[0]


def test_a_process_that_has_grown_is_replaced(pool):
    first = [pool.job(MAX_RESIDENT_BYTES), pool.job(MAX_RESIDENT_BYTES + 1)]
    assert first[0] == first[1] != pool.job()


def test_a_process_is_replaced_after_its_last_job(pool):
    pids = [pool.job() for _ in range(MAX_JOBS + 1)]
    assert len(set(pids[:MAX_JOBS])) == 1
    assert pids[MAX_JOBS] != pids[0]


def test_a_process_that_died_while_it_waited_is_replaced(pool):
    pool.processes.start_waiting()
    waiting = pool.processes._process
    psutil.Process(waiting.pid).kill()
    waiting._popen.wait()
    assert pool.job() != waiting.pid


def test_without_the_setting_each_job_has_a_process_of_its_own(tmp_path):
    pool = Pool(tmp_path, keep_waiting=False)
    pool.processes.start_waiting()
    assert pool.processes._process is None
    assert pool.job() != pool.job()


def test_a_folder_whose_worker_is_gone_is_swept_and_no_other(tmp_path):
    with scratch_folder(tmp_path, "job_1") as ours:
        orphan = tmp_path / "job_2-orphan"
        orphan.mkdir()
        (orphan / "lock").touch()
        assert sweep(tmp_path) == ["job_2-orphan"]
        assert ours.exists()
        assert not orphan.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_never_locked_is_swept_when_it_is_old(tmp_path):
    """Its worker was killed between making it and locking it."""
    young, old = tmp_path / "job_1-young", tmp_path / "job_2-old"
    for folder in (young, old):
        folder.mkdir()
    os.utime(old, (0, 0))
    assert sweep(tmp_path) == ["job_2-old"]
    assert young.exists()
