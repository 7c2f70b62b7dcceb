"""Part "copy" of ``benchmarks.recording``: a recording beside ``ffmpeg -c copy`` of the same stream, both at once."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2  # noqa: F401 - before PyAV, see `streamer.frames`
import av

from benchmarks.fleet_cameras import Cameras
from benchmarks.program import STREAMER, Program
from benchmarks.recording_cost import FPS
from streamer.common.errors import StreamerError

WANTED = 0.01
_ENDINGS = (".mp4", ".mkv")


@dataclass(frozen=True)
class Copied:
    """Two recordings of one stream.

    Attributes:
        ending: of their files.
        pictures: that both hold, in a row.
        payload_bytes, peer_payload_bytes: of these pictures' packets.
        file_bytes, peer_file_bytes: these packets, and as much of what else the files hold as falls on them.
        is_same: whether these packets are the same, byte for byte.
    """

    ending: str
    pictures: int
    payload_bytes: int
    peer_payload_bytes: int
    file_bytes: float
    peer_file_bytes: float
    is_same: bool

    @property
    def off(self) -> float:
        """How far the file's size is from the peer's, as a fraction of that."""
        return self.file_bytes / self.peer_file_bytes - 1


def measure_copy(footage: Path, seconds: float) -> list[Copied]:
    """Records a camera for so long by both, once for each container.

    Raises:
        StreamerError: if ffmpeg isn't there, a command fails, or the recordings have no pictures in common.
        RuntimeError: if the camera doesn't start.
    """
    if shutil.which("ffmpeg") is None:
        raise StreamerError("the part copy needs the program ffmpeg: install it")
    return [_measured(footage, seconds, ending) for ending in _ENDINGS]


def _measured(footage: Path, seconds: float, ending: str) -> Copied:
    with Cameras(footage, 1, fps=FPS) as cameras, tempfile.TemporaryDirectory() as name:
        url, folder = cameras.urls[0], Path(name)
        own = [*STREAMER, "--source", url, "--record", f"own{ending}", "--duration", f"{seconds:g}", "--no-progress"]
        peer = ["ffmpeg", "-nostdin", "-v", "error", "-rtsp_transport", "tcp", "-i", url, "-t", f"{seconds + 4:g}"]
        with Program(own, folder) as ours, Program([*peer, "-c", "copy", f"peer{ending}"], folder) as theirs:
            ours.wait()
            theirs.wait()
        return _compared(folder / f"own{ending}", folder / f"peer{ending}", ending)


def _compared(own: Path, peer: Path, ending: str) -> Copied:
    one, other = _packets(own), _packets(peer)
    starts = [at for at in range(len(other)) if other[at][0] == one[0][0]] or [-1]
    begin = max(starts, key=lambda at: _run_length(one, other[at:]) if at >= 0 else 0)
    count = min(len(one), len(other) - begin) if begin >= 0 else 0
    if not count:
        raise StreamerError(f"{own.name} and {peer.name} have no pictures in common: record for longer")
    mine, theirs = one[:count], other[begin : begin + count]
    return Copied(
        ending,
        count,
        sum(size for _, size in mine),
        sum(size for _, size in theirs),
        _share(own, one, mine),
        _share(peer, other, theirs),
        [content for content, _ in mine] == [content for content, _ in theirs],
    )


def _share(path: Path, of_all: list[tuple[str, int]], some: list[tuple[str, int]]) -> float:
    """Returns the size of some of a file's packets, with their share of the rest of the file."""
    rest = path.stat().st_size - sum(size for _, size in of_all)
    return sum(size for _, size in some) + rest * len(some) / len(of_all)


def _packets(path: Path) -> list[tuple[str, int]]:
    """Returns hash and size of each picture, without parameter sets, which containers keep elsewhere."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        sizes = [
            (hashlib.sha256(_slices(bytes(packet))).hexdigest(), packet.size) for packet in container.demux(stream)
        ]
    return [each for each in sizes if each[1]]


def _slices(packet: bytes) -> bytes:
    """Returns the slices of an H.264 picture, whose units have four-byte lengths before them."""
    found, at = bytearray(), 0
    while at + 4 < len(packet):
        size = int.from_bytes(packet[at : at + 4], "big")
        if packet[at + 4] & 0x1F in (1, 5):
            found += packet[at + 4 : at + 4 + size]
        at += 4 + size
    return bytes(found)


def _run_length(one: list[tuple[str, int]], other: list[tuple[str, int]]) -> int:
    return next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a[0] != b[0]), min(len(one), len(other))
    )


def report_copy(found: list[Copied]) -> str:
    """Returns the comparison and what was wanted, a line for each container."""
    return "\n".join(
        f"- {each.ending}: {each.pictures} pictures {'the same' if each.is_same else 'NOT the same'} byte for byte; "
        f"file {each.file_bytes / 1e6:.3f} MB, ffmpeg -c copy {each.peer_file_bytes / 1e6:.3f} MB for as many: "
        f"{each.off:+.2%}, wanted within {WANTED:.0%}: {'reached' if abs(each.off) <= WANTED else 'missed'}"
        for each in found
    )
