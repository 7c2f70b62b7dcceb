"""The options of the model, and of which detections are reported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, InstanceOf, field_validator

from streamer.app.options import option
from streamer.app.overrides import Conf, FilterChecks, without_zero
from streamer.detector import DEFAULT_MODEL
from streamer.detector.filter_options import DEFAULT_CONF, BoxSize, MaskPicture, Polygon
from streamer.tracking.options import TrackChoice

Unit = Annotated[float, Field(ge=0, le=1)]


class DetectionOptions(FilterChecks):
    """The model and what it reports; `option` says what each means."""

    model: Annotated[str, Field(repr=False)] = option(
        DEFAULT_MODEL,
        "model and detection",
        "a name of --list models, or an ONNX file",
        short_flag="-m",
        metavar="NAME|FILE",
    )
    model_config_file: Path | None = option(
        None, "model and detection", "YAML description of a foreign ONNX file", metavar="FILE", alias="model_config"
    )
    engine: str = option(
        "auto", "model and detection", "auto, openvino, onnxruntime; on a GPU int8, tensorrt, torch", metavar="NAME"
    )
    device: str = option("auto", "model and detection", "auto, cpu, cuda:N; or cuda:0,cuda:1, cuda:*", metavar="NAME")
    precision: Literal["auto", "f32", "bf16", "f16"] = option(
        "auto", "model and detection", "arithmetic of a float model"
    )
    conf: Conf = option(
        DEFAULT_CONF,
        "model and detection",
        "lowest score to report (default: 0.4); by class as in person=0.5,car=0.3,0.4",
        metavar="0..1",
        is_text=True,
    )
    iou: Unit = option(0.6, "model and detection", "overlap above which NMS drops the weaker box", metavar="0..1")
    classes: tuple[str, ...] | None = option(
        None,
        "model and detection",
        "labels to report, in any case, or their numbers (default: all)",
        metavar="A,B",
        many="comma",
    )
    min_size: InstanceOf[BoxSize] | None = option(
        None,
        "model and detection",
        "drop boxes narrower or lower: pixels of the frame, such as 32 or 32x64, or fractions of it, such as 0.05",
        metavar="N|WxH",
        is_text=True,
    )
    max_size: InstanceOf[BoxSize] | None = option(
        None, "model and detection", "drop boxes wider or higher, as --min-size", metavar="N|WxH", is_text=True
    )
    ignore: tuple[InstanceOf[Polygon] | InstanceOf[MaskPicture], ...] | None = option(
        None,
        "model and detection",
        "drop boxes that stand in an area: a polygon '0,0 0.3,0 0.3,0.2' in pixels or fractions of the frame, or a"
        " picture whose white pixels are the area; repeat the option for more",
        metavar="AREA",
        many="repeat",
    )
    ignore_at: Literal["bottom", "centre"] = option(
        "bottom",
        "model and detection",
        "the point of a box that counts for --ignore: the middle of its lower edge, or its centre",
    )
    top_k: Annotated[int, Field(ge=1)] | None = option(
        None, "model and detection", "report the best N of a frame at most (default: 100)", metavar="N"
    )
    track: TrackChoice = option(
        "off",
        "model and detection",
        "give each object an id that it keeps from frame to frame; without a name: auto",
        bare="auto",
    )
    self_check: bool = option(
        True, "model and detection", "skip the test of the engine on a packaged picture before the run"
    )

    @field_validator("model", "model_config_file")
    @classmethod
    def _is_no_zero_byte(cls, value: Any) -> Any:
        without_zero(str(value))
        return value
