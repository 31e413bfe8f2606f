"""The `bimt` command: each verb is a few calls of the client; it prints words for people, or with `--json` the JSON.

Longer than 500 lines because every verb stands here with its options: one list, from which click makes help and
completion. Tables and pictures in the terminal are in `formatting.py`.
"""

from __future__ import annotations

import functools
import getpass
import json
import os
import sys
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import get_completion_class

from . import formatting
from .doctor import examine
from .errors import BimtError, JobEnded, NotAllowed, NotLoggedIn, Unreachable
from .formatting import Args
from .http import version
from .jobs import Job
from .login import Login, forget_login, read_login, whole_address, write_login
from .progress import job_bar
from .runs import Run
from .service import Client

Found = TypeVar("Found")
Verb = Callable[..., Any]

DONE, REFUSED, USAGE, UNREACHABLE, NOT_ALLOWED, ENDED_BADLY, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
EXIT_CODES = """\
exit codes:
  0    done
  1    the service refused, or a file could not be used: the sentence says why
  2    the command line is wrong
  3    the service does not answer
  4    no token, or one that may not do this
  5    the job failed or was cancelled
  130  Ctrl-C; a job that was watched goes on"""


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


def main() -> None:
    """What the `bimt` script calls."""
    cli.main(prog_name="bimt")


# --- options that several verbs share --------------------------------------------------------------------------


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

# --- access, data, recipes -------------------------------------------------------------------------------------


@verb(
    "login",
    argument("address", "Of the service, such as http://127.0.0.1:8080.", required=False),
    click.option("--with-token", help="The token; without it bimt asks for it, or reads it from standard input."),
    click.option("--forget", is_flag=True, help="Delete what was stored."),
)  # fmt: skip
def login(args: Args, address: str | None, with_token: str | None, forget: bool) -> Any:
    """Keep an address and a token for the next time."""
    if forget:
        formatting.say(args, "Forgotten." if forget_login() else "There was nothing to forget.")
        return {}
    stored = read_login()
    url = address or args.url or (stored.url if stored else None)
    if url is None:
        raise NotLoggedIn("Give the address of the service, such as `bimt login http://127.0.0.1:8080`.")
    token = with_token or args.token
    if token is None:
        token = getpass.getpass("token: ") if sys.stdin.isatty() else sys.stdin.readline()
    new = Login(whole_address(url), token.strip())
    with Client(new.url, new.token) as client:
        me = client.me()
    path = write_login(new)
    formatting.say(args, f"Signed in as {me['name']}, team {me['team']}; this token may {', '.join(me['scopes'])}.")
    formatting.say(args, f"Stored in {path}, readable by you alone.")
    return {"url": new.url, "file": str(path)} | me


@verb(
    "upload",
    click.argument("file", type=FILE, help="CSV or TSV (.gz, .zip), Excel, Parquet, Arrow, NPY, NPZ, IDX(.gz)."),
    NAME,
    click.option("--targets", multiple=True, metavar="COLUMN", help="A column to predict; may repeat."),
    old_spelling("target", "targets"),
    click.option("--inputs", multiple=True, metavar="COLUMN", help="A column to read; may repeat."),
    old_spelling("input", "inputs"),
    click.option("--task", type=click.Choice(("regression", "classification")), help="Default: as the target looks."),
    click.option("--type", multiple=True, metavar="COLUMN=TYPE", help="Such as zip=category; may repeat."),
    click.option("--resume", metavar="UPLOAD", help="Resume a large upload that was interrupted."),
)  # fmt: skip
def upload(args: Args, file: str, name: str | None, task: Any, resume: str | None, **columns: tuple[str, ...]) -> Any:
    """Send a file of data."""
    with _client(args) as client:
        dataset = client.datasets.upload(
            file,
            name=name,
            targets=[*columns["targets"], *columns["target"]] or None,
            inputs=[*columns["inputs"], *columns["input"]] or None,
            task=task,
            columns={each.rpartition("=")[0]: {"type": each.rpartition("=")[2]} for each in columns["type"]} or None,
            progress=False if args.json else None,
            resume=resume,
        )
    formatting.dataset(args, dataset)
    return dataset.document


