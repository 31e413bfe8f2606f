"""`python -m standalone VERB`: the whole service on one machine. `up` serves until Ctrl-C; `demo` shows it at work."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import signal
import sys
from pathlib import Path

VERBS = {
    "up": "serve until Ctrl-C; prints the address and, the first time, the admin token",
    "demo": "real data in, modules and pictures out, then everything stops",
}
MOVED = ("reproduce", "evidence", "methods", "bench", "load")  # deprecated here: now `python -m measurements VERB`


def main(arguments: list[str]) -> int:
    """Run one verb with the rest of the arguments; the exit code is the verb's own."""
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if verb in MOVED:
        print(f"`python -m standalone {verb}` is now `python -m measurements {verb}`.", file=sys.stderr)
        return int(importlib.import_module("measurements.__main__").main(arguments))
    if verb not in VERBS:
        known = verb in ("-h", "--help", "help")
        if not known:
            print(f"There is no verb `{verb}`.\n", file=sys.stderr)
        print("python -m standalone VERB [--help]\n")
        for name, meaning in VERBS.items():
            print(f"  {name:10} {meaning}")
        return 0 if known else 2
    if importlib.util.find_spec("sqlalchemy") is None:
        print("This Python lacks the packages of the service. `make env` puts them into .venv; then:", file=sys.stderr)
        print(f"  .venv/bin/python -m standalone {' '.join(arguments)}", file=sys.stderr)
        return 2
    if verb == "up":
        return up(rest)
    # While modules are imported nothing is running yet, and a KeyboardInterrupt may be swallowed by one of them.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from standalone.demo import main as demo

    signal.signal(signal.SIGINT, signal.default_int_handler)
    return demo(rest)


def up(arguments: list[str]) -> int:
    """Start everything, print where it is, and stop everything at the first Ctrl-C."""
    from standalone.supervisor import AskedToStop, CannotStart, Plan, Supervisor, stop_at_signals
    from store.settings import SettingsError

    try:
        options = _options(arguments)
    except SettingsError as why:
        print(f"Not started: {why}", file=sys.stderr)
        return 2
    plan = Plan(options.home, options.port, options.host, options.workers, options.api, tuple(options.gpu))
    supervisor = Supervisor(
        plan, environ=os.environ, say=lambda line: print(line, flush=True), stopping=stop_at_signals()
    )
    try:
        token = supervisor.start()
    except CannotStart as why:
        print(f"Not started: {why}", file=sys.stderr)
        return 1
    except AskedToStop:
        return 0
    try:
        if token:
            print(f"admin      {token}\n           shown this once: keep it, and make tokens for people with it")
        print(f"workers    {options.workers} on the CPU, {len(plan.gpus)} on GPUs")
        print(f"address    {supervisor.address}    (Ctrl-C stops everything)", flush=True)
        supervisor.watch()
        print("\nstopping: workers write a checkpoint and return their jobs to the queue …", flush=True)
    finally:
        supervisor.stop()
    print("stopped; `up` again goes on where this left off")
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    """Options on the command line count more than settings in the environment."""
    from store.settings import Settings

    settings = Settings.from_env(os.environ)
    parser = argparse.ArgumentParser(prog="python -m standalone up", description="Serve until Ctrl-C.")
    known = "default %(default)s"
    parser.add_argument("--home", type=Path, default=settings.home, help=f"folder of all that is kept; {known}")
    parser.add_argument("--host", default=settings.host, help=f"address to listen at; {known}")
    parser.add_argument("--port", type=int, default=settings.port, help=f"0: any free one; {known}")
    parser.add_argument("--workers", type=int, default=settings.workers, help=f"worker processes on the CPU; {known}")
    parser.add_argument("--api", type=int, default=settings.api_processes, help=f"API processes; {known}")
    parser.add_argument("--gpu", action="append", default=[], help="one worker on this CUDA device; may repeat")
    parser.epilog = "With BIMT_DATABASE_URL, BIMT_BROKER_URL or BIMT_FILES_URL set, those are used and not started."
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
