"""A thousand generated requests, raw bytes and slow clients: no fault, no growth, and the password nowhere."""

from __future__ import annotations

import pytest

pytest.importorskip("schemathesis")

from benchmarks.page_requests import measure


@pytest.mark.long
@pytest.mark.timeout(900)
def test_requests_that_no_page_makes() -> None:
    outcome = measure(1000, 300, 60)
    assert sum(outcome.generated.values()) >= 1000
    assert outcome.faults == ()
    assert not {"500", "502", "504"} & {*outcome.generated, *outcome.sockets}
    assert outcome.generated["429"] < 100 if "429" in outcome.generated else True
    assert outcome.slow_left == 0
    assert outcome.leaks == ()
    assert outcome.after.threads <= outcome.before.threads + 4  # of the thread pool
    assert outcome.after.descriptors <= outcome.before.descriptors + 8
    assert outcome.after.resident_bytes < outcome.before.resident_bytes + (64 << 20)
