"""LeakyReLU that becomes ReLU while a network trains."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from calibration.training.network import TrainingNetwork  # noqa: E402
from calibration.training.slopes import FallingSlopes, exchanges_leaky_relu  # noqa: E402
from streamer.models.nanodet.layers import LEAKY_SLOPE  # noqa: E402
from streamer.models.spec import ModelSpec, spec_for  # noqa: E402


def spec_with(activation: str, name: str = "nanodet-m-0.5x_64") -> ModelSpec:
    return spec_for(name).model_copy(update={"activation": activation})


@pytest.mark.parametrize("name", ["nanodet-m-0.5x_64", "nanodet-plus-m_64"])
def test_begins_as_leaky_and_ends_as_relu(name: str) -> None:
    torch.manual_seed(0)
    leaky, plain = (TrainingNetwork(spec_with(activation, name)).eval() for activation in ("LeakyReLU", "ReLU"))
    falling = TrainingNetwork(spec_with("ReLU", name)).eval()
    for parameter in leaky.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for network in (plain, falling):
        network.load_state_dict(leaky.state_dict())
    slopes = FallingSlopes(falling, LEAKY_SLOPE)
    assert list(falling.state_dict()) == list(plain.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before, after = leaky(images).main, plain(images).main
        assert not torch.allclose(before, after, atol=1e-4)
        slopes.set(0.0)
        torch.testing.assert_close(falling(images).main, before)
        slopes.set(0.3)
        between = falling(images).main
        assert not torch.allclose(between, before, atol=1e-4) and not torch.allclose(between, after, atol=1e-4)
        for share in (0.6, 1.0, 1.2):
            slopes.set(share)
            torch.testing.assert_close(falling(images).main, after)


def test_only_leaky_relu_to_relu_is_exchanged_by_degrees() -> None:
    leaky, relu, relu6 = (spec_with(activation) for activation in ("LeakyReLU", "ReLU", "ReLU6"))
    assert exchanges_leaky_relu(leaky, relu)
    assert not exchanges_leaky_relu(relu, leaky) and not exchanges_leaky_relu(leaky, relu6)
