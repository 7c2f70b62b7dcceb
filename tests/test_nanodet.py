"""The networks against official key names and outputs, and checkpoints that fit, or don't and say why."""

from __future__ import annotations

import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the network is written in PyTorch")

from calibration.checkpoint import load_checkpoint  # noqa: E402
from streamer.common.errors import ModelError  # noqa: E402
from streamer.models import nanodet  # noqa: E402
from streamer.models.network_spec import (  # noqa: E402
    CspSpec,
    GhostPanSpec,
    HeadSpec,
    NetworkSpec,
    PanSpec,
    ShuffleNetV2Spec,
)
from streamer.models.spec import ModelSpec, spec_for  # noqa: E402

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_shared = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.is_dir(), reason="the shared goldens and weights are not here"),
]
ACTIVATIONS = ("LeakyReLU", "ReLU")
OFFICIAL = ("nanodet-g", "nanodet-m", "nanodet-m-0.5x", "nanodet-m-1.5x", "nanodet-plus-m", "nanodet-plus-m-1.5x")
TINY_SHUFFLENET = ShuffleNetV2Spec(type="shufflenetv2", stage_channels=(8, 12, 16), stage_blocks=(2, 1, 2))


def tiny(name: str = "nanodet-m_64", **changes: Any) -> ModelSpec:
    """A one-class model of small custom widths, which still has every kind of layer of its network."""
    backbone: ShuffleNetV2Spec | CspSpec = TINY_SHUFFLENET
    neck: PanSpec | GhostPanSpec = PanSpec(type="pan", channels=12)
    head = HeadSpec(channels=10, convs=2, kernel=3, depthwise=True)
    if name.startswith("nanodet-g"):
        backbone = CspSpec(type="csp", stem_channels=4, stage_blocks=(1, 1, 2, 1))
        head = HeadSpec(channels=10, convs=1, kernel=3, depthwise=False)
    elif name.startswith("nanodet-plus"):
        neck = GhostPanSpec(type="ghost_pan", channels=12, kernel=5)
    network = NetworkSpec(backbone=backbone, neck=neck, head=head)
    return spec_for(name).model_copy(update={"labels": ("gear",), "network": network, **changes})


FAMILIES = ("nanodet-m_64", "nanodet-g_64", "nanodet-plus-m_64")


def randomised(spec: ModelSpec, seed: int = 0) -> nanodet.NanoDet:
    """A network whose every parameter and statistic matters to its output."""
    network = nanodet.build(spec)
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if value.is_floating_point() and "distribution_project" not in name:
            value.copy_(torch.rand(value.shape, generator=generator) + (0.5 if name.endswith("running_var") else -0.3))
    return network


def run(network: nanodet.NanoDet, height: int, width: int, batch: int = 1) -> np.ndarray:
    images = np.random.RandomState(0).randn(batch, 3, height, width).astype(np.float32)
    with torch.inference_mode():
        output: np.ndarray = network(torch.from_numpy(images)).numpy()
    return output


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def golden_value(key: str, shape: list[int]) -> np.ndarray:
    """The filling rule of the goldens."""
    random = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith("running_var"):
        return 0.5 + random.rand(*shape)
    if key.endswith("running_mean"):
        return 0.1 * random.randn(*shape)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape)
    if len(shape) == 4:
        return random.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))
    return 1 + 0.1 * random.randn(*shape) if key.endswith("weight") else 0.1 * random.randn(*shape)


