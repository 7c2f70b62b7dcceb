"""Weights in a file beside the model: read from there, and from nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from streamer.common.errors import ModelError
from streamer.models.file import load_model
from tests.tiny import tiny_model, tiny_spec, write_tiny


def divided(folder: Path, location: str = "m.onnx.data") -> Path:
    """A tiny model whose weights are in another file."""
    path = folder / "m.onnx"
    onnx.save(tiny_model(tiny_spec()), path, save_as_external_data=True, location=location, size_threshold=0)
    return path


def changed(path: Path, **entries: str) -> Path:
    """The model, its first external tensor described otherwise."""
    model = onnx.load(path, load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    for entry in tensor.external_data:
        entry.value = entries.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_beside_the_model_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = divided(tmp_path)
    whole = load_model(write_tiny(tmp_path / "whole.onnx", described=False), tiny_spec())
    monkeypatch.chdir(tmp_path.parent)  # beside the model, not in the current folder
    loaded = load_model(path, tiny_spec())
    assert not any(tensor.external_data for tensor in loaded.proto.graph.initializer)
    for tensor, other in zip(loaded.proto.graph.initializer, whole.proto.graph.initializer, strict=True):
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), onnx.numpy_helper.to_array(other))


def test_weights_in_a_folder_beside_the_model_are_read(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    load_model(divided(tmp_path, "weights/m.data"), tiny_spec())


def test_the_hash_tells_weights_apart(tmp_path: Path) -> None:
    path = divided(tmp_path)
    before = load_model(path, tiny_spec()).sha256
    assert load_model(path, tiny_spec()).sha256 == before
    weights = tmp_path / "m.onnx.data"
    weights.write_bytes(b"\1" + weights.read_bytes()[1:])
    assert load_model(path, tiny_spec()).sha256 != before


@pytest.mark.parametrize("location", ["../m.data", "{folder}/m.data", "link.data", "a/../../m.data", ""])
def test_nothing_outside_of_the_folder_is_read(location: str, tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "m.data"
    inside.mkdir()
    path = divided(inside)
    outside.write_bytes((inside / "m.onnx.data").read_bytes())
    (inside / "link.data").symlink_to(outside)
    with pytest.raises(ModelError, match=r"outside of its folder.*onnx\.save") as caught:
        load_model(changed(path, location=location.format(folder=tmp_path)), tiny_spec())
    assert "\n" not in str(caught.value)


def test_a_missing_or_short_file_is_named(tmp_path: Path) -> None:
    path = divided(tmp_path)
    weights = tmp_path / "m.onnx.data"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"'m\.onnx\.data', which was cut short"):
        load_model(path, tiny_spec())
    weights.unlink()
    with pytest.raises(ModelError, match=r"'m\.onnx\.data' is not beside it: put it there"):
        load_model(path, tiny_spec())


@pytest.mark.parametrize("entries", [{"offset": "-8"}, {"offset": "x"}, {"length": "12"}, {"length": "9" * 40}])
def test_a_place_that_can_not_be_is_refused(entries: dict[str, str], tmp_path: Path) -> None:
    path = divided(tmp_path)
    with pytest.raises(ModelError, match="doesn't say rightly where"):
        load_model(changed(path, **entries), tiny_spec())


def test_a_huge_weight_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = divided(tmp_path)
    model = onnx.load(path, load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    tensor.dims[:] = [1 << 20, 1 << 20]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="more than 2 GB"):
        load_model(path, tiny_spec())
