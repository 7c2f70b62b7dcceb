"""Who may use the page: a token, given once for a cookie or with each request, and how often may be guessed."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie

SESSION_S = 30 * 86400
_MOST_CLIENTS = 1024
_MOST_REVOKED = 1024
_SALT = b"nanodet-streamer live page"


class RateLimit:
    """A budget for each client: `burst` at once, then `per_s` a second. Used by one thread.

    The clients that came last are remembered, a thousand of them: more can't be told apart from new ones.
    """

    def __init__(self, burst: float, per_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Sets the budget; `clock` returns seconds."""
        self._burst, self._per_s, self._clock = burst, per_s, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def left(self, client: str) -> float:
        """Returns what is left of a client's budget, without taking of it."""
        left, since_s = self._left.get(client, (self._burst, 0.0))
        return min(self._burst, left + (self._clock() - since_s) * self._per_s)

    def wait_s(self, client: str) -> float:
        """Takes one from a client's budget and returns 0, or how long to wait until there is one."""
        left = self.left(client)
        is_left = left >= 1
        self._left[client] = left - is_left, self._clock()
        self._left.move_to_end(client)
        if len(self._left) > _MOST_CLIENTS:
            self._left.popitem(last=False)
        return 0.0 if is_left else (1 - left) / self._per_s


def client_of(address: str) -> str:
    """Returns what stands for a client: its address, of IPv6 the network of 64 bits that one machine may have whole."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4 or found.is_loopback:
        return str(found)
    return str(ipaddress.ip_network((found, 64), strict=False))


class TokenAccess:
    """Checks a token and the cookies given for it. Used by one thread.

    A cookie holds when it expires, a random number, and a signature of both with a key made from the token: it is
    valid after a restart too, and for none of another token. The token itself is in no cookie.

    Attributes:
        cookie: the cookie's name; runs with other tokens on one host have others.
    """

    def __init__(self, token: str, *, is_tls: bool, clock: Callable[[], float] = time.time) -> None:
        """Takes the token; cookies are for encrypted connections alone where `is_tls`."""
        self._digest = hashlib.sha256(token.encode()).digest()
        self._key = hashlib.scrypt(token.encode(), salt=_SALT, n=2**14, r=8, p=1, dklen=32)
        self._is_tls, self._clock = is_tls, clock
        self._revoked: OrderedDict[str, None] = OrderedDict()
        name = hashlib.sha256(self._key).hexdigest()[:8]
        self.cookie = f"__Host-page-{name}" if is_tls else f"page-{name}"

    def is_token(self, given: str) -> bool:
        """Whether a text is the token; takes as long for any."""
        return hmac.compare_digest(hashlib.sha256(given.encode(errors="replace")).digest(), self._digest)

    def new_cookie(self) -> str:
        """Returns the Set-Cookie header of a new session."""
        value = f"{int(self._clock()) + SESSION_S}.{secrets.token_urlsafe(16)}"
        return self._header(f"{value}.{self._signature(value)}", SESSION_S)

    def has_session(self, cookie_header: str) -> bool:
        """Whether a Cookie header holds a session that is valid."""
        return self._session(cookie_header) is not None

    def end_session(self, cookie_header: str) -> str:
        """Ends the session of a Cookie header, if any, and returns the Set-Cookie header that removes it."""
        session = self._session(cookie_header)
        if session is not None:
            self._revoked[session] = None
            if len(self._revoked) > _MOST_REVOKED:
                self._revoked.popitem(last=False)
        return self._header("", 0)

    def _session(self, header: str) -> str | None:
        try:
            morsel = SimpleCookie(header).get(self.cookie)
        except CookieError:
            return None
        value, _, signature = ("" if morsel is None else morsel.value).rpartition(".")
        if not value or not hmac.compare_digest(signature.encode(), self._signature(value).encode()):
            return None
        expires = value.partition(".")[0]
        return value if int(expires) > self._clock() and value not in self._revoked else None

    def _signature(self, value: str) -> str:
        return hmac.new(self._key, value.encode(), hashlib.sha256).hexdigest()

    def _header(self, value: str, age_s: int) -> str:
        secure = "; Secure" if self._is_tls else ""
        return f"{self.cookie}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Strict{secure}"


def retry_after(wait_s: float) -> dict[str, str]:
    """Returns the header that tells a client when to try again."""
    return {"Retry-After": str(math.ceil(wait_s))}
