"""A camera on loopback that can be frozen, killed, restarted, and reached over a wire that fails: for tests and
benchmarks of what happens then.

It is a real RTSP server (GStreamer's) in a process of its own. Each picture carries its number and the time it was
made, which `read_code` reads from the decoded picture: so a test can count lost pictures and measure their age.
"""

from __future__ import annotations

import concurrent.futures
import functools
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from streamer.common.closeable import Closeable
from tests.camera_server import CODE_COLUMNS, CODE_HEIGHTS, CODE_ROWS, PATH, number_and_ms
from tests.camera_wire import Wire, reserved_port

_PYTHON = "/usr/bin/python3"
_SERVER = Path(__file__).with_name("camera_server.py")
_START_TIMEOUT_S = 60.0
_POLL_S = 0.002
_SAMPLES = 5  # each way in a cell's middle half
_DARK, _LIGHT = 110, 146  # a cell between them is no bit


@dataclass(frozen=True)
class Code:
    """What a picture says of itself.

    Attributes:
        number: counts the pictures that the server made since it was started, from 0; key frames are the multiples of
            `key_interval`.
        sent_s: when it was given to the encoder, in seconds of `time.monotonic` (on Linux also `time.perf_counter`).
    """

    number: int
    sent_s: float


def read_code(image: npt.NDArray[np.uint8]) -> Code | None:
    """Returns the code along the bottom of a camera's picture, or None where there is none that can be read.

    Args:
        image: (H, W, 3) BGR or (H, W) luma, uint8, scaled as may be; the code's cells must be left about 3 pixels.
    """
    rows, columns = _sampled(image.shape[0], image.shape[1])
    samples = image[rows[:, None], columns].reshape(CODE_ROWS, _SAMPLES, CODE_COLUMNS, -1)
    cells = samples.mean(axis=(1, 3))
    if np.any((cells > _DARK) & (cells < _LIGHT)):
        return None
    read = number_and_ms((cells >= _LIGHT).astype(int).ravel().tolist())
    return None if read is None else Code(read[0], read[1] / 1000)


