"""The parent's hold on a training process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from worker.engine_process import EngineDied, EngineProcess
from worker.scratch import scratch_folder, sweep


def start(folder: Path, lines: str) -> EngineProcess:
    script = folder / "script.py"
    script.write_text("import json, os, sys, time\n" + textwrap.dedent(lines))
    return EngineProcess(folder, command=(sys.executable, "-S", str(script)))


def test_it_never_waits_for_whoever_listens(tmp_path):
    many = """
    for number in range(20_000):
        print(json.dumps({"say": "row", "number": number, "padding": "x" * 100}))
    open(sys.argv[1] + "/finished", "w").close()
    """
    with start(tmp_path, many) as training:
        deadline = time.monotonic() + 20
        while not (tmp_path / "finished").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert [training.hear(5)["number"] for _ in range(20_000)] == list(range(20_000))


def test_a_line_cut_by_a_kill_is_no_line(tmp_path):
    cut = """
    print(json.dumps({"say": "row"}), flush=True)
    os.write(1, b'{"say": "ro')
    os.kill(os.getpid(), 9)
    """
    with start(tmp_path, cut) as training:
        assert training.hear(5) == {"say": "row"}
        with pytest.raises(EngineDied, match="killed by signal 9"):
            training.hear(5)


def test_its_last_words_are_quoted(tmp_path):
    with start(tmp_path, 'sys.exit("out of memory at step 7")') as training, pytest.raises(EngineDied) as death:
        training.hear(10)
    assert "ended with code 1" in str(death.value)
    assert "out of memory at step 7" in str(death.value)


def test_it_does_not_outlive_the_hold(tmp_path):
    with start(tmp_path, "time.sleep(60)") as training:
        pid = training.pid
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_real_one_ends_when_its_parent_is_killed(tmp_path, number):
    """The parent here waits before the training has imported anything, and later; both must end."""
    parent_script = tmp_path / "parent.py"
    parent_script.write_text(
        textwrap.dedent(
            """
            import json, os, pathlib, subprocess, sys, time
            folder = pathlib.Path(sys.argv[1])
            order = {"parent": os.getpid(), "content": None, "content_sha256": None, "runs": []}
            (folder / "order.json").write_text(json.dumps(order))
            wait = "import sys, time, pathlib, worker.speech as s; s.die_with_parent(%d); s.Ears(); time.sleep(60)"
            training = subprocess.Popen([sys.executable, "-c", wait % os.getpid()], stdin=subprocess.PIPE)
            print(training.pid, flush=True)
            time.sleep(60)
            """
        )
    )
    root = Path(__file__).resolve().parent.parent.parent
    with subprocess.Popen(
        [sys.executable, str(parent_script), str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(root)},
    ) as parent:
        assert parent.stdout is not None
        training = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.5)
        parent.send_signal(number)
        parent.wait(10)
        _, alive = psutil.wait_procs([training], timeout=10)
        assert not alive


def test_a_folder_whose_worker_is_gone_is_swept_and_no_other(tmp_path):
    with scratch_folder(tmp_path, "job_1") as ours:
        orphan = tmp_path / "job_2-orphan"
        orphan.mkdir()
        (orphan / "lock").touch()
        assert sweep(tmp_path) == ["job_2-orphan"]
        assert ours.exists()
        assert not orphan.exists()
    assert list(tmp_path.iterdir()) == []
