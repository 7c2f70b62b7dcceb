"""Hardware decoding: what it says without the package, and on a GPU the same pictures as the CPU's decoder."""

from __future__ import annotations

import gc
import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

import streamer
from streamer.cuda import nvdec
from streamer.cuda.gpu import Gpu
from streamer.cuda.memory import DeviceBuffer
from streamer.cuda.nv12 import Nv12
from streamer.cuda.nvdec import NvdecSource
from streamer.cuda.staging import BufferPool, Loan
from streamer.errors import EngineError, SourceError
from streamer.yuv_matrix import Matrix

SAMPLE = Path(streamer.__file__).parent / "data" / "sample.mp4"


@pytest.fixture
def gpu() -> None:
    """Skips where there is no GPU that decodes."""
    try:
        Gpu(0).close()
    except EngineError as error:
        pytest.skip(str(error))
    if importlib.util.find_spec("PyNvVideoCodec") is None:
        pytest.skip("PyNvVideoCodec is not installed")


def test_without_the_package_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvdec.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"PyNvVideoCodec is not installed: pip install 'nanodet-streamer\[nvdec\]'"):
        NvdecSource(str(SAMPLE), name="sample")


@pytest.mark.gpu
def test_nv12_comes_back_as_bgr(gpu: None) -> None:
    planes = np.empty((6, 8), np.uint8)
    planes[:4] = 81
    planes[4:, 0::2], planes[4:, 1::2] = 90, 240  # BT.601 red
    with Gpu(0) as opened:
        pool: BufferPool[DeviceBuffer] = BufferPool(lambda nbytes: DeviceBuffer(opened, nbytes), 1)
        buffer = pool.take(planes.nbytes)
        assert buffer is not None
        buffer.write(planes)
        picture = Nv12(Loan(pool, buffer), (8, 4), Matrix.BT601, False)
        assert picture.to_bgr().shape == (4, 8, 3)
        np.testing.assert_allclose(picture.to_bgr(), np.broadcast_to([0, 0, 254], (4, 8, 3)), atol=2)
        del picture
        gc.collect()
        pool.close()
        assert opened.device_bytes == 0


@pytest.mark.gpu
def test_pictures_times_and_order_are_those_of_the_file(gpu: None) -> None:
    capture = cv2.VideoCapture(str(SAMPLE))
    with NvdecSource(str(SAMPLE), name="sample") as source:
        assert source.info.size_wh is not None
        count = 0
        for frame in source:
            known, wanted = capture.read()
            assert known
            assert frame.index == count
            assert frame.size_wh == source.info.size_wh
            assert frame.pts_s == pytest.approx(count / (source.info.fps or 1), abs=0.01)
            if count % 20 == 0:
                assert np.abs(frame.image.astype(int) - wanted).mean() < 3
            count += 1
        assert count == int(capture.get(cv2.CAP_PROP_FRAME_COUNT))


@pytest.mark.gpu
def test_what_is_no_video_is_said(gpu: None, tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    with pytest.raises(SourceError, match="NVDEC can't open"):
        NvdecSource(str(path), name="text")
