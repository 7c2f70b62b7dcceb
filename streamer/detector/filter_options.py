"""Which detections are reported: by score, size, place and number. Values without labels or pixels, parsed once."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from streamer.common.errors import ConfigError, short

DEFAULT_CONF = 0.4

_NUMBERS = re.compile(r"[\s0-9.,;eE+-]+")


_WANTED_SCORE = "wanted a score from 0 to 1, also by class as in person=0.5,car=0.3,0.4"
_OF_URLS = re.compile("://|[?@]")


@dataclass(frozen=True)
class ClassThresholds:
    """Lowest scores, 0 to 1: of some classes, and of all others.

    Attributes:
        default: of classes that aren't in `by_class`.
        by_class: class names or numbers, and the score of each.
    """

    default: float = DEFAULT_CONF
    by_class: tuple[tuple[str, float], ...] = ()

    @classmethod
    def parse(cls, value: str | float | Mapping[str, float] | ClassThresholds) -> ClassThresholds:
        """Parses ``0.4``, ``person=0.5,car=0.3,0.4``, or a mapping, whose key ``default`` is for all other classes.

        Without a number of its own the rest has 0.4.

        Raises:
            ValueError: if it is none of these, a score isn't between 0 and 1, or a class is named twice.

        Example:
            >>> ClassThresholds.parse("person=0.5,0.3")
            ClassThresholds(default=0.3, by_class=(('person', 0.5),))
        """
        if isinstance(value, ClassThresholds):
            return value
        pairs: list[tuple[str, Any]]
        if isinstance(value, Mapping):
            pairs = [("" if name == "default" else str(name), score) for name, score in value.items()]
        elif isinstance(value, str):
            if _OF_URLS.search(value):  # no part of it is quoted: one may be a password
                raise ValueError(_WANTED_SCORE)
            parts = [part.rpartition("=") for part in value.split(",")]
            pairs = [(name.strip(), score) for name, equals, score in parts]
            if any(equals and not name.strip() for name, equals, _ in parts):
                raise ValueError("wanted a class before the '=', as in person=0.5")
        else:
            pairs = [("", value)]
        names = [name for name, _ in pairs]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{f'class {name!r} has' if name else 'all other classes have'} two scores")
        scores = {name: _score(score) for name, score in pairs}
        default = scores.pop("", DEFAULT_CONF)
        return cls(default, tuple(scores.items()))

    def of(self, name: str) -> float:
        """Returns the lowest score of a class by the name or number that was given."""
        return dict(self.by_class).get(name, self.default)


def lowest(thresholds: Sequence[ClassThresholds]) -> ClassThresholds:
    """Returns for each class the lowest score that any of `thresholds`, at least one, has for it."""
    names = dict.fromkeys(name for each in thresholds for name, _ in each.by_class)
    default = min(each.default for each in thresholds)
    return ClassThresholds(default, tuple((name, min(each.of(name) for each in thresholds)) for name in names))


@dataclass(frozen=True)
class BoxSize:
    """A width and a height, each in pixels of the frame, or, up to 1, as a fraction of the frame's."""

    width: float
    height: float

    @classmethod
    def parse(cls, value: object) -> BoxSize:
        """Parses ``32``, ``32x64``, ``0.05``, ``5%``, ``5%x10%`` or a number; one number is for both sides.

        Raises:
            ValueError: if it is none of these.
        """
        if isinstance(value, BoxSize):
            return value
        parts = str(value).lower().replace(" ", "").split("x")
        numbers = [re.fullmatch(r"([0-9]*\.?[0-9]+|[0-9]+\.)(%?)", part) for part in parts]
        if isinstance(value, bool) or len(parts) > 2 or not all(numbers):
            raise ValueError(
                "wanted a size in pixels such as 32 or 32x64, or in fractions of the frame such as 0.05 or 5%"
            )
        sides = [float(found[1]) / (100 if found[2] else 1) for found in numbers if found is not None]
        return cls(sides[0], sides[-1])

    def of(self, size_wh: tuple[int, int]) -> tuple[float, float]:
        """Returns width and height in pixels of a frame."""
        width = self.width * size_wh[0] if self.width <= 1 else self.width
        return width, self.height * size_wh[1] if self.height <= 1 else self.height


@dataclass(frozen=True)
class Polygon:
    """An area of the picture.

    Attributes:
        points: x and y of each corner, in pixels of the frame, or, where none is above 1, as fractions of its size.
    """

    points: tuple[tuple[float, float], ...]

    @property
    def is_relative(self) -> bool:
        """Whether the corners are fractions."""
        return all(0 <= value <= 1 for point in self.points for value in point)


