"""The options of the live page: who may use it, and by which names it is reached."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import field_validator

from streamer.app.options import FrozenModel, option
from streamer.common.errors import ConfigError
from streamer.common.redaction import hide

if TYPE_CHECKING:
    from streamer.sinks.page_address import PageAddress
    from streamer.web.page import Certificate
    from streamer.web.security import AccessRules

SHORTEST_TOKEN = 8


class WebOptions(FrozenModel):
    """How a live page is protected; `option` says what each means."""

    web_token: str | None = option(
        None,
        "live page",
        "what a user must know, of 8 characters or more, best as ${file:/run/secrets/page}; without one the page is"
        " reached from this machine only",
        metavar="TOKEN",
        is_text=True,
        repr=False,
    )
    web_cert: Path | None = option(
        None, "live page", "certificate (PEM, with its chain) of an https:// page", metavar="FILE"
    )
    web_key: Path | None = option(None, "live page", "its key, where that isn't in the same file", metavar="FILE")
    web_host: tuple[str, ...] = option(
        (),
        "live page",
        "a further name by which browsers reach the page, as through a reverse proxy; repeat the option for more",
        metavar="NAME",
        many="repeat",
    )
    web_folder: tuple[Path, ...] = option(
        (),
        "live page",
        "a folder whose videos and pictures may be added as sources on the page (default: none); repeat the option for"
        " more",
        metavar="FOLDER",
        many="repeat",
    )

    @field_validator("web_token", mode="before")
    @classmethod
    def _is_long_enough(cls, value: object) -> object:
        if value is None:
            return value
        if not isinstance(value, str) or len(value) < SHORTEST_TOKEN or not value.isprintable():
            # no ValueError: a message would quote the value
            raise ConfigError(f"web_token: wanted text of {SHORTEST_TOKEN} printable characters or more")
        hide(value)
        return value

    @field_validator("web_host", "web_folder", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return (value,) if isinstance(value, (str, Path)) else value

    @field_validator("web_host")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from streamer.web.hosts import host_name

        for name in value:
            if host_name(name) != name.lower():
                raise ValueError("wanted a name such as cameras.example.org, without scheme and port")
        return value


def access_rules(options: WebOptions, address: PageAddress) -> AccessRules:
    """Returns who may use the page at an address.

    Raises:
        ConfigError: if it can be reached from elsewhere and has no token.
    """
    from streamer.web.security import AccessRules

    if not address.is_loopback and options.web_token is None:
        raise ConfigError(
            f"{address} can be reached from elsewhere: set a token with --web-token, or use http://127.0.0.1"
        )
    hosts = frozenset(name.lower() for name in (*options.web_host, address.host))
    return AccessRules(options.web_token, hosts, address.scheme == "https")


def certificate(options: WebOptions, address: PageAddress) -> Certificate | None:
    """Returns the files of a page's certificate; None where it isn't encrypted.

    Raises:
        ConfigError: if the address needs one and there is none, or the files can't be used.
    """
    from streamer.web.page import Certificate

    if address.scheme != "https":
        if options.web_cert is not None:
            raise ConfigError(f"--web-cert is for https:// pages, and the page is {address}")
        return None
    if options.web_cert is None:
        raise ConfigError(f"{address} needs a certificate: --web-cert FILE and --web-key FILE")
    found = Certificate(options.web_cert, options.web_key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(found.file, found.key, password=_no_password)
    except ssl.SSLError as error:
        raise ConfigError(
            f"{str(found.file)!r} and its key can't be used ({error.reason}): wanted a certificate and a key in PEM,"
            " without a password"
        ) from None
    except OSError as error:
        raise ConfigError(f"the page's certificate or key can't be read: {error.strerror}") from None
    return found


def _no_password() -> str:
    return ""