class TestOfficial:
    pytestmark = needs_shared

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("name", OFFICIAL)
    def test_names_shapes_and_outputs(self, name: str, activation: str) -> None:
        network = nanodet.build(spec_for(f"{name}_160x128").model_copy(update={"activation": activation}))
        state = network.state_dict()
        keys = json.loads((SHARED / "goldens" / f"{name}.keys.json").read_text())
        assert {key: list(value.shape) for key, value in state.items()} == keys
        filled = {key: torch.from_numpy(np.asarray(golden_value(key, shape))) for key, shape in keys.items()}
        nanodet.load_into(network, filled | {key: state[key] for key in keys if "distribution_project" in key})
        wanted = np.load(SHARED / "goldens" / f"{name}_{activation.lower()}.npz")["output"]
        np.testing.assert_allclose(run(network, 128, 160), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
        nanodet.fuse_batchnorm(network)
        np.testing.assert_allclose(run(network, 128, 160), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())

    @pytest.mark.parametrize("model", ["nanodet-m_320", "nanodet-g_416", "nanodet-plus-m_416"])
    def test_real_weights_load(self, model: str) -> None:
        spec = spec_for(model)
        network = nanodet.build(spec)
        weights, sha256 = load_checkpoint(SHARED / "weights" / f"{model}.pth")
        nanodet.load_into(network, weights)
        assert len(sha256) == 64
        black = np.broadcast_to(-np.divide(spec.mean_bgr, spec.std_bgr)[:, None, None], (3, 320, 320))
        with torch.inference_mode():
            scores = network(torch.from_numpy(black.astype(np.float32))[None])[..., :80].sigmoid()
        assert 0 < scores.max() < 0.3, "there is nothing to see on a black image"

    def test_a_checkpoint_of_another_network_or_width_is_refused(self) -> None:
        weights, _ = load_checkpoint(SHARED / "weights" / "nanodet-m_320.pth")
        for model, says in [
            ("nanodet-g_320", "another network"),
            ("nanodet-plus-m_320", "another network"),
            ("nanodet-m-1.5x_320", "another width"),
        ]:
            with pytest.raises(ModelError) as caught:
                nanodet.load_into(nanodet.build(spec_for(model)), weights)
            assert says in str(caught.value)


@pytest.mark.parametrize("size_hw", [(64, 64), (128, 160), (32, 32), (100, 75), (33, 97)])
@pytest.mark.parametrize("name", FAMILIES)
def test_any_input_size_gives_the_described_points(name: str, size_hw: tuple[int, int]) -> None:
    spec = tiny(name).with_input_size((size_hw[1], size_hw[0]))
    output = run(randomised(spec), *size_hw, batch=2)
    assert output.shape == (2, spec.num_points, spec.output_channels)
    assert np.isfinite(output).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_sigmoid_goes_to_the_scores_alone(name: str) -> None:
    network = randomised(tiny(name, labels=("gear", "nut")))
    raw = run(network, 64, 64)
    network.sigmoid_scores = True
    got = run(network, 64, 64)
    np.testing.assert_allclose(got[..., :2], 1 / (1 + np.exp(-raw[..., :2].astype(np.float64))), rtol=1e-5)
    np.testing.assert_array_equal(got[..., 2:], raw[..., 2:])


@pytest.mark.parametrize("name", FAMILIES)
def test_fusing_keeps_outputs_and_names_and_lets_a_fused_network_load_them(name: str) -> None:
    network = randomised(tiny(name))
    before, names = run(network, 64, 64), set(network.state_dict())
    nanodet.fuse_batchnorm(network)
    after = run(network, 64, 64)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * np.abs(before).max())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    convs = {key for key, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)}
    fused = network.state_dict()
    assert set(fused) - {"head.distribution_project.project"} == {f"{c}.{p}" for c in convs for p in ("weight", "bias")}
    assert {key for key in fused if key.endswith("weight")} <= names

    nanodet.fuse_batchnorm(network)
    np.testing.assert_array_equal(run(network, 64, 64), after)

    other = nanodet.build(tiny(name))
    nanodet.fuse_batchnorm(other)
    applied = {key: value for key, value in fused.items() if not key.startswith(nanodet.NEVER_APPLIED)}
    nanodet.load_into(other, applied)
    np.testing.assert_array_equal(run(other, 64, 64), after)


def test_activations_differ() -> None:
    leaky, relu = (run(randomised(tiny(activation=activation)), 64, 64) for activation in ACTIVATIONS)
    assert np.abs(leaky - relu).max() > 0.01 * np.abs(relu).max()


def test_a_spec_without_a_network_is_refused() -> None:
    with pytest.raises(ModelError, match="no 'network'"):
        nanodet.build(tiny(network=None))


