"""`python -m standalone up`: serve until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from standalone.supervisor import AskedToStop, CannotStart, Plan, Supervisor, stop_at_signals

PORT = 8600


def main(arguments: list[str]) -> int:
    """Start everything, print where it is, and stop everything at the first Ctrl-C."""
    options = _options(arguments)
    plan = Plan(
        home=options.home,
        port=options.port,
        host=options.host,
        workers=options.workers,
        api=options.api,
        gpus=tuple(options.gpu),
    )
    supervisor = Supervisor(plan, environ=os.environ, say=lambda line: print(line, flush=True))
    stop_at_signals(supervisor)
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
        print("\nstopping: workers make a checkpoint and hand their jobs back …", flush=True)
    finally:
        supervisor.stop()
    print("stopped; `up` again goes on where this left off")
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m standalone up", description="Serve until Ctrl-C.")
    home = os.environ.get("BIMT_HOME") or Path.home() / ".bimt"
    parser.add_argument("--home", type=Path, default=Path(home), help="folder of everything that is kept; default %(default)s")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; default %(default)s: this machine only")
    parser.add_argument("--port", type=int, default=int(os.environ.get("BIMT_PORT", PORT)), help="default %(default)s; 0: any")
    parser.add_argument("--workers", type=int, default=1, help="worker processes on the CPU; default %(default)s")
    parser.add_argument("--api", type=int, default=1, help="API processes; default %(default)s")
    parser.add_argument("--gpu", action="append", default=[], metavar="DEVICE", help="one worker on this CUDA device; may repeat")
    parser.epilog = "With BIMT_DATABASE_URL, BIMT_BROKER_URL or BIMT_FILES_URL set, those are used and not started here."
    return parser.parse_args(arguments)
