"""What every verb of `bimt` is made of: the group, how a verb is run and fails, the options that several share.

A verb is a few calls of the client; it prints words for people, or with `--json` the JSON.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from ..errors import BimtError, JobEnded, NotAllowed, NotLoggedIn, Unreachable
from ..formatting import Args
from ..http import version
from ..service import Client

Found = TypeVar("Found")
Verb = Callable[..., Any]

DONE, REFUSED, USAGE, UNREACHABLE, NOT_ALLOWED, ENDED_BADLY, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
EXIT_CODES = """\
exit codes:
  0    done
  1    the service refused, or a file could not be used; the message says why
  2    the command line is wrong
  3    the service does not answer
  4    no token, or one that may not do this
  5    the job failed or was cancelled
  130  Ctrl-C; a watched job goes on"""


class Interrupted(Exception):
    """Ctrl-C while a job is watched; the text says that the job goes on, and how to watch it again."""


class Verbs(click.Group):
    """The verbs in the order in which they are defined, which is that of a first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names for help and completion."""
        return list(self.commands)


@click.group(
    cls=Verbs,
    epilog=f"\b\n{EXIT_CODES}",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    subcommand_metavar="VERB ...",
)
@click.version_option(version(), message="bimt-client %(version)s")
def cli() -> None:
    """Networks whose modules can be seen and tested: the command line of a BIMT service."""


def verb(name: str, *options: Callable[[Verb], Verb], of: click.Group = cli) -> Callable[[Verb], Verb]:
    """Make a function a verb of `bimt`: its docstring is the help, its result is what `--json` prints.

    of   the group that it belongs to, such as `bimt networks`
    """

    def register(act: Verb) -> Verb:
        @click.pass_context
        def command(ctx: click.Context, as_json: bool, url: str | None, token: str | None, **values: Any) -> None:
            ctx.exit(run_verb(partial(act, **values), Args(as_json, url, token)))

        functools.update_wrapper(command, act)
        for option in reversed((*options, JSON, URL, TOKEN)):
            command = option(command)
        of.command(name, short_help=act.__doc__)(command)
        return act

    return register


def run_verb(act: Callable[[Args], Any], args: Args) -> int:
    """Run a verb and print its result, or its failure as a sentence on standard error. Returns the exit code."""
    try:
        result = act(args)
        if args.json and result is not None:
            print(json.dumps(result, indent=2, ensure_ascii=False))
        sys.stdout.flush()
    except Interrupted as sentence:
        print(f"\n{sentence}", file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `bimt runs | head`: the reader has closed the pipe, which is no failure of the verb
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (BimtError, OSError, ValueError) as error:
        return print_failure(error, as_json=args.json)
    return DONE


def print_failure(error: Exception, *, as_json: bool) -> int:
    """Print what went wrong. Returns the exit code for it."""
    if as_json:
        fields = [{"pointer": f.pointer, "detail": f.detail} for f in getattr(error, "fields", ())]
        detail = getattr(error, "detail", "") or str(error)
        problem = {"error": type(error).__name__, "detail": detail, "fields": fields}
        print(json.dumps(problem, ensure_ascii=False), file=sys.stderr)
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


# --- options that several verbs share --------------------------------------------------------------------------------


def whole_numbers(text: str) -> list[int]:
    """`0,2,5-9` as numbers. Raises BadParameter."""
    found: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            found += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError:
        raise click.BadParameter(f"`{text}` is no list of whole numbers such as 0-4 or 0,3,7.") from None
    return found


def cost_strengths(text: str) -> list[float] | str:
    """`0.001,0.01` as numbers, or `auto`. Raises BadParameter."""
    if text == "auto":
        return "auto"
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"`{text}` is no list of numbers such as 0.001,0.01, nor auto.") from None


def argument(name: str, help: str, **settings: Any) -> Callable[[Verb], Verb]:
    """An argument with its line of help."""
    return click.argument(name, help=help, **settings)


def old_spelling(old: str, new: str) -> Callable[[Verb], Verb]:
    """The spelling of the version before of a repeatable option: it works, with a note on standard error."""
    return click.option(f"--{old}", multiple=True, hidden=True, deprecated=f"Use --{new}.")


JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs instead of words.")
URL = click.option("--url", help="Address of the service; default: BIMT_URL, or what `bimt login` stored.")
TOKEN = click.option("--token", help="Default: BIMT_TOKEN, or what `bimt login` stored.")
RUN = argument("run", "Id of a run, or of a job for its first run.")
JOB = argument("job", "Id of a job.")
MODEL = argument("model", "Name of a model, perhaps with @ and a version.")
WATCH = click.option("--watch", is_flag=True, help="Watch it until it has ended.")
NAME = click.option("--name", help="Its name in lists.")
LIMIT = click.option("--limit", type=int, default=20, show_default=True, help="How many at most.")
Q = argument("q", "Part of the name.", required=False)
FILE = click.Path()


# --- what several verbs do -------------------------------------------------------------------------------------------


def connect(args: Args) -> Client:
    """A client of the service that the options, the environment or `bimt login` name."""
    return Client(args.url, args.token)


def first(limit: int, search: Callable[..., Iterator[Found]]) -> list[Found]:
    """The first entries; where there are more, a note says so on standard error, with `--json` too."""
    found = list(search(limit=limit + 1))
    if len(found) > limit:
        print(f"{limit} shown; --limit for more", file=sys.stderr)
    return found[:limit]


def read_json(path: str) -> dict[str, Any]:
    """The JSON of a file, or of standard input for `-`. Raises ValueError."""
    text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path} is no JSON object.")
    return document
