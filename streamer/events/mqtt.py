"""Messages to an MQTT 5 broker."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from streamer.common.errors import ConfigError
from streamer.common.redaction import hide, redact
from streamer.common.tls import Trust, tls_context
from streamer.events.message import QueuedMessage
from streamer.events.receiver import DeliveryError, Receiver

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessageInfo

log = logging.getLogger(__name__)

_CONNECT_S, _ACKNOWLEDGE_S = 10.0, 30.0
_IN_FLIGHT = 20
_SESSION_S = 3600
_LEVEL_SIGNS = str.maketrans({"/": "_", "+": "_", "#": "_", "\0": "_"})


def topic_part(name: str) -> str:
    """Returns a name as one level of a topic."""
    return name.translate(_LEVEL_SIGNS)


@dataclass(frozen=True)
class BrokerAddress:
    """A broker and the topic below which everything is published: ``mqtts://user:password@host:8883/cameras``."""

    host: str
    port: int
    topic: str
    is_encrypted: bool
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> BrokerAddress:
        """Parses an address.

        Raises:
            ConfigError: if it isn't one.

        Example:
            >>> BrokerAddress.parse("mqtt://broker/cameras").port
            1883
        """
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{redact(text)}: {error}") from None
        scheme, topic = parts.scheme.lower(), unquote(parts.path).strip("/")
        if scheme not in ("mqtt", "mqtts") or not parts.hostname or not topic or "?" in text or "#" in text:
            raise ConfigError(f"{redact(text)}: wanted mqtt://HOST/TOPIC or mqtts://HOST/TOPIC")
        if any(sign in topic for sign in "+#\0"):
            raise ConfigError(f"{redact(text)}: a topic to publish to has no + and no #")
        user, password = (None if part is None else unquote(part) for part in (parts.username, parts.password))
        if password is not None:
            hide(password)
        return cls(
            parts.hostname, port or (8883 if scheme == "mqtts" else 1883), topic, scheme == "mqtts", user, password
        )


class MqttReceiver(Receiver):
    """Publishes each message to ``TOPIC/events/SOURCE`` with QoS 1; the broker's acknowledgement takes it.

    ``TOPIC/status`` is retained: ``online``, and as the last will ``offline``. ``TOPIC/state/SOURCE/LABEL`` is
    retained: ``ON`` from an event's start to its end, else ``OFF``. With `discovery`, Home Assistant finds both.
    """

    def __init__(self, name: str, address: BrokerAddress, *, trust: Trust = True, discovery: str | None = None) -> None:
        """Connects on the first delivery.

        Args:
            name: of the receiver, and with the topic the client's id, which must differ between runs.
            address: the broker.
            trust: as `streamer.common.tls.tls_context` takes it.
            discovery: Home Assistant's prefix, usually ``homeassistant``; None announces nothing.

        Raises:
            ConfigError: if paho-mqtt isn't installed.
        """
        try:
            from paho.mqtt.client import Client, MQTTv5
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError:
            raise ConfigError("MQTT needs paho-mqtt: pip install 'nanodet-streamer[mqtt]'") from None
        self.name, self._address, self._discovery = name, address, discovery
        self._stopping = threading.Event()
        self._connected = threading.Event()
        self._refused = ""
        self._seen: set[tuple[str, str]] = set()
        self._is_started = False
        client_id = f"nanodet-{topic_part(address.topic)}-{topic_part(name)}"
        client: Client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTv5)
        if address.user is not None:
            client.username_pw_set(address.user, address.password)
        if address.is_encrypted:
            client.tls_set_context(tls_context(trust))
        client.will_set(f"{address.topic}/status", "offline", qos=1, retain=True)
        client.reconnect_delay_set(1, 30)
        client.max_inflight_messages_set(_IN_FLIGHT)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        self._client = client

    def deliver(self, messages: Sequence[QueuedMessage], acknowledge: Callable[[int], None]) -> None:
        if not self._is_started:
            self._start()
        if not self._connected.wait(_CONNECT_S) or self._stopping.is_set():
            raise DeliveryError(self._refused or "the broker can't be reached")
        sent: list[tuple[int, MQTTMessageInfo]] = []
        for queued in messages:
            message = queued.message
            kind = "telemetry" if message.is_telemetry else "events"
            topic = f"{self._address.topic}/{kind}/{topic_part(message.source)}"
            self._publish_state(message.source, message.body)
            sent.append((queued.sequence, self._client.publish(topic, message.body, qos=1)))
        for sequence, info in sent:
            self._wait(info)
            acknowledge(sequence)

    def interrupt(self) -> None:
        self._stopping.set()
        self._connected.set()

    def close(self) -> None:
        """Says ``offline`` and disconnects."""
        if not self._is_started:
            return
        if self._client.is_connected():
            self._client.publish(f"{self._address.topic}/status", "offline", qos=1, retain=True)
        self._client.disconnect()
        self._client.loop_stop()

    def _start(self) -> None:
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = _SESSION_S
        self._client.connect_async(self._address.host, self._address.port, keepalive=30, properties=properties)
        self._client.loop_start()
        self._is_started = True

    def _wait(self, info: MQTTMessageInfo) -> None:
        """Waits for an acknowledgement. After a disconnection the client itself sends again what has none."""
        while not self._stopping.is_set():
            try:
                info.wait_for_publish(0.5)
            except (RuntimeError, ValueError) as error:
                raise DeliveryError(str(error)) from error
            if info.is_published():
                return
        raise DeliveryError("the run ends before the broker's acknowledgement")

    def _publish_state(self, source: str, body: str) -> None:
        content = json.loads(body)
        label = content.get("label")
        if label is None or content["phase"] == "update":
            return
        key = source, label
        if key not in self._seen:
            self._seen.add(key)
            self._announce(source)
        value = "OFF" if content["phase"] == "end" else "ON"
        self._client.publish(self._state_topic(source, label), value, qos=1, retain=True)

    def _state_topic(self, source: str, label: str) -> str:
        return f"{self._address.topic}/state/{topic_part(source)}/{topic_part(label)}"

    def _announce(self, source: str) -> None:
        if self._discovery is not None:
            labels = sorted(label for other, label in self._seen if other == source)
            identity = f"{topic_part(self._address.topic)}_{topic_part(source)}".replace(" ", "_")
            content = self._device(source, identity, labels)
            self._client.publish(f"{self._discovery}/device/{identity}/config", json.dumps(content), qos=1, retain=True)

    def _device(self, source: str, identity: str, labels: Sequence[str]) -> dict[str, Any]:
        from streamer import __version__

        components = {
            label: {
                "platform": "binary_sensor",
                "unique_id": f"{identity}_{label}",
                "name": label,
                "device_class": "occupancy",
                "state_topic": self._state_topic(source, label),
            }
            for label in labels
        }
        return {
            "device": {"identifiers": [identity], "name": source},
            "origin": {"name": "nanodet-streamer", "sw_version": __version__},
            "availability_topic": f"{self._address.topic}/status",
            "qos": 1,
            "components": components,
        }

    def _on_connect(self, client: Client, data: object, flags: object, code: Any, properties: object) -> None:
        if code.is_failure:
            self._refused = f"the broker refuses the connection: {code}"
            return
        self._refused = ""
        client.publish(f"{self._address.topic}/status", "online", qos=1, retain=True)
        self._connected.set()

    def _on_disconnect(self, client: Client, data: object, flags: object, code: Any, properties: object) -> None:
        if not self._stopping.is_set():
            self._connected.clear()
            log.debug("the connection to the broker has ended: %s", code)
