"""HTTP: JSON requests and answers, an exception for every refusal, and retries that never carry out a request twice."""

from __future__ import annotations

import ipaddress
import json
import platform
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from .deprecated import warn
from .errors import OperationFailed, Refused, Unreachable, refusal

API = "/api/v1"
CHUNK = 256 * 1024  # bytes of a download written at once
# Sending these twice is the same as sending them once; everything else is repeated only where the caller says so.
IDEMPOTENT = ("GET", "HEAD", "PUT", "DELETE")
# The request was never carried out, so it may be sent again whatever it was.
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
LONG_POLL_SECONDS = 20  # the service answers sooner where the result is ready

Query = dict[str, Any]


@dataclass(frozen=True)
class RetryPolicy:
    """How often a request is sent, and how long to wait in between: exponential backoff with jitter.

    attempts      of one request, the first included
    initial       seconds; no more than this before the second attempt, and twice as much before each further one
    max           seconds that no wait exceeds, unless the service asks for more (Retry-After)
    max_silence   seconds for which a job is watched without an answer, such as while a laptop is closed
    random        a number from 0 to 1; tests hand in their own
    """

    attempts: int = 6
    initial: float = 0.5
    max: float = 20.0
    max_silence: float = 900.0
    random: Callable[[], float] = field(default=random.random, repr=False)
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def wait(self, attempt: int, *, retry_after: float | None = None) -> float:
        """Seconds to wait after attempt number `attempt`, counted from 1; never less than `retry_after`."""
        ceiling = min(self.max, self.initial * 2 ** min(attempt - 1, 30))
        if retry_after is not None:
            return retry_after + min(1.0, ceiling) * self.random()
        return ceiling * (0.5 + 0.5 * self.random())


