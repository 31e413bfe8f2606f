"""Runs and the models that they become: what was found, files, versions, links, verification."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from .. import formatting
from ..formatting import Args
from ..runs import Run
from ..service import Client
from .verb import FILE, LIMIT, MODEL, RUN, argument, connect, first, verb


@verb(
    "runs",
    argument("job", "Id of a job; default: the team's newest runs.", required=False),
    click.option("--min-modules", type=int, metavar="NUMBER", help="Of the team: with at least this many modules."),
    click.option("--min-interior-modules", type=int, metavar="NUMBER",
                 help="With at least this many supported groups inside the modules."),
    click.option("--min-selectivity", type=float, metavar="SHARE", help="With a mean selectivity of at least this."),
    click.option("--reads", metavar="INPUT", help="With a module, or a group inside one, that reads this input."),
    click.option("--moves", metavar="OUTPUT", help="With one that changes this output."),
    LIMIT,
)  # fmt: skip
def runs(args: Args, job: str | None, limit: int, **evidence: Any) -> Any:
    """List the runs of a job, or those of the team that match filters."""
    if job and any(value is not None for value in evidence.values()):
        raise ValueError("A job's runs are listed whole: leave out the job, or the options that search for runs.")
    with connect(args) as client:
        found = client.jobs.get(job).runs() if job else first(limit, partial(client.runs.search, **evidence))
    formatting.runs(args, found)
    return [each.document for each in found]


@verb("show", RUN)
def show(args: Args, run: str) -> Any:
    """Show what was found in a run."""
    with connect(args) as client:
        now = the_run(client, run).refresh()
        modules, effects, interior = now.modules(), now.effects(), now.interior()
        formatting.run(args, now, modules, interior, page=f"{client.url}/runs/{now.id}")
    found = {"modules_found": [module.__dict__ for module in modules], "effects": effects, "interior": interior}
    return now.document | found


@verb("modules", RUN)
def modules(args: Args, run: str) -> Any:
    """Show what the modules of a run read and change, and the groups inside them."""
    with connect(args) as client:
        now = the_run(client, run)
        found, interior = now.modules(), now.interior()
    for module in found:
        formatting.say(args, str(module))
    formatting.interior(args, interior)
    return {"modules": [module.__dict__ for module in found], "interior": interior}


@verb(
    "pull",
    RUN, click.argument("folder", type=FILE, required=False, help="Or a file.zip; default: a folder of the run's id."),
)  # fmt: skip
def pull(args: Args, run: str, folder: str | None) -> Any:
    """Download everything of a run."""
    with connect(args) as client:
        found = the_run(client, run)
        zipped = folder is not None and folder.lower().endswith(".zip")
        return written(args, [found.bundle(folder)] if zipped else found.download(folder))


@verb(
    "film",
    RUN, click.argument("file", type=FILE, required=False, help="Ending in .mp4 or .gif; default: RUN.mp4."),
)  # fmt: skip
def film(args: Args, run: str, file: str | None) -> Any:
    """Download the training of a run as a film."""
    ending = Path(file or "film.mp4").suffix.removeprefix(".").lower()
    if ending not in ("mp4", "gif"):
        raise ValueError(f"A film is an .mp4 or a .gif; `{file}` is neither.")
    with connect(args) as client:
        return written(args, [the_run(client, run).film(file, format="gif" if ending == "gif" else "mp4")])


@verb(
    "onnx",
    RUN,
    click.argument("file", type=FILE, required=False, help="Default: RUN.onnx."),
    click.option("--module", help="One module only, by its letter, or one group inside a module (A2)."),
)  # fmt: skip
def onnx(args: Args, run: str, file: str | None, module: str | None) -> Any:
    """Download a run's network for other programs."""
    with connect(args) as client:
        return written(args, [the_run(client, run).onnx(file, module=module)])


@verb(
    "publish",
    RUN,
    argument("model", "Name of the model: the first run creates it, every further one is its next version."),
    click.option("--card", type=FILE, metavar="FILE", help="What readers should know, in Markdown."),
    click.option("--visibility", type=click.Choice(("private", "team", "unlisted", "public")),
                 help="Visibility of a new model; default: team."),
)  # fmt: skip
def publish(args: Args, run: str, model: str, card: str | None, visibility: Any) -> Any:
    """Publish a run under a name, so that it is kept and can be found."""
    text = Path(card).read_text(encoding="utf-8") if card else ""
    with connect(args) as client:
        found = the_run(client, run)
        version = client.models.publish(found, model, card=text, visibility=visibility)
        formatting.say(args, f"{version.model} version {version.number} is {found.id}.")
    return version.document


@verb(
    "share",
    MODEL,
    click.option("--days", type=int, default=30, show_default=True, help="Days until it expires."),
    click.option("--note", default="", help="A sentence above the picture."),
)  # fmt: skip
def share(args: Args, model: str, days: int, note: str) -> Any:
    """Make a link that shows one version to anyone who has it."""
    with connect(args) as client:
        link = client.models.version(model).share(days=days, note=note)
    formatting.say(args, f"{link['url']}\nThe link shows this version to anyone who has it, and is shown only now.")
    return link


@verb("verify", MODEL)
def verify(args: Args, model: str) -> Any:
    """Recompute the claims of a version from its weights; the exit code is 1 where one does not agree."""
    with connect(args) as client:
        found = client.models.version(model).verify()
    rows = [
        (
            check["what"],
            formatting.brief(check["claimed"]),
            formatting.brief(check["found"]),
            "yes" if check["agrees"] else "NO",
        )
        for check in found["checks"]
    ]
    formatting.table(args, ("claim", "said", "found again", "agrees"), rows)
    formatting.say(args, str(found["reading"]))
    if not found["agrees"]:
        if args.json:
            print(json.dumps(found, indent=2, ensure_ascii=False))
        raise ValueError(f"The claims of {model} do not agree with its weights.")
    return found


def the_run(client: Client, identifier: str) -> Run:
    """A run by its id, or the first successful run of a job."""
    if not identifier.startswith("job_"):
        return client.runs.get(identifier)
    found = client.jobs.get(identifier).runs()
    return next((each for each in found if each.state == "succeeded"), found[0])


def written(args: Args, paths: list[Path]) -> list[str]:
    """Print the paths of files that were written."""
    for path in paths:
        formatting.say(args, str(path))
    return [str(path) for path in paths]
