"""Video files of the pictures as they came, without boxes: recordings of sources that have no packets, as webcams."""

from __future__ import annotations

from streamer.sinks.video.sink import VideoSegmentsSink, VideoSink


class PlainVideoSink(VideoSink):
    """A `VideoSink` that nothing is drawn for."""

    needs_pixels = False


class PlainVideoSegmentsSink(VideoSegmentsSink):
    """A `VideoSegmentsSink` that nothing is drawn for."""

    needs_pixels = False
