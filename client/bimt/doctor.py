"""Is a deployment healthy? Each check is a function that returns a sentence, or raises Unhealthy with what to do.

They go from the network inwards: address, encryption, clock, version, parts of the service, stored files, token,
quotas; at last a small table is uploaded, a network trained on it and asked, and both are deleted again, which takes
the same path as every job.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BimtError, NotAllowed, Refused
from .http import is_this_machine, version

if TYPE_CHECKING:
    from .service import Client

FULL = 0.9  # of a quota: said before it is reached
EXPIRES_SOON = timedelta(days=7)
CLOCK_SECONDS = 10.0  # leases and tokens are absolute times
SLOW_SECONDS = 60.0  # for a job of 200 steps
STEPS = 200
PARTS = {
    "database": "Look at BIMT_DATABASE_URL, and whether the database runs and takes connections.",
    "files": "Look at BIMT_FILES_URL, at free space, and at who may write there.",
    "broker": "Look at BIMT_BROKER_URL, and whether Valkey or Redis runs. Jobs are kept meanwhile.",
    "worker": "Start one: `python -m worker --queue cpu`. Jobs wait until then.",
    "operations": "Start one: `python -m worker --queue interactive`. Questions to networks wait until then.",
}


class Unhealthy(Exception):
    """What is wrong, and what to do."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: `well`, or not, and a sentence."""

    what: str
    well: bool
    detail: str


def examine(client: Client, *, train: bool = True) -> Iterator[Finding]:
    """Each finding as soon as it is made. Where the service does not answer at all, that is the only one.

    train   also train a small network, which needs the scope `submit` and takes some seconds.
    """
    checks: list[tuple[str, Callable[[Client], str]]] = [
        ("address", _address),
        ("encryption", _encryption),
        ("clock", _clock),
        ("version", _version),
        *((part, _part(part)) for part in PARTS),
        ("stored files", _stored_files),
        ("token", _token),
        ("quotas", _quotas),
    ]
    if train:
        checks.append(("a job from end to end", _job))
    for what, check in checks:
        finding = _finding(what, check, client)
        yield finding
        if what == "address" and not finding.well:
            return


def _finding(what: str, check: Callable[[Client], str], client: Client) -> Finding:
    try:
        return Finding(what, True, check(client))
    except (Unhealthy, BimtError) as error:
        return Finding(what, False, str(error))


def _address(client: Client) -> str:
    client.http.outside("/healthz")
    return f"{client.url} answers."


def _encryption(client: Client) -> str:
    if client.url.startswith("https://"):
        return "The connection is encrypted, and the certificate is one that this machine trusts."
    if is_this_machine(client.url):
        return "Plain HTTP, on this machine alone."
    raise Unhealthy(
        "Plain HTTP: everybody on the network path can read the token. Put a proxy with TLS in front and use https://."
    )


def _clock(client: Client) -> str:
    said = client.http.outside("/healthz").headers.get("Date")
    if said is None:
        return "The service sends no time, so the clocks were not compared."
    apart = abs((datetime.now(UTC) - parsedate_to_datetime(said)).total_seconds())
    if apart > CLOCK_SECONDS:
        raise Unhealthy(f"The clocks of the service and of this machine are {apart:.0f} s apart: keep both on NTP.")
    return "The clocks agree."


def _version(client: Client) -> str:
    served = client.http.outside("/openapi.json").json()["info"]["version"]
    here = version()
    if served.split(".")[:2] != here.split(".")[:2]:
        raise Unhealthy(
            f"The service is version {served}, this client {here}: install the one that the service offers."
        )
    return f"Service {served}, client {here}."


def _ready(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.http.outside("/readyz", also=(503,)).json()
    return found


def _part(name: str) -> Callable[[Client], str]:
    def check(client: Client) -> str:
        part = _ready(client)["parts"][name]
        if not part["ok"]:
            raise Unhealthy(f"{part['detail']} {PARTS[name]}")
        return str(part["detail"])

    return check


def _stored_files(client: Client) -> str:
    damaged = int(_ready(client)["damaged_files"])
    if damaged:
        raise Unhealthy(
            f"{damaged} stored files are damaged or gone; the scheduler's log names them. "
            "Upload the same content again, or restore them from a backup."
        )
    return "None is known to be damaged; the scheduler goes through them in turn."


def _token(client: Client) -> str:
    me = client.me()
    mine = [one for one in client.http.get("/tokens", limit=100)["items"] if not one["revoked_at"]]
    ends = [datetime.fromisoformat(one["expires_at"]) for one in mine if one["expires_at"]]
    soon = [end for end in ends if timedelta() < end - datetime.now(UTC) < EXPIRES_SOON]
    said = f"{me['name']}, {me['role']} of {me['team']}; it may {', '.join(me['scopes'])}."
    return said if not soon else f"{said} One of your tokens expires on {min(soon):%Y-%m-%d}: make another."


def _quotas(client: Client) -> str:
    [team] = client.http.get("/teams")["items"]
    full = []
    for name in ("queued_jobs", "queued_steps", "stored_bytes"):
        used, limit = team[name]["used"], team[name]["limit"]
        if limit is not None and used >= FULL * limit:
            full.append(f"{name.replace('_', ' ')}: {used} of {limit}")
    if full:
        raise Unhealthy(
            f"Nearly used up are {'; '.join(full)}. Delete what is not needed, or ask an operator for more."
        )
    return "There is room."


def _job(client: Client) -> str:
    if "submit" not in client.me()["scopes"]:
        raise NotAllowed(
            status=403, slug="scope", title="", detail="Your token may not submit; use one with the scope `submit`."
        )
    began = time.monotonic()
    spec = {"network": {"kind": "mlp", "hidden": [8]}, "training": {"steps": STEPS}}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "doctor.csv"
        rows = (f"{i % 7},{i % 5},{i % 7 + 2 * (i % 5)}" for i in range(70))
        table.write_text("\n".join(["a,b,c", *rows]), encoding="utf-8")
        dataset = client.datasets.upload(table, targets="c", task="regression", progress=False)
    try:
        job = client.jobs.submit(dataset=dataset, spec=spec, name="doctor").wait()
        [run] = job.runs()
        run.predict([[1.0, 2.0]])
        job.delete()
    finally:
        with contextlib.suppress(Refused):
            dataset.delete()
    took = time.monotonic() - began
    if took > SLOW_SECONDS:
        raise Unhealthy(f"It took {took:.0f} s, mostly waiting: start more workers, or look at what they are doing.")
    return f"A table was uploaded, a network trained on it and asked, in {took:.1f} s."
