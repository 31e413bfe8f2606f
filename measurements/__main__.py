"""`python -m measurements VERB`: measure or reproduce something, and write it into reports/."""

from __future__ import annotations

import importlib
import os
import sys

VERBS = {
    "reproduce": "the paper's figures over seeds 0, 1, …",
    "evidence": "are the modules there? over seeds 0, 1, …",
    "truth": "data whose modules are known, and who finds them",
    "formulas": "thirty functions, and a product learnt by networks: is their formula found?",
    "methods": "vanilla, L1 and BIMT, each laid out as short as possible before wiring is compared",
    "text": "a transformer on Python's standard library, dense and sparse; what closes the quote that was opened",
    "tables": "real public tables over HTTP, beside linear models and boosted trees; a planted one",
    "noise": "tables in which there is nothing to find: is nothing kept, and nothing claimed?",
    "bench": "our step, relocation and whole job against a plain oracle",
    "load": "a team's load, and more than that, against the running service",
    "queue": "claims beside many waiting jobs, and many small jobs through the whole stack",
    "gpu": "everything that needs a CUDA device, in at most eight minutes",
    "page": "how quickly the page of a run answers, and pictures of the pages",
    "chaos": "hundreds of faults over many jobs: is each ended once, with the bits of an undisturbed run?",
    "job": "from submitting a small job to its results, and how long a start takes",
}
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main(arguments: list[str]) -> int:
    """Run one verb with the rest of the arguments; the exit code is the verb's own."""
    if not arguments or arguments[0] in ("-h", "--help", "help") or arguments[0] not in VERBS:
        known = not arguments or arguments[0] in ("-h", "--help", "help")
        if not known:
            print(f"There is no verb `{arguments[0]}`.\n", file=sys.stderr)
        print("python -m measurements VERB [--help]\n")
        for verb, meaning in VERBS.items():
            print(f"  {verb:10} {meaning}")
        return 0 if known else 2
    # Before numpy or torch is imported: with more threads, CPU time would count threads that wait.
    os.environ |= dict.fromkeys(ONE_THREAD, "1")
    return int(importlib.import_module(f"measurements.{arguments[0]}").main(arguments[1:]) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
