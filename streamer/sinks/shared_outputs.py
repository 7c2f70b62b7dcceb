"""The outputs of several sources: which are shared, and which each source has for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from streamer.common.errors import ConfigError
from streamer.sinks import open_sink
from streamer.sinks.base import Sink
from streamer.sinks.options import DEFAULT_SINK_OPTIONS, SinkOptions
from streamer.sinks.paths import OutputPaths
from streamer.sinks.spec import OutputKind, OutputSpec
from streamer.sources.base import SourceInfo

if TYPE_CHECKING:
    from streamer.sinks.mosaic.video import TiledVideo
    from streamer.sinks.mosaic.window import TiledWindow

_MOST_FPS, _USUAL_FPS = 30.0, 25.0


def outputs_by_source(
    outputs: Sequence[OutputSpec],
    own: Mapping[str, Sequence[OutputSpec] | None],
    *,
    tiled: bool,
) -> list[tuple[OutputSpec, str]]:
    """Returns each output that sources write, with the source's name: one that is shared only once.

    Args:
        outputs: those of every source that has none of its own.
        own: each source's own outputs by its name, None for a source without.
        tiled: whether several sources may share a video.

    Raises:
        ConfigError: if several sources can't share an output.
    """
    found = [(output, name) for name, specs in own.items() for output in specs or ()]
    common = [name for name, specs in own.items() if specs is None]
    for output in outputs:
        if len(common) <= 1 or output.is_per_source or not output.has_path:
            found += [(output, name) for name in common]
            continue
        is_video = output.kind is OutputKind.VIDEO
        if not (tiled and is_video):
            way = " (or choose --layout tiled for one video of all)" if is_video else ""
            raise ConfigError(f"several sources can't share {str(output)!r}: write {{source}} into its name{way}")
        found.append((output, common[0]))
    return found


class SharedOutputs:
    """Opens outputs source by source, also during a run.

    With several sources and the layout ``tiled``, a window is one for all of them, and so is a video whose name has no
    ``{source}``; such an output is finished when all that was opened of it is closed. Everything else is opened for
    each source.
    """

    def __init__(
        self,
        outputs: Sequence[OutputSpec],
        sources: Sequence[SourceInfo],
        *,
        labels: Sequence[str],
        layout: Literal["tiled", "separate"] = "tiled",
        options: SinkOptions = DEFAULT_SINK_OPTIONS,
        by_clock: bool = False,
        paths: OutputPaths | None = None,
    ) -> None:
        """Opens what is shared.

        Args:
            outputs: those of every source that has none of its own.
            sources: those that the run begins with.
            labels: class names by class id.
            layout: whether there are shared outputs.
            options: of recordings.
            by_clock: of tiled videos, see `TiledVideo`.
            paths: those that the run has opened.

        Raises:
            SinkError: if a shared output can't be written, or there is no display for a window.
        """
        is_tiled = layout == "tiled" and len(sources) > 1
        self._labels, self._options, self._by_clock = labels, options, by_clock
        self._paths = paths or OutputPaths()
        self._tiled: dict[OutputSpec, TiledWindow | TiledVideo] = {}
        try:
            for output in dict.fromkeys(outputs) if is_tiled else ():
                if output.kind is OutputKind.WINDOW:
                    from streamer.sinks.mosaic.window import TiledWindow

                    self._tiled[output] = TiledWindow()
                elif output.kind is OutputKind.VIDEO and not output.is_per_source:
                    self._tiled[output] = self._tiled_video(output, sources)
        except BaseException:
            self.close()
            raise

    def open(self, output: OutputSpec, source: SourceInfo, options: SinkOptions | None = None) -> Sink:
        """Opens one of the outputs for one source, with its own options where it isn't shared.

        It is the caller's to close.
        A tiled video that has ended with its last source isn't continued: a new one is started beside it.

        Raises:
            ConfigError: if it is the source itself, or would delete it with old segments.
            SinkError: if it can't be written.
        """
        tiled = self._tiled.get(output)
        if tiled is None:
            return open_sink(output, source, labels=self._labels, options=options or self._options, paths=self._paths)
        self._paths.check([(output, source.name)], [source], retain=self._options.retain)
        if tiled.is_over:
            tiled = self._tiled[output] = self._tiled_video(output, [source])
        return tiled.add_tile(source)

    def remove(self, name: str) -> None:
        """Removes a source's tile from every shared output, on any thread; its sinks must still be closed."""
        for tiled in self._tiled.values():
            tiled.remove(name)

    def close(self) -> None:
        """Finishes the shared outputs, whatever is still open of them. Safe to call twice.

        Raises:
            SinkError: if one can't be finished.
        """
        for tiled in self._tiled.values():
            tiled.close()

    def _tiled_video(self, output: OutputSpec, sources: Sequence[SourceInfo]) -> TiledVideo:
        from streamer.sinks.mosaic.video import TiledVideo

        rates = [source.fps for source in sources if source.fps]
        fps = min(_MOST_FPS, max(rates, default=_USUAL_FPS))
        info = SourceInfo(Path(output.template).stem, "tiles", fps=fps, live=any(source.live for source in sources))
        recording = open_sink(output, info, labels=self._labels, options=self._options, paths=self._paths)
        return TiledVideo(recording, fps, by_clock=self._by_clock)
