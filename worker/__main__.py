"""`python -m worker`: one worker process, which does one job at a time; or errands, and a chore beside."""

from __future__ import annotations

import argparse
import os
import sys


def main(arguments: list[str]) -> int:
    """Work until SIGTERM, which makes a checkpoint of the job at hand and hands it back."""
    parser = argparse.ArgumentParser(prog="python -m worker", description="Do jobs until told to stop.")
    parser.add_argument("--queue", choices=("cpu", "gpu", "errands"), help="what it does; default BIMT_QUEUE, or cpu")
    parser.add_argument("--name", help="how it is called in lists; default its queue and process number")
    options = parser.parse_args(arguments)
    if options.queue:
        os.environ["BIMT_QUEUE"] = options.queue
    if options.name:
        os.environ["BIMT_WORKER_NAME"] = options.name

    from worker.app import app, settings
    from worker.records import log_records
    from worker.workplace import workplace

    log_records(settings.log_level)
    queues = ",".join(workplace().queues)
    words = ["worker", "--queues", queues, "--hostname", workplace().name, "--loglevel", settings.log_level]
    app.worker_main([*words, "--without-gossip", "--without-mingle", "--without-heartbeat"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
