"""`python -m worker`: one worker process, which runs one job at a time; or operations, one of each of their queues."""

from __future__ import annotations

import argparse
import os
import sys


def main(arguments: list[str]) -> int:
    """Work until SIGTERM, which makes the running job write a checkpoint and return to the queue."""
    from store import aliases
    from store.settings import QUEUES

    parser = argparse.ArgumentParser(prog="python -m worker", description="Run jobs until stopped by a signal.")
    parser.add_argument(
        "--queue",
        choices=(*QUEUES, *aliases.QUEUES),  # an old name is accepted with a warning by Settings
        metavar="QUEUE",
        help="cpu, gpu, or interactive (operations; also serves batch); default BIMT_QUEUE, or cpu",
    )
    parser.add_argument("--name", help="its name in lists; default its queue and process number")
    parser.add_argument("--no-waiting-process", action="store_true", help="start a new training process for each job")
    args = parser.parse_args(arguments)
    if args.queue:
        os.environ["BIMT_QUEUE"] = args.queue
    if args.name:
        os.environ["BIMT_WORKER_NAME"] = args.name
    if args.no_waiting_process:
        os.environ["BIMT_WAITING_PROCESS"] = "no"

    from store.log import set_up
    from worker.app import app, context, settings

    set_up(settings.log_level)
    words = ["worker", "--queues", ",".join(context.queues), "--hostname", context.name]
    words += ["--loglevel", settings.log_level]
    app.worker_main([*words, "--without-gossip", "--without-mingle", "--without-heartbeat"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
