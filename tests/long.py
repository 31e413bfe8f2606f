"""Which tests take long: `python -m tests.long report.xml` writes tests/long.txt from a report of the whole suite.

The report is that of `make test` with `PYTEST_ADDOPTS=--junitxml=report.xml`. A test is long where one of its cases
took LONGEST_CASE seconds, or all of them LONGEST_ALL. `make test-fast` leaves these out; `make test` runs everything.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

LIST = Path(__file__).with_suffix(".txt")
LONGEST_CASE, LONGEST_ALL = 0.7, 4.0  # seconds


def long_tests() -> frozenset[str]:
    """Ids of tests without their parameters, such as tests/api/test_jobs.py::test_a_job_is_cancelled."""
    return frozenset(LIST.read_text(encoding="utf-8").split())


def main(report: str) -> None:
    """Write the list anew."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for case in ElementTree.parse(report).iter("testcase"):
        *modules, last = str(case.get("classname")).split(".")
        name = str(case.get("name")).partition("[")[0]
        seconds[f"{'/'.join([*modules, last])}.py::{name}"].append(float(case.get("time") or 0))
    found = [name for name, all_of in seconds.items() if max(all_of) >= LONGEST_CASE or sum(all_of) >= LONGEST_ALL]
    LIST.write_text("\n".join(sorted(found)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