class Patience(RetryPolicy):
    """Deprecated: RetryPolicy with the parameter names of the version before."""

    def __init__(
        self,
        attempts: int = 6,
        first: float = 0.5,
        longest: float = 20.0,
        contact: float = 900.0,
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(attempts, first, longest, contact, chance, sleep)

    first = property(lambda self: self.initial)
    longest = property(lambda self: self.max)
    contact = property(lambda self: self.max_silence)
    chance = property(lambda self: self.random)

    def pause(self, attempt: int, *, asked: float | None = None) -> float:
        """Deprecated: `wait`."""
        return self.wait(attempt, retry_after=asked)

    def rest(self, attempt: int, *, asked: float | None = None) -> None:
        """Deprecated: sleep for `wait(attempt)` seconds."""
        self.sleep(self.wait(attempt, retry_after=asked))


class HttpClient:
    """Requests to one service with one token.

    url       scheme, host and port; `/api/v1` is added here
    timeout   seconds for the answer to begin; an upload or a stream may take as long as it likes
    """

    def __init__(self, url: str, token: str | None, *, retry: RetryPolicy | None = None, timeout: float = 30.0) -> None:
        self.url = url
        self.retry = retry or RetryPolicy()
        self.timeout = timeout
        headers = {"User-Agent": user_agent(), "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._http = httpx.Client(
            base_url=url + API,
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=10.0),
            trust_env=not is_this_machine(url),  # the user's proxy is for other machines than this one
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- JSON -------------------------------------------------------------------------------------------

    def get(self, path: str, **query: Any) -> Any:
        """The JSON answer of an address."""
        return self.send("GET", path, query=query).json()

    def outside(self, path: str, *, also: Sequence[int] = ()) -> httpx.Response:
        """The answer of an address that is not below `/api/v1`, asked for once; `also`: statuses that are fine too."""
        try:
            response = self._http.get(self.url + path)
        except httpx.HTTPError as error:
            raise Unreachable(f"{self.url} does not answer: {error or type(error).__name__}.") from error
        if response.is_error and response.status_code not in also:
            raise refused(response)
        return response

    def post(self, path: str, body: Any = None, *, key: str | None = None, repeatable: bool = False) -> Any:
        """The JSON answer to a JSON body; None where the answer has none.

        key          the Idempotency-Key: with it the request may be sent again after a broken connection
        repeatable   sending it twice does no harm
        """
        headers = {"Idempotency-Key": key} if key else {}
        response = self.send("POST", path, json=body, headers=headers, repeatable=repeatable or key is not None)
        return response.json() if response.content else None

    def put(self, path: str, body: Any) -> Any:
        """The JSON answer to a PUT; None where the answer has none."""
        response = self.send("PUT", path, json=body)
        return response.json() if response.content else None

    def patch(self, path: str, body: Any) -> Any:
        """The JSON answer to a PATCH, which is repeated like a PUT: it sets fields to given values."""
        return self.send("PATCH", path, json=body, repeatable=True).json()

    def delete(self, path: str) -> None:
        """Delete what is at an address."""
        self.send("DELETE", path)

    def items(self, path: str, *, limit: int | None = None, **query: Any) -> Iterator[dict[str, Any]]:
        """The entries of a list; a page is fetched when its first entry is asked for.

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

    # --- operations: what a worker computes ---------------------------------------------------------------

    def operation(self, path: str, body: Any) -> Any:
        """The result of an operation: with the answer, or from the address of the operation as soon as it is there.

        Repeating the request does no harm: equal requests have equal results. Raises OperationFailed with the
        worker's reason.
        """
        response = self.send("POST", path, json=body, repeatable=True)
        return response.json() if response.status_code != 202 else self._result(response)

    def derived(self, path: str, **query: Any) -> Any:
        """A document that is computed when it is first requested. Raises OperationFailed with the worker's reason."""
        response = self.send("GET", path, query={"wait": LONG_POLL_SECONDS} | query)
        if response.status_code != 202:
            return response.json()
        self._result(response)
        return self.get(path, **query)

    def derived_file(self, path: str, target: Path) -> Path:
        """A file that is computed when it is first requested, written to `target`."""

        def send() -> httpx.Response | None:
            with self.stream("GET", path, query={"wait": LONG_POLL_SECONDS}) as response:
                if response.status_code != 202:
                    return None  # it is there; the download below reads it
                response.read()
                return response

        accepted = self._retried(send, repeatable=True)
        if accepted is not None:
            self._result(accepted)
        return self.download(path, target)

    def _result(self, accepted: httpx.Response) -> Any:
        """The result of the operation that a 202 names in `Location`, once it has ended."""
        address = urlsplit(accepted.headers["Location"]).path.removeprefix(API)
        operation = accepted.json()
        while operation["state"] in ("queued", "running"):
            operation = self.get(address, wait=LONG_POLL_SECONDS)
        if operation["state"] != "succeeded":
            raise OperationFailed(f"The operation failed: {operation.get('reason') or operation['state']}")
        return operation["answer"]

    # --- requests ---------------------------------------------------------------------------------------

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        repeatable: bool | None = None,
        body: Callable[[], dict[str, Any]] | None = None,
        **options: Any,
    ) -> httpx.Response:
        """The answer, if it is no refusal.

        body      makes the httpx arguments of a body that is read while it is sent, anew for every attempt
        options   further arguments of httpx
        Raises Refused, or Unreachable when every attempt failed.
        """
        params = without_none(query)

        def once() -> httpx.Response:
            response = self._http.request(method, path, params=params, **(options | (body() if body else {})))
            if response.is_error:
                raise refused(response)
            return response

        return self._retried(once, repeatable=method in IDEMPOTENT if repeatable is None else repeatable)

    def download(
        self,
        path: str,
        target: Path,
        *,
        on_progress: Callable[[int, int | None], None] = lambda done, total: None,
        **query: Any,
    ) -> Path:
        """The bytes of an address in a file, which exists only once it is whole.

        on_progress   called after every piece with the bytes written and, where the service says it, their total
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.part")

        def once() -> Path:
            with self.stream("GET", path, query=query) as response, partial.open("wb") as file:
                length = response.headers.get("Content-Length")
                for chunk in response.iter_bytes(CHUNK):
                    file.write(chunk)
                    on_progress(file.tell(), int(length) if length else None)
            return partial.replace(target)

        try:
            return self._retried(once, repeatable=True)
        finally:
            partial.unlink(missing_ok=True)

    def content(self, path: str, **query: Any) -> bytes:
        """The bytes of an address."""
        return self.send("GET", path, query=query, headers={"Accept": "*/*"}).content

    @contextmanager
    def stream(
        self, method: str, path: str, *, query: Query | None = None, read_timeout: float | None = None, **options: Any
    ) -> Iterator[httpx.Response]:
        """An answer that is read as it comes, sent once. Raises Refused, and what httpx raises."""
        timeout = httpx.Timeout(self.timeout, connect=10.0, read=read_timeout or self.timeout)
        headers = {"Accept": "*/*"} | options.pop("headers", {})
        options |= {"headers": headers, "timeout": timeout, "params": without_none(query)}
        with self._http.stream(method, path, **options) as response:
            if response.is_error:
                response.read()
                raise refused(response)
            yield response

    def _retried(self, once: Callable[[], Any], *, repeatable: bool) -> Any:
        """What `once` returns, tried again as the policy allows and as is safe."""

        def worth_it(error: BaseException) -> bool:
            if isinstance(error, Refused):
                return worth_repeating(error, repeatable)
            return isinstance(error, NEVER_SENT) or (repeatable and isinstance(error, httpx.TransportError))

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return self.retry.wait(state.attempt_number, retry_after=getattr(error, "retry_after", None))

        retrying = Retrying(
            stop=stop_after_attempt(self.retry.attempts),
            wait=wait,
            retry=retry_if_exception(worth_it),
            sleep=self.retry.sleep,
            reraise=True,
        )
        try:
            return retrying(once)
        except httpx.TransportError as error:
            if not worth_it(error):
                raise Unreachable(
                    f"The connection to {self.url} broke while the request was under way ({describe(error)}). It may "
                    "have been carried out: look before you send it again."
                ) from error
            raise unreachable(self.url, error, self.retry.attempts) from error


def worth_repeating(problem: Refused, repeatable: bool) -> bool:
    """Whether the same request may succeed a little later.

    429 and 503 say that nothing was done. 502 and 504 come from a proxy: the service may have done it. A quota that
    is used up is not freed by waiting a little.
    """
    if problem.status in (429, 503):
        return problem.retryable is not False and problem.slug != "quota"
    return problem.status in (502, 504) and repeatable


def refused(response: httpx.Response) -> Refused:
    """The exception for an answer of 4xx or 5xx, from the service or from a proxy before it."""
    try:
        document = json.loads(response.content)
    except (ValueError, httpx.ResponseNotRead):
        document = None
    return refusal(response.status_code, document, response.headers)


def unreachable(url: str, error: Exception, attempts: int) -> Unreachable:
    """The exception for a service that does not answer."""
    times = "" if attempts == 1 else f" {attempts} times"
    return Unreachable(f"{url} did not answer{times} ({describe(error)}). Is the service up, and the address right?")


def describe(error: Exception) -> str:
    """The text of an exception, or its class where it has none."""
    return str(error) or type(error).__name__


def without_none(query: Query | None) -> Query:
    """The parameters that were given: None means that one was left out."""
    return {name: value for name, value in (query or {}).items() if value is not None}


def user_agent() -> str:
    """The User-Agent header."""
    return f"bimt-client/{version()} python/{platform.python_version()}"


def version() -> str:
    """The version of this client; `unknown` where it is imported from its sources without being installed."""
    try:
        return metadata.version("bimt-client")
    except metadata.PackageNotFoundError:
        return "unknown"


def is_this_machine(url: str) -> bool:
    """Whether the host of an address is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def retry_policy(retry: RetryPolicy | None, patience: RetryPolicy | None) -> RetryPolicy | None:
    """The policy of `Client(retry=…)`, or of its deprecated spelling `Client(patience=…)`."""
    if patience is not None:
        warn("Client(patience=…)", "Client(retry=…)", stacklevel=4)
    return retry if retry is not None else patience


class CountedFile:
    """A file that reports how far it was read, for the progress bar of an upload."""

    def __init__(self, file: IO[bytes], on_progress: Callable[[int], None]) -> None:
        self._file = file
        self._on_progress = on_progress

    def read(self, size: int = -1) -> bytes:
        """Bytes, as of any file."""
        piece = self._file.read(size)
        self._on_progress(self._file.tell())
        return piece

    def seek(self, position: int, whence: int = 0) -> int:
        """Move to a position, as of any file."""
        return self._file.seek(position, whence)

    def tell(self) -> int:
        """The position, as of any file."""
        return self._file.tell()

    def fileno(self) -> int:
        """The descriptor: httpx reads the length of the file from it."""
        return self._file.fileno()
