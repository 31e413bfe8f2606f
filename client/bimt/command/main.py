"""The `bimt` command: its verbs, its options, and what its exit code means."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import BimtError, JobEnded, NotAllowed, NotLoggedIn, Unreachable
from ..wire import version
from . import verbs
from .completion import SHELLS, script
from .interrupted import Interrupted

DONE, REFUSED, USAGE, UNREACHABLE, NOT_ALLOWED, ENDED_BADLY, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
EXIT_CODES = """\
exit codes:
  0    done
  1    the service said no, or a file could not be used: the sentence says why
  2    the command line is wrong
  3    nobody answers at the address
  4    no token, or one that may not do this
  5    the job failed or was cancelled
  130  Ctrl-C; a job that was watched goes on"""


@dataclass(frozen=True)
class Option:
    """One option or argument, as argparse takes it."""

    names: tuple[str, ...]
    how: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verb:
    """One verb.

    act       does it, and returns what `--json` prints
    options   what follows it on the command line
    """

    name: str
    meaning: str
    act: Callable[[argparse.Namespace], Any]
    options: tuple[Option, ...] = ()


def option(*names: str, **how: Any) -> Option:
    return Option(names, how)


def whole_numbers(text: str) -> list[int]:
    """`0,2,5-9` as numbers."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        found += range(int(first), int(last) + 1) if dash else [int(first)]
    return found


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


