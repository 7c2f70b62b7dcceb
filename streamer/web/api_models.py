"""What the HTTP interface takes and gives, checked once at the edge; FastAPI makes the OpenAPI document from it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MOST_CLASSES = 1000


def _plain(text: str) -> str:
    """Returns a text; raises ValueError where it can't be one line, or asks for a value of the server."""
    if not text.isprintable():
        raise ValueError("wanted printable text in one line")
    if "${" in text:
        raise ValueError("a reference such as ${NAME} is replaced in configuration files only")
    return text


Text = Annotated[str, AfterValidator(_plain)]
Label = Annotated[Text, Field(min_length=1, max_length=200)]
Score = Annotated[float, Field(ge=0, le=1)]
Size = (
    Annotated[float, Field(ge=0, le=100_000)]
    | Annotated[str, Field(max_length=40, pattern=r"^[0-9.]{1,9}%?(x[0-9.]{1,9}%?)?$")]
)


class ApiModel(BaseModel):
    """A frozen value with known keys only, whose types aren't converted and whose errors show no value."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )  # fmt: skip


class DetectionChanges(ApiModel):
    """Which detections are reported, and of which frames. A key that is null, or left out in a file, is not changed."""

    conf: Score | Annotated[dict[Label, Score], Field(max_length=MOST_CLASSES)] | None = Field(
        default=None,
        description='lowest score, or one by class, with "*" for all others',
        examples=[{"person": 0.5, "*": 0.4}],
    )
    classes: Annotated[tuple[Label, ...], Field(min_length=1, max_length=MOST_CLASSES, strict=False)] | None = Field(
        default=None, description='labels to report; ["*"] for all', examples=[["person", "car"]]
    )
    min_size: Size | None = Field(
        default=None, description="drop smaller boxes: pixels, up to 1 a share of the frame, or WxH"
    )
    max_size: Size | None = Field(default=None, description="drop larger boxes, as min_size")
    top_k: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, description="the best N of a frame at most"
    )
    max_fps: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        default=None, description="frames a second to take at most"
    )
    detect_every: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, description="detect on every Nth frame; the others reuse its boxes"
    )
    overlay: bool | None = Field(default=None, description="live figures on recordings too (true) or nowhere (false)")

    def changed(self, patch: DetectionChanges) -> Any:
        """Returns these changes with those of `patch`, in which a null takes a change back (RFC 7396)."""
        update = {key: getattr(patch, key) for key in patch.model_fields_set}
        return self.model_copy(update=update)

    @property
    def kept(self) -> dict[str, Any]:
        """The keys that are changed, and their values."""
        return {key: value for key in type(self).model_fields if (value := getattr(self, key)) is not None}


class StreamChanges(DetectionChanges):
    """What may be changed of one stream."""

    priority: Annotated[int, Field(ge=-1000, le=1000)] | None = Field(
        default=None, description="where not all streams can be served, higher ones go first"
    )


class RunSettings(DetectionChanges):
    """What may be changed of the run: for every stream that has nothing of its own; and of the page."""

    language: Literal["en", "zh"] | None = Field(default=None, description="of the page; null is the browser's")


class NewStream(StreamChanges):
    """A stream to add."""

    name: Annotated[Text, Field(min_length=1, max_length=64)] = Field(examples=["door"])
    uri: Annotated[Text, Field(min_length=1, max_length=2048)] = Field(
        description="rtsp://, rtsps://, http://, https://, a camera's number, or a file in a folder of --web-folder",
        examples=["rtsp://user:password@192.0.2.10/1"],
    )


class Kept(ApiModel):
    """What was changed of one source, as it is kept; with a URI it was added, and `removed` hides one of the file."""

    uri: Annotated[Text, Field(max_length=2048)] | None = Field(default=None, repr=False)
    removed: bool = False
    changes: StreamChanges = StreamChanges()
