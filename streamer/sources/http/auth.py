"""HTTP authentication, basic and digest (RFC 7617, RFC 7616), as cameras speak it."""

from __future__ import annotations

import base64
import hashlib
import urllib.request
from collections.abc import Callable, Sequence

_HASHES = {"MD5": hashlib.md5, "SHA": hashlib.sha1, "SHA-256": hashlib.sha256}


class Authenticator(urllib.request.AbstractDigestAuthHandler):
    """Answers one host's challenges; later requests carry the answer from the start."""

    def __init__(self, user: str, password: str) -> None:
        """Takes both unquoted."""
        self._passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        super().__init__(self._passwords)
        self._user, self._password = user, password
        self._challenge: dict[str, str] | None = None
        self._is_basic = False

    def header(self, url: str) -> str | None:
        """Returns ``Authorization`` for a URL without user and password; None before the first challenge."""
        if self._is_basic:
            return "Basic " + base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
        if self._challenge is None:
            return None
        self._passwords.add_password(None, url, self._user, self._password)
        digest = self.get_authorization(urllib.request.Request(url), self._challenge)
        return None if digest is None else f"Digest {digest}"

    def accept(self, challenges: Sequence[str], *, was_sent: bool) -> bool:
        """Accepts a challenge; returns whether to repeat the request with the new `header`.

        Args:
            challenges: the values of ``WWW-Authenticate``.
            was_sent: whether the refused request carried `header`: it is wrong then, unless the challenge says stale.
        """
        if not self._user and not self._password:
            return False
        for scheme, values in map(_parse, challenges):
            if scheme == "digest" and _is_supported(values):
                if was_sent and values.get("stale", "").lower() != "true":
                    return False
                self._challenge, self._is_basic = values, False
                return True
        if not was_sent and any(_parse(challenge)[0] == "basic" for challenge in challenges):
            self._is_basic = True
            return True
        return False

    def get_algorithm_impls(self, algorithm: str) -> tuple[Callable[[str], str], Callable[[str, str], str]]:
        """Returns the hash of a text and of two joined texts; Python before 3.14 has no SHA-256, and no UTF-8."""
        algorithm_of = _HASHES[algorithm.upper()]

        def hashed(text: str) -> str:
            return algorithm_of(text.encode()).hexdigest()

        return hashed, lambda secret, data: hashed(f"{secret}:{data}")


def _is_supported(values: dict[str, str]) -> bool:
    """Whether a digest challenge is complete and of a supported kind."""
    is_hashed = values.get("algorithm", "MD5").upper() in _HASHES
    return is_hashed and {"realm", "nonce"} <= values.keys() and "auth" in values.get("qop", "auth").split(",")


def _parse(challenge: str) -> tuple[str, dict[str, str]]:
    """Returns a challenge's scheme in lower case, and its values; cameras leave some empty, with or without quotes."""
    scheme, _, rest = challenge.strip().partition(" ")
    items = (item.partition("=") for item in urllib.request.parse_http_list(rest) if "=" in item)
    values = {key.strip().lower(): value.strip().strip('"') for key, _, value in items}
    values["qop"] = values.get("qop", "").replace(" ", "").lower()
    return scheme.lower(), {key: value for key, value in values.items() if value or key in ("realm", "nonce")}
