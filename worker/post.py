"""One POST to an address that a user named, and nowhere else: resolved once, checked, and that very number called.

Between a check and a second look-up a name may come to lead elsewhere (DNS rebinding); here there is no second one.
Redirects are not followed, no proxy is asked, and of the answer only the status is read.
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

from store.outside import Forbidden, Network, Target, permit, target_of
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
    """Send it. Whatever happens is an answer: a status, or a sentence why there is none.

    permitted   private networks that may be called all the same
    seconds     for everything after the look-up of the name: connection, TLS, sending, status
    """
    try:
        target = target_of(url, permitted)
        numbers = _numbers(target, permitted, resolve)
        with closing(_Line(target, numbers, seconds)) as line:
            return _said(line.ask(body, headers))
    except Forbidden as error:
        return Answer(None, str(error))
    except TimeoutError:
        return Answer(None, f"No answer within {seconds:g} s.")
    except ssl.SSLCertVerificationError as error:
        return Answer(None, f"The certificate of `{target.host}` is not valid: {error.verify_message}.")
    except (OSError, http.client.HTTPException) as error:
        return Answer(None, f"`{target.authority}` could not be reached: {error or type(error).__name__}.")


def _numbers(target: Target, permitted: Sequence[Network], resolve: Resolve) -> list[tuple[Any, ...]]:
    """What the host's name leads to, all of it permitted. Raises Forbidden, OSError."""
    found = resolve(target.host, target.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    for *_, address in found:
        permit(target, str(address[0]), permitted)
    return list(found)


def _said(status: int) -> Answer:
    if 300 <= status < 400:
        return Answer(status, f"{status}: redirects are not followed; name the address where it ends.")
    phrase = http.client.responses.get(status, "")
    return Answer(status, f"{status} {phrase}".strip())


class _Line:
    """A connection to the first of these numbers that can be reached, cut when its time is over."""

    def __init__(self, target: Target, numbers: Sequence[tuple[Any, ...]], seconds: float) -> None:
        self._target = target
        self._deadline = time.monotonic() + seconds
        self._over = False
        self._socket = self._connect(numbers)
        # A receiver that sends a byte now and then is never silent; so the whole is cut, not only a silence.
        self._cutter = threading.Timer(self._deadline - time.monotonic(), self._cut)
        self._cutter.daemon = True
        self._cutter.start()

    def _left(self) -> float:
        if (left := self._deadline - time.monotonic()) <= 0:
            raise TimeoutError
        return left

    def _connect(self, numbers: Sequence[tuple[Any, ...]]) -> socket.socket:
        trouble: OSError = ConnectionError("its name leads nowhere")
        for family, kind, protocol, _, address in numbers:
            line = socket.socket(family, kind, protocol)
            try:
                line.settimeout(self._left())
                line.connect(address)
                line.settimeout(self._left())
            except OSError as error:
                line.close()
                trouble = error
            else:
                return line
        raise trouble

    def _cut(self) -> None:
        self._over = True
        with suppress(OSError):  # it may be closed already
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # the plain one: no TLS goodbye to wait for

    def ask(self, body: bytes, headers: Mapping[str, str]) -> int:
        """The status of the answer. Raises TimeoutError, OSError, HTTPException."""
        try:
            if self._target.scheme == "https":
                context = ssl.create_default_context()
                self._socket = context.wrap_socket(
                    self._socket, server_hostname=self._target.host, do_handshake_on_connect=False
                )
                self._socket.do_handshake()
            asking = http.client.HTTPConnection(self._target.host, self._target.port)
            asking.sock = self._socket  # so that it looks up nothing by itself
            asking.auto_open = 0
            fixed = {"Host": self._target.authority, "Connection": "close"}
            asking.request("POST", self._target.path, body, {**headers, **fixed})
            status = asking.getresponse().status
            if self._over:
                raise TimeoutError  # what looks like the end of its headers was our cut
            return status
        except (OSError, ValueError, http.client.HTTPException) as error:
            if self._over:
                raise TimeoutError from None
            if isinstance(error, ValueError) and not isinstance(error, OSError):
                raise ConnectionError(str(error)) from error
            raise

    def close(self) -> None:
        """Let go of it."""
        self._cutter.cancel()
        self._socket.close()
