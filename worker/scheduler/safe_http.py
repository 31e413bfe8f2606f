"""One POST to an address that a user named: resolved once, checked, and the connection goes to the checked IP address.

A second look-up could give another address (DNS rebinding), so there is none. Redirects are not followed, no proxy is
used, and only the status of the answer is read.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

from store.url_policy import Forbidden, Network, Target, permit, target_of
from store.webhooks import Answer

Resolve = Callable[..., Sequence[tuple[Any, ...]]]


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    permitted: Sequence[Network],
    seconds: float,
    resolve: Resolve = socket.getaddrinfo,
) -> Answer:
    """Send it. Whatever happens is an Answer: a status, or a sentence why there is none.

    permitted   private networks that may be called.
    seconds     for everything after the look-up of the name: connection, TLS, sending, status.
    """
    try:
        target = target_of(url, permitted)
        addresses = _addresses(target, permitted, resolve)
        with closing(PinnedHttpConnection(target, addresses, seconds)) as connection:
            return _answer(connection.post(body, headers))
    except Forbidden as error:
        return Answer(None, str(error))
    except TimeoutError:
        return Answer(None, f"No answer within {seconds:g} s.")
    except ssl.SSLCertVerificationError as error:
        return Answer(None, f"The certificate of `{target.host}` is not valid: {error.verify_message}.")
    except (OSError, http.client.HTTPException) as error:
        return Answer(None, f"`{target.authority}` could not be reached: {error or type(error).__name__}.")


def _addresses(target: Target, permitted: Sequence[Network], resolve: Resolve) -> list[tuple[Any, ...]]:
    """The addresses of the host, all of them permitted. Raises Forbidden, OSError."""
    found = resolve(target.host, target.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    for *_, address in found:
        permit(target, str(address[0]), permitted)
    return list(found)


def _answer(status: int) -> Answer:
    if 300 <= status < 400:
        return Answer(status, f"{status}: redirects are not followed; name the address where it ends.")
    phrase = http.client.responses.get(status, "")
    return Answer(status, f"{status} {phrase}".strip())


class PinnedHttpConnection:
    """A connection to the first of these addresses that can be reached, shut down when its time is over."""

    def __init__(self, target: Target, addresses: Sequence[tuple[Any, ...]], seconds: float) -> None:
        self._target = target
        self._deadline = time.monotonic() + seconds
        self._over = False
        self._socket = self._connect(addresses)
        # A time limit for the whole: a receiver that sends a byte now and then meets every limit between two bytes.
        self._timer = threading.Timer(self._deadline - time.monotonic(), self._shut_down)
        self._timer.daemon = True
        self._timer.start()

    def _left(self) -> float:
        if (left := self._deadline - time.monotonic()) <= 0:
            raise TimeoutError
        return left

    def _connect(self, addresses: Sequence[tuple[Any, ...]]) -> socket.socket:
        failure: OSError = ConnectionError("its name has no address")
        for family, kind, protocol, _, address in addresses:
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(self._left())
                connection.connect(address)
                connection.settimeout(self._left())
            except OSError as error:
                connection.close()
                failure = error
            else:
                return connection
        raise failure

    def _shut_down(self) -> None:
        self._over = True
        with suppress(OSError):  # it may be closed already
            socket.socket.shutdown(
                self._socket, socket.SHUT_RDWR
            )  # without TLS's closing message, which would be waited for

    def post(self, body: bytes, headers: Mapping[str, str]) -> int:
        """The status of the answer. Raises TimeoutError, OSError, HTTPException."""
        try:
            if self._target.scheme == "https":
                context = ssl.create_default_context()
                self._socket = context.wrap_socket(
                    self._socket, server_hostname=self._target.host, do_handshake_on_connect=False
                )
                self._socket.do_handshake()
            request = http.client.HTTPConnection(self._target.host, self._target.port)
            request.sock = self._socket  # so that it does not resolve the name again
            request.auto_open = 0
            fixed = {"Host": self._target.authority, "Connection": "close"}
            request.request("POST", self._target.path, body, {**headers, **fixed})
            status = request.getresponse().status
            if self._over:
                raise TimeoutError  # what looks like the end of the headers is the shut-down
            return status
        except (OSError, ValueError, http.client.HTTPException) as error:
            if self._over:
                raise TimeoutError from None
            if isinstance(error, ValueError) and not isinstance(error, OSError):
                raise ConnectionError(str(error)) from error
            raise

    def close(self) -> None:
        """Close it."""
        self._timer.cancel()
        self._socket.close()
