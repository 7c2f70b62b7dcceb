"""The architecture of a NanoDet: `network` in a model description; `streamer.models.nanodet` builds it."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

PositiveInt = Annotated[int, Field(gt=0)]
EvenInt = Annotated[int, Field(gt=0, multiple_of=2)]
Scale = Annotated[float, Field(gt=0)]

ActivationName = Literal["LeakyReLU", "ReLU", "ReLU6", "SELU", "ELU", "GELU", "SiLU", "HardSwish"]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @field_validator("kernel", check_fields=False)
    @classmethod
    def _kernel_is_odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(f"a kernel is odd, got {kernel}")
        return kernel


class _Backbone(Frozen):
    """Common to all backbones: their own activation, or None for the network's."""

    activation: ActivationName | None = None


class ShuffleNetV2Spec(_Backbone):
    """ShuffleNetV2 (Ma et al. 2018): `stage_channels` are the outputs at strides 8, 16 and 32."""

    type: Literal["shufflenetv2"]
    stem_channels: EvenInt = 24
    stage_channels: tuple[EvenInt, EvenInt, EvenInt]
    stage_blocks: tuple[PositiveInt, PositiveInt, PositiveInt] = (4, 8, 4)


class CspSpec(_Backbone):
    """The plain 3x3 cross-stage-partial backbone of NanoDet-g: each of the four stages doubles its channels.

    `stage_blocks` are the residual blocks at strides 4, 8, 16 and 32; the last three stages are the outputs.
    """

    type: Literal["csp"]
    stem_channels: EvenInt
    stage_blocks: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]


class GhostNetSpec(_Backbone):
    """GhostNet (Han et al. 2020); `width` multiplies all channels. Levels of 40, 112 and 960 channels at width 1."""

    type: Literal["ghostnet"]
    width: Scale = 1.0


class MobileNetV2Spec(_Backbone):
    """MobileNetV2 (Sandler et al. 2018); `width` multiplies all channels but the last 1x1 convolution's."""

    type: Literal["mobilenetv2"]
    width: Scale = 1.0
    last_channels: PositiveInt = 1280


class ResNetSpec(_Backbone):
    """ResNet (He et al. 2015) of 18, 34, 50, 101 or 152 layers."""

    type: Literal["resnet"]
    depth: Literal[18, 34, 50, 101, 152]


class RepVggSpec(_Backbone):
    """RepVGG (Ding et al. 2021): A0 has stages of 48, 96, 192 and 1280 channels with 2, 4, 14 and 1 blocks.

    `groups` are those of every second block (2 for the paper's g2, 4 for g4). `deploy` says that the checkpoint has the
    branches of each block merged into one convolution already.
    """

    type: Literal["repvgg"]
    stage_channels: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    stage_blocks: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (2, 4, 14, 1)
    groups: Literal[1, 2, 4] = 1
    deploy: bool = False


class EfficientNetLiteSpec(_Backbone):
    """EfficientNet-Lite 0 to 4. Blocks always use ReLU6; the activation applies to the stem only."""

    type: Literal["efficientnet_lite"]
    variant: Literal[0, 1, 2, 3, 4]


class PanSpec(Frozen):
    """NanoDet's path aggregation: 1x1 laterals, then bilinear sums up and down, without further parameters."""

    type: Literal["pan"]
    channels: PositiveInt


class GhostPanSpec(Frozen):
    """NanoDet-Plus's path aggregation of Ghost bottlenecks; `kernel` is that of its depthwise convolutions."""

    type: Literal["ghost_pan"]
    channels: EvenInt
    kernel: PositiveInt = 5


BackboneSpec = Annotated[
    ShuffleNetV2Spec | CspSpec | GhostNetSpec | MobileNetV2Spec | ResNetSpec | RepVggSpec | EfficientNetLiteSpec,
    Field(discriminator="type"),
]
NeckSpec = Annotated[PanSpec | GhostPanSpec, Field(discriminator="type")]

SPECS_BY_TYPE: dict[str, type[Frozen]] = {
    get_args(spec.model_fields["type"].annotation)[0]: spec
    for union in (BackboneSpec, NeckSpec)
    for spec in get_args(get_args(union)[0])
}
"""Descriptions of backbones and necks by their ``type``."""


class HeadSpec(Frozen):
    """The convolutions before the 1x1 prediction layer, separate for each level."""

    channels: PositiveInt
    convs: PositiveInt
    kernel: PositiveInt
    depthwise: bool


class NetworkSpec(Frozen):
    """The architecture: enough to build the network, of any width, with official parameter names."""

    backbone: BackboneSpec
    neck: NeckSpec
    head: HeadSpec
