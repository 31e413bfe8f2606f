"""Requests and answers: JSON in, JSON out, every refusal an error, and what a dropped line breaks is sent again."""

from __future__ import annotations

import ipaddress
import json
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import httpx

from .errors import AnswerFailed, Refused, Unreachable, refusal
from .patience import Patience

API = "/api/v1"
CHUNK = 256 * 1024  # bytes of a download written at once
# Sending these twice is the same as sending them once; everything else is repeated only where the caller says so.
IDEMPOTENT = ("GET", "HEAD", "PUT", "DELETE")
# The request was never carried out, so that it may be sent again whatever it was.
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

Query = dict[str, Any]


class Wire:
    """One service and one token.

    url       scheme, host and port; `/api/v1` is added here
    timeout   seconds for the answer to begin; an upload or a stream may take as long as it likes
    """

    def __init__(self, url: str, token: str | None, *, patience: Patience | None = None, timeout: float = 30.0) -> None:
        self.url = url
        self.patience = patience or Patience()
        self.timeout = timeout
        headers = {"User-Agent": user_agent(), "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._http = httpx.Client(
            base_url=url + API,
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=10.0),
            trust_env=not is_this_machine(url),  # a proxy of the user's is for other machines than this one
        )

    def close(self) -> None:
        self._http.close()

    # --- JSON -------------------------------------------------------------------------------------------

    def get(self, path: str, **query: Any) -> Any:
        """The JSON answer of an address."""
        return self.send("GET", path, query=query).json()

    def post(self, path: str, body: Any = None, *, key: str | None = None, repeatable: bool = False) -> Any:
        """The JSON answer to a JSON body; None where the answer has none.

        key          the Idempotency-Key: with it the request may be sent again after a cut line
        repeatable   sending it twice does no harm
        """
        headers = {"Idempotency-Key": key} if key else {}
        response = self.send("POST", path, json=body, headers=headers, repeatable=repeatable or key is not None)
        return response.json() if response.content else None

    def ask(self, path: str, body: Any) -> Any:
        """The answer to a question that a worker works on: at once, or as soon as it is there.

        Asking twice does no harm: the same question has the same answer. Raises AnswerFailed with the worker's reason.
        """
        response = self.send("POST", path, json=body, repeatable=True)
        return response.json() if response.status_code != 202 else self._outcome(response.json())

    def made(self, path: str, **query: Any) -> Any:
        """A document that is made when somebody first asks for it. Raises AnswerFailed with the worker's reason."""
        response = self.send("GET", path, query={"wait": 20} | query)
        if response.status_code != 202:
            return response.json()
        self._outcome(response.json())
        return self.get(path, **query)

    def made_file(self, path: str, target: Path) -> Path:
        """The same for a file, which is written to `target`."""

        def asked() -> Any:
            with self.stream("GET", path, query={"wait": 20}) as response:
                return json.loads(response.read()) if response.status_code == 202 else None

        errand = self._again_and_again(asked, True)
        if errand is not None:
            self._outcome(errand)
        return self.download(path, target)

    def _outcome(self, errand: dict[str, Any]) -> Any:
        """What came of an errand, once it has ended."""
        while errand["state"] in ("queued", "running"):
            errand = self.get(f"/errands/{errand['id']}", wait=20)
        if errand["state"] != "succeeded":
            raise AnswerFailed(f"The question could not be answered: {errand.get('reason') or errand['state']}")
        return errand["answer"]

    def put(self, path: str, body: Any) -> Any:
        response = self.send("PUT", path, json=body)
        return response.json() if response.content else None

    def patch(self, path: str, body: Any) -> Any:
        return self.send("PATCH", path, json=body, repeatable=True).json()

    def delete(self, path: str) -> None:
        self.send("DELETE", path)

    def items(self, path: str, *, limit: int | None = None, **query: Any) -> Iterator[dict[str, Any]]:
        """The entries of a list, page after page, only as far as they are asked for.

        limit   how many entries at most; None: all
        """
        left = limit
        while left is None or left > 0:
            page = self.get(path, **query, **({} if left is None else {"limit": min(left, 100)}))
            entries = page["items"]
            yield from entries if left is None else entries[:left]
            left = None if left is None else left - len(entries)
            if page.get("next") is None:
                return
            query["after"] = page["next"]

    # --- requests ---------------------------------------------------------------------------------------

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        repeatable: bool | None = None,
        body: Callable[[], dict[str, Any]] | None = None,
        **how: Any,
    ) -> httpx.Response:
        """The answer, if it is no refusal.

        body   makes the arguments of a body that is read while it is sent, anew for every attempt
        Raises Refused, or Unreachable when every attempt failed.
        """
        params = present(query)

        def once() -> httpx.Response:
            made = body() if body else {}
            response = self._http.request(method, path, params=params, **(how | made))
            if response.is_error:
                raise refused(response)
            return response

        return self._again_and_again(once, method in IDEMPOTENT if repeatable is None else repeatable)

    def download(
        self,
        path: str,
        target: Path,
        *,
        told: Callable[[int, int | None], None] = lambda done, total: None,
        **query: Any,
    ) -> Path:
        """The bytes of an address in a file, which is there only once it is whole.

        told   hears after every piece how many bytes are there, and of how many, where the service says so
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.part")

        def once() -> Path:
            with self.stream("GET", path, query=query) as response, partial.open("wb") as file:
                length = response.headers.get("Content-Length")
                for chunk in response.iter_bytes(CHUNK):
                    file.write(chunk)
                    told(file.tell(), int(length) if length else None)
            return partial.replace(target)

        try:
            return self._again_and_again(once, True)
        finally:
            partial.unlink(missing_ok=True)

    def content(self, path: str, **query: Any) -> bytes:
        """The bytes of an address."""
        return self.send("GET", path, query=query, headers={"Accept": "*/*"}).content

    @contextmanager
    def stream(
        self, method: str, path: str, *, query: Query | None = None, read_timeout: float | None = None, **how: Any
    ) -> Iterator[httpx.Response]:
        """An answer that is read as it comes, sent once. Raises Refused, and what httpx raises."""
        timeout = httpx.Timeout(self.timeout, connect=10.0, read=read_timeout or self.timeout)
        headers = {"Accept": "*/*"} | how.pop("headers", {})
        how |= {"headers": headers, "timeout": timeout, "params": present(query)}
        with self._http.stream(method, path, **how) as response:
            if response.is_error:
                response.read()
                raise refused(response)
            yield response

    def _again_and_again(self, once: Callable[[], Any], repeatable: bool) -> Any:
        """What `once` returns, tried again as patience allows and as is safe."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return once()
            except Refused as problem:
                if attempt >= self.patience.attempts or not worth_repeating(problem, repeatable):
                    raise
                self.patience.rest(attempt, asked=problem.retry_after)
            except httpx.TransportError as error:
                if not repeatable and not isinstance(error, NEVER_SENT):
                    raise Unreachable(
                        f"The line to {self.url} broke while the request was under way ({said(error)}). It may have "
                        "been carried out: look before you send it again."
                    ) from error
                if attempt >= self.patience.attempts:
                    raise unreachable(self.url, error, attempt) from error
                self.patience.rest(attempt)


