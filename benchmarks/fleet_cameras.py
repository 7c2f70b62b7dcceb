"""Simulated cameras for ``benchmarks.fleet``: RTSP on loopback, footage encoded beforehand, one process for all."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.clips import ENCODING, SIZE_WH, write_clip
from streamer.common.closeable import Closeable
from tests.rtsp.film import Loop, coded_footage
from tests.rtsp.server import RtspServer
from tests.rtsp.wire import Damage, reserved_port

FPS = 5
KEY_INTERVAL = 10
CORRUPT_SHARE = 0.05
_STARTING_S = 60.0
_ENCODING = ENCODING | {"bf": "0", "g": str(KEY_INTERVAL), "x264-params": "scenecut=0"}  # as cameras do


def write_footage(
    footage: Sequence[Path],
    target: Path,
    pictures: int,
    *,
    size_wh: tuple[int, int] = SIZE_WH,
    key_interval: int = KEY_INTERVAL,
) -> None:
    """Encodes what the cameras film; `pictures` is a multiple of `key_interval`."""
    write_clip(footage, target, pictures, size_wh=size_wh, encoding=_ENCODING | {"g": str(key_interval)})


class Cameras(Closeable):
    """A context manager of several cameras, each at another place of the footage.

    Its methods are for one thread at a time.

    Attributes:
        urls: where to connect.
    """

    def __init__(self, footage: Path, count: int, *, fps: int = FPS, staggered: bool = True) -> None:
        """Starts them; returns when they answer.

        Args:
            footage: a file of `write_footage`.
            count: how many.
            fps: pictures a second of each.
            staggered: whether each sends at a moment of its own within the frame interval, or all at once.

        Raises:
            RuntimeError: if they don't start.
        """
        context = multiprocessing.get_context("spawn")
        self._commands, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, footage, count, fps, staggered), daemon=True)
        self._process.start()
        theirs.close()
        try:
            if not self._commands.poll(_STARTING_S):
                raise RuntimeError(f"the simulated cameras didn't start within {_STARTING_S:g} s")
            self.urls: list[str] = self._commands.recv()
        except (EOFError, RuntimeError) as error:
            self.close()
            raise RuntimeError(f"the simulated cameras can't be started: {error or 'see above'}") from None

    def freeze(self, number: int) -> None:
        """One camera sends and answers nothing more; connections stay open."""
        self._ask("freeze", number)

    def thaw(self, number: int) -> None:
        """Ends `freeze`."""
        self._ask("thaw", number)

    def kill(self, number: int) -> None:
        """One camera breaks off all connections and refuses new ones."""
        self._ask("kill", number)

    def start(self, number: int) -> None:
        """Ends `kill`."""
        self._ask("start", number)

    def corrupt(self, number: int, share: float = CORRUPT_SHARE) -> None:
        """One camera sends packets of which a share has a wrong byte in its payload; 0 ends that."""
        self._ask("corrupt", number, share)

    def sent(self) -> list[int]:
        """Returns how many pictures each camera has sent to the client that came last."""
        return self._ask("sent")

    def cpu_s(self) -> float:
        """Returns the processor seconds that all cameras together have used."""
        return self._ask("cpu_s")

    def close(self) -> None:
        """Ends them."""
        self._commands.close()
        self._process.join(_STARTING_S)
        if self._process.is_alive():
            self._process.kill()

    def _ask(self, *command: Any) -> Any:
        self._commands.send(command)
        return self._commands.recv()


class _Fleet:
    """The cameras in their own process; the methods are what `Cameras` may ask for."""

    def __init__(self, footage: Path, count: int, fps: int, staggered: bool) -> None:
        self._pictures, self._fps = coded_footage(footage), fps
        self._holders = [reserved_port() for _ in range(count)]
        self._origin_s, self._staggered = time.monotonic(), staggered
        self._servers = [self._server(number) for number in range(count)]

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self._servers]

    def freeze(self, number: int) -> None:
        self._servers[number].freeze()

    def thaw(self, number: int) -> None:
        self._servers[number].thaw()

    def kill(self, number: int) -> None:
        self._servers[number].close()

    def start(self, number: int) -> None:
        self._servers[number] = self._server(number)

    def corrupt(self, number: int, share: float) -> None:
        self._servers[number].damage = Damage(share, number)

    def sent(self) -> list[int]:
        return [server.sent for server in self._servers]

    def cpu_s(self) -> float:
        return time.process_time()

    def close(self) -> None:
        for server in self._servers:
            server.close()

    def _server(self, number: int) -> RtspServer:
        count = len(self._holders)
        first = number * len(self._pictures) // count // KEY_INTERVAL * KEY_INTERVAL
        phase_s = number / count / self._fps if self._staggered else 0.0
        port: int = self._holders[number].getsockname()[1]
        film = Loop(self._pictures, fps=self._fps, first=first, origin_s=self._origin_s + phase_s)
        return RtspServer(film, port=port)


def _serve(commands: Connection, footage: Path, count: int, fps: int, staggered: bool) -> None:
    """Serves requests until the pipe closes; the body of the process."""
    fleet = _Fleet(footage, count, fps, staggered)
    try:
        commands.send(fleet.urls)
        while True:
            name, *arguments = commands.recv()
            commands.send(getattr(fleet, name)(*arguments))
    except (EOFError, KeyboardInterrupt):
        pass
    finally:
        fleet.close()
