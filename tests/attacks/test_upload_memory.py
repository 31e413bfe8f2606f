"""Small files that need much memory to be read, uploaded at once: one child at a time, each within its limit."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import polars
import psutil

from tests.api.makers import House
from tests.api.test_thread import upload
from worker.upload_check import CHECKER

FILES = 8
LIMIT = 1 << 30  # bytes of memory of one check, a quarter of the usual


def small_file_of_much_text(number: int) -> bytes:
    """A Parquet file of 243 kB that takes gigabytes to read: one text of 2 000 letters, 200 000 times."""
    text = polars.Series(["abcdefgh"[number] * 2_000]).new_from_index(0, 200_000)
    out = io.BytesIO()
    polars.DataFrame({"text": text, "y": polars.Series(range(200_000))}).write_parquet(out, compression="zstd")
    return out.getvalue()


def test_eight_files_at_once_are_checked_one_after_another_within_the_limit(make: Callable[..., House]) -> None:
    contents = [small_file_of_much_text(number) for number in range(FILES)]
    assert max(map(len, contents)) < 1 << 20
    house = make(BIMT_CHECK_MEMORY_BYTES=str(LIMIT))
    us = psutil.Process()
    before, own = us.memory_info().rss, [0]
    ended, at_once, memory = threading.Event(), [0], [0]

    def watch() -> None:
        while not ended.wait(0.02):
            found = []
            for child in us.children(recursive=True):
                try:
                    if CHECKER in child.cmdline():
                        found.append(child.memory_info().rss)
                except psutil.Error:
                    continue
            at_once.append(len(found))
            memory.append(sum(found))
            own.append(us.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(FILES) as pool:
        answers = list(pool.map(lambda content: upload(house, content, "text.parquet"), contents))
    house.settle()
    ended.set()
    watcher.join()
    assert {answer.status_code for answer in answers} <= {201, 202, 422}
    listed = house.client().get("/api/v1/datasets", headers=house.headers()).json["items"]
    assert {one["state"] for one in listed} <= {"ready", "refused"}, "every check has ended"
    assert max(at_once) == 1, "one check at a time"
    assert max(memory) <= LIMIT
    assert max(own) < 256 << 20, "API and worker hold none of it"
