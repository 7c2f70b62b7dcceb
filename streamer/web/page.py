"""The server of a live page, on a thread of its own."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn

from streamer.common.closeable import Closeable
from streamer.common.errors import SinkError
from streamer.sinks.base import Sink
from streamer.sinks.files import reason
from streamer.sinks.page_address import PageAddress
from streamer.sources.base import SourceInfo
from streamer.web.app import make_app
from streamer.web.control import RunControl
from streamer.web.http_protocol import MOST_HEADER_BYTES, BoundedHttpProtocol
from streamer.web.hub import Hub
from streamer.web.live_stream import LiveStream
from streamer.web.page_sink import PageSink
from streamer.web.pictures import Pictures
from streamer.web.run_api import RunApi
from streamer.web.security import AccessRules, PageGuard

log = logging.getLogger(__name__)

_OPEN = AccessRules()
_END_S = 1.0
_BACKLOG = 128
_SEND_BUFFER = 256 << 10  # else the system holds seconds of pictures for a slow viewer, which nobody sees
_MOST_RECEIVED_BYTES = 64 << 10  # of a message from a browser


@dataclass(frozen=True)
class Certificate:
    """Files of an encrypted page, in PEM.

    Attributes:
        file: the certificate and its chain.
        key: its key; None where that is in the same file.
    """

    file: Path
    key: Path | None = None


class LivePage(Closeable):
    """Serves one address from construction on; closing it sends all viewers away.

    Attributes:
        hub: the streams that are shown.
        address: where it is served; its port is the real one.
        api: what it tells of the run; None without one.
    """

    def __init__(
        self,
        address: PageAddress,
        rules: AccessRules = _OPEN,
        certificate: Certificate | None = None,
        control: RunControl | None = None,
    ) -> None:
        """Binds the address and begins to serve.

        Args:
            address: where.
            rules: who may use it.
            certificate: of an ``https`` address.
            control: the run; without one the page only shows.

        Raises:
            SinkError: if the address can't be bound, as when another program has the port.
        """
        self.hub = Hub()
        self._pictures = Pictures()
        self._socket = _bound(address)
        self.address = replace(address, port=self._socket.getsockname()[1])
        self.api = None if control is None else RunApi(control, self.hub, has_token=rules.token is not None)
        config = uvicorn.Config(
            PageGuard(make_app(self.hub, self._pictures, self.api), rules),
            http=BoundedHttpProtocol,
            h11_max_incomplete_event_size=MOST_HEADER_BYTES,
            ssl_certfile=None if certificate is None else certificate.file,
            ssl_keyfile=None if certificate is None or certificate.key is None else str(certificate.key),
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws_max_size=_MOST_RECEIVED_BYTES,
            ws_per_message_deflate=False,  # video doesn't become smaller
            server_header=False,
            proxy_headers=False,  # else a client on this machine could say to be another
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="live page", daemon=True)
        self._thread.start()

    def open_sink(
        self, source: SourceInfo, labels: Sequence[str], lost_s: Callable[[], float | None] = lambda: None
    ) -> Sink:
        """Shows a source; one of the same name is replaced.

        Args:
            source: what is shown.
            labels: class names by class id.
            lost_s: returns how long the source has been lost, None while it isn't.
        """
        stream = LiveStream(source, labels, lost_s)
        self.hub.add(stream)
        return PageSink(stream)

    def remove(self, name: str) -> None:
        """Shows the source of that name no more."""
        self.hub.remove(name)

    def close(self) -> None:
        """Sends all viewers away and ends the server. Safe to call twice."""
        self.hub.end_all()
        self._server.should_exit = True
        self._thread.join(_END_S)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join(_END_S)
        self._pictures.close()
        if self.api is not None:
            self.api.close()
        self._socket.close()

    def _serve(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        except (Exception, SystemExit) as error:
            log.error("the live page at %s has failed: %s", self.address, reason(error))
            log.debug("traceback", exc_info=True)


def _bound(address: PageAddress) -> socket.socket:
    """Returns a socket that listens at an address."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _not_served(address, error) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)  # of each connection
        listening.bind(place)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise _not_served(address, error) from error
    return listening


def _not_served(address: PageAddress, error: OSError) -> SinkError:
    return SinkError(f"can't serve the live page at {address}: {reason(error)}; choose another address or port")
