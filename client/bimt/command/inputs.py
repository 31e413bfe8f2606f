"""What a job starts from: an address and a token, data, networks, recipes."""

from __future__ import annotations

import getpass
import sys
from functools import partial
from typing import Any

import click

from .. import formatting
from ..errors import NotLoggedIn
from ..formatting import Args
from ..login import Login, forget_login, read_login, whole_address, write_login
from ..service import Client
from .verb import FILE, LIMIT, NAME, Q, Verbs, argument, cli, connect, first, old_spelling, read_json, verb


@verb(
    "login",
    argument("address", "Address of the service, such as http://127.0.0.1:8080.", required=False),
    click.option("--with-token", help="The token; without it bimt asks for it, or reads it from standard input."),
    click.option("--forget", is_flag=True, help="Delete what was stored."),
)  # fmt: skip
def login(args: Args, address: str | None, with_token: str | None, forget: bool) -> Any:
    """Store an address and a token for later calls."""
    if forget:
        formatting.say(args, "Forgotten." if forget_login() else "No login was stored.")
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
    click.option("--task", type=click.Choice(("regression", "classification")), help="Default: by its values."),
    click.option("--type", multiple=True, metavar="COLUMN=TYPE", help="Such as zip=category; may repeat."),
    click.option("--resume", metavar="UPLOAD", help="Resume a large upload that was interrupted."),
)  # fmt: skip
def upload(args: Args, file: str, name: str | None, task: Any, resume: str | None, **columns: tuple[str, ...]) -> Any:
    """Send a file of data."""
    with connect(args) as client:
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
    with connect(args) as client:
        found = first(limit, partial(client.datasets.search, q))
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
    with connect(args) as client:
        said = None if config is None else read_json(config)
        progress = False if args.json else None
        network = client.networks.upload(file, name=name, config=said, progress=progress, resume=resume)
    formatting.say(args, f"{network.id}  {network.name}: {network.parameters:,} parameters, {network.format}.")
    for note in network.notes or ():
        formatting.say(args, note)
    return network.document


@verb("list", Q, LIMIT, of=networks)
def list_networks(args: Args, q: str | None, limit: int) -> Any:
    """List the networks."""
    with connect(args) as client:
        found = first(limit, partial(client.networks.search, q))
    rows = [(n.id, n.name, n.state, n.format, f"{n.parameters:,}" if n.parameters else "") for n in found]
    formatting.table(args, ("id", "name", "state", "format", "parameters"), rows)
    return [each.document for each in found]


@verb("rm", click.argument("network", help="Its id."), of=networks)
def delete_network(args: Args, network: str) -> Any:
    """Delete a network; jobs that used it keep their results."""
    with connect(args) as client:
        client.networks.get(network).delete()
    formatting.say(args, f"{network} is deleted.")
    return {"id": network}


@verb("recipes")
def recipes(args: Args) -> Any:
    """List the recipes."""
    with connect(args) as client:
        found = client.recipes.all()
    rows = [(each.name, each.title, "names its own data" if not each.needs_dataset else "needs data") for each in found]
    formatting.table(args, ("recipe", "title", "data"), rows)
    return [each.document for each in found]
