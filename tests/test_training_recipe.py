"""Recipes field by field, the learning rate at known steps, the average of weights, and a run's length."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training is written in PyTorch")

from torch import nn  # noqa: E402

from calibration.training.augmentation import Augmentation  # noqa: E402
from calibration.training.averaging import AveragedWeights  # noqa: E402
from calibration.training.job import State  # noqa: E402
from calibration.training.length import Length  # noqa: E402
from calibration.training.network import TrainingNetwork  # noqa: E402
from calibration.training.optimiser import make_optimiser  # noqa: E402
from calibration.training.recipe import (  # noqa: E402
    Averaging,
    Recipe,
    Schedule,
    default_recipe,
    shortened,
    upstream_recipe,
)
from streamer.models.spec import spec_for  # noqa: E402
from tests.training_runs import narrow_spec, one_thread  # noqa: E402, F401

# upstream's configurations: optimiser, lr, batch, epochs, milestones, gamma, warm-up steps and factor, validation
UPSTREAM: dict[str, tuple[str, float, int, int, tuple[int, ...], int, float, int]] = {
    "nanodet-m_320": ("sgd", 0.14, 192, 280, (240, 260, 275), 300, 0.1, 10),
    "nanodet-m_416": ("sgd", 0.14, 192, 280, (240, 260, 275), 300, 0.1, 10),
    "nanodet-m-1.5x_320": ("sgd", 0.14, 192, 280, (240, 260, 275), 300, 0.1, 10),
    "nanodet-m-1.5x_416": ("sgd", 0.14, 176, 280, (240, 260, 275), 300, 0.1, 10),
    "nanodet-m-0.5x_320": ("sgd", 0.07, 96, 180, (130, 160, 175), 1000, 1e-5, 10),
    "nanodet-g_416": ("sgd", 0.1, 128, 190, (130, 160, 175, 185), 500, 0.01, 5),
    "nanodet-plus-m_320": ("adamw", 1e-3, 96, 300, (), 500, 1e-4, 10),
    "nanodet-plus-m_416": ("adamw", 1e-3, 96, 300, (), 500, 1e-4, 10),
    "nanodet-plus-m-1.5x_320": ("adamw", 1e-3, 96, 300, (), 500, 1e-4, 10),
    "nanodet-plus-m-1.5x_416": ("adamw", 1e-3, 96, 300, (), 500, 1e-4, 10),
}
# scale, stretch and how often a picture is warped
PICTURES: dict[str, tuple[tuple[float, float], tuple[float, float], float]] = {
    "nanodet-m_320": ((0.6, 1.4), (1, 1), 0.5),
    "nanodet-m_416": ((0.5, 1.4), (1, 1), 0.5),
    "nanodet-m-0.5x_320": ((0.5, 1.5), (1, 1), 0.5),
    "nanodet-g_416": ((0.6, 1.4), (1, 1), 0.5),
    "nanodet-plus-m_320": ((0.6, 1.4), (0.8, 1.2), 1),
    "nanodet-plus-m-1.5x_416": ((0.6, 1.4), (0.8, 1.2), 1),
}


def plain(**changes: Any) -> Recipe:
    return replace(default_recipe(spec_for("nanodet-g_416"), 200, from_scratch=False), **changes)


@pytest.mark.parametrize("name", UPSTREAM)
def test_upstreams_recipe_field_by_field(name: str) -> None:
    spec = spec_for(name)
    recipe = upstream_recipe(spec)
    is_plus = "plus" in name
    optimiser, lr, batch, epochs, milestones, warmup_steps, warmup_from, validate_epochs = UPSTREAM[name]
    assert recipe == Recipe(
        name="upstream", optimiser=optimiser, lr=lr, lr_exponent=1, reference_batch=batch, batch=batch,  # type: ignore[arg-type]
        weight_decay=0.05 if is_plus else 1e-4, decays_all=True,
        schedule=Schedule(
            "cosine" if is_plus else "steps", tuple(each / epochs for each in milestones), gamma=0.1,
            warmup_steps=warmup_steps, warmup_from=warmup_from,
        ),
        averaging=Averaging(0.9998, 2000) if is_plus else None, clip_norm=35 if is_plus else None, steps=None,
        epochs=epochs, augmentation=Augmentation.upstream(spec), final_augmentation=None,
        detach_epoch=10 if is_plus else None, validations=None, validate_epochs=validate_epochs,
    )  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_upstreams_augmentation(name: str) -> None:
    scale, stretch, warp = PICTURES[name]
    used = upstream_recipe(spec_for(name)).augmentation
    assert (used.scale, used.stretch, used.warp, used.translate, used.flip) == (scale, stretch, warp, 0.2, 0.5)
    assert (used.brightness, used.contrast, used.saturation) == (0.2, (0.6, 1.4), (0.5, 1.2))
    assert (used.mosaic, used.mixup, used.crop, used.hue, used.blur, used.noise, used.jpeg) == (0,) * 7


def test_warm_up_counts_steps_and_decay_counts_epochs() -> None:
    schedule = upstream_recipe(spec_for("nanodet-g_416")).schedule
    assert schedule.factor(0, 0) == pytest.approx(0.01)
    assert schedule.factor(250, 0) == pytest.approx(0.01 + 0.99 / 2)
    assert schedule.factor(500, 0) == 1
    for epoch, factor in ((129, 1), (130, 0.1), (159, 0.1), (160, 0.01), (175, 1e-3), (185, 1e-4)):
        assert schedule.factor(10_000, epoch / 190) == pytest.approx(factor, rel=1e-9)
    assert schedule.factor(250, 130 / 190) == pytest.approx(0.505 * 0.1)  # a small set: few steps in many epochs


@pytest.mark.parametrize("steps_an_epoch", [1, 3, 7, 616])
def test_milestones_fall_on_the_first_step_of_their_epoch(steps_an_epoch: int) -> None:
    schedule = upstream_recipe(spec_for("nanodet-m_320")).schedule
    first, steps = 240 * steps_an_epoch, 280 * steps_an_epoch
    assert schedule.factor(10_000, first / steps) == pytest.approx(0.1)
    assert schedule.factor(10_000, (first - 1) / steps) == 1


def test_the_cosine_of_plus_ends_at_its_least_rate() -> None:
    recipe = upstream_recipe(spec_for("nanodet-plus-m_416"))
    rates = {share: recipe.scaled_lr * recipe.schedule.factor(5000, share) for share in (0, 0.25, 0.5, 1)}
    half = 5e-5 + (1e-3 - 5e-5) / 2
    quarter = 5e-5 + (1e-3 - 5e-5) * (1 + math.cos(math.pi / 4)) / 2
    assert rates == pytest.approx({0: 1e-3, 0.25: quarter, 0.5: half, 1: 5e-5})


def test_flat_then_cosine() -> None:
    schedule = Schedule("flat-cosine", flat=0.5, last=0.02, warmup_steps=200, warmup_share=0.05, warmup_from=0.01)
    assert [schedule.factor(1000, share) for share in (0.1, 0.5)] == [1, 1]
    assert schedule.factor(1000, 0.75) == pytest.approx(0.51)
    assert schedule.factor(1000, 1) == pytest.approx(0.02)
    assert schedule.factor(0, 0) == pytest.approx(0.01)
    assert schedule.factor(100, 0.001) == pytest.approx(0.505)
    assert schedule.factor(5, 0.025) == pytest.approx(0.505)  # a short run: half of the longest share


def test_the_rate_scales_with_the_batch() -> None:
    upstream = upstream_recipe(spec_for("nanodet-plus-m_416"))
    assert replace(upstream, batch=24).scaled_lr == pytest.approx(1e-3 / 4)
    tuned = plain(batch=128)
    assert tuned.reference_batch == 32 and tuned.scaled_lr == pytest.approx(1e-3 * 2)


@pytest.mark.parametrize(
    ("pictures", "batch", "steps"),
    [(1, 1, 1500), (20, 20, 1500), (205, 32, 1500), (1000, 32, 3125), (10_000, 32, 20_000), (118_287, 32, 20_000)],
)
def test_a_fine_tune_has_the_steps_that_its_set_needs(pictures: int, batch: int, steps: int) -> None:
    spec = spec_for("nanodet-g_416")
    recipe = default_recipe(spec, pictures, from_scratch=False)
    assert (recipe.batch, recipe.steps, recipe.epochs) == (batch, steps, None)
    assert (recipe.optimiser, recipe.decays_all, recipe.schedule.shape) == ("adamw", False, "flat-cosine")
    assert recipe.averaging is not None and recipe.final_augmentation is None
    scratch = default_recipe(spec, pictures, from_scratch=True)
    assert scratch.steps == 10 * steps and scratch.final_augmentation == Augmentation.light()
    assert scratch.augmentation == Augmentation.strong() and scratch.final_share == 0.1


def test_another_length_keeps_shares() -> None:
    recipe = upstream_recipe(spec_for("nanodet-g_416"))
    assert shortened(recipe) == recipe
    assert shortened(recipe, epochs=19) == replace(recipe, epochs=19)
    assert shortened(recipe, steps=1900) == replace(recipe, steps=1900, epochs=None)


def test_a_line_says_the_recipe() -> None:
    assert upstream_recipe(spec_for("nanodet-m_320")).line() == (
        "recipe upstream: SGD, learning rate 0.14 (steps), batch 192, 280 epochs, no average"
    )
    assert "AdamW" in plain().line() and "1500 steps" in plain().line() and "average 0.9995" in plain().line()


def test_decay_leaves_vectors_alone_unless_the_recipe_decays_all() -> None:
    network = TrainingNetwork(narrow_spec())
    weights, vectors = make_optimiser(network, plain(weight_decay=0.05)).param_groups
    assert weights["weight_decay"] == 0.05 and all(each.ndim == 4 for each in weights["params"])
    assert vectors["weight_decay"] == 0 and all(each.ndim == 1 for each in vectors["params"])
    trained = [each for each in network.parameters() if each.requires_grad]
    assert len(weights["params"]) + len(vectors["params"]) == len(trained)
    (all_alike,) = make_optimiser(network, upstream_recipe(spec_for("nanodet-g_416"))).param_groups
    assert len(all_alike["params"]) == len(trained) and all_alike["weight_decay"] == 1e-4
    assert all_alike["momentum"] == 0.9 and all_alike["lr"] == pytest.approx(0.1)


def test_the_average_is_upstreams_over_parameters_and_buffers() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    average = AveragedWeights(network, Averaging(0.9998, 2000))
    by_hand = {name: value.double() for name, value in network.state_dict().items()}
    torch.manual_seed(0)
    for step in range(30):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += torch.randn_like(parameter)
        network(torch.randn(2, 1, 4, 4))  # moves the running statistics
        share = 0.9998 * math.exp(-(1 + step) / 2000) + (1 - 0.9998)
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                by_hand[name] = (1 - share) * by_hand[name] + share * value.double()
        average.update(step)
    assert {"0.weight", "0.bias", "1.running_mean", "1.running_var"} <= set(by_hand)
    for name in ("0.weight", "0.bias", "1.weight", "1.running_mean", "1.running_var"):
        torch.testing.assert_close(average.values[name].double(), by_hand[name], rtol=1e-5, atol=1e-6)
    assert int(average.values["1.num_batches_tracked"]) == 30


def test_the_average_follows_late() -> None:
    network = nn.Conv2d(1, 1, 1, bias=False)
    average = AveragedWeights(network, Averaging(0.9998, 2000))
    with torch.no_grad():
        network.weight += 1
    before = float(average.values["weight"])
    average.update(100_000)  # the warm-up is over
    assert float(average.values["weight"]) - before == pytest.approx(2e-4, rel=1e-2)


def test_a_length_in_steps_or_epochs() -> None:
    assert Length.of(plain(steps=1500), 205, None) == Length(1500, None)
    assert Length.of(plain(steps=None, epochs=10, batch=32), 205, None) == Length(65, None)  # 64.06 batches
    assert Length.of(plain(steps=None, epochs=1, batch=32), 5, None) == Length(1, None)
    length = Length(200, None)
    assert [length.share(State(step=step)) for step in (0, 50, 200)] == [0, 0.25, 1]
    assert not length.is_over(State(step=199)) and length.is_over(State(step=200))
    assert length.expected_s(State(step=0)) is None
    assert length.expected_s(State(step=50, elapsed_s=10)) == pytest.approx(30)


def test_a_budget_leaves_time_for_the_last_validation() -> None:
    length = Length.of(plain(), 205, 100.0)
    assert length.share(State(step=10_000, elapsed_s=25)) == pytest.approx(0.25)
    assert length.share(State(elapsed_s=35, validated_s=20)) == pytest.approx(35 / (100 - 26))
    assert length.is_over(State(elapsed_s=75, validated_s=20)) and not length.is_over(
        State(elapsed_s=73, validated_s=20)
    )
    assert length.is_over(
        State(elapsed_s=1, validated_s=90)
    )  # a validation as long as the budget: the next is the last
