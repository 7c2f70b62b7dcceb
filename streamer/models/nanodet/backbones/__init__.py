"""The backbones: each takes pictures and returns the features at strides 8, 16 and 32.

Parameter names are those of upstream NanoDet's checkpoints. To add one: describe it in
`streamer.models.network_spec`, add a module here with a class of `channels` and `forward`, and a line in
`_BACKBONES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamer.models.nanodet.backbones.csp import CspNet
from streamer.models.nanodet.backbones.efficientnet_lite import EfficientNetLite
from streamer.models.nanodet.backbones.ghostnet import GhostNet
from streamer.models.nanodet.backbones.mobilenetv2 import MobileNetV2
from streamer.models.nanodet.backbones.repvgg import RepVgg
from streamer.models.nanodet.backbones.resnet import ResNet
from streamer.models.nanodet.backbones.shufflenetv2 import ShuffleNetV2
from streamer.models.nanodet.layers import NewActivation, activation_factory
from streamer.models.network_spec import ActivationName, BackboneSpec

Backbone = CspNet | EfficientNetLite | GhostNet | MobileNetV2 | RepVgg | ResNet | ShuffleNetV2
_BACKBONES: dict[str, Callable[[Any, NewActivation], Backbone]] = {
    "csp": CspNet,
    "efficientnet_lite": EfficientNetLite,
    "ghostnet": GhostNet,
    "mobilenetv2": MobileNetV2,
    "repvgg": RepVgg,
    "resnet": ResNet,
    "shufflenetv2": ShuffleNetV2,
}


def build_backbone(spec: BackboneSpec, activation: ActivationName) -> Backbone:
    """Returns the backbone that `spec` describes, its weights random.

    `activation` names the activation where `spec` has none of its own.
    """
    new_activation = activation_factory(spec.activation or activation)
    return _BACKBONES[spec.type](spec, new_activation)
