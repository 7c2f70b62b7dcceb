"""The key ``events`` of a configuration: which events are told, to whom; and what it opens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from streamer.app.clip_options import ClipOn, parse_clip_on
from streamer.app.options import FrozenModel
from streamer.common.closeable import Closeable
from streamer.common.redaction import hide
from streamer.common.references import expand_uri
from streamer.common.tls import Trust

if TYPE_CHECKING:
    from streamer.events.receiver import Receiver
    from streamer.sinks.base import Sink
    from streamer.sources.base import SourceInfo


_DRAIN_S = 2.0


class ReceiverOptions(FrozenModel):
    """One receiver: exactly one of ``mqtt``, ``webhook``, ``exec`` and ``lines``."""

    without_references: ClassVar[tuple[str, ...]] = ("mqtt", "webhook")

    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    mqtt: str | None = Field(None, repr=False)
    discovery: Annotated[str, Field(pattern=r"^[\w-]+$")] | None = None
    webhook: str | None = Field(None, repr=False)
    secret: str | None = Field(None, repr=False)
    exec: tuple[str, ...] | None = Field(None, repr=False)
    timeout: Annotated[float, Field(gt=0, le=3600)] = 30.0
    lines: Path | None = None
    max_bytes: Annotated[int, Field(ge=1000)] = 10_000_000
    backups: Annotated[int, Field(ge=0, le=1000)] = 5

    @field_validator("mqtt", "webhook", mode="before")
    @classmethod
    def _expanded(cls, value: object) -> object:
        return expand_uri(value)[0] if isinstance(value, str) else value

    @field_validator("secret")
    @classmethod
    def _hidden(cls, value: str | None) -> str | None:
        if value is not None:
            hide(value)
        return value

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        kinds = [self.mqtt, self.webhook, self.exec or None, self.lines]
        if sum(kind is not None for kind in kinds) != 1:
            raise ValueError("a receiver has exactly one of mqtt, webhook, exec and lines")
        if self.secret is not None and self.webhook is None:
            raise ValueError("secret belongs to a webhook")
        if self.discovery is not None and self.mqtt is None:
            raise ValueError("discovery belongs to mqtt")
        return self

    @property
    def kind(self) -> str:
        """Which of the four it is."""
        return next(key for key in ("mqtt", "webhook", "exec", "lines") if getattr(self, key) is not None)

    def receiver(self, trust: Trust) -> Receiver:
        """Returns what delivers to it.

        Raises:
            ConfigError: if its address is wrong, or a package is missing.
        """
        from streamer.events.command import CommandReceiver
        from streamer.events.lines import LinesReceiver
        from streamer.events.mqtt import BrokerAddress, MqttReceiver
        from streamer.events.webhook import WebhookReceiver

        name = self.name or self.kind
        if self.mqtt is not None:
            return MqttReceiver(name, BrokerAddress.parse(self.mqtt), trust=trust, discovery=self.discovery)
        if self.webhook is not None:
            return WebhookReceiver(name, self.webhook, self.secret, trust)
        if self.exec is not None:
            return CommandReceiver(name, self.exec, self.timeout)
        assert self.lines is not None, "one of four"
        return LinesReceiver(name, self.lines, self.max_bytes, self.backups)


class EventOptions(FrozenModel):
    """Which events are told, and where they wait."""

    queue: Path = Path("events.sqlite")
    on: ClipOn | None = None
    frames: Annotated[int, Field(ge=1, le=1000)] = 3
    update: Annotated[float, Field(ge=0)] = 5.0
    receivers: Annotated[tuple[ReceiverOptions, ...], Field(min_length=1)]

    @field_validator("on", mode="before")
    @classmethod
    def _labels(cls, value: object) -> object:
        return parse_clip_on(value)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [each.name or each.kind for each in self.receivers]
        if len(set(names)) < len(names):
            raise ValueError("two receivers have the same name: give each a name")
        return self


class EventService(Closeable):
    """The queue of a run, and a sender for each receiver."""

    def __init__(self, options: EventOptions, trust: Trust) -> None:
        """Opens the queue and starts the senders.

        Raises:
            ConfigError: if a receiver's address is wrong, a package is missing, or another run uses the queue.
            SinkError: if the queue can't be opened.
        """
        from streamer.events.queue import MessageQueue
        from streamer.events.receiver import Sender
        from streamer.sinks.paths import PathLock

        self._options = options
        receivers = [each.receiver(trust) for each in options.receivers]
        with ExitStack() as stack:
            stack.callback(PathLock(options.queue, "messages").close)
            self.queue = stack.enter_context(MessageQueue(options.queue, [each.name for each in receivers]))
            for receiver in receivers:
                stack.enter_context(Sender(self.queue, receiver))
            self._stack = stack.pop_all()

    def open_sink(self, source: SourceInfo, labels: Sequence[str]) -> Sink:
        """Opens what tells a source's events.

        Raises:
            ConfigError: if a label is unknown.
        """
        from streamer.events.sink import EventSink
        from streamer.sinks.clips.trigger import LabelTrigger, checked_labels

        scores = None if self._options.on is None else checked_labels(dict(self._options.on), labels)
        return EventSink(
            self.queue, source, labels, LabelTrigger(labels, scores, self._options.frames), self._options.update
        )

    def close(self) -> None:
        """Delivers what has come, for two seconds at most; the rest is left to the next run. Safe to call twice."""
        self.queue.drain(_DRAIN_S)
        self._stack.close()
