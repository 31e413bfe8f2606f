"""The `bimt` command whole: one file for each kind of verb, over what all verbs are made of (`verb.py`).

The verbs of the service itself and of the shell are here. Tables and pictures in the terminal are in `formatting.py`
beside this folder.
"""

from __future__ import annotations

import json
import webbrowser
from dataclasses import asdict
from typing import Any

import click
from click.shell_completion import get_completion_class

from .. import formatting
from ..doctor import examine
from ..formatting import Args

# The help lists the verbs in this order, which is that of a first use.
from . import inputs, jobs, runs  # noqa: F401
from .verb import EXIT_CODES, argument, cli, connect, verb

__all__ = ["EXIT_CODES", "cli", "main"]


def main() -> None:
    """What the `bimt` script calls."""
    cli.main(prog_name="bimt")


@verb(
    "doctor",
    click.option("--quick", is_flag=True, help="Do not train a small network."),
)  # fmt: skip
def doctor(args: Args, quick: bool) -> Any:
    """Check a deployment end to end and say in words what is wrong; the exit code is 1 where something is."""
    found = []
    with connect(args) as client:
        for finding in examine(client, train=not quick):
            formatting.say(args, f"{'ok ' if finding.well else 'NOT'}  {finding.what}: {finding.detail}")
            found.append(finding)
    wrong = [finding for finding in found if not finding.well]
    if wrong:
        if args.json:
            print(json.dumps([asdict(finding) for finding in found], indent=2, ensure_ascii=False))
        raise ValueError(f"{len(wrong)} of {len(found)} checks say that something is wrong.")
    return [asdict(finding) for finding in found]


@verb(
    "open",
    argument("id", "Id of a job, run, data set or model."),
    click.option("--print", "only_print", is_flag=True, help="Only print the address."),
)  # fmt: skip
def open_page(args: Args, id: str, only_print: bool) -> Any:
    """Open a page of the service in the browser."""
    with connect(args) as client:
        kind = id.partition("_")[0]
        if kind not in ("job", "run", "dataset", "model"):
            raise ValueError(f"`{id}` is no id of a job, a run, a data set or a model.")
        page = f"{client.url}/{kind}s/{id}"
    formatting.say(args, page)
    if not only_print and not args.json:
        webbrowser.open(page)
    return {"page": page}


@verb(
    "completion",
    argument("shell", 'Evaluate it: eval "$(bimt completion bash)"; fish: bimt completion fish | source.',
             type=click.Choice(("bash", "zsh", "fish"))),
)  # fmt: skip
def completion(args: Args, shell: str) -> None:
    """Print what makes the shell complete these verbs."""
    kind = get_completion_class(shell)
    assert kind is not None  # click knows all three
    script = kind(cli, {}, "bimt", "_BIMT_COMPLETE").source()
    if shell == "zsh":
        first, _, rest = script.partition("\n")
        script = f"{first}\n(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit -u }}\n{rest}"
    print(script)
