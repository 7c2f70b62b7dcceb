"""The backbones: each takes pictures and returns the features at strides 8, 16 and 32.

Parameter names are those of upstream NanoDet's checkpoints. To add one: describe it in
`streamer.models.network_spec`, add a module here with a class of `channels` and `forward`, and a line in
`build_backbone`.
"""

from __future__ import annotations

from streamer.models.nanodet.backbones.csp import CspNet
from streamer.models.nanodet.backbones.efficientnet_lite import EfficientNetLite
from streamer.models.nanodet.backbones.ghostnet import GhostNet
from streamer.models.nanodet.backbones.mobilenetv2 import MobileNetV2
from streamer.models.nanodet.backbones.repvgg import RepVgg
from streamer.models.nanodet.backbones.resnet import ResNet
from streamer.models.nanodet.backbones.shufflenetv2 import ShuffleNetV2
from streamer.models.nanodet.layers import activation_factory
from streamer.models.network_spec import (
    ActivationName,
    BackboneSpec,
    CspSpec,
    EfficientNetLiteSpec,
    GhostNetSpec,
    MobileNetV2Spec,
    RepVggSpec,
    ResNetSpec,
    ShuffleNetV2Spec,
)

Backbone = CspNet | EfficientNetLite | GhostNet | MobileNetV2 | RepVgg | ResNet | ShuffleNetV2


def build_backbone(spec: BackboneSpec, activation: ActivationName) -> Backbone:
    """Returns the backbone that `spec` describes, its weights random.

    Args:
        spec: its kind and size.
        activation: name of the activation where `spec` has none of its own.
    """
    new_activation = activation_factory(spec.activation or activation)
    match spec:
        case CspSpec():
            return CspNet(spec, new_activation)
        case EfficientNetLiteSpec():
            return EfficientNetLite(spec, new_activation)
        case GhostNetSpec():
            return GhostNet(spec, new_activation)
        case MobileNetV2Spec():
            return MobileNetV2(spec, new_activation)
        case RepVggSpec():
            return RepVgg(spec, new_activation)
        case ResNetSpec():
            return ResNet(spec, new_activation)
        case ShuffleNetV2Spec():
            return ShuffleNetV2(spec, new_activation)