class TestCheckpoint:
    @pytest.mark.parametrize("wrap", [lambda weights: weights, lambda weights: {"state_dict": weights, "epoch": 3}])
    def test_plain_forms(self, tmp_path: Path, wrap: Any) -> None:
        wanted = randomised(tiny()).state_dict()
        weights, sha256 = load_checkpoint(saved(tmp_path / "a.pth", wrap(dict(wanted))))
        network = nanodet.build(tiny())
        nanodet.load_into(network, weights)
        assert all(torch.equal(value, wanted[key]) for key, value in network.state_dict().items())
        assert sha256 != load_checkpoint(saved(tmp_path / "b.pth", {"x": torch.ones(1)}))[1]

    def test_lightning_prefers_the_average_and_drops_the_auxiliary_head(self, tmp_path: Path) -> None:
        last, average = (randomised(tiny("nanodet-plus-m_64"), seed).state_dict() for seed in (1, 2))
        training = {"aux_fpn.x": torch.ones(1), "aux_head.y": torch.ones(1)}
        stored = {f"model.{key}": value for key, value in {**last, **training}.items()}
        lightning = {"state_dict": stored, "epoch": 3, "pytorch-lightning_version": "1.9.0", "optimizer_states": [{}]}
        for expected in (last, average):
            weights, _ = load_checkpoint(saved(tmp_path / "a.ckpt", lightning))
            assert set(weights) == set(expected)
            assert all(torch.equal(weights[key], value) for key, value in expected.items())
            stored.update({f"avg_model.{key}": value for key, value in {**average, **training}.items()})

    def test_objects_beside_the_weights_are_passed_over_and_not_made(self, tmp_path: Path) -> None:
        content = {"state_dict": {"model.x": torch.ones(2)}, "callbacks": {Recorder: {"best": 1}}, "made": Recorder()}
        path = saved(tmp_path / "a.ckpt", content)
        Recorder.made = 0
        weights, _ = load_checkpoint(path)
        assert list(weights) == ["x"]
        assert Recorder.made == 0

    def test_code_in_a_checkpoint_is_not_run(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "a.ckpt", {"state_dict": {"x": torch.ones(1)}, "made": Intruder(tmp_path / "harm")})
        load_checkpoint(path)
        assert not (tmp_path / "harm").exists()
        pickle.loads(pickle.dumps(Intruder(tmp_path / "harm")))
        assert (tmp_path / "harm").exists(), "it would have run in an ordinary unpickler"

    def test_truncated_files_are_refused(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "a.pth", {"state_dict": randomised(tiny()).state_dict()})
        content = path.read_bytes()
        for length in (1, 100, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            with pytest.raises(ModelError, match="cut short"):
                load_checkpoint(path)

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"", "empty"),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
            (b"\x89PNG\r\n" + bytes(100), "not a PyTorch checkpoint"),
            (b"<html>not found</html>", "it is a web page"),
            (pickle.dumps({"a": 3}, protocol=2), "it holds 'a', and no tensor"),
        ],
    )
    def test_other_files_are_refused(self, tmp_path: Path, content: bytes, says: str) -> None:
        path = tmp_path / "a.pth"
        path.write_bytes(content)
        with pytest.raises(ModelError) as caught:
            load_checkpoint(path)
        assert says in str(caught.value) and "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ([torch.ones(1)], "holds a list"),
            ({"epoch": 3}, "it holds 'epoch', and no tensor"),
            ({"state_dict": {}}, "no weights"),
            ({"state_dict": {"aux_head.x": torch.ones(1)}}, "no weights"),
            ({"x": torch.tensor([1.0, float("nan")])}, "x are not finite"),
        ],
    )
    def test_other_content_is_refused(self, tmp_path: Path, content: object, says: str) -> None:
        with pytest.raises(ModelError) as caught:
            load_checkpoint(saved(tmp_path / "a.pth", content))
        assert says in str(caught.value)

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="No such file"):
            load_checkpoint(tmp_path / "none.pth")


class TestLoading:
    @pytest.mark.parametrize(
        ("other", "says"),
        [
            (tiny(labels=("a", "b", "c")), "has 3 classes, the model description 1 label"),
            (tiny(reg_max=9), "reg_max"),
            (tiny("nanodet-plus-m_64"), "another network"),
        ],
    )
    def test_weights_of_another_model_are_refused_in_one_line(self, other: ModelSpec, says: str) -> None:
        network = nanodet.build(tiny())
        before = {key: value.clone() for key, value in network.state_dict().items()}
        with pytest.raises(ModelError) as caught:
            nanodet.load_into(network, nanodet.build(other).state_dict())
        assert says in str(caught.value) and "\n" not in str(caught.value)
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())

    def test_missing_and_unexpected_names_are_named(self) -> None:
        weights = nanodet.build(tiny()).state_dict()
        weights["backbone.conv9.weight"] = weights.pop("backbone.conv1.0.weight")
        with pytest.raises(ModelError) as caught:
            nanodet.load_into(nanodet.build(tiny()), weights)
        assert "1 missing (backbone.conv1.0.weight)" in str(caught.value)
        assert "1 unexpected (backbone.conv9.weight)" in str(caught.value)

    def test_float16_weights_become_float32(self) -> None:
        network = nanodet.build(tiny())
        nanodet.load_into(network, {key: value.half() for key, value in randomised(tiny()).state_dict().items()})
        assert run(network, 64, 64).dtype == np.float32

    def test_the_projection_stays_the_networks_own(self) -> None:
        network = nanodet.build(tiny())
        weights = network.state_dict()
        nanodet.load_into(network, weights | {"head.distribution_project.project": torch.zeros(8)})
        assert network.state_dict()["head.distribution_project.project"].tolist() == list(range(8))


class Recorder:
    """Counts how often one is made or filled by an unpickler."""

    made = 0

    def __setstate__(self, state: object) -> None:
        type(self).made += 1

    def __getstate__(self) -> dict[str, int]:
        return {"x": 1}


class Intruder:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return make_file, (str(self.path),)


def make_file(path: str) -> None:
    Path(path).touch()
