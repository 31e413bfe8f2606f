"""Small files that need much memory to be read, checked at once: one child at a time, each within its limit."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import polars
import psutil

from api.upload_check import CHECK_MODULE
from tests.api.makers import House
from tests.api.test_thread import upload

FILES = 8
LIMIT = 1 << 30  # bytes of memory of one check, a quarter of the usual


def small_file_of_much_text() -> bytes:
    """A Parquet file of 243 kB that takes gigabytes to read: one text of 2 000 letters, 200 000 times."""
    text = polars.Series(["x" * 2_000]).new_from_index(0, 200_000)
    out = io.BytesIO()
    polars.DataFrame({"text": text, "y": polars.Series(range(200_000))}).write_parquet(out, compression="zstd")
    return out.getvalue()


def test_eight_files_at_once_are_checked_one_after_another_within_the_limit(make: Callable[..., House]) -> None:
    content = small_file_of_much_text()
    assert len(content) < 1 << 20
    house = make(BIMT_CHECK_MEMORY_BYTES=str(LIMIT))
    ended, at_once, memory = threading.Event(), [0], [0]

    def watch() -> None:
        us = psutil.Process()
        while not ended.wait(0.02):
            found = []
            for child in us.children(recursive=True):
                try:
                    if CHECK_MODULE in " ".join(child.cmdline()):
                        found.append(child.memory_info().rss)
                except psutil.Error:
                    continue
            at_once.append(len(found))
            memory.append(sum(found))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(FILES) as pool:
        answers = list(pool.map(lambda _: upload(house, content, "text.parquet"), range(FILES)))
    house.app.extensions["bimt"].upload_checker.wait(300)
    ended.set()
    watcher.join()
    assert {answer.status_code for answer in answers} <= {201, 202, 422}
    assert max(at_once) == 1, "one check at a time"
    assert max(memory) <= LIMIT
