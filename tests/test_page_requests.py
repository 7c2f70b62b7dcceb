"""A thousand generated requests, raw bytes and slow clients: no fault, no growth, and the password nowhere."""

from __future__ import annotations

import pytest

pytest.importorskip("schemathesis")

from benchmarks.page_requests import measure


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_requests_that_no_page_makes() -> None:
    outcome = measure(1000, 300, 60)
    assert outcome.generated >= 1000
    assert outcome.faults == ()
    assert not {status for status in outcome.sockets if status.startswith("5")}
    assert outcome.slow_left == 0
    assert outcome.leaks == ()
    assert outcome.after.threads <= outcome.before.threads + 4  # of the thread pool
    assert outcome.after.descriptors <= outcome.before.descriptors + 8
    assert outcome.after.resident_bytes < outcome.before.resident_bytes + (64 << 20)
