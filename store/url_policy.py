"""Which URLs of users the service calls: public addresses only, so that a webhook cannot reach the internal network.

What counts is the IP address that the host name resolves to when the connection is made, not the name: see `permit`.
Private networks are called only if BIMT_WEBHOOK_NETWORKS lists them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Global according to some versions of Python, but served by the cloud provider itself or not routed at all.
NOT_PUBLIC = ("64:ff9b:1::/48", "168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "::/96", "fec0::/10")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
PORTS = {"https": 443, "http": 80}


class Forbidden(ValueError):
    """The text is a sentence for users: why this URL is not called."""


@dataclass(frozen=True)
class Target:
    """A parsed URL. `path` includes the query; `host` is a name or an IP address, without brackets."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port as the header Host has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def target_of(url: str, permitted: Sequence[Network]) -> Target:
    """The parsed URL. Raises Forbidden for anything but a plain https URL, or an IP address that is not called.

    http is accepted only if `permitted` is not empty; whether it leads to one of those networks is checked by `permit`.
    """
    if not re.fullmatch(r"[!-~]+", url) or "\\" in url:
        raise Forbidden("A URL has ASCII letters, digits and signs only, and no space; encode the rest with %.")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError as error:
        raise Forbidden(f"This is no URL: {error}.") from None
    allowed = ("https", "http") if permitted else ("https",)
    if parts.scheme not in allowed:
        raise Forbidden(f"The URL must begin with {' or '.join(f'{scheme}://' for scheme in allowed)}.")
    if "@" in parts.netloc:
        raise Forbidden("The URL must not hold a name and password; messages are signed instead.")
    if parts.fragment or url.endswith("#"):
        raise Forbidden("The URL must not have a part after #; it would never be sent.")
    if port == 0 or not re.fullmatch(r"[A-Za-z0-9._-]{1,253}|[0-9a-f:.]+", host):
        raise Forbidden("The URL must name a host, and a port from 1 to 65535 where it names one.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    target = Target(parts.scheme, host, port or PORTS[parts.scheme], path)
    if (number := _number(host)) is not None:
        permit(target, str(number), permitted)
    return target


def permit(target: Target, number: str, permitted: Sequence[Network]) -> None:
    """Raises Forbidden if `number`, the IP address that the host resolved to, must not be connected to."""
    address = _number(number)
    if address is not None and any(address in network for network in permitted if network.version == address.version):
        return
    if address is None or not _is_public(address):
        said = "" if number == target.host else f" leads to {number}, which"
        raise Forbidden(f"`{target.host}`{said} is no public address, and BIMT_WEBHOOK_NETWORKS does not permit it.")
    if target.scheme != "https":
        raise Forbidden(f"`{target.host}` is outside BIMT_WEBHOOK_NETWORKS, and so is called by https only.")


def networks(text: str) -> tuple[Network, ...]:
    """Networks such as `10.0.0.0/8, fd00::/8`. Raises ValueError."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def _number(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_public(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = [address.sixtofour, *(address.teredo or ())]
        if address in NAT64:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if not all(_is_public(one) for one in inner if one is not None):
            return False  # an IPv4 address embedded in an IPv6 address
    if any(
        address in network for network in map(ipaddress.ip_network, NOT_PUBLIC) if network.version == address.version
    ):
        return False
    return address.is_global and not address.is_multicast and not (address.version == 4 and address.is_reserved)