@verb("datasets", Q, LIMIT)
def datasets(args: Args, q: str | None, limit: int) -> Any:
    """List the data sets."""
    with _client(args) as client:
        found = _first(limit, partial(client.datasets.search, q))
    rows = [(d.id, d.name, d.state, f"{d.rows} × {d.columns}" if d.rows else "", d.task) for d in found]
    formatting.table(args, ("id", "name", "state", "size", "task"), rows)
    return [each.document for each in found]


@cli.group("networks", cls=Verbs, subcommand_metavar="VERB ...")
def networks() -> None:
    """Upload, list and delete networks of your own."""


@verb(
    "upload",
    click.argument("file", type=FILE, help="ONNX or safetensors."),
    NAME,
    click.option("--config", metavar="FILE", help="JSON: what the weights in a safetensors file are of."),
    click.option("--resume", metavar="UPLOAD", help="Resume a large upload that was interrupted."),
    of=networks,
)  # fmt: skip
def upload_network(args: Args, file: str, name: str | None, config: str | None, resume: str | None) -> Any:
    """Send a network."""
    with _client(args) as client:
        said = None if config is None else _read_json(config)
        progress = False if args.json else None
        network = client.networks.upload(file, name=name, config=said, progress=progress, resume=resume)
    formatting.say(args, f"{network.id}  {network.name}: {network.parameters:,} parameters, {network.format}.")
    for note in network.notes or ():
        formatting.say(args, note)
    return network.document


@verb("list", Q, LIMIT, of=networks)
def list_networks(args: Args, q: str | None, limit: int) -> Any:
    """List the networks."""
    with _client(args) as client:
        found = _first(limit, partial(client.networks.search, q))
    rows = [(n.id, n.name, n.state, n.format, f"{n.parameters:,}" if n.parameters else "") for n in found]
    formatting.table(args, ("id", "name", "state", "format", "parameters"), rows)
    return [each.document for each in found]


@verb("rm", click.argument("network", help="Its id."), of=networks)
def delete_network(args: Args, network: str) -> Any:
    """Delete a network; jobs that used it keep their results."""
    with _client(args) as client:
        client.networks.get(network).delete()
    formatting.say(args, f"{network} is deleted.")
    return {"id": network}


@verb("recipes")
def recipes(args: Args) -> Any:
    """List the recipes."""
    with _client(args) as client:
        found = client.recipes.all()
    rows = [(each.name, each.title, "names its own data" if not each.needs_dataset else "needs data") for each in found]
    formatting.table(args, ("recipe", "title", "data"), rows)
    return [each.document for each in found]


# --- jobs ------------------------------------------------------------------------------------------------------


@verb(
    "submit",
    click.option("--recipe", help="The name of a recipe."),
    click.option("--spec", type=click.Path(allow_dash=True), metavar="FILE", help="A spec as JSON; `-`: from stdin."),
    click.option("--dataset", help="Id of a data set."),
    click.option("--seeds", type=whole_numbers, default="0", metavar="NUMBERS", show_default=True,
                 help="Such as 0-4 or 0,3,7."),
    click.option("--cost-strengths", type=cost_strengths, metavar="NUMBERS", help="λ, such as 0.001,0.01, or auto."),
    NAME,
    click.option("--tags", multiple=True, metavar="TAG", help="May repeat."),
    old_spelling("tag", "tags"),
    click.option("--priority", type=int, default=5, show_default=True, help="0 to 9, the most urgent."),
    click.option("--key", help="An Idempotency-Key: the same request with it again gives the same job."),
    WATCH,
)  # fmt: skip
def submit(
    args: Args, spec: str | None, cost_strengths: Any, tags: Any, tag: Any, key: str | None, watch: bool, **request: Any
) -> Any:
    """Queue a job."""
    with _client(args) as client:
        job = client.jobs.submit(
            spec=_read_json(spec) if spec else None,
            cost_strengths=cost_strengths or (),
            tags=[*tags, *tag],
            idempotency_key=key,
            **request,
        )
        networks = job.document["runs"]
        formatting.say(args, f"{job.id}  {job.name}: {networks} run{'s' * (networks != 1)}, {job.state}")
        if watch:
            return _watch_to_end(args, job)
    formatting.say(args, f"Watch it with: bimt watch {job.id}")
    return job.document


