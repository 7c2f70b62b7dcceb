"""Networks to train: names, shapes, which parameters learn, and restored batch normalisation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training is written in PyTorch")

from torch import Tensor, nn  # noqa: E402

from calibration.training.batchnorm import is_folded, restore_batchnorm, unfold  # noqa: E402
from calibration.training.losses import Predictions, detection_loss  # noqa: E402
from calibration.training.network import TrainingNetwork  # noqa: E402
from calibration.training.points import anchor_points  # noqa: E402
from calibration.training.truth import Truth  # noqa: E402
from streamer.models.nanodet import fuse_batchnorm, load_into  # noqa: E402
from streamer.models.spec import spec_for  # noqa: E402
from tests.test_nanodet import FAMILIES, OFFICIAL, randomised, tiny  # noqa: E402

AUXILIARY = ("aux_fpn.", "aux_head.")
each_family = pytest.mark.parametrize("name", FAMILIES)


def images(batch: int = 2, side: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


def truth_of(batch: int = 2) -> Truth:
    boxes = [torch.tensor([[8.0, 8, 40, 44], [30, 20, 62, 60]])] * batch
    return Truth.pad(boxes, [torch.zeros(2, dtype=torch.int64)] * batch)


def backward(network: TrainingNetwork, only: str = "") -> set[str]:
    """Returns the names of parameters with a gradient of the terms that begin with `only`."""
    network.zero_grad()
    terms = detection_loss(network(images()), truth_of(), network.spec).terms
    torch.stack([value for name, value in terms.items() if name.startswith(only)]).sum().backward()
    return {name for name, value in network.named_parameters() if value.grad is not None and value.grad.any()}


@pytest.mark.shared
@pytest.mark.parametrize("name", OFFICIAL)
def test_official_state_has_upstreams_names_and_shapes(shared: Path, name: str) -> None:
    keys = json.loads((shared / "goldens" / f"{name}.keys.json").read_text())
    state = TrainingNetwork(spec_for(f"{name}_320")).official_state()
    assert {key: list(value.shape) for key, value in state.items() if not key.startswith(AUXILIARY)} == keys
    assert any(key.startswith(AUXILIARY) for key in state) == ("plus" in name)


def test_the_auxiliary_head_has_upstreams_names_and_shapes() -> None:
    network = TrainingNetwork(spec_for("nanodet-plus-m_64"))
    shapes = {name: tuple(value.shape) for name, value in network.official_state().items()}
    assert {f"aux_fpn.{name[4:]}" for name in shapes if name.startswith("fpn.")} == {
        name for name in shapes if name.startswith("aux_fpn.")
    }
    head = {name[9:]: shape for name, shape in shapes.items() if name.startswith("aux_head.")}
    wanted = {
        f"{tower}.{index}.{rest}": shape
        for tower in ("cls_convs", "reg_convs")
        for index in range(4)
        for rest, shape in (("conv.weight", (192, 192, 3, 3)), ("gn.weight", (192,)), ("gn.bias", (192,)))
    }
    wanted |= {f"scales.{index}.scale": () for index in range(4)}
    wanted |= {"gfl_cls.weight": (80, 192, 3, 3), "gfl_cls.bias": (80,)}
    wanted |= {"gfl_reg.weight": (32, 192, 3, 3), "gfl_reg.bias": (32,)}
    assert head == wanted


@each_family
def test_predictions_are_the_exported_networks(name: str) -> None:
    network = TrainingNetwork(tiny(name)).eval()
    with torch.no_grad():
        predictions = network(images(side=96))
        torch.testing.assert_close(predictions.main, network.network(images(side=96)))
    assert (predictions.auxiliary is not None) == ("plus" in name)
    assert predictions.auxiliary is None or predictions.auxiliary.shape == predictions.main.shape
    assert sum(predictions.level_counts) == len(predictions.points) == predictions.main.shape[1]


@each_family
@pytest.mark.parametrize("size_wh", [(64, 64), (96, 160), (100, 70)])
def test_points_are_the_specs(name: str, size_wh: tuple[int, int]) -> None:
    spec = spec_for(name).with_input_size(size_wh)
    points = anchor_points(spec_for(name), (size_wh[1], size_wh[0]))
    torch.testing.assert_close(points, torch.from_numpy(spec.anchor_points()), rtol=0, atol=0)


@each_family
@pytest.mark.parametrize("activation", ["LeakyReLU", "ReLU"])
def test_every_parameter_that_is_applied_learns(name: str, activation: str) -> None:
    torch.manual_seed(0)
    network = TrainingNetwork(tiny(name, activation=activation, labels=("bolt", "gear", "nut")))
    wanted = {key for key, value in network.named_parameters() if value.requires_grad}
    levels = {key for key in wanted if ".scales." in key}  # those without an object have nothing to learn
    assert backward(network) | levels == wanted
    assert {key for key, _ in network.named_parameters()} - wanted == {
        key for key, _ in network.named_parameters() if "gfl_reg" in key and "aux" not in key
    }


@pytest.mark.parametrize("detach", [False, True])
def test_auxiliary_gradients_reach_the_backbone_until_detached(detach: bool) -> None:
    network = TrainingNetwork(tiny("nanodet-plus-m_64"))
    network.detach_auxiliary = detach
    learning = backward(network, only="aux_")
    assert any(name.startswith("auxiliary.aux_fpn.") for name in learning)
    reached = {name.split(".")[1] for name in learning if name.startswith("network.")}
    assert reached == (set() if detach else {"backbone", "fpn"})


@each_family
def test_kept_statistics_make_a_picture_independent_of_its_batch(name: str) -> None:
    network = TrainingNetwork(tiny(name))
    network.keep_statistics()
    network.eval()
    network.train()
    before = {key: value.clone() for key, value in network.network.state_dict().items()}
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        one, other = network(images).main[0], network(images[[0, 0]]).main[0]  # beside two different pictures
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in network.network.state_dict().items())
    assert network.training and backward(network)


@each_family
def test_a_frozen_backbone_stays_as_it_is(name: str) -> None:
    network = TrainingNetwork(tiny(name))
    network.freeze_backbone()
    assert not any(module.training for module in network.network.backbone.modules())
    network.eval()
    network.train()
    assert not any(module.training for module in network.network.backbone.modules())
    assert network.training and network.network.head.training
    before = {key: value.clone() for key, value in network.network.backbone.state_dict().items()}
    learning = backward(network)
    assert learning and not any(name.startswith("network.backbone") for name in learning)
    for key, value in network.network.backbone.state_dict().items():
        assert torch.equal(value, before[key])


@each_family
def test_a_new_network_finds_each_class_once_in_a_hundred(name: str) -> None:
    network = TrainingNetwork(tiny(name, labels=("bolt", "gear"))).eval()
    with torch.no_grad():
        scores = network(images()).main[..., :2].sigmoid()
    assert scores.mean().item() == pytest.approx(0.01, rel=0.05)


def folded(name: str) -> TrainingNetwork:
    """A network with the weights of an exported one."""
    source = randomised(tiny(name))
    fuse_batchnorm(source)
    network = TrainingNetwork(tiny(name))
    load_into(network.network, unfold(network.network, source.state_dict()))
    with torch.no_grad():
        wanted = source(images())
        torch.testing.assert_close(network.eval()(images()).main, wanted, rtol=1e-4, atol=1e-4)
    return network.train()


def outputs(network: nn.Module, batch: Tensor) -> Tensor:
    with torch.no_grad():
        predictions = network(batch)
    assert isinstance(predictions, Predictions)
    return predictions.main


def relative_difference(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max())


@each_family
def test_restored_normalisation_computes_the_same_in_both_modes(name: str) -> None:
    network, batch = folded(name), images(8)
    assert is_folded(network.network)
    wanted = outputs(network.eval(), images(4, seed=1)), outputs(network.eval(), batch)
    in_training = outputs(network.train(), batch)
    assert relative_difference(in_training, wanted[1]) > 0.1, "batch statistics must matter before"
    network = folded(name)
    restore_batchnorm(network, batch)
    assert network.training and network.network.backbone.training and not is_folded(network.network)
    assert relative_difference(outputs(network.eval(), images(4, seed=1)), wanted[0]) < 1e-4
    assert relative_difference(outputs(network.train(), batch), wanted[1]) < 1e-3


@each_family
def test_statistics_of_several_batches_are_those_of_one(name: str) -> None:
    whole, parts, batch = folded(name), folded(name), images(6)
    restore_batchnorm(whole, batch)
    restore_batchnorm(parts, [batch[:1], batch[1:3], batch[3:]])
    for (key, wanted), got in zip(whole.network.state_dict().items(), parts.network.state_dict().values(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5, msg=key)


def test_a_network_with_statistics_is_not_taken_for_a_folded_one() -> None:
    network = TrainingNetwork(tiny("nanodet-g_64"))
    assert not is_folded(network.network)
    backward(network)
    assert not is_folded(network.network)


@pytest.mark.parametrize("name", [*FAMILIES[:2], pytest.param(FAMILIES[2], marks=pytest.mark.slow)])
def test_a_whole_step_is_compiled_without_breaks(name: str) -> None:
    torch.compiler.reset()
    network = TrainingNetwork(tiny(name)).eval()
    spec, truth = network.spec, truth_of()

    def step(batch: Tensor) -> Tensor:
        return detection_loss(network(batch), truth, spec).total

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    assert compiled(images()).item() == pytest.approx(step(images()).item(), rel=1e-5)


@each_family
def test_a_step_in_bfloat16_has_finite_gradients_near_those_in_float32(name: str) -> None:
    network = TrainingNetwork(tiny(name)).eval()
    totals = []
    for is_enabled in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_enabled):
            losses = detection_loss(network(images()), truth_of(), network.spec)
        losses.total.backward()
        gradients = [value.grad for value in network.parameters() if value.grad is not None]
        assert gradients and all(gradient.isfinite().all() for gradient in gradients)
        totals.append(losses.total.item())
    assert totals[1] == pytest.approx(totals[0], rel=0.1)
