"""Backbones against upstream's own: parameter names, shapes and outputs, fused and not.

``data/backbones.json`` was computed with upstream NanoDet's classes (Apache-2.0), their parameters filled by
`golden_value`, for `RandomState(0).randn(1, 3, 64, 96)`; ``names_sha256`` is of the lines "NAME SHAPE", sorted.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the network is written in PyTorch")

from pydantic import TypeAdapter  # noqa: E402

from streamer.common.errors import ConfigError  # noqa: E402
from streamer.models import nanodet  # noqa: E402
from streamer.models.nanodet.backbones import build_backbone  # noqa: E402
from streamer.models.network_spec import BackboneSpec, GhostNetSpec, RepVggSpec  # noqa: E402
from streamer.models.spec import ModelSpec, spec_for  # noqa: E402
from tests.test_nanodet import golden_value, randomised, run  # noqa: E402

GOLDENS = json.loads((Path(__file__).parent / "data" / "backbones.json").read_text())
SMALL = [
    {"type": "ghostnet", "width": 0.25},
    {"type": "mobilenetv2", "width": 0.25, "last_channels": 40},
    {"type": "resnet", "depth": 18},
    {"type": "repvgg", "stage_channels": [8, 8, 16, 24], "stage_blocks": [2, 2, 3, 1], "groups": 2},
    {"type": "efficientnet_lite", "variant": 0},
]


def backbone_spec(content: dict[str, Any]) -> BackboneSpec:
    spec: BackboneSpec = TypeAdapter(BackboneSpec).validate_json(json.dumps(content))
    return spec


def with_backbone(model: str, content: dict[str, Any], **changes: Any) -> ModelSpec:
    spec = spec_for(model)
    assert spec.network is not None
    network = spec.network.model_copy(update={"backbone": backbone_spec(content)})
    return spec.model_copy(update={"network": network, "labels": ("gear",), **changes})


def identifier(golden: dict[str, Any]) -> str:
    return "-".join([*map(str, golden["backbone"].values()), golden["activation"]]).replace(" ", "")


@pytest.mark.parametrize("golden", GOLDENS, ids=identifier)
def test_names_shapes_and_outputs_are_upstreams(golden: dict[str, Any]) -> None:
    backbone = build_backbone(backbone_spec(golden["backbone"]), golden["activation"]).eval()
    state = backbone.state_dict()
    shapes = {name: list(value.shape) for name, value in state.items()}
    lines = "\n".join(f"{name} {shape}" for name, shape in sorted(shapes.items()))
    assert (len(shapes), hashlib.sha256(lines.encode()).hexdigest()) == (golden["parameters"], golden["names_sha256"])
    filled = {name: np.asarray(golden_value(name, shape), np.float32) for name, shape in shapes.items()}
    backbone.load_state_dict({name: torch.from_numpy(value) for name, value in filled.items()})
    images = torch.from_numpy(np.random.RandomState(0).randn(1, 3, 64, 96).astype(np.float32))
    for fused in (False, True):
        if fused:
            nanodet.fuse_batchnorm(backbone)
            assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in backbone.modules())
        with torch.inference_mode():
            levels = [level.numpy() for level in backbone(images)]
        assert [level.shape[1] for level in levels] == list(backbone.channels)
        for level, wanted in zip(levels, golden["levels"], strict=True):
            assert list(level.shape) == wanted["shape"]
            flat, tolerance = level.ravel(), 1e-3 * wanted["std"]
            assert level.mean() == pytest.approx(wanted["mean"], abs=tolerance)
            assert level.std() == pytest.approx(wanted["std"], abs=tolerance)
            np.testing.assert_allclose(flat[:4], wanted["first"], rtol=1e-3, atol=tolerance)
            np.testing.assert_allclose(flat[-4:], wanted["last"], rtol=1e-3, atol=tolerance)


@pytest.mark.parametrize("content", SMALL, ids=lambda content: content["type"])
@pytest.mark.parametrize("model", ["nanodet-m_64", "nanodet-plus-m_64"])
def test_either_family_takes_every_backbone(model: str, content: dict[str, Any]) -> None:
    spec = with_backbone(model, content)
    network = randomised(spec)
    wanted = run(network, 64, 64)
    assert wanted.shape == (1, spec.num_points, spec.output_channels)
    nanodet.fuse_batchnorm(network)
    np.testing.assert_allclose(run(network, 64, 64), wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
    again = nanodet.build(spec)
    nanodet.fuse_batchnorm(again)
    nanodet.load_into(again, network.state_dict())
    np.testing.assert_array_equal(run(again, 64, 64), run(network, 64, 64))


@pytest.mark.parametrize("activation", ["ReLU6", "SELU", "ELU", "GELU", "SiLU", "HardSwish"])
def test_activations_are_pytorchs(activation: str) -> None:
    wanted = {"HardSwish": torch.nn.Hardswish}.get(activation) or getattr(torch.nn, activation)
    network = nanodet.build(with_backbone("nanodet-m_64", SMALL[0], activation=activation))
    kinds = {type(module) for module in network.head.modules() if not list(module.children())}
    assert wanted in kinds and not kinds & {torch.nn.ReLU, torch.nn.LeakyReLU} - {wanted}


def test_a_backbone_may_have_an_activation_of_its_own() -> None:
    network = nanodet.build(with_backbone("nanodet-m_64", {"type": "resnet", "depth": 18, "activation": "SiLU"}))
    assert isinstance(network.backbone.act, torch.nn.SiLU)
    assert any(isinstance(module, torch.nn.LeakyReLU) for module in network.head.modules())


def test_a_merged_checkpoint_of_repvgg_loads_as_upstream_saves_it() -> None:
    content = {"type": "repvgg", "stage_channels": [8, 8, 16, 24], "stage_blocks": [2, 2, 3, 1]}
    trained = randomised(with_backbone("nanodet-m_64", content))
    wanted = run(trained, 64, 64)
    for block in trained.backbone.modules():
        if hasattr(block, "reparameterize"):
            block.reparameterize()
    merged = nanodet.build(with_backbone("nanodet-m_64", {**content, "deploy": True}))
    nanodet.load_into(merged, trained.state_dict())
    np.testing.assert_allclose(run(merged, 64, 64), wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


def test_only_every_second_block_is_grouped() -> None:
    spec = RepVggSpec(type="repvgg", stage_channels=(8, 8, 16, 24), stage_blocks=(2, 1, 2, 1), groups=4)
    blocks = [module for module in build_backbone(spec, "ReLU").modules() if hasattr(module, "rbr_dense")]
    assert [block.rbr_dense[0].groups for block in blocks] == [1, 1, 4, 1, 4, 1, 4]


def test_channels_are_rounded_as_the_authors_do() -> None:
    assert build_backbone(GhostNetSpec(type="ghostnet", width=1.3), "ReLU").channels == (52, 144, 1248)


@pytest.mark.parametrize(
    ("backbone", "says"),
    [
        ({"type": "resnet", "depth": 20}, "depth"),
        ({"type": "ghostnet", "widht": 1}, "unknown key 'network.backbone.widht'; did you mean 'width'"),
        ({"type": "convnext"}, "'shufflenetv2', 'csp', 'ghostnet'"),
        ({"type": "mobilenetv2", "activation": "PReLU"}, "activation"),
    ],
)
def test_a_wrong_backbone_is_refused_in_one_line(tmp_path: Path, backbone: dict[str, Any], says: str) -> None:
    content = json.loads(spec_for("nanodet-m_320").model_dump_json(exclude={"checkpoint_sha256"}))
    content["network"]["backbone"] = backbone
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        ModelSpec.from_yaml(path)
    assert says in str(caught.value) and "\n" not in str(caught.value)