@verb("watch", JOB)
def watch(args: Args, job: str) -> Any:
    """Watch a job until it has ended."""
    with _client(args) as client:
        return _watch_to_end(args, client.jobs.get(job))


@verb(
    "jobs",
    Q,
    click.option("--state", type=click.Choice(("queued", "running", "succeeded", "failed", "cancelled")),
                 help="Only those in this state."),
    click.option("--tag", help="Only those with this tag."),
    LIMIT,
)  # fmt: skip
def jobs(args: Args, q: str | None, state: str | None, tag: str | None, limit: int) -> Any:
    """List the jobs."""
    with _client(args) as client:
        found = _first(limit, partial(client.jobs.search, q, state=state, tag=tag))
    rows = [(j.id, j.name, j.state, f"{100 * j.progress:.0f} %", f"{j.created_at:%Y-%m-%d %H:%M}") for j in found]
    formatting.table(args, ("id", "name", "state", "done", "submitted (UTC)"), rows)
    return [each.document for each in found]


@verb("cancel", JOB)
def cancel(args: Args, job: str) -> Any:
    """End a job."""
    with _client(args) as client:
        now = client.jobs.get(job).cancel()
    formatting.say(args, f"{now.id} will end shortly." if not now.ended else f"{now.id} is {now.state}.")
    return now.document


@verb("retry", JOB, WATCH)
def retry(args: Args, job: str, watch: bool) -> Any:
    """Queue a failed or cancelled job again."""
    with _client(args) as client:
        now = client.jobs.get(job).retry()
        formatting.say(args, f"{now.id} is {now.state} again; runs that succeeded stay as they are.")
        return _watch_to_end(args, now) if watch else now.document


@verb("stability", JOB)
def stability(args: Args, job: str) -> Any:
    """Say how far the runs of a job agree."""
    with _client(args) as client:
        found = client.jobs.get(job).stability()
    formatting.say(args, str(found["reading"]))
    rows = [
        (
            "" if of.get("cost_strength") is None else formatting.number(of["cost_strength"]),
            module["name"],
            ", ".join(module["inputs"]),
            ", ".join(module["outputs"]),
            *(f"{module[count]} of {of['runs']}" for count in ("same_ends_in", "supported_in", "met_in")),
        )
        for of in found.get("cost_strengths") or [found]
        for module in of.get("modules") or []
    ]
    if rows:
        heads = ("λ", "module", "reads", "decides", "same ends in", "supported in", "overlaps in")
        formatting.table(args, heads, rows)
    return found


@verb(
    "pareto",
    JOB,
    click.option("--tolerance", type=float, default=None, metavar="SHARE",
                 help="Of the targets' variance, by which a harmless loss may exceed the best; as for pruning."),
)  # fmt: skip
def pareto(args: Args, job: str, tolerance: float | None) -> Any:
    """Say what a shorter wiring costs, over the runs of a job."""
    with _client(args) as client:
        found = client.jobs.get(job).pareto(tolerance=tolerance)
    rows = []
    for point in found["points"]:
        strength, loss, wiring = (formatting.number(point[name]) for name in ("cost_strength", "loss", "wiring"))
        best = "yes" if point["efficient"] else ""
        rows.append((point["run"], point["seed"], strength, loss, wiring, point["connections"], best))
    formatting.table(args, ("run", "seed", "λ", "loss", "wiring", "connections", "unbettered"), rows)
    if found.get("reading"):
        formatting.say(args, str(found["reading"]))
    if found["suggested_cost_strength"] is not None:
        strength = f"{found['suggested_cost_strength']:g}"
        formatting.say(args, f"λ {strength} is the largest whose median loss is still harmless.")
    formatting.table(
        args,
        ("λ", "runs", "median loss", "times the best", "wiring", "connections", "harmless"),
        [_strength(row) for row in found.get("cost_strengths") or []],
    )
    return found


