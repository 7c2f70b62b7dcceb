"""What may be printed of a URI: all that could be a password, a token or a stream's key is replaced by ``***``."""

from __future__ import annotations

import itertools
import re
from urllib.parse import quote

HIDDEN = "***"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/+)")
_ENDS_AUTHORITY, _BEGINS_QUERY = re.compile("[/?#]"), re.compile("[?#]")
_ADDRESS = re.compile(r"(?:\d{1,3}(?:\.\d{1,3}){3}|\[[0-9A-Fa-f:.]+\])(?::\d*)?")
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[\w.-]+)(:.*)?")
_PORT = re.compile(r":\d{0,5}")

# Paths carry secrets too: a stream's key (rtmp://host/app/KEY), an alias (rtsps://recorder/ALIAS), a signed folder.
# So a part of a path is shown where it consists of these words, as cameras' paths do, and of short numbers.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_PLAIN_PART = re.compile(r"(?:[A-Za-z._-]|(?<!\d)\d{1,4}(?!\d))*")
_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        a amp api app audio av avi axis bcs bin c cam camera cameras cgi ch chan channel channels clip clips feed flv
        frame h hd hevc high hls html i image images img index input isapi jpeg jpg live low m main media mjpeg mjpg
        mkv mov mp mpd mpeg multicast onvif picture preview profile realmonitor recordings s sav sd sdp snapshot stream
        streaming streams sub track ts u unicast v video videos videostream vod webm x
        """,
    )
)
_HARMLESS_KEYS = frozenset(
    re.findall(
        r"\w+",
        """
        cam camera camid ch channel channelid channelno chn compression fps framerate height profile quality resolution
        size stream streamno streamtype subtype unicast video width
        """,
    )
)
_KEY = re.compile(r"[A-Za-z][A-Za-z_-]{0,24}")  # without digits: it could be a part of a password that holds an '&'
_NUMBER = re.compile(r"\d{1,4}(?:x\d{1,4})?")
_PUBLIC_HOSTS = ("github.com",)  # whose whole paths are shown: they say what to download

# URIs without a scheme, and files' names: what stands before an '@' and behind such a key.
_KEYED_SECRET = re.compile(
    r"((?:pass(?:word|wd|phrase|code)?|pwd?|psw|pas|secret|token|jwt|sid|auth|key|sig(?:nature)?|credentials?)=).*",
    re.IGNORECASE | re.DOTALL,
)

_QUOTED_URI = re.compile(  # to the quote's end, which may be cut off, and which an escaped quote isn't
    r"""(?<=(['"]))((?:[\w-]+=)?)([A-Za-z][A-Za-z0-9+.-]+:/.*?)(?=(?<!\\)\1|\Z)""", re.DOTALL
)
_BARE_URI = re.compile(
    r"""(?<![A-Za-z0-9+.'"-])(?:[A-Za-z][A-Za-z0-9+.-]+:/{2,}|(?:rtsps?|https?|rtmps?|srt|udp|tcp|ftp|s3|mqtts?):/)\S*""",
    re.IGNORECASE,  # of known schemes also where a path has lost a slash
)
_AFTER_URI = ".,:;)]}>'\""
_WORDS_OF_TEXT = re.compile(r"""[^\s'"/]+""")
_HOST_START = re.compile(r"[\w\[]")
_USER_AFTER_SIGN = re.compile(r"(?<=[^\w*]).")
_BARE_QUERY = re.compile(r"""\?[^\s'"=?]+=[^\s'"]*""")


_SHORTEST_HIDDEN = 4
_hidden: frozenset[str] = frozenset()


def hide(secret: str) -> None:
    """Makes `redact_text` replace a secret from now on, also its percent-encoded form.

    One of less than four characters is left out: it would occur in ordinary words.
    """
    global _hidden
    if len(secret) >= _SHORTEST_HIDDEN:
        _hidden |= {secret, quote(secret, safe="")}


def redact(uri: str) -> str:
    """Returns `uri` fit for a screen, a log or a report.

    Shown are the scheme, the host, its port, the query's keys, and those parts of the path and numbers of the query
    that cameras use to tell channels apart. All else is ``***``: when in doubt more is hidden, never less. A local path
    is shown, but for what looks like a password in it.

    Example:
        >>> redact("rtsp://admin:secret@10.0.0.7:554/cam/realmonitor?channel=1&token=secret")
        'rtsp://***@10.0.0.7:554/cam/realmonitor?channel=1&token=***'
    """
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return _redact_path(uri)
    if scheme[1].lower() == "file":
        return uri
    return f"{scheme[0]}{_redact_rest(uri[scheme.end() :])}"


def redact_text(text: str) -> str:
    """Returns any text with all URIs in it redacted, quoted ones also where they hold spaces. In linear time."""
    text = _QUOTED_URI.sub(lambda found: found[2] + redact(found[3]), text)
    text = _BARE_URI.sub(lambda found: _redact_bare(found[0]), text)
    text = _BARE_QUERY.sub(lambda found: f"?{_redact_query(found[0][1:])}", text)
    text = _WORDS_OF_TEXT.sub(_redact_users, text) if "@" in text else text
    for secret in sorted(_hidden, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _redact_bare(found: str) -> str:
    uri = found.rstrip(_AFTER_URI)
    return redact(uri) + found[len(uri) :]


def _redact_users(found: re.Match[str]) -> str:
    """Hides each ``user:password`` before an ``@`` and a host in a word of a text, as of a URI without a scheme."""
    parts = found[0].split("@")
    is_part_of_path = found.start() > 0 and found.string[found.start() - 1] == "/"
    for number, after in enumerate(parts[1:]):
        if _HOST_START.match(after):
            parts[number] = _hide_user(parts[number], is_start=bool(number) or not is_part_of_path)
    return "@".join(parts)


def _hide_user(text: str, *, is_start: bool) -> str:
    """Replaces the ``user:password`` that ends a text; `is_start` is whether the user may be at its start."""
    offset = 0
    for part in text.split(":")[:-1]:
        if offset + len(part) + 1 == len(text):  # no password
            break
        if part and (is_start or offset):
            return text[:offset] + HIDDEN
        user = _USER_AFTER_SIGN.search(part)
        if user is not None:
            return text[: offset + user.start()] + HIDDEN
        offset += len(part) + 1
    return text


def userinfo_end(rest: str) -> int | None:
    """Returns where the host begins in what follows a URI's scheme and slashes; None where that can't be told.

    A password may hold any delimiter unescaped: ``admin:a/b@host`` can be meant as well as the host ``admin``.
    """
    end = _first(_ENDS_AUTHORITY, rest)
    last = rest.rfind("@")
    inside = rest.rfind("@", 0, end) + 1
    if last < end or _ADDRESS.fullmatch(rest, inside, end):
        return inside
    host = _HOST_AND_PORT.fullmatch(rest, inside, end)
    if host is not None and _PORT.fullmatch(host[2] or ":"):
        return None  # a host and an "@" in its path, or a user whose password holds a "/"
    return last + 1 if last < _first(_BEGINS_QUERY, rest) else None


def cuts_userinfo(uri: str) -> bool | None:
    """Whether a ``/``, ``?`` or ``#`` in a user or password ends a URL's host too early, None where that can't be told.

    Example:
        >>> cuts_userinfo("rtsp://me:a/b@host/1"), cuts_userinfo("rtsp://me:1/b@host/1"), cuts_userinfo("rtsp://host/1")
        (True, None, False)
    """
    scheme = _SCHEME.match(uri)
    rest = uri[scheme.end() :] if scheme else ""
    end = _first(_ENDS_AUTHORITY, rest)
    inside = rest.rfind("@", 0, end) + 1
    if rest.rfind("@") < end or _ADDRESS.fullmatch(rest, inside, end):
        return False
    host = _HOST_AND_PORT.fullmatch(rest, inside, end)
    return True if host is None or not _PORT.fullmatch(host[2] or ":") else None


def _first(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.search(text)
    return found.start() if found else len(text)


def _redact_rest(rest: str) -> str:
    """Redacts what follows the scheme and its slashes."""
    begin = userinfo_end(rest)
    if begin is None:
        return HIDDEN
    user = f"{HIDDEN}@" if begin > 1 else rest[:begin]
    rest = rest[begin:]
    rest, hash_, _ = rest.partition("#")
    rest, asks, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    shown = user + _redact_host(authority) + slash
    shown += path if authority in _PUBLIC_HOSTS else _redact_parts(path)
    return shown + (f"?{_redact_query(query)}" if asks else "") + (f"#{HIDDEN}" if hash_ else "")


def _redact_host(authority: str) -> str:
    found = _HOST_AND_PORT.fullmatch(authority)
    if found is None:
        return HIDDEN if authority else ""
    port = found[2] or ""
    return found[1] + (port if not port or _PORT.fullmatch(port) else f":{HIDDEN}")


def _redact_parts(path: str) -> str:
    return "/".join(part if _is_plain(part) else HIDDEN for part in path.split("/"))


def _is_plain(part: str) -> bool:
    return _PLAIN_PART.fullmatch(part) is not None and all(w.lower() in _WORDS for w in _WORD.findall(part))


def _redact_query(query: str) -> str:
    shown = map(_redact_item, re.split("[&;]", query))
    return "&".join(item for item, _ in itertools.groupby(shown))


def _redact_item(item: str) -> str:
    key, _, value = item.partition("=")
    if not item or (key.lower().replace("_", "") in _HARMLESS_KEYS and _NUMBER.fullmatch(value)):
        return item
    return f"{key}={HIDDEN}" if value.strip("=") and _KEY.fullmatch(key) else HIDDEN


def _redact_path(path: str) -> str:
    """Redacts what has no scheme: a file's name, or a URI whose scheme was forgotten."""
    before, at, after = path.rpartition("@")
    if at and (":" in before or "//" in before or "/" not in before):
        return f"{HIDDEN}@{_redact_rest(after)}"
    start, asks, query = path.partition("?")
    if asks and "=" in query:
        path = f"{start}?{_redact_query(query)}"
    return _KEYED_SECRET.sub(rf"\1{HIDDEN}", path)
