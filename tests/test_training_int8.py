"""Simulated INT8 against a reference in NumPy, and against the AP of the exported file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnxruntime = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch", reason="training is written in PyTorch")

from torch import Tensor, nn  # noqa: E402

from calibration.accuracy import coco_accuracy  # noqa: E402
from calibration.checkpoint import load_checkpoint  # noqa: E402
from calibration.dataset import read_samples  # noqa: E402
from calibration.export import export  # noqa: E402
from calibration.methods import Quantizer  # noqa: E402
from calibration.pictures import network_input, read_picture  # noqa: E402
from calibration.run_folder.results_table import read_results  # noqa: E402
from calibration.training.int8_simulation import simulate_int8  # noqa: E402
from calibration.training.photometry import network_inputs  # noqa: E402
from calibration.training.validation import Validator  # noqa: E402
from streamer.models.file import load_model  # noqa: E402
from streamer.models.nanodet import build, fuse_batchnorm, load_into  # noqa: E402
from streamer.models.spec import spec_for  # noqa: E402
from tests.test_nanodet import FAMILIES, randomised, tiny  # noqa: E402
from tests.training_runs import CPU, one_thread, small_job, small_training, write_set  # noqa: E402, F401


def rounded_inputs(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Rounds to 256 levels between a range that is widened to 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / 255, 1e-12)
    zero = min(max(round(-low / scale), 0), 255)
    levels = np.clip(np.rint(values.astype(np.float64) / np.float32(scale)) + zero, 0, 255)
    return (levels - zero) * scale


def rounded_weights(weight: np.ndarray) -> np.ndarray:
    """Rounds to -127 to 127 steps of each output channel."""
    scales = np.abs(weight).max((1, 2, 3), keepdims=True).astype(np.float64) / 127
    return np.clip(np.rint(weight / scales), -127, 127) * scales


def assert_rounded(got: np.ndarray, wanted: np.ndarray, step: np.ndarray) -> None:
    """Values in the middle of two levels may go either way, in float32."""
    steps = np.abs(got - wanted) / step
    assert steps.max() < 1.01 and (steps > 1e-2).mean() < 0.01


@pytest.mark.parametrize("name", FAMILIES)
def test_each_convolution_has_rounded_weights_and_inputs(name: str) -> None:
    spec = tiny(name)
    network = randomised(spec)
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    plain = build(spec)
    load_into(plain, network.state_dict())
    fuse_batchnorm(plain)
    given: dict[str, list[Tensor]] = {}
    for key, layer in plain.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(lambda _, inputs, key=key: given.setdefault(key, []).append(inputs[0]))  # type: ignore[misc]
    with torch.inference_mode():
        for batch in images.split(2):
            plain(batch)
    simulate_int8(network, images.split(2))

    arrived: dict[str, Tensor] = {}
    layers, floats = dict(network.named_modules()), dict(plain.named_modules())
    for key, seen in given.items():
        layer, before = layers[key], floats[key]
        assert isinstance(layer, nn.Conv2d) and isinstance(before, nn.Conv2d)
        wanted = rounded_weights(before.weight.detach().numpy())
        assert_rounded(layer.weight.detach().numpy(), wanted, np.abs(wanted).max((1, 2, 3), keepdims=True) / 127)
        (hook,) = layer._forward_pre_hooks.values()
        values = torch.cat(seen)
        low, high = float(values.min()), float(values.max())
        step = (max(high, 0) - min(low, 0)) / 255
        assert_rounded(hook(layer, (values,))[0].numpy(), rounded_inputs(values.numpy(), low, high), np.array(step))
        layer.register_forward_pre_hook(lambda _, inputs, key=key: arrived.update({key: inputs[0]}))  # type: ignore[misc]
    with torch.inference_mode():
        network(images[:2])
    assert arrived.keys() == given.keys()
    assert all(len(values.unique()) <= 256 for values in arrived.values())


def test_zero_stays_zero() -> None:
    """Padding is 0 in the exported file too."""
    network = randomised(tiny())
    images = torch.rand(2, 3, 64, 64) + 3  # a range without 0
    simulate_int8(network, [images])
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer._forward_pre_hooks]
    assert len(convolutions) > 10
    for layer in convolutions:
        (hook,) = layer._forward_pre_hooks.values()
        assert not bool(hook(layer, (torch.zeros(1, 2, 3, 3),))[0].any())


def test_without_a_range_nothing_is_rounded_to_nonsense() -> None:
    network = randomised(tiny())
    simulate_int8(network, [torch.zeros(1, 3, 64, 64)])  # the first convolution sees zeros only
    with torch.inference_mode():
        assert bool(network(torch.zeros(1, 3, 64, 64)).isfinite().all())


def test_validation_leaves_the_trained_network_alone(tmp_path: Path) -> None:
    data = write_set(tmp_path / "set")
    runs = {}
    for simulates in (False, True):
        job = small_job(data, tmp_path / f"{simulates}", steps=4, batch=8, validations=4, simulates_int8=simulates)
        runs[simulates] = training = small_training(job)
        training.run()
        rows = read_results(job.folder.results)
        best = [max(each.AP or 0 for each in rows[:index]) if index else -1 for index in range(4)]
        measured = [
            simulates and (row is rows[-1] or (row.AP or 0) > before) for row, before in zip(rows, best, strict=True)
        ]
        assert [row.int8_AP is not None for row in rows] == measured
        assert training.network.training
        assert not any(module._forward_pre_hooks for module in training.network.modules())
    for name, value in runs[False].network.state_dict().items():
        assert torch.equal(value, runs[True].network.state_dict()[name]), name


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", ["nanodet-m_320"])
def test_the_simulated_ap_is_near_that_of_the_exported_file(name: str, shared: Path, tmp_path: Path) -> None:
    spec = spec_for(name)
    samples = read_samples(shared / "coco/calib/images", shared / "coco/calib/labels", spec.labels)[:80]
    checkpoint = shared / f"weights/{name}.pth"
    exported = export(spec, checkpoint, tmp_path / "float.onnx")
    pictures = [read_picture(sample, index, spec) for index, sample in enumerate(samples[:16])]
    original = load_model(exported.path).proto
    quantised = Quantizer(original, [network_input(picture, spec) for picture in pictures]).quantize("minmax", ())
    session = onnxruntime.InferenceSession(quantised.SerializeToString(), providers=["CPUExecutionProvider"])

    def exported_network(images: Tensor) -> Tensor:
        output = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])
        output[..., : spec.num_classes] = torch.logit(output[..., : spec.num_classes], 1e-6)
        return output

    network = build(spec)
    load_into(network, load_checkpoint(checkpoint)[0])
    validator = Validator(samples[16:], spec, shared)
    inputs = torch.from_numpy(np.stack([picture.pixels for picture in pictures]))
    measured = coco_accuracy(validator.samples, validator.detect(exported_network, CPU), spec.labels)
    plain = coco_accuracy(validator.samples, validator.detect(network, CPU), spec.labels)
    simulate_int8(network, network_inputs(inputs, spec).split(8))
    simulated = coco_accuracy(validator.samples, validator.detect(network, CPU), spec.labels)
    print(f"{name}: float {plain.AP:.2f}, exported INT8 {measured.AP:.2f}, simulated {simulated.AP:.2f}")
    assert plain.AP - 5 < simulated.AP < plain.AP + 1
    assert abs(simulated.AP - measured.AP) < 2.0
