"""The average of a network's weights, and what a training network keeps from step to step."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="training is written in PyTorch")

from torch import nn  # noqa: E402

from calibration.training.averaging import AveragedWeights  # noqa: E402
from calibration.training.network import TrainingNetwork  # noqa: E402
from calibration.training.points import anchor_points  # noqa: E402
from calibration.training.recipe import Averaging  # noqa: E402
from streamer.models.spec import spec_for  # noqa: E402


def test_the_average_follows_parameters_and_statistics_and_copies_counters() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    average = AveragedWeights(network, Averaging(decay=0.9, warmup=5.0))
    wanted = {name: value.clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    for step in range(4):
        optimiser.zero_grad()
        network(torch.randn(2, 3, 4, 4)).square().sum().backward()
        optimiser.step()
        average.update(step)
        share = 0.9 * math.exp(-(1 + step) / 5) + 0.1
        for name, value in network.state_dict().items():
            is_counter = not value.is_floating_point()
            wanted[name] = value.clone() if is_counter else wanted[name] * (1 - share) + value * share
    assert average.values.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(average.values[name], value)


def test_the_average_still_follows_a_network_whose_weights_were_loaded() -> None:
    network = nn.Linear(2, 2)
    average = AveragedWeights(network, Averaging(decay=0.0, warmup=1.0))
    network.load_state_dict({name: torch.full_like(value, 3.0) for name, value in network.state_dict().items()})
    average.update(0)
    assert all(bool((value == 3).all()) for value in average.values.values())


def test_kept_points_fit_every_size_and_can_be_trained_with_after_inference() -> None:
    spec = spec_for("nanodet-m-0.5x_64")
    network = TrainingNetwork(spec)
    with torch.inference_mode():
        network(torch.zeros(2, 3, 64, 64))
    for height, width in ((64, 64), (64, 96), (64, 64)):
        found = network(torch.zeros(2, 3, height, width))
        assert torch.equal(found.points, anchor_points(spec, (height, width)))
        weight = found.main.sum(-1) * found.points[:, 0]  # saved for backward
        weight.sum().backward()
