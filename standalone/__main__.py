"""`python -m standalone VERB`: the whole on one machine."""

from __future__ import annotations

import importlib
import signal
import sys

VERBS = {
    "up": ("standalone.up", "serve until Ctrl-C; prints the address and, the first time, the admin token"),
    "demo": ("standalone.demo", "real data in, modules and pictures out, then everything stops"),
    "reproduce": ("standalone.reports.reproduce", "the paper's figures over unpicked seeds"),
    "evidence": ("standalone.reports.evidence", "are the modules there? over unpicked seeds"),
    "methods": ("standalone.reports.methods", "vanilla, L1 and BIMT, relaid before their wiring is compared"),
    "load": ("standalone.load", "32 client threads against four API processes"),
    "bench": ("standalone.bench.__main__", "our step, relocation and whole job against a plain oracle"),
}


def main(arguments: list[str]) -> int:
    """Run one verb with the rest of the arguments; the exit code is the verb's own."""
    if not arguments or arguments[0] in ("-h", "--help", "help") or arguments[0] not in VERBS:
        known = not arguments or arguments[0] in ("-h", "--help", "help")
        if not known:
            print(f"There is no verb `{arguments[0]}`.\n", file=sys.stderr)
        print("python -m standalone VERB [--help]\n")
        for verb, (_, meaning) in VERBS.items():
            print(f"  {verb:10} {meaning}")
        return 0 if known else 2
    # While modules are imported nothing is running yet, and a KeyboardInterrupt may be swallowed by one of them.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    chosen = importlib.import_module(VERBS[arguments[0]][0])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return int(chosen.main(arguments[1:]) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