def worth_repeating(problem: Refused, repeatable: bool) -> bool:
    """Whether the same request may do better in a moment.

    429 and 503 say that nothing was done. 502 and 504 are a proxy's words: the service may have done it. A quota
    that is used up is not freed by waiting a moment.
    """
    if problem.status in (429, 503):
        return problem.retryable is not False and problem.slug != "quota"
    return problem.status in (502, 504) and repeatable


def refused(response: httpx.Response) -> Refused:
    """The error that a refusal means, whoever wrote it."""
    try:
        document = json.loads(response.content)
    except (ValueError, httpx.ResponseNotRead):
        document = None
    return refusal(response.status_code, document, response.headers)


def unreachable(url: str, error: Exception, attempts: int) -> Unreachable:
    """The sentence for people when nobody answers."""
    times = "" if attempts == 1 else f" {attempts} times"
    return Unreachable(f"{url} did not answer{times} ({said(error)}). Is the service up, and the address right?")


def said(error: Exception) -> str:
    """What an error of the line says, its kind where it says nothing."""
    return str(error) or type(error).__name__


def present(query: Query | None) -> Query:
    """The parameters that were given: None means that one was left out."""
    return {name: value for name, value in (query or {}).items() if value is not None}


def user_agent() -> str:
    return f"bimt-client/{version()} python/{platform.python_version()}"


def version() -> str:
    """The version of this client; `unknown` where it runs from its sources."""
    try:
        return metadata.version("bimt-client")
    except metadata.PackageNotFoundError:
        return "unknown"


def is_this_machine(url: str) -> bool:
    """Whether an address leads back to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class CountedFile:
    """A file that tells how far it was read, so that an upload has a bar."""

    def __init__(self, file: IO[bytes], told: Callable[[int], None]) -> None:
        self._file = file
        self._told = told

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self._told(self._file.tell())
        return piece

    def seek(self, position: int, whence: int = 0) -> int:
        return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()
