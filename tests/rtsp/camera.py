"""A camera on loopback that can be frozen, killed, restarted, and reached over a wire that fails: for tests and
benchmarks of what happens then.

It is an `RtspServer` in a process of its own, which films live. Each picture carries its number and the time it was
made, which `tests.rtsp.code` reads.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

from streamer.common.closeable import Closeable
from tests.rtsp.film import LiveFilm
from tests.rtsp.server import RtspServer
from tests.rtsp.wire import Wire, reserved_port

_ROOT = Path(__file__).parent.parent.parent
_START_TIMEOUT_S = 60.0
_POLL_S = 0.002
_SET_PARENT_DEATH_SIGNAL = 1
_TRANSPORTS = {"tcp": ["TCP"], "udp": ["UDP"], "both": ["TCP", "UDP"]}


class Camera(Closeable):
    """Serves from construction to `close`; a context manager. Its methods are for one thread at a time.

    It films all the time, see `LiveFilm`.

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
            size_wh: of its pictures, even numbers; at least 160 x 96 for the code.
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
        self._fixed = {"fps": fps, "credentials": credentials, "transports": _TRANSPORTS[transport]}
        self._size_wh, self._key_interval, self._codec = size_wh, key_interval, codec
        self._server: subprocess.Popen[bytes] | None = None
        self._holder = reserved_port()
        self._port: int = self._holder.getsockname()[1]
        # The server dies with the thread that started it, which must be neither a test's nor a benchmark's.
        self._starter = concurrent.futures.ThreadPoolExecutor(1, "camera-starter")
        self.wire = Wire(self._port, port)
        self.url = f"rtsp://127.0.0.1:{self.wire.port}/live"
        self.direct_url = f"rtsp://127.0.0.1:{self._port}/live"
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
        command = [sys.executable, "-m", __name__, json.dumps(settings)]
        return subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=said)

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


def _serve(
    size_wh: tuple[int, int],
    fps: int,
    key_interval: int,
    codec: str,
    port: int,
    credentials: str | None,
    transports: list[str],
    parent: int,
) -> None:
    """Serves until the process is killed, by the kernel too, even suspended, when the thread that started it ends."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that started this one is gone")
    film = LiveFilm(codec, size_wh, fps, key_interval)
    with RtspServer(film, port=port, credentials=credentials, transports=transports):
        signal.pause()


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    _serve(**settings | {"size_wh": tuple(settings["size_wh"])})
