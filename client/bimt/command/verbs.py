"""What each verb does: a few calls of the client, said in words; what is returned is what `--json` prints."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
import webbrowser
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..bars import job_bar
from ..errors import JobEnded, NotLoggedIn
from ..jobs import Job
from ..login import Login, forget_login, read_login, whole_address, write_login
from ..runs import Run
from ..service import Client
from . import shown
from .interrupted import Interrupted

Asked = argparse.Namespace
Found = TypeVar("Found")


def login(asked: Asked) -> Any:
    """Keep address and token, once the service has said whose they are."""
    if asked.forget:
        shown.say(asked, "Forgotten." if forget_login() else "There was nothing to forget.")
        return {}
    saved = read_login()
    url = asked.address or asked.url or (saved.url if saved else None)
    if url is None:
        raise NotLoggedIn("Say where the service is, such as `bimt login http://127.0.0.1:8080`.")
    token = asked.with_token or asked.token
    if token is None:
        token = getpass.getpass("token: ") if sys.stdin.isatty() else sys.stdin.readline()
    kept = Login(whole_address(url), token.strip())
    with Client(kept.url, kept.token) as client:
        me = client.me()
    path = write_login(kept)
    shown.say(asked, f"Signed in as {me['name']}, team {me['team']}; this token may {', '.join(me['scopes'])}.")
    shown.say(asked, f"Kept in {path}, readable by you alone.")
    return {"url": kept.url, "file": str(path)} | me


def upload(asked: Asked) -> Any:
    with _client(asked) as client:
        dataset = client.datasets.upload(
            asked.file, name=asked.name, targets=asked.targets, inputs=asked.inputs, task=asked.task,
            progress=False if asked.json else None, resume=asked.resume,
        )  # fmt: skip
    shown.dataset(asked, dataset)
    return dataset.document


def datasets(asked: Asked) -> Any:
    with _client(asked) as client:
        found = _first(asked, partial(client.datasets.search, asked.q))
    rows = [(d.id, d.name, d.state, f"{d.rows} × {d.columns}" if d.rows else "", d.task) for d in found]
    shown.table(asked, ("id", "name", "state", "size", "task"), rows)
    return [each.document for each in found]


def recipes(asked: Asked) -> Any:
    with _client(asked) as client:
        found = client.recipes.all()
    rows = [(each.name, each.title, "names its own data" if not each.needs_dataset else "needs data") for each in found]
    shown.table(asked, ("recipe", "title", "data"), rows)
    return [each.document for each in found]


def submit(asked: Asked) -> Any:
    spec = None
    if asked.spec:
        text = sys.stdin.read() if asked.spec == "-" else Path(asked.spec).read_text(encoding="utf-8")
        try:
            spec = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{asked.spec} is no JSON: {error}") from None
    with _client(asked) as client:
        job = client.jobs.submit(
            recipe=asked.recipe, spec=spec, dataset=asked.dataset, seeds=asked.seeds,
            cost_strengths=asked.cost_strengths, name=asked.name, tags=asked.tags, priority=asked.priority,
            idempotency_key=asked.key,
        )  # fmt: skip
        networks = job.document["runs"]
        shown.say(asked, f"{job.id}  {job.name}: {networks} run{'s' * (networks != 1)}, {job.state}")
        if asked.watch:
            return _watched(asked, job)
    shown.say(asked, f"Watch it with: bimt watch {job.id}")
    return job.document


def watch(asked: Asked) -> Any:
    with _client(asked) as client:
        return _watched(asked, client.jobs.get(asked.job))


def jobs(asked: Asked) -> Any:
    with _client(asked) as client:
        found = _first(asked, partial(client.jobs.search, asked.q, state=asked.state, tag=asked.tag))
    rows = [(j.id, j.name, j.state, f"{100 * j.progress:.0f} %", f"{j.created_at:%Y-%m-%d %H:%M}") for j in found]
    shown.table(asked, ("id", "name", "state", "done", "submitted (UTC)"), rows)
    return [each.document for each in found]


def cancel(asked: Asked) -> Any:
    with _client(asked) as client:
        job = client.jobs.get(asked.job).cancel()
    shown.say(asked, f"{job.id} is asked to end." if not job.ended else f"{job.id} is {job.state}.")
    return job.document


def retry(asked: Asked) -> Any:
    with _client(asked) as client:
        job = client.jobs.get(asked.job).retry()
        shown.say(asked, f"{job.id} is {job.state} again; runs that succeeded stay as they are.")
        return _watched(asked, job) if asked.watch else job.document


def runs(asked: Asked) -> Any:
    with _client(asked) as client:
        found = client.jobs.get(asked.job).runs() if asked.job else _first(asked, client.runs.search)
    shown.runs(asked, found)
    return [each.document for each in found]


def show(asked: Asked) -> Any:
    with _client(asked) as client:
        run = _run(client, asked.run).refresh()
        modules, effects = run.modules(), run.effects()
        shown.run(asked, run, modules, page=f"{client.url}/runs/{run.id}")
    return run.document | {"modules_found": [module.__dict__ for module in modules], "effects": effects}


def pull(asked: Asked) -> Any:
    with _client(asked) as client:
        run = _run(client, asked.run)
        whole = asked.folder is not None and asked.folder.lower().endswith(".zip")
        written = [run.bundle(asked.folder)] if whole else run.download(asked.folder)
    for path in written:
        shown.say(asked, str(path))
    return [str(path) for path in written]


def film(asked: Asked) -> Any:
    ending = Path(asked.file or "film.mp4").suffix.removeprefix(".").lower()
    if ending not in ("mp4", "gif"):
        raise ValueError(f"A film is an .mp4 or a .gif; `{asked.file}` is neither.")
    with _client(asked) as client:
        path = _run(client, asked.run).film(asked.file, format="gif" if ending == "gif" else "mp4")
    shown.say(asked, str(path))
    return [str(path)]


def onnx(asked: Asked) -> Any:
    with _client(asked) as client:
        path = _run(client, asked.run).onnx(asked.file, module=asked.module)
    shown.say(asked, str(path))
    return [str(path)]


def stability(asked: Asked) -> Any:
    with _client(asked) as client:
        found = client.jobs.get(asked.job).stability()
    shown.say(asked, str(found["reading"]))
    rows = [
        (
            m["name"],
            ", ".join(m["inputs"]),
            ", ".join(m["outputs"]),
            f"{m['same_ends_in']} of {found['runs']}",
            f"{m['supported_in']} of {found['runs']}",
            f"{m['met_in']} of {found['runs']}",
        )
        for m in found.get("modules") or []
    ]
    if rows:
        shown.table(asked, ("module", "reads", "decides", "same ends in", "supported in", "overlaps in"), rows)
    return found


def pareto(asked: Asked) -> Any:
    with _client(asked) as client:
        found = client.jobs.get(asked.job).pareto(tolerance=asked.tolerance)
    rows = []
    for point in found["points"]:
        strength, loss, wiring = (shown.number(point[name]) for name in ("cost_strength", "loss", "wiring"))
        best = "yes" if point["efficient"] else ""
        rows.append((point["run"], point["seed"], strength, loss, wiring, point["connections"], best))
    shown.table(asked, ("run", "seed", "λ", "loss", "wiring", "connections", "unbettered"), rows)
    if found.get("reading"):
        shown.say(asked, str(found["reading"]))
    if found["suggested_cost_strength"] is not None:
        shown.say(asked, f"λ {found['suggested_cost_strength']:g} is the largest whose median loss is still harmless.")
    return found


def verify(asked: Asked) -> Any:
    """Raises ValueError where a claim that is needed does not agree: a script wants to know by the exit code."""
    with _client(asked) as client:
        found = client.models.version(asked.model).verify()
    rows = [
        (c["what"], shown.brief(c["claimed"]), shown.brief(c["found"]), "yes" if c["agrees"] else "NO")
        for c in found["checks"]
    ]
    shown.table(asked, ("claim", "said", "found again", "agrees"), rows)
    shown.say(asked, str(found["reading"]))
    if not found["agrees"]:
        if asked.json:
            print(json.dumps(found, indent=2, ensure_ascii=False))
        raise ValueError(f"The claims of {asked.model} do not agree with its weights.")
    return found


def publish(asked: Asked) -> Any:
    card = Path(asked.card).read_text(encoding="utf-8") if asked.card else ""
    with _client(asked) as client:
        run = _run(client, asked.run)
        made = client.models.publish(run, asked.model, card=card, visibility=asked.visibility)
        shown.say(asked, f"{made.model} version {made.number} is {run.id}.")
    return made.document


def share(asked: Asked) -> Any:
    with _client(asked) as client:
        made = client.models.version(asked.model).share(days=asked.days, note=asked.note)
    shown.say(asked, f"{made['url']}\nThe link shows this version to whoever holds it, and is shown this once.")
    return made


def open_page(asked: Asked) -> Any:
    with _client(asked) as client:
        noun = asked.id.partition("_")[0]
        if noun not in ("job", "run", "dataset", "model"):
            raise ValueError(f"`{asked.id}` is no id of a job, a run, a data set or a model.")
        page = f"{client.url}/{noun}s/{asked.id}"
    shown.say(asked, page)
    if not asked.only_print and not asked.json:
        webbrowser.open(page)
    return {"page": page}


# --- helpers ----------------------------------------------------------------------------------------------


def _client(asked: Asked) -> Client:
    return Client(asked.url, asked.token)


def _first(asked: Asked, search: Callable[..., Iterator[Found]]) -> list[Found]:
    """As many as `--limit` lets through; that there are more is said on standard error, also to programs."""
    found = list(search(limit=asked.limit + 1))
    if len(found) > asked.limit:
        print(f"{asked.limit} shown; --limit for more", file=sys.stderr)
    return found[: asked.limit]


def _run(client: Client, identifier: str) -> Run:
    """A run by its id, or the first run of a job."""
    if not identifier.startswith("job_"):
        return client.runs.get(identifier)
    found = client.jobs.get(identifier).runs()
    return next((each for each in found if each.state == "succeeded"), found[0])


def _watched(asked: Asked, job: Job) -> Any:
    """The job when it has ended. Ctrl-C leaves it running, and says how to come back."""
    try:
        with job_bar(job.name, wanted=False if asked.json else None) as told:
            for moment in job.events():
                told(moment)
                if asked.json:
                    print(json.dumps(moment.document, ensure_ascii=False), file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        raise Interrupted(f"The job goes on. Watch it again with: bimt watch {job.id}") from None
    job = job.refresh()
    if job.state != "succeeded":
        raise JobEnded(job.id, job.state, job.reason)
    shown.say(asked, f"{job.name} has succeeded.")
    shown.runs(asked, job.runs())
    return job.document
