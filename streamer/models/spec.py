"""The description of a model: what preprocessing, decoding and rebuilding its network need.

A `ModelSpec` comes from a YAML file or from the metadata of an exported ONNX file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from streamer.common.errors import ConfigError, ModelError, nearest, short
from streamer.models.description import completed
from streamer.models.families import FAMILIES
from streamer.models.network_spec import (
    SPECS_BY_TYPE,
    ActivationName,
    Frozen,
    HeadSpec,
    NetworkSpec,
    PositiveInt,
    Scale,
)

METADATA_PREFIX = "nanodet."
METADATA_VERSION = 1
_OPTIONS = ("channel_order", "scores", "order", "padding", "pad_value", "nms", "class_agnostic", "output", "queries")
_VERSION_KEY = f"{METADATA_PREFIX}format_version"

MIN_SIDE, MAX_SIDE = 32, 4096
LONGEST_NAME = 200
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE)]
Count = Annotated[int, Field(ge=0)]


class ModelSpec(Frozen):
    """One model: its input, its output and its labels.

    YAML descriptions may add ``pixel_range: 1`` where `mean_bgr` and `std_bgr` are for pixel values of 0 to 1.

    Attributes:
        name: the network, such as ``nanodet-m``.
        family: of `streamer.models.families`, such as ``nanodet`` (v0: m and g) or ``nanodet-plus``.
        input_size_wh: network input (width, height) in pixels.
        keep_ratio: whether a frame is padded to keep its aspect ratio, or stretched.
        mean_bgr: subtracted from the 0-255 pixel values, always in B, G, R order.
        std_bgr: divides the result.
        strides: of the output levels, ascending, in pixels; none in a family without anchor points.
        reg_max: a box side is a distribution over 0 ... reg_max strides; 0 in a family where it is a number.
        anchor_offset: an anchor point lies at (i + offset) * stride; 0.5 for NanoDet, 0 for NanoDet-Plus.
        activation: of every layer, unless a backbone has its own; LeakyReLU has slope 0.1. Any name without `network`.
        labels: class names in output order.
        checkpoint_sha256: of the checkpoint file, or None.
        network: the architecture, or None for a foreign ONNX file.
        channel_order: of the file's input; what `load_model` returns is BGR.
        scores: ``logits`` or ``probabilities``; ``auto`` reads it from the graph.
        order: whether scores or boxes come first in the outputs; ``auto`` reads it from the graph.
        padding: where a padded picture lies in the input.
        pad_value: of the padding, 0 to 255.
        nms: overlap measure of NMS, IoU or DIoU.
        class_agnostic: whether NMS ignores classes.
        output: ``heads``: raw; ``boxes``: decoded; ``detections``: after threshold or NMS; ``auto`` reads it from the
            graph.
        queries: rows of an output without anchor points; 0 where unknown.
    """

    name: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
    family: Literal["nanodet", "nanodet-plus", "picodet", "yolox", "rtmdet", "d-fine", "deimv2"]
    input_size_wh: tuple[Side, Side]
    keep_ratio: bool
    mean_bgr: tuple[float, float, float]
    std_bgr: tuple[Scale, Scale, Scale]
    strides: tuple[PositiveInt, ...]
    reg_max: Count
    anchor_offset: Annotated[float, Field(ge=0, le=1)]
    activation: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    checkpoint_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    network: NetworkSpec | None = None
    channel_order: Literal["BGR", "RGB"] = "BGR"
    scores: Literal["auto", "logits", "probabilities"] = "auto"
    order: Literal["auto", "scores-first", "boxes-first"] = "auto"
    padding: Literal["centre", "top-left"] = "centre"
    pad_value: Annotated[int, Field(ge=0, le=255)] = 0
    nms: Literal["iou", "diou"] = "iou"
    class_agnostic: bool = False
    output: Literal["auto", "heads", "boxes", "detections"] = "auto"
    queries: Count = 0

    @field_validator("keep_ratio", "class_agnostic", mode="before")
    @classmethod
    def _words_of_yaml(cls, value: object) -> object:
        """Accepts YAML 1.1's other words for true and false."""
        words = {"yes": True, "on": True, "no": False, "off": False}
        return words.get(value.lower(), value) if isinstance(value, str) else value

    @field_validator("strides")
    @classmethod
    def _strides_ascend(cls, strides: tuple[int, ...]) -> tuple[int, ...]:
        if list(strides) != sorted(set(strides)):
            raise ValueError(f"strides ascend, got {list(strides)}")
        return strides

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if any(not label.strip() for label in labels):
            raise ValueError(f"label {[bool(label.strip()) for label in labels].index(False)} is empty")
        longest = max(labels, key=len)
        if len(longest) > LONGEST_NAME:
            raise ValueError(f"label {labels.index(longest)} has {len(longest)} characters, {LONGEST_NAME} at most")
        if len(set(labels)) < len(labels):
            raise ValueError(f"label {next(a for a in labels if labels.count(a) > 1)!r} occurs twice")
        return labels

    @model_validator(mode="after")
    def _family_fits(self) -> ModelSpec:
        kind = FAMILIES[self.family]
        if kind.bins != (self.reg_max > 0):
            raise ValueError(
                f"family {self.family} has a reg_max {'above' if kind.bins else 'of'} 0, got {self.reg_max}"
            )
        if kind.anchors != bool(self.strides):
            raise ValueError(
                f"family {self.family} has {'' if kind.anchors else 'no '}strides, got {list(self.strides)}"
            )
        if self.network is not None and not self.family.startswith("nanodet"):
            raise ValueError(f"family {self.family} runs from ONNX files: it has no network to build")
        return self

    @model_validator(mode="after")
    def _network_fits(self) -> ModelSpec:
        if self.network is None:
            return self
        known = get_args(ActivationName)
        if self.activation not in known:
            raise ValueError(f"a network has no activation {self.activation!r}{nearest(self.activation, known)}")
        neck = "pan" if self.family == "nanodet" else "ghost_pan"
        if self.network.neck.type != neck:
            raise ValueError(f"family {self.family} has the neck {neck!r}, got {self.network.neck.type!r}")
        levels = len(self.strides)
        made = tuple(8 << level for level in range(levels))
        if self.strides != made or levels < 3 or (neck == "pan" and levels != 3):
            wanted = "8, 16, 32" if neck == "pan" else "8, 16, 32 and any further doublings"
            raise ValueError(f"a network with the neck {neck!r} has strides {wanted}, got {list(self.strides)}")
        return self

    @property
    def num_classes(self) -> int:
        """Number of class scores of an anchor point."""
        return len(self.labels)

    @property
    def has_anchors(self) -> bool:
        """Whether there is a row for each anchor point."""
        return FAMILIES[self.family].anchors and self.output != "detections"

    @property
    def has_bins(self) -> bool:
        """Whether a row's box is 4 (reg_max + 1) bins."""
        return FAMILIES[self.family].bins and self.output in ("auto", "heads")

    @property
    def suppresses(self) -> bool:
        """Whether NMS is needed."""
        return FAMILIES[self.family].suppresses and self.output != "detections"

    @property
    def score_channels(self) -> int:
        """Values of a row before its box."""
        return FAMILIES[self.family].objectness + self.num_classes

    @property
    def box_channels(self) -> int:
        """Values of a row's box; with bins, reg_max + 1 for each of left, top, right and bottom."""
        return 4 * (self.reg_max + 1) if self.has_bins else 4

    @property
    def output_channels(self) -> int:
        """Values of a row: scores, then the box; for ``detections`` box, score and class."""
        return 6 if self.output == "detections" else self.score_channels + self.box_channels

    @property
    def num_points(self) -> int:
        """Number of rows N, which is that of the anchor points over all levels; 0 where it isn't known."""
        if not self.has_anchors:
            return self.queries
        return sum(columns * rows for columns, rows in self._grids_wh())

    def _grids_wh(self) -> list[tuple[int, int]]:
        width, height = self.input_size_wh
        return [(-(-width // stride), -(-height // stride)) for stride in self.strides]

    def anchor_points(self) -> np.ndarray:
        """Returns the anchor points in output order.

        Returns:
            (N, 3) float32 array of (x, y, stride) in input pixels: levels in the order of `strides`, each row by row;
            x = (column + anchor_offset) * stride. (N, 0) where rows aren't of anchor points.
        """
        if not self.has_anchors:
            return np.empty((self.num_points, 0), np.float32)
        levels = []
        for stride, (columns, rows) in zip(self.strides, self._grids_wh(), strict=True):
            y, x = np.mgrid[:rows, :columns].reshape(2, -1)
            points = np.stack([x + self.anchor_offset, y + self.anchor_offset, np.ones(len(x))], axis=1)
            levels.append(points * stride)
        return np.concatenate(levels).astype(np.float32)

    def with_input_size(self, size_wh: tuple[int, int]) -> ModelSpec:
        """Returns this model for another input (width, height); the network is fully convolutional.

        Raises:
            ConfigError: a side is below `MIN_SIDE` or above `MAX_SIDE` pixels.
        """
        if min(size_wh) < MIN_SIDE or max(size_wh) > MAX_SIDE:
            limits = f"{MIN_SIDE} to {MAX_SIDE} pixels a side"
            raise ConfigError(f"{self.name!r}: wanted an input of {limits}, got {size_wh[0]}x{size_wh[1]}")
        return self.model_copy(update={"input_size_wh": (int(size_wh[0]), int(size_wh[1]))})

    def to_metadata(self) -> dict[str, str]:
        """Returns this description as ONNX ``metadata_props``: keys under ``nanodet.``, values in JSON."""
        fields = self.model_dump(mode="json")
        plain = {key for key in _OPTIONS if fields[key] == type(self).model_fields[key].default}
        metadata = {
            f"{METADATA_PREFIX}{key}": json.dumps(value, ensure_ascii=False)
            for key, value in fields.items()
            if key not in plain
        }
        return {_VERSION_KEY: json.dumps(METADATA_VERSION), **metadata}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> ModelSpec:
        """Reads what `to_metadata` wrote; ignores other keys.

        Raises:
            ModelError: there is no description, or it is damaged or of another version.
        """
        if _VERSION_KEY not in metadata:
            raise ModelError(
                f"the model's metadata has no {_VERSION_KEY!r}: it was not exported by this project;"
                " describe it with --model-config configs/models/<network>.yaml"
            )
        if metadata[_VERSION_KEY] != json.dumps(METADATA_VERSION):
            raise ModelError(
                f"the model's metadata has format version {short(metadata[_VERSION_KEY])}, this program"
                f" reads {METADATA_VERSION}: export the model again, or use a matching release"
            )
        values: dict[str, Any] = {}
        for field in cls.model_fields:
            key = f"{METADATA_PREFIX}{field}"
            if field in _OPTIONS and key not in metadata:
                continue
            try:
                values[field] = json.loads(metadata[key])
            except KeyError:
                raise ModelError(f"the model's metadata lacks {key!r}: export the model again") from None
            except (ValueError, RecursionError):
                raise ModelError(f"the model's metadata is damaged at {key!r}: export the model again") from None
        try:
            return cls.model_validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            raise ModelError(f"the model's metadata is damaged: {_in_one_line(error)}; export it again") from None
        except RecursionError:
            raise ModelError("the model's metadata is damaged: it is nested too deep; export it again") from None

    @classmethod
    def from_yaml(cls, path: Path | str) -> ModelSpec:
        """Reads a model description such as ``configs/models/nanodet-m.yaml``.

        ``labels`` is ``coco``, or a list of names, or the path of a ``.txt`` file, one name a line, relative to the
        YAML file.

        Raises:
            ConfigError: the file can't be read, or a key or value in it is wrong.
        """
        from streamer.common.yaml_file import read_mapping  # most models describe themselves

        return cls.from_mapping(read_mapping(Path(path)), path)

    @classmethod
    def from_mapping(cls, content: dict[str, Any], path: Path | str) -> ModelSpec:
        """Validates a description's content; `path` is for messages.

        Raises:
            ConfigError: as `from_yaml`.
        """
        content = completed(content, Path(path))
        try:
            return cls.model_validate_json(json.dumps(content, default=str), strict=True)
        except ValidationError as error:
            raise ConfigError(f"{path}: {_in_one_line(error)}") from None
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{path}: not a plain model description: {error}") from None


def configs_dir() -> Path:
    """Returns the folder of packaged configurations, installed or in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "configs"
    return installed if installed.exists() else package.parent / "configs"


def network_names() -> tuple[str, ...]:
    """Returns the names of the networks described in ``configs/models``."""
    return tuple(sorted(path.stem for path in (configs_dir() / "models").glob("*.yaml")))


def packaged_config(name: str) -> Path:
    """Returns the description file of a network such as ``nanodet-m``.

    Raises:
        ConfigError: the name is unknown.
    """
    known = network_names()
    if name not in known:
        hint = nearest(name, known) or f"; there are {', '.join(known)}"
        raise ConfigError(f"no network is named {name!r}{hint}")
    return configs_dir() / "models" / f"{name}.yaml"


def parse_size_wh(text: str) -> tuple[int, int]:
    """Reads an input size, ``320`` for a square or ``416x320`` for width x height, in pixels.

    Raises:
        ConfigError: it is neither.
    """
    match = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text, flags=re.ASCII)
    if not match:
        raise ConfigError(f"an input size is W or WxH in pixels, such as 320 or 416x320; got {text!r}")
    return int(match[1]), int(match[2] or match[1])


def spec_for(name: str) -> ModelSpec:
    """Returns the packaged model of a name ``<network>_<size>``, such as ``nanodet-m_320`` or ``nanodet-g_416x320``.

    Raises:
        ConfigError: the network or the size isn't one.
    """
    network, separator, size = name.partition("_")
    if not separator:
        raise ConfigError(f"a model name is <network>_<size> (nanodet-m_320), got {name!r}{_nearest_model(name)}")
    if network not in network_names():
        raise ConfigError(f"no model is named {name!r}{_nearest_model(name) or '; see --list models'}")
    return ModelSpec.from_yaml(packaged_config(network)).with_input_size(parse_size_wh(size))


def _nearest_model(name: str) -> str:
    return nearest(name, [f"{network}_{size}" for network in network_names() for size in (320, 416)])


_MODELS_BY_PLACE: dict[str, type[BaseModel]] = {
    "": ModelSpec,
    "network": NetworkSpec,
    "head": HeadSpec,
    **SPECS_BY_TYPE,
}


def _in_one_line(error: ValidationError) -> str:
    """Names every problem with its key; for an unknown key, similar ones."""
    problems = []
    for detail in error.errors():
        place = [str(part) for part in detail["loc"]]
        key = ".".join(part for part in place if part not in SPECS_BY_TYPE)
        if detail["type"] == "extra_forbidden":
            known = [*_MODELS_BY_PLACE[place[-2] if len(place) > 1 else ""].model_fields, "pixel_range"]
            problems.append(f"unknown key {key!r}{nearest(place[-1], known)}")
        elif detail["type"] == "missing":
            problems.append(f"key {key!r} is missing")
        else:
            message = detail["msg"].removeprefix("Value error, ")
            got = "" if detail["type"] == "value_error" else f", got {short(detail['input'])}"
            problems.append(f"{key}: {message}{got}" if key else message)
    return "; ".join(problems)
