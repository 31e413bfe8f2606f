"""Check the file of a network in a process of its own, which limits itself before it reads a byte.

    python -m bimt_engine.networks.files.check --format onnx [--config '{"network": {…}, "inputs": 4, …}'] PATH

prints one line of JSON: {"ok": true, "header": {…}} or {"ok": false, "errors": [{"detail"}]}, and exits with 0 whenever
it prints, as the check of data does: see bimt_engine/data/check.py.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from bimt_engine.data.check import CPU_SECONDS, MEMORY_BYTES, OutOfTime, end_with_the_caller, limit_this_process
from bimt_engine.errors import BimtError

TOO_LARGE = "The network takes more {} to read and compute once than is granted; send a smaller one."


def check(path: Path, form: str, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """The answer that is printed: the header of the network, or what is wrong."""
    try:
        from bimt_engine.networks.files.reading import header_of, read_network

        return {"ok": True, "header": header_of(read_network(path.read_bytes(), form, config))}
    except BimtError as error:
        detail = str(error)
    except MemoryError:
        detail = TOO_LARGE.format("memory")
    except OutOfTime:
        detail = TOO_LARGE.format("time")
    except RuntimeError as error:  # what torch raises where memory is refused
        if "alloc" not in str(error):
            raise
        detail = TOO_LARGE.format("memory")
    return {"ok": False, "errors": [{"detail": detail}]}


def main(arguments: list[str] | None = None) -> int:
    """Check the file that the arguments name, within the limits. Returns the exit status, 0."""
    parser = argparse.ArgumentParser(
        prog="python -m bimt_engine.networks.files.check", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--format", required=True, choices=["onnx", "safetensors"])
    parser.add_argument("--config", type=json.loads, default=None, help="JSON: what the weights are of")
    parser.add_argument("--memory-bytes", type=int, default=MEMORY_BYTES)
    parser.add_argument("--cpu-seconds", type=int, default=CPU_SECONDS)
    parser.add_argument("--end-with-caller", action="store_true", help="end when standard input ends")
    parser.add_argument("path", type=Path)
    asked = parser.parse_args(arguments)
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # each thread would reserve address space
    if asked.end_with_caller:
        end_with_the_caller()
    limit_this_process(memory=asked.memory_bytes, seconds=asked.cpu_seconds)
    print(json.dumps(check(asked.path, asked.format, asked.config), allow_nan=False), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
