"""How many frames of a stream may be where, by the detector, the number of streams and the overflow policy."""

from __future__ import annotations

import pytest

from streamer.common.queues import OverflowPolicy
from streamer.runtime.flow_limits import FlowLimits
from tests.fakes import SlowDetector


@pytest.mark.parametrize(
    ("depth", "batch", "streams", "captured", "detector"),
    [(1, 1, 1, 2, 1), (1, 1, 2, 1, 1), (4, 1, 4, 2, 4), (4, 1, 5, 1, 4), (64, 16, 60, 2, 32), (16, 16, 60, 1, 16)],
)
def test_limits_of_a_run(depth: int, batch: int, streams: int, captured: int, detector: int) -> None:
    limits = FlowLimits.of_run(SlowDetector(depth=depth, batch=batch), streams)
    assert limits == FlowLimits(captured, detector, live_view=captured, recorder=captured)
    assert limits.in_flight == detector + captured


@pytest.mark.parametrize(
    ("policy", "max_unacknowledged", "captured", "recorder"),
    [
        (OverflowPolicy.BLOCK, 0, 2, 2),
        (OverflowPolicy.BLOCK, 16, 16, 16),
        (OverflowPolicy.DROP_OLDEST, 0, 1, 8),
        (OverflowPolicy.DROP_OLDEST, 16, 1, 8),
    ],
)
def test_limits_of_a_stream(policy: OverflowPolicy, max_unacknowledged: int, captured: int, recorder: int) -> None:
    limits = FlowLimits(2, 4, live_view=2, recorder=2).of_stream(policy, max_unacknowledged)
    assert limits == FlowLimits(captured, 4, live_view=captured, recorder=recorder)
    assert limits.in_flight == 4 + captured
