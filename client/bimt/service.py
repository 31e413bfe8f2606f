"""The service as Python sees it: `Client(url, token)`, and a noun for each kind of thing."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from .datasets import Datasets
from .jobs import Jobs
from .login import find_login
from .models import Models
from .patience import Patience
from .recipes import Recipes
from .runs import Runs
from .webhooks import Webhooks
from .wire import Wire


class Client:
    """A service, and who asks.

        client = Client("http://127.0.0.1:8080", "bimt_…")      # or Client(): BIMT_URL and BIMT_TOKEN, or `bimt login`
        job = client.jobs.submit(recipe="independence", seeds=[0, 1, 2]).wait()
        for run in job.runs():
            print(run.modules())

    patience   how often a request is sent again when the line breaks
    timeout    seconds for an answer to begin
    Raises NotLoggedIn where the address or the token is nowhere said.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        patience: Patience | None = None,
        timeout: float = 30.0,
    ) -> None:
        login = find_login(url, token)
        self.wire = Wire(login.url, login.token, patience=patience, timeout=timeout)
        self.datasets = Datasets(self.wire)
        self.recipes = Recipes(self.wire)
        self.jobs = Jobs(self.wire)
        self.runs = Runs(self.wire)
        self.models = Models(self.wire)
        self.webhooks = Webhooks(self.wire)

    @property
    def url(self) -> str:
        return self.wire.url

    def me(self) -> dict[str, Any]:
        """Who asks: member, team, and what the token may do."""
        return dict(self.wire.get("/me"))

    def mint_token(self, name: str, scopes: list[str], *, expires_in_days: int | None = 90) -> dict[str, Any]:
        """A new token of yours; its text, in `token`, is shown this once."""
        body = {"name": name, "scopes": scopes, "expires_in_days": expires_in_days}
        return dict(self.wire.post("/tokens", body))

    def close(self) -> None:
        """Give the lines back; leaving a `with` block does it too."""
        self.wire.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client of {self.url}>"
