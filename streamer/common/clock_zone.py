"""The time zone of clocks that are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, tzinfo
from zoneinfo import ZoneInfo

from streamer.common.errors import ConfigError, short

_UTC, _LOCAL = "utc", "local"


@dataclass(frozen=True)
class ClockZone:
    """UTC, the machine's own time zone, or one of the IANA database.

    Attributes:
        name: ``utc``, ``local``, or a name such as ``Europe/Berlin``.
    """

    name: str

    @classmethod
    def parse(cls, text: str) -> ClockZone:
        """Returns the zone of that name.

        Raises:
            ConfigError: if there is none.
        """
        name = text.lower() if text.lower() in (_UTC, _LOCAL) else text
        if name not in (_UTC, _LOCAL):
            try:
                ZoneInfo(name)
            except (KeyError, OSError, ValueError) as error:  # not there, a folder, or no relative path
                raise ConfigError(
                    f"there is no time zone {short(text)}: use utc, local, or a name such as Europe/Berlin"
                ) from error
        return cls(name)

    def clock(self, utc: datetime) -> str:
        """Returns a moment as ``2026-11-23 13:33:05 CET``; a zone without letters is its distance, ``UTC+03``."""
        at = utc.astimezone(self._tzinfo())
        zone = at.tzname() or ""
        return f"{at:%Y-%m-%d %H:%M:%S} {'UTC' if zone[:1] in '+-' else ''}{zone}"

    def _tzinfo(self) -> tzinfo | None:
        return None if self.name == _LOCAL else ZoneInfo("UTC" if self.name == _UTC else self.name)
