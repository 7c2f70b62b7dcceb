"""Which streams of a container are read."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import cv2  # noqa: F401 - before PyAV, see `streamer.frames`
from av.audio.stream import AudioStream
from av.codec.context import ThreadType
from av.container import InputContainer
from av.video.stream import VideoStream

from streamer.common.errors import SourceError
from streamer.sources.diagnosis import why_unplayable
from streamer.sources.options import too_large

log = logging.getLogger(__name__)

# One thread uses the least CPU time per picture (12 % below two frame threads at 720p) and adds no delay; above Full HD
# it may be slower than real time.
_ONE_THREAD_PIXELS = 1920 * 1088
_MANY_THREADS = 4


def pick_video(container: InputContainer, shown: str, path: Path | None, max_pixels: int) -> VideoStream:
    """Returns the pictures to decode, with as many threads as suit their size.

    Raises:
        SourceError: if there are none that can be decoded, or they are too large.
    """
    stream = container.streams.best("video")
    if stream is None:
        kinds = ", ".join(sorted({found.type for found in container.streams}))
        reason = f"holds no video{kinds and f', only {kinds}'}; give a file or URL with pictures"
        raise SourceError(f"source {shown!r} {(path and why_unplayable(path)) or reason}")
    if stream.codec_context is None:
        raise SourceError(f"source {shown!r} is in a codec this build of PyAV can't decode; convert it")
    assert isinstance(stream, VideoStream)
    context = stream.codec_context
    problem = too_large((context.width, context.height), max_pixels)
    if problem is not None:
        raise SourceError(f"source {shown!r} is too large: {problem}")
    if context.width * context.height <= _ONE_THREAD_PIXELS:
        context.thread_count, context.thread_type = 1, ThreadType.NONE
    else:
        context.thread_count, context.thread_type = min(_MANY_THREADS, os.cpu_count() or 1), ThreadType.AUTO
    return stream


def pick_audio(container: InputContainer, pictures: VideoStream, shown: str) -> AudioStream | None:
    """Returns the sound that belongs to the pictures, None where there is none that can be decoded."""
    stream = container.streams.best("audio", related=pictures)
    if not isinstance(stream, AudioStream):
        return None
    if stream.codec_context is None:
        log.warning("source %r: no sound: this build of PyAV can't decode it", shown)
        return None
    return stream
