"""Which names of the server a browser may use, and which pages may write to it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"https?://(.+)")
_WRITES = ("POST", "PUT", "PATCH", "DELETE")


def host_name(header: str) -> str | None:
    """Returns the name or address of a Host header in lower case, without its port; None if it is none.

    Example:
        >>> host_name("Example.ORG:8080"), host_name("[::1]:8080"), host_name("me@example.org")
        ('example.org', '::1', None)
    """
    found = _HOST.fullmatch(header)
    if found is None or (found[2] is not None and not 0 < int(found[2]) < 65536):
        return None
    return found[1].strip("[]").removesuffix(".").lower()


def is_known_host(header: str, names: Collection[str]) -> bool:
    """Whether a Host header is an address, ``localhost``, or one of `names` (lower case).

    A page of elsewhere whose name is made to resolve to this machine (DNS rebinding) arrives with its own name; an
    address in the header can't have come that way. The port may be another, as a container's or a proxy's is.
    """
    name = host_name(header)
    if name is None:
        return False
    if name == "localhost" or name in names:
        return True
    try:
        return not ipaddress.ip_address(name).is_unspecified
    except ValueError:
        return False


def is_cross_origin(method: str, origin: str | None, fetch_site: str | None, host: str) -> bool:
    """Whether a request comes from a page of elsewhere and may not: one that writes, or opens a WebSocket.

    Args:
        method: of HTTP; ``WEBSOCKET`` for one.
        origin: the Origin header.
        fetch_site: the Sec-Fetch-Site header.
        host: the Host header.
    """
    if method not in (*_WRITES, "WEBSOCKET"):
        return False
    if origin is not None:
        found = _ORIGIN.fullmatch(origin)
        return found is None or found[1].lower() != host.lower()
    return fetch_site not in (None, "same-origin", "none")