@dataclass(frozen=True)
class MaskPicture:
    """A picture, of any size, whose white pixels are the area."""

    path: Path


Area = Polygon | MaskPicture


def parse_areas(value: object) -> tuple[Area, ...]:
    """Parses areas: ``0.1,0.1 0.5,0.1 0.5,0.4``, several with ``;`` between, a picture's path, or a list of these.

    In a list a polygon may also be a list of pairs, or of numbers.

    Raises:
        ValueError: if it is none of these, or a polygon has less than three corners.
    """
    if value is None:
        return ()
    if isinstance(value, (Polygon, MaskPicture)):
        return (value,)
    if isinstance(value, str):
        if not _NUMBERS.fullmatch(value):
            return (_mask(value),)
        return tuple(_polygon(re.split(r"[\s,]+", part.strip(" \t\n,"))) for part in value.split(";") if part.strip())
    if isinstance(value, os.PathLike):
        return (_mask(os.fspath(value)),)
    if isinstance(value, (list, tuple)):
        if value and all(_is_number(item) for item in value):
            return (_polygon(value),)
        if value and all(
            isinstance(item, (list, tuple)) and len(item) == 2 and all(map(_is_number, item)) for item in value
        ):
            return (_polygon([number for pair in value for number in pair]),)
        return tuple(area for item in value for area in parse_areas(item))
    raise ValueError("wanted a polygon such as '0,0 0.3,0 0.3,0.2', or a picture whose white pixels are ignored")


@dataclass(frozen=True)
class FilterOptions:
    """Which detections of a source are reported.

    Attributes:
        conf: lowest scores.
        classes: labels to report; None for all.
        min_size, max_size: boxes narrower or lower, or wider or higher, are dropped.
        ignore: areas; boxes that stand in one are dropped.
        ignore_at: the point of a box that must not be in an area: the middle of its lower edge, or its centre.
        top_k: the most that are reported in a frame, best first.
    """

    conf: ClassThresholds = ClassThresholds()
    classes: tuple[str, ...] | None = None
    min_size: BoxSize | None = None
    max_size: BoxSize | None = None
    ignore: tuple[Area, ...] = ()
    ignore_at: Literal["bottom", "centre"] = "bottom"
    top_k: int | None = None

    @property
    def drops_more(self) -> bool:
        """Whether anything is dropped but for its score and class."""
        return bool(self.ignore) or any(each is not None for each in (self.min_size, self.max_size, self.top_k))


def filter_options(**values: Any) -> FilterOptions:
    """Returns options from what users write, by the name of the attribute; None is the default.

    Raises:
        ConfigError: if one is wrong.
    """
    parsed: dict[str, Any] = {}
    for key, value in values.items():
        if value is None:
            continue
        try:
            parsed[key] = FILTER_PARSERS[key](value) if key in FILTER_PARSERS else value
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from None
    top_k, ignore_at = parsed.get("top_k"), parsed.get("ignore_at", "bottom")
    if top_k is not None and not (isinstance(top_k, int) and top_k >= 1):
        raise ConfigError(f"top_k wants a number of detections from 1 on, got {short(top_k)}")
    if ignore_at not in ("bottom", "centre"):
        raise ConfigError(f"ignore_at wants bottom or centre, got {short(ignore_at)}")
    if "classes" in parsed:
        parsed["classes"] = tuple(parsed["classes"])
    return FilterOptions(**parsed)


def _score(value: Any) -> float:
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not 0 <= score <= 1:
        raise ValueError(f"{_WANTED_SCORE}; {short(value)} is none")
    return score


def _polygon(numbers: Sequence[Any]) -> Polygon:
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        values = []
    if len(values) < 6 or len(values) % 2 or not all(map(math.isfinite, values)):
        raise ValueError("a polygon wants x,y of three corners or more, such as '0,0 0.3,0 0.3,0.2'")
    if 1 < max(values) <= 2 and not all(value.is_integer() for value in values):
        raise ValueError("a polygon's fractions of the frame go from 0 to 1, and its pixels further")
    return Polygon(tuple(zip(values[::2], values[1::2], strict=True)))


def _mask(text: str) -> MaskPicture:
    if not text or "\0" in text:
        raise ValueError("wanted a polygon such as '0,0 0.3,0 0.3,0.2', or a picture whose white pixels are ignored")
    return MaskPicture(Path(os.path.expanduser(text)))  # noqa: PTH111 - Path.expanduser raises where there is no such home


FILTER_PARSERS: Mapping[str, Callable[[Any], object]] = {
    "conf": ClassThresholds.parse,
    "min_size": BoxSize.parse,
    "max_size": BoxSize.parse,
    "ignore": parse_areas,
}
"""What parses each option that isn't a plain number or word; raises ValueError."""


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
