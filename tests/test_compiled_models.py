"""Compiled models in the cache folder: when one is used, and when the model is compiled again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openvino")

from streamer.common.errors import EngineError
from streamer.detector import compiled_models, open_detector, self_check
from streamer.detector.speeds import Speed, measured_speeds
from streamer.engines.openvino_engine import OpenVinoEngine
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from tests.test_self_check import wrong_copy
from tests.tiny import tiny_model, tiny_spec, write_tiny
from tests.variants import as_ir

OPTIONS: dict[str, Any] = {"engine": "openvino", "depth": 1, "conf": 0.05}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("NANODET_STREAMER_CACHE", str(folder))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model file."""
    return write_tiny(tmp_path / "tiny.onnx")


@pytest.fixture
def graphs_read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The models whose graph is read, so those that are compiled."""
    from streamer.models import file

    read: list[Path] = []
    load_model = file.load_model

    def load(path: Path, *arguments: Any) -> Any:
        read.append(path)
        return load_model(path, *arguments)

    monkeypatch.setattr(file, "load_model", load)
    return read


def found_by(model: Path, **options: Any) -> Detections:
    """What a new detector finds in noise."""
    pixels = np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8)
    with open_detector(model, **{**OPTIONS, **options}) as detector:
        detector.submit(Frame(pixels, "noise", 0, 0.0, 0.0))
        return detector.collect()[1]


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "compiled").glob("*"))


def assert_equal(one: Detections, other: Detections) -> None:
    assert len(one)
    np.testing.assert_array_equal(one.boxes_xyxy, other.boxes_xyxy)
    np.testing.assert_array_equal(one.scores, other.scores)


def test_the_second_start_reads_no_graph_and_finds_the_same(model: Path, graphs_read: list[Path]) -> None:
    first = found_by(model)
    assert graphs_read == [model]
    assert_equal(found_by(model), first)
    assert graphs_read == [model]


def test_a_restored_detector_says_the_same_of_itself(model: Path) -> None:
    with open_detector(model, **OPTIONS) as one, open_detector(model, **OPTIONS) as other:
        assert (one.info, one.labels, one.depth) == (other.info, other.labels, other.depth)


@pytest.mark.parametrize("slots", [None, 1, 3])
def test_each_number_of_requests_is_compiled_for_itself(
    model: Path, graphs_read: list[Path], slots: int | None
) -> None:
    found_by(model, depth=2)
    with open_detector(model, **{**OPTIONS, "depth": slots}) as compiled:
        pass
    with open_detector(model, **{**OPTIONS, "depth": slots}) as restored:
        assert restored.depth == compiled.depth
    assert len(graphs_read) == 2


def test_with_many_streams_the_second_start_reads_no_graph_either(
    model: Path, graphs_read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.detector.cpu.tune_batch", lambda *_: 2)
    for _ in range(2):
        found_by(model, depth=None, batch="auto", streams=3)
    assert graphs_read == [model]


def test_new_weights_in_an_ir_are_noticed(tmp_path: Path, graphs_read: list[Path]) -> None:
    spec = tiny_spec()
    folders = [tmp_path / "one", tmp_path / "other"]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        path = folder / "m.onnx"
        path.write_bytes(tiny_model(spec, seed=seed).SerializeToString())
        as_ir(path)
        (folder / "m.yaml").write_text(described_in_yaml())
    one, other = (folder / "m.xml" for folder in folders)
    first = found_by(one)
    shutil.copyfile(other.with_suffix(".bin"), one.with_suffix(".bin"))
    second = found_by(one)
    assert graphs_read == [one, one]
    assert_equal(second, found_by(one))
    assert graphs_read == [one, one]
    assert_equal(second, found_by(other))
    assert len(first) != len(second) or not np.array_equal(first.scores, second.scores)


def described_in_yaml() -> str:
    spec = tiny_spec()
    return "\n".join(
        [
            "name: tiny",
            "family: nanodet",
            "input_size_wh: [64, 64]",
            "keep_ratio: true",
            f"mean_bgr: {list(spec.mean_bgr)}",
            f"std_bgr: {list(spec.std_bgr)}",
            "strides: [8, 16, 32]",
            "reg_max: 3",
            "anchor_offset: 0.5",
            "activation: LeakyReLU",
            f"labels: {list(spec.labels)}",
        ]
    )


def test_new_labels_beside_an_ir_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_model(tiny_spec()).SerializeToString())
    as_ir(path)
    description = tmp_path / "m.yaml"
    for label in ("person", "lorry"):
        description.write_text(described_in_yaml().replace("person", label))
        with open_detector(path.with_suffix(".xml"), **OPTIONS) as detector:
            assert detector.labels[0] == label


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr("streamer.common.openvino_core.openvino_version", lambda: "2030.1"),
        lambda patch: patch.setattr(compiled_models, "processor_flags", lambda: frozenset({"avx9"})),
        lambda patch: patch.setattr(compiled_models, "processor_name", lambda: "another"),
        lambda patch: patch.setattr(compiled_models, "__version__", "9.9"),
        lambda patch: patch.setattr(compiled_models, "_CODE", ("models/*.py",)),
        lambda patch: patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2"),
    ],
    ids=["openvino", "flags", "processor", "version", "code", "environment"],
)
def test_what_it_was_compiled_for_has_changed(
    model: Path, graphs_read: list[Path], monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None]
) -> None:
    found_by(model)
    change(monkeypatch)
    found_by(model)
    assert len(graphs_read) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-9] + b"\0" + content[-8:],
        lambda content: b"\0" * len(content),
        lambda content: b"[" * 200_000 + b"\n",
        lambda content: b"{}\n" + content,
        lambda content: content.partition(b"\n")[0] + b"\n",
    ],
)
def test_a_damaged_entry_is_replaced(
    model: Path, cache: Path, graphs_read: list[Path], damage: Callable[[bytes], bytes]
) -> None:
    first = found_by(model)
    (entry,) = entries(cache)
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert_equal(found_by(model), first)
    assert len(graphs_read) == 2
    found_by(model)
    assert len(graphs_read) == 2


def test_the_speed_is_measured_once(model: Path, cache: Path) -> None:
    found_by(model)
    (measured,) = measured_speeds().values()
    assert measured.fps > 0
    assert measured.engine.startswith("openvino ")
    found_by(model)
    assert list(measured_speeds().values()) == [measured]
    (entry,) = entries(cache)
    entry.write_bytes(b"[")
    assert measured_speeds() == {}


def test_of_several_speeds_the_best_counts(cache: Path) -> None:
    folder = cache / "compiled"
    folder.mkdir(parents=True)
    for number, (fps, busy) in enumerate([(30, True), (90, False), (50, False)]):
        header = {"model_sha256": "a", "precision": "int8", "fps": fps, "busy": busy}
        (folder / str(number).rjust(32, "0")).write_text(json.dumps(header) + "\n")
    assert measured_speeds() == {"a": Speed(90.0, "openvino int8", False)}
    assert str(Speed(30.4, "openvino f32", True)) == "at least 30 a second, openvino f32"


def test_what_openvino_refuses_is_compiled_again(
    model: Path, graphs_read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(OpenVinoEngine, "export", lambda _: b"no compiled model")
        first = found_by(model)
    assert_equal(found_by(model), first)
    assert len(graphs_read) == 2


def test_a_restored_engine_that_computes_something_else_is_not_used(
    model: Path, graphs_read: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = found_by(model)
    with monkeypatch.context() as patch:
        patch.setattr(compiled_models, "difference", lambda *_: "missed class 0 at score 0.90")
        assert_equal(found_by(model), first)
    assert len(graphs_read) == 2
    assert "compiled again: what was kept of it computes wrongly (missed class 0 at score 0.90)" in caplog.text


def test_what_fails_the_self_check_is_not_kept(tmp_path: Path, cache: Path) -> None:
    wrong = wrong_copy(tmp_path)
    for _ in range(2):
        with pytest.raises(EngineError, match="wrongly"):
            open_detector(wrong, **OPTIONS)
    assert not entries(cache)


def test_what_was_not_checked_is_not_kept(model: Path, cache: Path, graphs_read: list[Path]) -> None:
    found_by(model, self_check=False)
    assert not entries(cache)
    found_by(model)
    found_by(model, self_check=False)
    assert len(graphs_read) == 2


def test_external_weights_are_not_kept(tmp_path: Path, cache: Path) -> None:
    import onnx

    path = tmp_path / "m.onnx"
    onnx.save(onnx.load(write_tiny(path)), path, save_as_external_data=True, size_threshold=0, location="m.data")
    found_by(path)
    assert not entries(cache)


def test_a_cache_that_cannot_be_written_changes_nothing(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, graphs_read: list[Path]
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("NANODET_STREAMER_CACHE", str(tmp_path / "file" / "cache"))
    assert_equal(found_by(model), found_by(model))
    assert len(graphs_read) == 2


def test_the_newest_entries_are_kept(model: Path, cache: Path) -> None:
    for threads in range(1, 11):
        found_by(model, threads=threads)
    assert len(entries(cache)) == 8


def test_processes_share_the_cache(model: Path, cache: Path) -> None:
    code = (
        "import sys; from streamer import open_detector; from streamer.detector.self_check import packaged_frame\n"
        "with open_detector(sys.argv[1], engine='openvino', depth=1, conf=0.05) as detector:\n"
        "    detector.submit(packaged_frame()); print(detector.collect()[1].scores.tolist())"
    )
    command = [sys.executable, "-c", code, str(model)]
    root = Path(self_check.__file__).parents[2]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, text=True) for _ in range(3)]
    printed = {process.communicate(timeout=120)[0] for process in started}
    assert all(process.returncode == 0 for process in started)
    assert len(printed) == 1
    assert len(entries(cache)) == 1
