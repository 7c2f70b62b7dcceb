"""What a stream's WebSocket says in JSON, as docs/live-page.md describes it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from streamer.sources.packet_tap import PacketTap
from streamer.web.fragments import DURATION_S, MediaFormat
from streamer.web.live_stream import Found

_SCORE_DECIMALS, _SIDE_DECIMALS = 3, 5


def format_message(about: MediaFormat, labels: Sequence[str], view: str) -> str:
    """Returns what comes before an init segment."""
    return _json(
        type="format",
        codec=about.codec_string,
        mime=about.mime,
        size_wh=about.size_wh,
        origin_s=about.origin_s,
        fragment_s=DURATION_S,
        labels=labels,
        view=view,
    )


def detections_message(found: Found, tap: PacketTap) -> str:
    """Returns what was detected in one frame, boxes as shares of the picture, at the time of its packet in `tap`."""
    width, height = found.size_wh
    rows = []
    detections = found.detections
    for (left, top, right, bottom), score, class_id, _, track_id in detections:
        sides = (left / width, top / height, right / width, bottom / height)
        shares = [round(min(1.0, max(0.0, side)), _SIDE_DECIMALS) for side in sides]
        rows.append([class_id, round(score, _SCORE_DECIMALS), *shares, *([] if track_id is None else [track_id])])
    return _json(type="detections", pts_s=round(tap.time_of(found.pts_s), 6), boxes=rows)


def state_message(lost_s: float | None, *, has_frames: bool) -> str:
    """Returns whether the source gives frames, and since when it doesn't."""
    state = "running" if lost_s is None else "reconnecting" if has_frames else "connecting"
    return _json(type="state", state=state, lost_s=None if lost_s is None else round(lost_s, 1))


def skipped_message(frames: int) -> str:
    """Returns that a viewer was too slow for some pictures."""
    return _json(type="skipped", frames=frames)


def end_message() -> str:
    """Returns that no more comes."""
    return _json(type="end")


def _json(**values: object) -> str:
    return json.dumps(values, separators=(",", ":"), ensure_ascii=False)
