"""`Client(url, token)`: the service, with one attribute for each kind of resource."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from .datasets import Datasets
from .deprecated import renamed
from .http import HttpClient, RetryPolicy, retry_policy
from .jobs import Jobs, Recipes
from .login import find_login
from .models import Models
from .runs import Runs
from .uploaded_networks import Networks
from .webhooks import Webhooks


class Client:
    """A service, and the token to use it with.

        client = Client("http://127.0.0.1:8080", "bimt_…")      # or Client(): BIMT_URL and BIMT_TOKEN, or `bimt login`
        job = client.jobs.submit(recipe="independence", seeds=[0, 1, 2]).wait()
        for run in job.runs():
            print(run.modules())

    retry     how often a request is sent again after a broken connection, 429 or 503
    timeout   seconds for an answer to begin
    patience  deprecated spelling of `retry`
    Raises NotLoggedIn where no address or no token is given.
    """

    wire = renamed("wire", "http")

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        retry: RetryPolicy | None = None,
        timeout: float = 30.0,
        patience: RetryPolicy | None = None,
    ) -> None:
        login = find_login(url, token)
        self.http = HttpClient(login.url, login.token, retry=retry_policy(retry, patience), timeout=timeout)
        self.datasets = Datasets(self.http)
        self.networks = Networks(self.http)
        self.recipes = Recipes(self.http)
        self.jobs = Jobs(self.http)
        self.runs = Runs(self.http)
        self.models = Models(self.http)
        self.webhooks = Webhooks(self.http)

    @property
    def url(self) -> str:
        """The address of the service."""
        return self.http.url

    def me(self) -> dict[str, Any]:
        """The owner of the token: member, team, and what the token may do."""
        return dict(self.http.get("/me"))

    def mint_token(self, name: str, scopes: list[str], *, expires_in_days: int | None = 90) -> dict[str, Any]:
        """A new token of yours; its text, in `token`, is shown only now."""
        body = {"name": name, "scopes": scopes, "expires_in_days": expires_in_days}
        return dict(self.http.post("/tokens", body))

    def close(self) -> None:
        """Close the connections; leaving a `with` block does it too."""
        self.http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client of {self.url}>"