def _strength(row: dict[str, Any]) -> tuple[Any, ...]:
    """A cost strength over its seeds, as a row of a table."""
    numbers = (formatting.number(row[name]) for name in ("loss", "times_best", "wiring", "connections"))
    return (formatting.number(row["cost_strength"]), row["runs"], *numbers, "yes" if row["harmless"] else "no")


# --- runs ------------------------------------------------------------------------------------------------------


@verb(
    "runs",
    argument("job", "Id of a job; default: the team's newest runs.", required=False),
    click.option("--min-modules", type=int, metavar="NUMBER", help="Of the team: with at least so many modules."),
    click.option("--min-interior-modules", type=int, metavar="NUMBER",
                 help="With at least so many supported groups inside the modules."),
    click.option("--min-selectivity", type=float, metavar="SHARE", help="With a mean selectivity of at least this."),
    click.option("--reads", metavar="INPUT", help="With a module, or a group inside one, that reads this input."),
    click.option("--moves", metavar="OUTPUT", help="With one that moves this output."),
    LIMIT,
)  # fmt: skip
def runs(args: Args, job: str | None, limit: int, **evidence: Any) -> Any:
    """List the runs of a job, or those of the team in which so much was found."""
    if job and any(value is not None for value in evidence.values()):
        raise ValueError("A job's runs are listed whole: leave out the job, or the options that search for runs.")
    with _client(args) as client:
        found = client.jobs.get(job).runs() if job else _first(limit, partial(client.runs.search, **evidence))
    formatting.runs(args, found)
    return [each.document for each in found]


@verb("show", RUN)
def show(args: Args, run: str) -> Any:
    """Say what was found in a run."""
    with _client(args) as client:
        now = _run(client, run).refresh()
        modules, effects, interior = now.modules(), now.effects(), now.interior()
        formatting.run(args, now, modules, interior, page=f"{client.url}/runs/{now.id}")
    found = {"modules_found": [module.__dict__ for module in modules], "effects": effects, "interior": interior}
    return now.document | found


@verb("modules", RUN)
def modules(args: Args, run: str) -> Any:
    """Say what the modules of a run read and move, and which groups are inside them."""
    with _client(args) as client:
        now = _run(client, run)
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
    with _client(args) as client:
        found = _run(client, run)
        zipped = folder is not None and folder.lower().endswith(".zip")
        return _written(args, [found.bundle(folder)] if zipped else found.download(folder))


@verb(
    "film",
    RUN, click.argument("file", type=FILE, required=False, help="Ending in .mp4 or .gif; default: RUN.mp4."),
)  # fmt: skip
def film(args: Args, run: str, file: str | None) -> Any:
    """Download the training of a run as a film."""
    ending = Path(file or "film.mp4").suffix.removeprefix(".").lower()
    if ending not in ("mp4", "gif"):
        raise ValueError(f"A film is an .mp4 or a .gif; `{file}` is neither.")
    with _client(args) as client:
        return _written(args, [_run(client, run).film(file, format="gif" if ending == "gif" else "mp4")])


@verb(
    "onnx",
    RUN,
    click.argument("file", type=FILE, required=False, help="Default: RUN.onnx."),
    click.option("--module", help="One module only, by its letter, or one group inside a module (A2)."),
)  # fmt: skip
def onnx(args: Args, run: str, file: str | None, module: str | None) -> Any:
    """Download a run's network for other programs."""
    with _client(args) as client:
        return _written(args, [_run(client, run).onnx(file, module=module)])


# --- models ----------------------------------------------------------------------------------------------------


@verb(
    "publish",
    RUN,
    argument("model", "Name of the model: the first run creates it, every further one is its next version."),
    click.option("--card", type=FILE, metavar="FILE", help="What readers should know, in Markdown."),
    click.option("--visibility", type=click.Choice(("private", "team", "unlisted", "public")),
                 help="Of a new model; default: team."),
)  # fmt: skip
def publish(args: Args, run: str, model: str, card: str | None, visibility: Any) -> Any:
    """Give a run a name, so that it is kept and found."""
    text = Path(card).read_text(encoding="utf-8") if card else ""
    with _client(args) as client:
        found = _run(client, run)
        version = client.models.publish(found, model, card=text, visibility=visibility)
        formatting.say(args, f"{version.model} version {version.number} is {found.id}.")
    return version.document


