"""Messages to a command, on its standard input."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from streamer.events.message import QueuedMessage
from streamer.events.receiver import DeliveryError, Receiver


@dataclass
class CommandReceiver(Receiver):
    """Starts a command for each message, without a shell; status 0 takes it, any other is tried again.

    Attributes:
        arguments: the program and its arguments.
        timeout_s: the command and all that it has started are killed after this long.
        most_attempts: after how many failures in a row a message becomes a dead letter.
    """

    name: str
    arguments: tuple[str, ...] = field(repr=False)
    timeout_s: float = 30.0
    most_attempts: int = 5

    def deliver(self, messages: Sequence[QueuedMessage], acknowledge: Callable[[int], None]) -> None:
        for queued in messages:
            self._call(queued.message.body.encode() + b"\n")
            acknowledge(queued.sequence)

    def _call(self, body: bytes) -> None:
        try:
            process = subprocess.Popen(
                self.arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise DeliveryError(f"the command can't be started: {error.strerror}") from error
        try:
            process.communicate(body, self.timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise DeliveryError(f"the command took longer than {self.timeout_s:g} s", is_final=True) from None
        if process.returncode:
            raise DeliveryError(f"the command ended with status {process.returncode}", is_final=True)

    def close(self) -> None: ...
