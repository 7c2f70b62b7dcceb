"""The live pages of a run: one for each address, shared by all sources that are shown there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.app.web_options import access_rules, certificate
from streamer.common.closeable import Closeable
from streamer.common.errors import SinkError
from streamer.sinks.spec import OutputKind, OutputSpec

if TYPE_CHECKING:
    from streamer.app.config import StreamConfig
    from streamer.app.page_control import PageControl
    from streamer.sinks.base import Sink
    from streamer.sinks.page_address import PageAddress
    from streamer.sources.base import Source
    from streamer.web.page import LivePage

log = logging.getLogger(__name__)


def shows_page(outputs: Iterable[OutputSpec]) -> bool:
    """Whether a live page is among outputs."""
    return any(output.kind is OutputKind.PAGE for output in outputs)


class LivePages(Closeable):
    """Opens pages, and what sources write to them. Not for several threads at once, except `remove`.

    Attributes:
        pages: those that are open, by address as asked for.
    """

    def __init__(self, config: StreamConfig, config_file: Path | None = None) -> None:
        """Opens none yet; what is changed on one is kept beside `config_file`."""
        self._config, self._config_file = config, config_file
        self._control: PageControl | None = None
        self._attach: Callable[[PageControl], None] | None = None
        self.pages: dict[PageAddress, LivePage] = {}

    def open(self, outputs: Iterable[OutputSpec]) -> None:
        """Opens the pages among outputs.

        Raises:
            ConfigError: if an address can be reached from elsewhere without a token, or has no certificate.
            SinkError: if an address can't be bound, or a package is missing.
        """
        for output in outputs:
            if output.address is not None:
                self._page(output.address)

    def open_sink(self, output: OutputSpec, source: Source, labels: Sequence[str]) -> Sink:
        """Shows a source on a page, which is opened where it isn't; raises as `open`."""
        assert output.address is not None
        return self._page(output.address).open_sink(source.info, labels, lambda: source.lost_s)

    def attach(self, attach: Callable[[PageControl], None]) -> None:
        """Has pages control the run, which begins; `attach` connects their control to it."""
        self._attach = attach
        if self._control is not None:
            attach(self._control)

    def remove(self, name: str) -> None:
        """Shows a source on no page any more."""
        for page in self.pages.values():
            page.remove(name)

    def close(self) -> None:
        for page in self.pages.values():
            page.close()

    def _page(self, address: PageAddress) -> LivePage:
        page = self.pages.get(address)
        if page is None:
            try:
                from streamer.app.page_control import PageControl
                from streamer.web.page import LivePage
            except ImportError as error:
                raise SinkError(
                    f"a live page needs packages that are missing ({error.name}): pip install 'nanodet-streamer[web]'"
                ) from error
            rules, files = access_rules(self._config, address), certificate(self._config, address)
            if self._control is None:
                self._control = PageControl(self._config, self._config_file)
                if self._attach is not None:
                    self._attach(self._control)
            page = self.pages[address] = LivePage(address, rules, files, self._control)
            log.info("live page: %s", page.address)
        return page
