"""How a configuration's sources are opened, and how long the run waits for them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.common.errors import ConfigError, StreamerError
from streamer.common.tls import check_trust

if TYPE_CHECKING:
    from streamer.app.config import StreamConfig
    from streamer.sources import Source, SourceOptions

log = logging.getLogger(__name__)


def source_options(config: StreamConfig) -> SourceOptions:
    """Returns what a configuration says of all sources; raises ConfigError if a file of authorities can't be read."""
    from streamer.sources import SourceOptions

    if isinstance(config.tls_verify, Path):
        check_trust(config.tls_verify)
    width, height = config.camera_size or (None, None)
    return SourceOptions(
        width=width,
        height=height,
        fps=config.camera_fps,
        pixel_format=config.camera_format,
        rtsp_transport=config.rtsp_transport,
        stall_timeout_s=config.stall_timeout,
        reconnect=None if config.reconnect == "forever" else config.reconnect,
        max_pixels=config.max_pixels,
        tls_verify=config.tls_verify,
        gpu_only=config.decode == "gpu",
    )


def wait_ready(sources: Sequence[Source], *, patient: bool) -> None:
    """Waits for the first frame of every source; raises SourceError if one can't be opened and must not come later.

    Live ones may come later if there are others or, if `patient`, always.
    """
    from streamer.sources.base import as_source_error

    failed: list[tuple[Source, StreamerError]] = []
    for source in sources:
        try:
            source.wait_ready()
        except ConfigError:
            raise
        except Exception as error:
            failed.append((source, as_source_error(error, source.info.name)))
    for source, cause in failed:
        if not source.info.live or (not patient and len(failed) == len(sources)):
            raise cause
        log.warning("%s; the run starts without it and keeps trying", cause)