@verb(
    "share",
    MODEL,
    click.option("--days", type=int, default=30, show_default=True, help="Until it expires."),
    click.option("--note", default="", help="A sentence above the picture."),
)  # fmt: skip
def share(args: Args, model: str, days: int, note: str) -> Any:
    """Make a link that shows one version to anyone who has it."""
    with _client(args) as client:
        link = client.models.version(model).share(days=days, note=note)
    formatting.say(args, f"{link['url']}\nThe link shows this version to anyone who has it, and is shown only now.")
    return link


@verb("verify", MODEL)
def verify(args: Args, model: str) -> Any:
    """Have the claims of a version recomputed from its weights; the exit code is 1 where one does not agree."""
    with _client(args) as client:
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


@verb(
    "doctor",
    click.option("--quick", is_flag=True, help="Do not train a small network."),
)  # fmt: skip
def doctor(args: Args, quick: bool) -> Any:
    """Check a deployment end to end and say in words what is wrong; the exit code is 1 where something is."""
    found = []
    with _client(args) as client:
        for finding in examine(client, train=not quick):
            formatting.say(args, f"{'ok ' if finding.well else 'NOT'}  {finding.what}: {finding.detail}")
            found.append(finding)
    wrong = [finding for finding in found if not finding.well]
    if wrong:
        if args.json:
            print(json.dumps([asdict(finding) for finding in found], indent=2, ensure_ascii=False))
        raise ValueError(f"{len(wrong)} of {len(found)} checks say that something is wrong.")
    return [asdict(finding) for finding in found]


# --- the rest --------------------------------------------------------------------------------------------------


@verb(
    "open",
    argument("id", "Id of a job, run, data set or model."),
    click.option("--print", "only_print", is_flag=True, help="Only print the address."),
)  # fmt: skip
def open_page(args: Args, id: str, only_print: bool) -> Any:
    """Open a page of the service in the browser."""
    with _client(args) as client:
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


# --- helpers ---------------------------------------------------------------------------------------------------


def _client(args: Args) -> Client:
    return Client(args.url, args.token)


def _first(limit: int, search: Callable[..., Iterator[Found]]) -> list[Found]:
    """The first entries; where there are more, a note says so on standard error, with `--json` too."""
    found = list(search(limit=limit + 1))
    if len(found) > limit:
        print(f"{limit} shown; --limit for more", file=sys.stderr)
    return found[:limit]


def _run(client: Client, identifier: str) -> Run:
    """A run by its id, or the first successful run of a job."""
    if not identifier.startswith("job_"):
        return client.runs.get(identifier)
    found = client.jobs.get(identifier).runs()
    return next((each for each in found if each.state == "succeeded"), found[0])


def _written(args: Args, paths: list[Path]) -> list[str]:
    """Print the paths of files that were written."""
    for path in paths:
        formatting.say(args, str(path))
    return [str(path) for path in paths]


def _read_json(path: str) -> dict[str, Any]:
    """The JSON of a file, or of standard input for `-`. Raises ValueError."""
    text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path} is no JSON object.")
    return document


def _watch_to_end(args: Args, job: Job) -> Any:
    """The job when it has ended. Ctrl-C leaves it running. Raises JobEnded, Interrupted."""
    try:
        with job_bar(job.name, wanted=False if args.json else None) as show:
            for event in job.events():
                show(event)
                if args.json:
                    print(json.dumps(event.document, ensure_ascii=False), file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        raise Interrupted(f"The job goes on. Watch it again with: bimt watch {job.id}") from None
    job = job.refresh()
    if job.state != "succeeded":
        raise JobEnded(job.id, job.state, job.reason)
    formatting.say(args, f"{job.name} has succeeded.")
    formatting.runs(args, job.runs())
    return job.document


if __name__ == "__main__":
    main()
