"""Where a live page is served, as it is written: ``http://127.0.0.1:8080``."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from streamer.common.errors import ConfigError
from streamer.common.redaction import redact

PAGE_SCHEMES = ("http", "https")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class PageAddress:
    """An address to listen on.

    Attributes:
        scheme: ``http`` or ``https``.
        host: a name or an IP address, without brackets.
        port: 0 lets the system choose a free one.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> PageAddress:
        """Parses an address.

        Raises:
            ConfigError: if it isn't one, or has more than scheme, host and port.

        Example:
            >>> PageAddress.parse("http://127.0.0.1:8080").port
            8080
        """
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise _wrong(text, str(error)) from None
        scheme, host = parts.scheme.lower(), parts.hostname
        if scheme not in PAGE_SCHEMES or not host:
            raise _wrong(text, "no host")
        if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
            raise _wrong(text, "it has more than a host and a port")
        return cls(scheme, host, _DEFAULT_PORTS[scheme] if port is None else port)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_usual = self.port == _DEFAULT_PORTS[self.scheme]
        return f"{self.scheme}://{host}" if is_usual else f"{self.scheme}://{host}:{self.port}"


def _wrong(text: str, reason: str) -> ConfigError:
    return ConfigError(f"no live page can be served at {redact(text)!r}: {reason}; wanted http://127.0.0.1:8080")