@functools.lru_cache(maxsize=16)
def _sampled(height: int, width: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Returns the rows and columns at which cells are read."""
    inside = 0.25 + 0.5 * (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    rows = CODE_HEIGHTS - CODE_ROWS + np.add.outer(np.arange(CODE_ROWS), inside).ravel()
    columns = np.add.outer(np.arange(CODE_COLUMNS), inside).ravel()
    return (rows * height / CODE_HEIGHTS).astype(np.intp), (columns * width / CODE_COLUMNS).astype(np.intp)


@functools.lru_cache(maxsize=1)
def camera_missing() -> str | None:
    """Returns why this machine can't run a camera, naming the packages it wants, or None where it can."""
    if not Path(_PYTHON).exists():
        return f"the simulated camera needs {_PYTHON} (package python3)"
    asked = subprocess.run([_PYTHON, "-I", str(_SERVER), "--missing"], capture_output=True, text=True, timeout=60)
    if asked.returncode:
        return f"the simulated camera can't be asked what it needs: {asked.stderr.strip()}"
    packages = asked.stdout.strip()
    return f"the simulated camera needs system packages: apt-get install {packages}" if packages else None


class Camera(Closeable):
    """Serves from construction to `close`; a context manager. Its methods are for one thread at a time.

    It films and encodes all the time, once for all its clients; who connects waits for the next key frame, as with
    most cameras. A client that takes nothing for some seconds misses pictures, up to a key frame.

    Attributes:
        url: where to connect, through the wire; without credentials.
        direct_url: where to connect past the wire; UDP's pictures pass it by in any case.
        wire: what can go wrong on the way.
    """

    def __init__(
        self,
        size_wh: tuple[int, int] = (640, 360),
        fps: int = 30,
        *,
        key_interval: int = 30,
        credentials: str | None = None,
        transport: Literal["tcp", "udp", "both"] = "tcp",
        codec: Literal["h264", "h265", "mjpeg"] = "h264",
        port: int = 0,
    ) -> None:
        """Starts the camera; returns when it answers.

        Args:
            size_wh: of its pictures, even numbers; the code wants 160 x 96 or more.
            fps: how many pictures a second it makes.
            key_interval: every Nth picture is a key frame; each one of MJPEG is.
            credentials: "user:password" that clients must give, by digest, or None.
            transport: by which it is ready to send.
            codec: of its pictures.
            port: that of `url`; 0 picks a free one.

        Raises:
            ValueError: if a size isn't even.
            RuntimeError: if it doesn't answer, with what it wrote.
        """
        self._fixed = {"fps": fps, "credentials": credentials, "transport": transport}
        self._size_wh, self._key_interval, self._codec = size_wh, key_interval, codec
        self._server: subprocess.Popen[bytes] | None = None
        self._holder = reserved_port()
        self._port: int = self._holder.getsockname()[1]
        # The server dies with the thread that started it, which must be neither a test's nor a benchmark's.
        self._starter = concurrent.futures.ThreadPoolExecutor(1, "camera-starter")
        self.wire = Wire(self._port, port)
        self.url = f"rtsp://127.0.0.1:{self.wire.port}{PATH}"
        self.direct_url = f"rtsp://127.0.0.1:{self._port}{PATH}"
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The server's process.

        Raises:
            RuntimeError: if it isn't running.
        """
        if self._server is None:
            raise RuntimeError("the camera isn't running; call start()")
        return self._server.pid

    def start(
        self,
        *,
        size_wh: tuple[int, int] | None = None,
        key_interval: int | None = None,
        codec: Literal["h264", "h265", "mjpeg"] | None = None,
    ) -> None:
        """Starts the server on the same port, changed as told; returns when it answers, and the wire accepts.

        Raises:
            ValueError: if a size isn't even.
            RuntimeError: if it runs already, or doesn't answer, with what it wrote.
        """
        if self._server is not None:
            raise RuntimeError("the camera is running; call kill() first")
        size_wh = size_wh or self._size_wh
        if any(side % 2 for side in size_wh):
            raise ValueError(f"size_wh must be even numbers, got {size_wh}")
        self._size_wh = size_wh
        self._key_interval = key_interval or self._key_interval
        self._codec = codec or self._codec
        with tempfile.TemporaryFile() as said:
            self._server = self._starter.submit(self._spawn, said.fileno()).result()
            try:
                self._wait_for_answer()
            except TimeoutError as error:
                self.kill()
                said.seek(0)
                raise RuntimeError(f"the camera's server {error}: {said.read().decode().strip()}") from None
        self.wire.accept()

    def kill(self) -> None:
        """Kills the server at once, frozen or not: its connections end, new ones are refused."""
        self.wire.refuse()
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None

    def freeze(self) -> None:
        """Stops the server in its tracks: connections stay open and new ones are accepted, but no byte comes."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """Ends `freeze`: pictures go on with the next number, those of the meantime were never made."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Kills the server and frees the ports."""
        self.kill()
        self.wire.close()
        self._starter.shutdown()
        self._holder.close()

    def _spawn(self, said: int) -> subprocess.Popen[bytes]:
        settings = self._fixed | {
            "size_wh": self._size_wh,
            "key_interval": self._key_interval,
            "codec": self._codec,
            "port": self._port,
            "parent": os.getpid(),
        }
        command = [_PYTHON, "-I", str(_SERVER), json.dumps(settings)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)

    def _wait_for_answer(self) -> None:
        assert self._server is not None
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not answers(self._port):
            if self._server.poll() is not None:
                raise TimeoutError(f"ended with status {self._server.returncode}")
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"did not answer within {_START_TIMEOUT_S:g} s")
            time.sleep(_POLL_S)


def answers(port: int, timeout_s: float = 1.0) -> bool:
    """Whether an RTSP server on a port of loopback replies in time."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_s) as probe:
            probe.sendall(b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n")
            return probe.recv(16).startswith(b"RTSP/1.0")
    except OSError:
        return False
