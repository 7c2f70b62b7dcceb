"""A GPU of this machine, for tests marked `gpu`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from streamer.common.errors import EngineError
from streamer.cuda.gpu import Gpu


@contextmanager
def opened_gpu() -> Iterator[Gpu]:
    """Opens GPU 0 for a block; skips the test where there is none."""
    try:
        opened = Gpu(0)
    except EngineError as error:
        pytest.skip(str(error))
    with opened:
        yield opened
