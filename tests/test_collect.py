"""The verb collect: the folder that it writes and goes on with, its limits, its faults."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from calibration import collection as module
from calibration.cli import main
from calibration.collection import Collection, CollectionLimits, yolo_text
from calibration.dataset import read_samples
from calibration.frame_choice import Chosen, Reason
from streamer.common.errors import ConfigError
from streamer.frames.detections import Detections
from streamer.sources.base import SourceInfo
from tests.labelled_data import BOX, write_yaml, yolo_set
from tests.media import picture, write_clip
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer
from tests.tiny import LABELS, write_tiny

ROOT = Path(__file__).resolve().parent.parent
DOOR = SourceInfo("front door", "rtsp://***@10.0.0.7/live")
MANY = CollectionLimits(100, 10**9, 0.1)


def chosen(number: int, *, reason: Reason = Reason.NEAR_THRESHOLD) -> Chosen:
    found = Detections(
        np.array([[10, 20, 40, 60], [-5, 0, 20, 30]], np.float32),
        np.array([0.9, 0.3], np.float32),
        np.array([2, 0], np.int64),
    )
    return Chosen(picture(number * 2500 + 100), found, number, number / 10, (reason,))


def opened(folder: Path, limits: CollectionLimits = MANY, **options: Any) -> Collection:
    return Collection(folder, LABELS, limits, **{"model": "tiny", "label_conf": 0.4} | options)


def entries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


class TestCollection:
    def test_a_picture_its_labels_its_line_and_data_yaml(self, tmp_path: Path) -> None:
        collection = opened(tmp_path / "more")
        assert collection.add(chosen(1), DOOR)
        assert files(tmp_path / "more") == [
            "data.yaml", "images/front_door-000001.jpg", "index.jsonl", "labels/front_door-000001.txt",
        ]  # fmt: skip
        image = cv2.imread(str(tmp_path / "more/images/front_door-000001.jpg"))
        assert np.abs(image.astype(int) - chosen(1).image).mean() < 3
        (sample,) = read_samples(tmp_path / "more/images", tmp_path / "more/labels", LABELS)
        assert sample.class_ids.tolist() == [2]
        assert sample.boxes_cxcywh[0] * [96, 64, 96, 64] == pytest.approx([25, 40, 30, 40], abs=1e-3)
        data = yaml.safe_load((tmp_path / "more/data.yaml").read_text())
        assert data == {"path": ".", "train": "images", "names": dict(enumerate(LABELS))}
        (entry,) = entries(tmp_path / "more")
        assert entry["file"] == "images/front_door-000001.jpg" and entry["uri"] == DOOR.uri
        assert (entry["source"], entry["frame"], entry["time_s"], entry["why"]) == (
            "front door", 1, 0.1, ["near-threshold"],
        )  # fmt: skip
        assert entry["detections"] == [{"class": "cat", "score": 0.9}, {"class": "person", "score": 0.3}]
        assert collection.summary().endswith("1 of them new (1 near-threshold), 0 near-duplicates left out")

    def test_labels_are_clipped_and_those_outside_left_out(self) -> None:
        boxes = np.array([[-10, 0, 50, 50], [200, 10, 300, 20], [0, 0, 100, 100]], np.float32)
        found = Detections(boxes, np.array([0.9, 0.8, 0.2], np.float32), np.array([1, 1, 1], np.int64))
        assert yolo_text(found, (100, 100), 0.4) == "1 0.250000 0.250000 0.500000 0.500000\n"

    def test_no_labels_where_none_are_wanted(self, tmp_path: Path) -> None:
        assert opened(tmp_path, label_conf=None).add(chosen(1), DOOR)
        assert not any((tmp_path / "labels").iterdir())

    def test_what_looks_alike_is_left_out_also_in_a_later_run(self, tmp_path: Path) -> None:
        first = opened(tmp_path)
        assert first.add(chosen(1), DOOR) and not first.add(chosen(1), DOOR)
        assert first.duplicates == 1
        second = opened(tmp_path)
        assert not second.add(chosen(1), DOOR) and second.add(chosen(2), DOOR)

    def test_a_file_that_is_read_again_gives_nothing_next_to_what_it_gave(self, tmp_path: Path) -> None:
        limits = CollectionLimits(9, 10**9, 0.1, every_s=0.5)
        clip = SourceInfo("clip", "clip.mp4", path=Path("clip.mp4"))
        assert opened(tmp_path, limits).add(chosen(1), clip)
        again = opened(tmp_path, limits)
        assert [again.add(chosen(number), clip) for number in (2, 5, 6, 10)] == [False, False, True, False]
        other = SourceInfo("other", "other.mp4", path=Path("other.mp4"))
        assert again.add(chosen(2), other)
        assert again.add(chosen(3), DOOR) and again.add(chosen(4), DOOR)  # a camera's times begin anew in each run

    def test_another_run_goes_on_and_overwrites_nothing(self, tmp_path: Path) -> None:
        first = opened(tmp_path, CollectionLimits(3, 10**9, 0.1))
        assert [first.add(chosen(number), DOOR) for number in range(2)] == [True, True]
        before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path) if name != "index.jsonl"}
        second = opened(tmp_path, CollectionLimits(3, 10**9, 0.1))
        assert second.count == 2 and second.size_bytes == first.size_bytes
        assert [second.add(chosen(number), DOOR) for number in (2, 3)] == [True, False]
        assert second.is_full
        assert {name: (tmp_path / name).read_bytes() for name in before} == before
        assert [entry["file"] for entry in entries(tmp_path)] == [
            f"images/front_door-{number:06}.jpg" for number in (1, 2, 3)
        ]

    def test_bytes_are_bounded(self, tmp_path: Path) -> None:
        collection = opened(tmp_path, CollectionLimits(100, 1, 0.1))
        assert collection.add(chosen(1), DOOR) and not collection.add(chosen(2), DOOR)
        assert collection.is_full and opened(tmp_path, CollectionLimits(100, 1, 0.1)).is_full
        on_disk = sum((tmp_path / name).stat().st_size for name in files(tmp_path) if name[:6] in ("images", "labels"))
        assert collection.size_bytes == on_disk

    def test_random_ones_do_not_exceed_their_share(self, tmp_path: Path) -> None:
        collection = opened(tmp_path, CollectionLimits(100, 10**9, 0.25))
        for number in range(24):
            due = any(collection.random_is_due() for _ in range(50))
            collection.add(chosen(number, reason=Reason.RANDOM if due else Reason.NEAR_THRESHOLD), DOOR)
        assert collection.reasons[Reason.RANDOM] == collection.count // 4
        assert not any(opened(tmp_path, CollectionLimits(100, 10**9, 0.1)).random_is_due() for _ in range(50))
        assert not any(opened(tmp_path / "b", CollectionLimits(9, 9, 0.0)).random_is_due() for _ in range(50))

    @pytest.mark.parametrize("torn", [b'{"file": "images/a', b"[]\n", b"\xff\n"])
    def test_a_line_that_a_power_cut_left_unfinished(
        self, tmp_path: Path, torn: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        opened(tmp_path).add(chosen(1), DOOR)
        with (tmp_path / "index.jsonl").open("ab") as index:
            index.write(torn)
        collection = opened(tmp_path)
        assert "a line of it is damaged" in caplog.text
        assert collection.count == 1 and collection.add(chosen(2), DOOR)
        assert opened(tmp_path).count == 2

    def test_a_picture_without_a_line_is_not_overwritten(self, tmp_path: Path) -> None:
        opened(tmp_path).add(chosen(1), DOOR)
        orphan = tmp_path / "images" / "front_door-000007.jpg"
        orphan.write_bytes(b"kept")
        opened(tmp_path).add(chosen(2), DOOR)
        assert orphan.read_bytes() == b"kept"
        assert entries(tmp_path)[-1]["file"] == "images/front_door-000008.jpg"

    @pytest.mark.parametrize("at", ["image", "label", "index"])
    def test_of_a_frame_that_a_full_disk_refuses_nothing_stays(
        self, tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        collection = opened(tmp_path)
        collection.add(chosen(1), DOOR)
        before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if at == "index":

            def refuse(_: int) -> None:
                raise full

            monkeypatch.setattr(module.os, "fsync", refuse)
        else:
            write, suffix = module.write_whole, {"image": ".jpg", "label": ".txt"}[at]

            def write_or_refuse(path: Path, content: bytes) -> None:
                if path.suffix == suffix:
                    raise ConfigError(f"{path}: can't be written: {full.strerror}")
                write(path, content)

            monkeypatch.setattr(module, "write_whole", write_or_refuse)
        assert not collection.add(chosen(2), DOOR)
        assert "No space left on device" in str(collection.failure)
        assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before
        monkeypatch.undo()
        assert not collection.add(chosen(3), DOOR)  # it has stopped for good
        assert opened(tmp_path).add(chosen(3), DOOR)

    def test_folders_of_something_else_are_refused(self, tmp_path: Path) -> None:
        opened(tmp_path / "coco").add(chosen(1), DOOR)
        with pytest.raises(ConfigError, match=r"data\.yaml: is of other classes"):
            Collection(tmp_path / "coco", ("blood",), MANY, model="b", label_conf=None)
        (tmp_path / "own/images").mkdir(parents=True)
        (tmp_path / "own/images/a.jpg").write_bytes(b"mine")
        with pytest.raises(ConfigError, match="has pictures of something else"):
            opened(tmp_path / "own")
        assert files(tmp_path / "own") == ["images/a.jpg"]
        (tmp_path / "own/data.yaml").write_text("a: [")
        with pytest.raises(ConfigError, match="can't collect there: not YAML"):
            opened(tmp_path / "own")
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="can't collect there"):
            opened(tmp_path / "file")

    @pytest.mark.parametrize("folder", ["", "train", "images", "images/train", "images/train/more"])
    def test_folders_of_training_data_are_refused_and_left_as_they_are(self, tmp_path: Path, folder: str) -> None:
        data = yolo_set(tmp_path, {"train": {"a": BOX}, "val": {"b": BOX}}, dict(enumerate(LABELS)))
        (tmp_path / "train").mkdir()
        (tmp_path / "train/a.xml").write_text("<annotation/>")
        data.write_text(data.read_text().replace("val: images/val", "val: [images/val, train]"))
        before = files(tmp_path)
        with pytest.raises(ConfigError, match="training data|pictures of something else"):
            opened(tmp_path / folder)
        assert files(tmp_path) == before

    def test_a_collection_that_is_training_data_goes_on_and_says_so(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert opened(tmp_path / "more").add(chosen(1), DOOR) and not caplog.messages
        data = write_yaml(tmp_path, "train: more/images\nnames: [a]\n")
        assert opened(tmp_path / "more").add(chosen(2), DOOR)
        assert f"what is collected is training data of {data} at once: correct the new labels" in caplog.text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny(tmp_path_factory.mktemp("model") / "tiny.onnx"))


def collect(*arguments: str | Path) -> int:
    return main(["collect", *map(str, arguments), "--device", "cpu", "--engine", "openvino"])


class TestVerb:
    def test_two_clips_evenly_then_again(self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        for name, frames in (("a", 40), ("b", 25)):
            write_clip(tmp_path / f"{name}.mp4", frames, fps=10)
        sources = ["--source", tmp_path / "a.mp4", "--source", f"yard={tmp_path / 'b.mp4'}"]
        arguments = [*sources, "-o", tmp_path / "more", "--all-frames", "--every", "1s", "--model", model]
        assert collect(*arguments) == 0
        found = entries(tmp_path / "more")
        assert sorted(entry["frame"] for entry in found) == [0, 10, 20, 30]  # where both show the same, one is left out
        assert {entry["source"] for entry in found} <= {"a", "yard"} and ("a", 30) in {
            (entry["source"], entry["frame"]) for entry in found
        }
        assert "4 pictures" in capsys.readouterr().out
        assert collect(*arguments) == 0
        assert "4 pictures, 0.0 MB; 0 of them new, 7 near-duplicates left out" in capsys.readouterr().out
        assert collect(*arguments, "--count", "4") == 0
        assert "full; give a larger --count" in capsys.readouterr().out

    def test_it_ends_when_the_folder_is_full(self, tmp_path: Path, model: str) -> None:
        clip = write_clip(tmp_path / "a.mp4", 200, fps=10)
        arguments = ["--source", clip, "-o", tmp_path / "more", "--all-frames", "--every", "0.5s", "--model", model]
        assert collect(*arguments, "--count", "3") == 0
        assert len(entries(tmp_path / "more")) == 3

    def test_a_full_disk_is_one_line(
        self, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def refuse(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(module.os, "fsync", refuse)
        clip = write_clip(tmp_path / "a.mp4", 30, fps=10)
        assert collect("--source", clip, "-o", tmp_path / "more", "--all-frames", "--model", model) == 1
        printed = capsys.readouterr()
        assert printed.err.count("\n") == 1 and "index.jsonl: can't be written: No space left on device" in printed.err
        assert files(tmp_path / "more") == ["data.yaml", "index.jsonl"]
        assert (tmp_path / "more/index.jsonl").read_bytes() == b""

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--count", "0"], "--count wants at least 1"),
            (["--band", "0"], "--band wants a number from 0.001 to 1"),
            (["--random", "2"], "--random wants a number from 0 to 1"),
            (["--conf", "nan"], "--conf wants a number from 0 to 1"),
            (["--every", "often"], "--every 'often': wanted a length of time"),
            (["--duration", "0"], "--duration '0': wanted a length of time"),
            (["--max-size", "much"], "--max-size 'much': wanted a size"),
            (["--source", "a.mp4"], "two sources are named 'a'"),
        ],
    )
    def test_wrong_options(
        self, options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert collect("--source", "a.mp4", "-o", tmp_path / "more", *options) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "more").exists()

    def test_a_source_that_is_not_there(self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert collect("--source", tmp_path / "none.mp4", "-o", tmp_path / "more", "--model", model) == 1
        assert "does not exist" in capsys.readouterr().err

    @pytest.mark.slow
    def test_uncertain_frames_of_the_sample(self, tmp_path: Path) -> None:
        assert collect("--source", "sample", "-o", tmp_path, "--near-threshold", "--random", "0") == 0
        found = entries(tmp_path)
        assert 2 <= len(found) <= 5
        for entry in found:
            is_near = any(abs(each["score"] - 0.4) < 0.15 for each in entry["detections"])
            assert is_near == ("near-threshold" in entry["why"])
        images = [cv2.imread(str(tmp_path / entry["file"])) for entry in found]
        assert {image.shape for image in images} == {(720, 1280, 3)}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_live_run_and_no_password_is_written(
    tmp_path: Path, model: str, number: signal.Signals, status: int
) -> None:
    with RtspServer(Loop(fps=30), credentials="admin:hunter2") as server:
        url = server.url.replace("rtsp://", "rtsp://admin:hunter2@")
        arguments = ["collect", "--source", url, "-o", "more", "--all-frames", "--every", "0.2s", "--model", model]
        process = subprocess.Popen(
            [sys.executable, "-m", "calibration", *arguments, "--device", "cpu"],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        index = tmp_path / "more" / "index.jsonl"
        while not index.exists() or index.read_text().count("\n") < 2:
            assert process.poll() is None, process.communicate()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    found = entries(tmp_path / "more")
    assert f"more: {len(found)} pictures" in out
    images = files(tmp_path / "more")
    assert [entry["file"] for entry in found] == [name for name in images if name.startswith("images/")]
    assert all(entry["uri"].startswith("rtsp://***@127.0.0.1") for entry in found)
    kept = [path.read_bytes() for path in (tmp_path / "more").rglob("*") if path.is_file()]
    assert not any(b"hunter2" in content for content in [*kept, out.encode(), err.encode(), *map(str.encode, images)])