RUN = option("run", help="id of a run, or of a job for its first run")
JOB = option("job", help="id of a job")
MODEL = option("model", help="name of a model, perhaps with @ and a version")
WATCH = option("--watch", action="store_true", help="watch it until it has ended")
NAME = option("--name", help="how it is called in lists")
LIMIT = option("--limit", type=int, default=20, help="how many at most; default %(default)s")
VERBS = (
    Verb("login", "keep an address and a token for the next time", verbs.login, (
        option("address", nargs="?", help="of the service, such as http://127.0.0.1:8080"),
        option("--with-token", help="the token; without it you are asked, or it is read from standard input"),
        option("--forget", action="store_true", help="delete what was kept"),
    )),
    Verb("upload", "send a file of data", verbs.upload, (
        option("file", help="CSV, Parquet, NPZ or IDX(.gz)"),
        NAME,
        option("--target", action="append", dest="targets", metavar="COLUMN", help="a column to predict; may repeat"),
        option("--input", action="append", dest="inputs", metavar="COLUMN", help="a column to read; may repeat"),
        option("--task", choices=("regression", "classification"), help="left out: what the target looks like"),
        option("--resume", metavar="UPLOAD", help="go on with a large upload that was broken off"),
    )),
    Verb("datasets", "list the data sets", verbs.datasets, (option("q", nargs="?", help="part of the name"), LIMIT)),
    Verb("recipes", "list the recipes", verbs.recipes),
    Verb("submit", "queue a job", verbs.submit, (
        option("--recipe", help="the name of a recipe"),
        option("--spec", metavar="FILE", help="a spec as JSON; `-` is standard input"),
        option("--dataset", help="id of a data set"),
        option("--seeds", type=whole_numbers, default=[0], help="such as 0-4 or 0,3,7; default 0"),
        option("--cost-strengths", type=numbers, default=[], help="λ, such as 0.001,0.01"),
        NAME,
        option("--tag", action="append", dest="tags", default=[], help="may repeat"),
        option("--priority", type=int, default=5, help="0 to 9, the most urgent; default 5"),
        option("--key", help="an Idempotency-Key: the same again gives the same job"),
        WATCH,
    )),
    Verb("watch", "watch a job until it has ended", verbs.watch, (JOB,)),
    Verb("jobs", "list the jobs", verbs.jobs, (
        option("q", nargs="?", help="part of the name"),
        option("--state", choices=("queued", "running", "succeeded", "failed", "cancelled")),
        option("--tag"),
        LIMIT,
    )),
    Verb("cancel", "end a job", verbs.cancel, (JOB,)),
    Verb("retry", "queue a failed or cancelled job again", verbs.retry, (JOB, WATCH)),
    Verb("runs", "list the runs of a job, or of the team", verbs.runs, (
        option("job", nargs="?", help="id of a job; left out: the team's newest"), LIMIT)),
    Verb("show", "say what was found in a run", verbs.show, (RUN,)),
    Verb("pull", "download everything of a run", verbs.pull, (
        RUN, option("folder", nargs="?", help="where to, or a file.zip; default: a folder named like the run"))),
    Verb("film", "download the training of a run as a film", verbs.film, (
        RUN, option("file", nargs="?", help="ending in .mp4 or .gif; default: RUN.mp4"))),
    Verb("onnx", "download a run's network for other programs", verbs.onnx, (
        RUN,
        option("file", nargs="?", help="default: RUN.onnx"),
        option("--module", help="one module alone, by its letter"),
    )),
    Verb("stability", "say how far the runs of a job agree", verbs.stability, (JOB,)),
    Verb("pareto", "say what a shorter wiring costs, over the runs of a job", verbs.pareto, (
        JOB,
        option("--tolerance", type=float, default=0.05, metavar="SHARE",
               help="of the targets' variance, by which a harmless loss may exceed the best; default %(default)s"),
    )),
    Verb("publish", "give a run a name, so that it is kept and found", verbs.publish, (
        RUN,
        option("model", help="name of the model; the first run makes it, every further one is its next version"),
        option("--card", metavar="FILE", help="what readers should know, in Markdown"),
        option("--visibility", choices=("private", "team", "unlisted", "public"), help="of a new model: team"),
    )),
    Verb("share", "make a link that shows one version to whoever holds it", verbs.share, (
        MODEL,
        option("--days", type=int, default=30, help="until it expires; default %(default)s"),
        option("--note", default="", help="a sentence above the picture"),
    )),
    Verb("verify", "have the claims of a version worked out again from its weights", verbs.verify, (MODEL,)),
    Verb("open", "open the page of a thing in the browser", verbs.open_page, (
        option("id", help="id of a job, run, data set or model"),
        option("--print", action="store_true", dest="only_print", help="only print the address"),
    )),
    Verb("completion", "print what makes the shell complete these verbs", lambda asked: None, (
        option("shell", choices=SHELLS),)),
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line as argparse reads it."""
    top = argparse.ArgumentParser(
        prog="bimt",
        description="Networks whose modules can be seen and tested: the command line of a BIMT service.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"bimt-client {version()}")
    listed = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        below = listed.add_parser(
            verb.name, help=verb.meaning, description=f"{verb.meaning[0].upper()}{verb.meaning[1:]}."
        )
        for each in verb.options:
            below.add_argument(*each.names, **each.how)
        below.add_argument("--json", action="store_true", help="print JSON for programs instead of words")
        below.add_argument("--url", help="address of the service; default: BIMT_URL, or what `bimt login` kept")
        below.add_argument("--token", help="default: BIMT_TOKEN, or what `bimt login` kept")
    return top


def main(arguments: Sequence[str]) -> int:
    """Do what the command line asks; returns the exit code."""
    try:
        asked = parser().parse_args(arguments)
    except SystemExit as end:  # argparse has said why
        return end.code if isinstance(end.code, int) else USAGE
    if asked.verb == "completion":
        print(script(asked.shell, parser()))
        return DONE
    verb = next(verb for verb in VERBS if verb.name == asked.verb)
    try:
        found = verb.act(asked)
    except Interrupted as words:
        print(f"\n{words}", file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # nobody reads any more: no failure of the verb, and an OSError too, so it comes first
        raise
    except (BimtError, OSError, ValueError) as error:
        return _failed(error, as_json=asked.json)
    if asked.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    return DONE


def _failed(error: Exception, *, as_json: bool) -> int:
    """Say what went wrong; returns the exit code that stands for it."""
    if as_json:
        fields = [{"pointer": f.pointer, "detail": f.detail} for f in getattr(error, "fields", ())]
        told = {"error": type(error).__name__, "detail": getattr(error, "detail", "") or str(error), "fields": fields}
        print(json.dumps(told, ensure_ascii=False), file=sys.stderr)
    else:
        print(f"bimt: {error}", file=sys.stderr)
    for kinds, code in (
        ((NotLoggedIn, NotAllowed), NOT_ALLOWED),
        ((Unreachable,), UNREACHABLE),
        ((JobEnded,), ENDED_BADLY),
    ):
        if isinstance(error, kinds):
            return code
    return REFUSED


def run() -> None:
    """What the `bimt` script calls."""
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # `bimt runs | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = DONE
    sys.exit(code)
