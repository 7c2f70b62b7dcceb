"""Completes a written model description before `streamer.models.spec` validates it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamer.common.errors import ConfigError, short
from streamer.models.families import FAMILIES

_COCO_LABELS = Path(__file__).parent.parent / "data" / "coco.txt"


def completed(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns the description in `path` with labels read, ``pixel_range`` applied and its family's defaults.

    Raises:
        ConfigError: labels can't be read, or ``pixel_range`` is invalid.
    """
    if isinstance(content.get("labels"), str):
        content = content | {"labels": _read_labels(content["labels"], path)}
    family = content.get("family")
    defaults = FAMILIES[family].defaults if isinstance(family, str) and family in FAMILIES else {}
    return dict(defaults) | _without_pixel_range(content, path)


def _without_pixel_range(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Scales mean and deviation to pixel values of 0 to 255."""
    if "pixel_range" not in content:
        return content
    largest = content["pixel_range"]
    if largest not in (1, 255) or isinstance(largest, bool):
        raise ConfigError(f"{path}: pixel_range is 1 or 255, the largest pixel value, got {short(largest)}")
    described = {key: value for key, value in content.items() if key != "pixel_range"}
    for key in ("mean_bgr", "std_bgr"):
        values = described.get(key)
        if largest == 1 and isinstance(values, list):
            described[key] = [255 * one if isinstance(one, (int, float)) else one for one in values]
    return described


def _read_labels(value: str, yaml_path: Path) -> list[str]:
    if value != "coco" and not value.endswith(".txt"):
        raise ConfigError(f"{yaml_path}: labels: 'coco', a list of names, or the path of a .txt file; got {value!r}")
    path = _COCO_LABELS if value == "coco" else yaml_path.parent / value
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").rstrip().splitlines()]
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path that can't be one
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"{yaml_path}: labels: can't read {str(path)!r}: {reason}") from None
