"""`python -m standalone demo` shows what it promises, and leaves nothing behind, even when interrupted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image

from standalone.broker import BrokerError, server_binary
from standalone.demo import describe, reads_and_decides
from tests.end_to_end.processes import REPOSITORY
from tests.servers import on_sqlite_or_folder, short_folder

pytestmark = on_sqlite_or_folder  # a demo listens to no setting


@pytest.fixture(autouse=True)
def _needs_a_broker() -> None:
    try:
        server_binary()
    except BrokerError as error:
        pytest.skip(str(error))


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A temporary folder of the demo's own, to see what it leaves there."""
    with short_folder() as folder:
        yield folder


@contextmanager
def started(folder: Path, temporary: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A running demo, which the test ends if it does not end itself."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BIMT_")}
    # A setting of the user's shell that would break a demo that listens to it.
    environ |= {"BIMT_DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:9/none", "TMPDIR": str(temporary)}
    demo = subprocess.Popen(
        [sys.executable, "-m", "standalone", "demo", "--folder", str(folder), *more],
        cwd=REPOSITORY,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield demo
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.communicate()


def left_by_the_demo(temporary: Path) -> list[Path]:
    return list(temporary.glob("bimt-*"))


def test_the_demo_shows_two_modules_of_real_data_and_ends_by_itself(tmp_path, temporary):
    with started(tmp_path / "demo", temporary) as demo:
        said, _ = demo.communicate(timeout=280)
    assert demo.returncode == 0, said
    assert "module A reads x1 and x3, decides y1" in said
    assert "module B reads x2 and x4, decides y2" in said
    assert "442 rows" in said
    assert "peak memory" in said
    assert "/runs/run_" in said
    for name in ("diabetes", "independence"):
        assert (tmp_path / "demo" / f"{name}.svg").read_text().lstrip().startswith("<?xml")
        Image.open(tmp_path / "demo" / f"{name}.png").verify()
    assert len((tmp_path / "demo" / "diabetes.csv").read_text().splitlines()) == 443
    assert left_by_the_demo(temporary) == []


def test_a_demo_that_is_kept_says_how_to_sign_in_and_shows_its_pages(tmp_path, temporary):
    with started(tmp_path / "demo", temporary, "--keep") as demo:
        assert demo.stdout is not None
        said = ""
        while "Sign in with" not in said:
            line = demo.stdout.readline()
            assert line, said
            said += line
        pages = re.findall(r"page +(\S+)", said)
        token = said.split("Sign in with")[1].strip()
        origin = pages[0].partition("/runs/")[0]
        with httpx.Client(base_url=origin, follow_redirects=True, headers={"Origin": origin}) as browser:
            form = browser.get("/login").text
            fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', form))
            browser.post("/login", data=fields | {"token": token})
            shown = [browser.get(page) for page in pages]
        demo.send_signal(signal.SIGINT)
        rest, _ = demo.communicate(timeout=60)
    assert [answer.status_code for answer in shown] == [200, 200]
    assert all(f"/runs/{page.rpartition('/')[2]}" in answer.text for page, answer in zip(pages, shown, strict=True))
    assert all(answer.url.path.startswith("/runs/") for answer in shown)
    assert demo.returncode == 0, said + rest
    assert left_by_the_demo(temporary) == []


@pytest.mark.parametrize("seconds", [0.3, 2.0, 12.0], ids=["at once", "a little later", "while it trains"])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path, temporary, seconds):
    with started(tmp_path / "demo", temporary) as demo:
        time.sleep(seconds)
        tree = psutil.Process(demo.pid).children(recursive=True)
        demo.send_signal(signal.SIGINT)
        said, _ = demo.communicate(timeout=60)
    assert demo.returncode in (130, -signal.SIGINT), said  # the latter before Python has imported anything
    assert psutil.wait_procs(tree, timeout=5)[1] == []
    assert left_by_the_demo(temporary) == []


def test_the_demo_tells_other_modules_from_the_right_ones():
    tangled = [{"inputs": ["x1", "x2", "x3", "x4"], "outputs": ["y2", "y1"]}]
    assert reads_and_decides(tangled) == {(("x1", "x2", "x3", "x4"), ("y1", "y2"))}
    assert describe(tangled) == "{x1, x2, x3, x4} → y1, y2"
    assert describe([]) == "no module at all"
