"""Messages and the broker that carries them: a real one, killed and restarted."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import redis
from kombu.exceptions import OperationalError

from standalone.broker import Broker, BrokerError
from standalone.database import PostgresServer
from store.jobs import outbox
from tests.servers import short_folder


def client(broker):
    return redis.Redis(unix_socket_path=str(broker.socket))


def messages(broker, name):
    """The job ids that wait, in the order in which a worker would take them."""
    with client(broker) as line:
        found = []
        for priority in range(10):
            key = name if priority == 0 else f"{name}\x06\x16{priority}"
            for raw in reversed(line.lrange(key, 0, -1)):
                envelope = json.loads(raw)
                assert envelope["headers"]["task"] == outbox.TASK
                found.append(envelope["headers"]["argsrepr"])
        return found


def test_the_most_urgent_message_is_the_first(broker):
    for job_id, priority in (("job_a", 5), ("job_b", 9), ("job_c", 0), ("job_d", 5)):
        outbox.enqueue(broker.url, job_id, "cpu", priority)
    outbox.enqueue(broker.url, "job_e", "gpu", 0)
    assert messages(broker, "cpu") == ["['job_b']", "['job_a']", "['job_d']", "['job_c']"]
    assert messages(broker, "gpu") == ["['job_e']"]


def test_a_worker_of_celery_takes_the_message_as_a_call_of_the_task(broker):
    outbox.enqueue(broker.url, "job_a", "cpu", 5)
    with client(broker) as line:
        [raw] = line.lrange("cpu\x06\x164", 0, -1)
    message = json.loads(raw)
    assert message["headers"]["task"] == outbox.TASK
    assert json.loads(base64.b64decode(message["body"]))[:2] == [["job_a"], {}]


def test_sending_needs_no_worker_code(broker):
    script = (
        "import sys; from store.jobs import outbox; outbox.enqueue(sys.argv[1], 'job_a', 'cpu', 5);"
        "assert not [one for one in sys.modules if one.split('.')[0] in ('worker', 'torch', 'flask')]"
    )
    subprocess.run([sys.executable, "-c", script, broker.url], check=True)
    assert messages(broker, "cpu") == ["['job_a']"]


def test_a_broker_that_is_away_is_an_error_and_is_found_again(broker):
    outbox.enqueue(broker.url, "job_a", "cpu", 5)
    assert outbox.answers(broker.url)
    broker.stop()
    with pytest.raises(OperationalError):
        outbox.enqueue(broker.url, "job_b", "cpu", 5)
    assert not outbox.answers(broker.url)
    broker.start()
    outbox.enqueue(broker.url, "job_c", "cpu", 5)
    assert messages(broker, "cpu") == ["['job_a']", "['job_c']"]


def test_a_killed_broker_comes_back_with_its_messages(tmp_path):
    with Broker(tmp_path) as broker:
        with client(broker) as line:
            line.set("kept", "yes")
        time.sleep(1.2)  # the file is synced once a second
        broker.kill()
        assert not broker.answers()
        broker.start()
        with client(broker) as line:
            assert line.get("kept") == b"yes"


def test_a_home_has_one_broker(tmp_path):
    with Broker(tmp_path), pytest.raises(BrokerError, match="already listens"):
        Broker(tmp_path).start()


def test_a_broker_in_a_deep_folder_listens_in_a_short_one(tmp_path):
    with Broker(tmp_path / ("deep" * 30)) as broker:
        assert len(os.fsencode(broker.socket)) < 108
        outbox.enqueue(broker.url, "job_a", "cpu", 5)
        assert messages(broker, "cpu") == ["['job_a']"]
    assert not broker.socket.parent.exists()


PARENT = """
import psutil, sys, time
from standalone.{module} import {server}
server = {server}(sys.argv[1]).start()
print(psutil.Process().children()[0].pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends children with their parent")
@pytest.mark.parametrize(("module", "server"), [("broker", "Broker"), ("database", "PostgresServer")])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_never_outlives_its_parent(module, server, how):
    with short_folder() as folder:
        script = PARENT.format(module=module, server=server)
        parent = subprocess.Popen(
            [sys.executable, "-c", script, str(folder / "server")], stdout=subprocess.PIPE, text=True
        )
        with parent:
            pid = int(parent.stdout.readline())
            os.kill(pid, 0)
            parent.send_signal(how)
            parent.wait()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and _runs(pid):
            time.sleep(0.05)
        assert not _runs(pid)


def test_a_database_server_starts_again_on_its_data():
    import psycopg

    with short_folder() as folder:
        for expected in (0, 1):
            with PostgresServer(folder / "pg") as server:
                url = server.url.replace("+psycopg", "")
                with psycopg.connect(url, autocommit=True) as connection:
                    connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
                    assert connection.execute("SELECT count(*) FROM kept").fetchone() == (expected,)
                    connection.execute("INSERT INTO kept VALUES (1)")


def _runs(pid):
    """Whether the process is there and not merely waiting to be buried."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
