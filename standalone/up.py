"""`python -m standalone up`: serve until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from standalone.supervisor import AskedToStop, CannotStart, Plan, Supervisor, stop_at_signals
from store.settings import Settings, SettingsError


def main(arguments: list[str]) -> int:
    """Start everything, print where it is, and stop everything at the first Ctrl-C."""
    try:
        options = _options(arguments)
    except SettingsError as why:
        print(f"Not started: {why}", file=sys.stderr)
        return 2
    plan = Plan(
        home=options.home,
        port=options.port,
        host=options.host,
        workers=options.workers,
        api=options.api,
        gpus=tuple(options.gpu),
    )
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
        print("\nstopping: workers make a checkpoint and hand their jobs back …", flush=True)
    finally:
        supervisor.stop()
    print("stopped; `up` again goes on where this left off")
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    """Words on the command line count more than settings in the environment."""
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
