"""Messages as signed HTTP requests."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from streamer.common.errors import ConfigError
from streamer.common.redaction import redact
from streamer.common.tls import Trust, tls_context
from streamer.events.message import QueuedMessage
from streamer.events.receiver import DeliveryError, Receiver

SIGNATURE_HEADER = "X-Signature-256"
TIMESTAMP_HEADER = "X-Timestamp"
_RETRIED = (408, 425, 429)
_TIMEOUT_S = 10.0
_MOST_ANSWER = 64 * 1024


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Returns ``sha256=`` and the HMAC-SHA256, in hexadecimal, of timestamp, a full stop and body."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"


@dataclass
class WebhookReceiver(Receiver):
    """POSTs each message as JSON over a connection that is kept; any 2xx takes it.

    4xx but 408, 425 and 429, and redirections, which aren't followed, become dead letters after `most_attempts`.

    Attributes:
        url: ``http://`` or ``https://``, without user and password.
        secret: signs time and body, in the headers `TIMESTAMP_HEADER` and `SIGNATURE_HEADER`; None signs nothing.
        trust: as `streamer.common.tls.tls_context` takes it.
    """

    name: str
    url: str = field(repr=False)
    secret: str | None = field(default=None, repr=False)
    trust: Trust = True
    most_attempts: int = 5
    timeout_s: float = _TIMEOUT_S

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"webhook {redact(self.url)}: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ConfigError(f"webhook {redact(self.url)}: wanted http://HOST/PATH or https://, without a user")
        if parts.scheme == "https":
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname, port, timeout=self.timeout_s, context=tls_context(self.trust)
            )
        else:
            self._connection = http.client.HTTPConnection(parts.hostname, port, timeout=self.timeout_s)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def deliver(self, messages: Sequence[QueuedMessage], acknowledge: Callable[[int], None]) -> None:
        for queued in messages:
            try:
                self._post(queued.message.body.encode())
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                raise DeliveryError(str(error) or type(error).__name__) from error
            acknowledge(queued.sequence)

    def _post(self, body: bytes) -> None:
        timestamp = str(int(time.time()))
        headers = {"Content-Type": "application/json", TIMESTAMP_HEADER: timestamp}
        if self.secret is not None:
            headers[SIGNATURE_HEADER] = signature(self.secret, timestamp, body)
        self._connection.request("POST", self._target, body, headers)
        answer = self._connection.getresponse()
        answer.read(_MOST_ANSWER)
        if not answer.isclosed():
            self._connection.close()  # an answer without an end
        if 200 <= answer.status < 300:
            return
        is_final = 300 <= answer.status < 500 and answer.status not in _RETRIED
        raise DeliveryError(f"status {answer.status}", is_final=is_final)

    def close(self) -> None:
        self._connection.close()
