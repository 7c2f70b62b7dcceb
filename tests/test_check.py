"""The verb `check`: what it tells of each fault, in which order, and with which exit status."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.__main__ import main
from calibration.data.duplicates import MOST_BITS, first_of_each, nearest_earlier
from calibration.data.exif import exif_orientation
from calibration.data.report import CheckReport
from calibration.data.scan import scan_picture, scan_pictures
from calibration.data.summary import SplitSummary
from tests.labelled_data import BOX, coco, voc, with_orientation, write_scene, write_yaml, yolo_set

GOOD = {
    "train": {f"t{n}": "0 .3 .3 .2 .2\n1 .7 .7 .2 .2\n" for n in range(12)},
    "val": {"v": "0 .5 .5 .3 .3\n1 .2 .2 .2 .2"},
}


def good(root: Path) -> Path:
    path = yolo_set(root, GOOD)
    write_scene(root / "images/val/w.png", 1000)
    (root / "labels/val/w.txt").write_text(BOX)
    return path


def check(capsys: pytest.CaptureFixture[str], path: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    """Runs `check`; returns the exit status, the findings by kind, and what was printed."""
    output = path.parent / "check.json"
    status = main(["check", str(path), "--json", str(output), *more])
    content = json.loads(output.read_text())
    return status, {finding["kind"]: finding for finding in content["findings"]}, capsys.readouterr().out


class TestVerb:
    def test_it_explains_itself(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["check", "--help"])
        assert ended.value.code == 0 and "training size" in capsys.readouterr().out

    def test_the_host_s_level_of_logging_stays(self, tmp_path: Path) -> None:
        before = logging.getLogger("streamer").level
        assert main(["check", str(good(tmp_path))]) == 0
        assert logging.getLogger("streamer").level == before

    def test_good_data_has_no_finding(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        status, findings, text = check(capsys, good(tmp_path), "--strict")
        assert (status, findings) == (0, {})
        lines = text.splitlines()
        assert lines[1].split() == ["train", "12", "0", "24", "2.0", "0", "64x48", "64x48", "64x48"]
        assert ["0", "cat", "12", "2"] in [line.split() for line in lines]
        assert lines[-1] == f"{tmp_path / 'data.yaml'}: 0 errors, 0 warnings, 0 for information"

    def test_the_most_important_comes_first_with_examples_and_a_remedy(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = good(tmp_path)
        for number in range(5):
            (tmp_path / f"labels/train/t{number}.txt").write_text("0 .5 .5 0 0\n0 .5 .5 .2 .2\n1 .2 .2 .2 .2")
        (tmp_path / "labels/train/t7.txt").write_text("0 300 200 50 60\n0 .5 .5 .2 .2")
        (tmp_path / "labels/train/t8.txt").unlink()
        status, findings, text = check(capsys, path)
        assert status == 1 and list(findings) == ["pixel-coordinates", "degenerate-box", "background"]
        assert findings["degenerate-box"]["count"] == 5 and len(findings["degenerate-box"]["examples"]) == 5
        lines = text.splitlines()
        begun = [line for line in lines if line.startswith(("ERROR", "WARNING", "INFO"))]
        assert [line.split()[:3] for line in begun] == [
            ["ERROR", "pixel-coordinates", "(1):"],
            ["WARNING", "degenerate-box", "(5):"],
            ["INFO", "background", "(1):"],
        ]
        place = lines.index(begun[1])
        assert [line.split(":")[-1].strip() for line in lines[place + 1 : place + 5]] == [*["0 .5 .5 0 0"] * 3, "..."]
        assert lines[place + 5].strip() == "> delete or redraw them"
        assert lines[-1].endswith(": 1 error, 1 warning, 1 for information")

    def test_strict_fails_on_warnings(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = good(tmp_path)
        (tmp_path / "labels/train/t1.txt").write_text("0 .5 .5 0 0\n0 .5 .5 .2 .2")
        assert check(capsys, path)[0] == 0
        assert check(capsys, path, "--strict")[0] == 1

    def test_classes_and_renaming(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        _, findings, text = check(capsys, good(tmp_path), "--rename", "dog=puppy", "--classes", "puppy")
        assert "0 puppy" in text and "cat" not in text and findings["class-left-out"]["left_out"] == 14

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--size", "31"], "wanted a size"),
            (["--size", "416x"], "wanted a size"),
            (["--rename", "cat"], "wanted OLD=NEW"),
            (["--classes", "cow"], "no class 'cow'"),
            (["--picture", "labels.gif"], "the name of a picture ends in"),
            (["--json", "{data}"], "the output is the input"),
        ],
    )
    def test_bad_usage(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str) -> None:
        path = good(tmp_path)
        arguments = ["check", str(path), *(option.format(data=path) for option in options)]
        try:
            status = main(arguments)
        except SystemExit as error:
            status = int(error.code or 0)
        assert status == 2 and says in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("classes", "ending"), [(1, ".png"), (3, ".jpg"), (80, ".png"), (300, ".svg"), (0, ".pdf")]
    )
    def test_histograms(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: int, ending: str) -> None:
        pytest.importorskip("matplotlib", reason="histograms are drawn with Matplotlib")
        lines = "".join(f"{number} .5 .5 .{number % 9 + 1} .1\n" for number in range(classes))
        names = [f"class ${number} 物 {'long ' * 9}" for number in range(max(1, classes))]
        path = yolo_set(tmp_path, {"train": {"a": lines}, "val": {}}, names)
        check(capsys, path, "--picture", str(tmp_path / f"labels{ending}"))
        content = (tmp_path / f"labels{ending}").read_bytes()
        if ending in (".png", ".jpg"):
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
            assert image is not None and image.shape[1] > 1000
            assert image.shape[0] > (1400 if classes == 80 else 700), "80 classes need height"
        else:
            assert content.startswith((b"%PDF", b"<?xml"))


class TestSplitsAndClasses:
    def test_each_trouble_of_splits(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = yolo_set(tmp_path, {"train": {}, "val": {"a": ""}, "test": {"b": BOX}})
        status, findings, _ = check(capsys, path)
        assert status == 1
        assert findings["empty-split"]["examples"] == ["train"]
        assert findings["all-background"]["examples"] == ["val: 1 picture"]
        assert findings["one-picture"]["count"] == 2
        status, findings, _ = check(capsys, write_yaml(tmp_path, "val: images/test\nnames: [cat]\n"))
        assert "no-train" in findings and status == 1
        status, findings, text = check(capsys, write_yaml(tmp_path, "train: images/test\nnames: [cat]\n"))
        assert (status, findings["missing-val"]["severity"]) == (0, "warning")
        assert "WARNING  missing-val (1): no split 'val': the verb train refuses data without one" in text

    def test_each_trouble_of_classes(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        many = "".join(f"0 .{n:02} .5 .05 .05\n" for n in range(10, 90)) * 1
        train = {"a": many + "1 .5 .5 .1 .1\n", "b": many}
        path = yolo_set(
            tmp_path, {"train": train, "val": {"c": "0 .5 .5 .1 .1\n2 .5 .5 .1 .1"}}, ["a", "b", "c", " d", "4", "a"]
        )
        status, findings, _ = check(capsys, path)
        assert status == 1
        assert findings["class-not-in-train"]["examples"] == ["c: 1 object in val, 0 in test"]
        assert findings["class-never-seen"]["examples"] == [" d", "4"]
        assert findings["class-not-in-val"]["examples"] == ["b: 1 object in train"]
        assert findings["rare-class"]["examples"] == ["b: 1 object in train, the commonest has 160"]
        assert [each.split(": ")[-1] for each in findings["odd-name"]["examples"]] == ["spaces around it", "a number"]
        assert findings["duplicate-name"]["severity"] == "error"


class TestPictures:
    def test_unreadable_ones_are_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = good(tmp_path)
        folder = tmp_path / "images/train"
        content = write_scene(folder / "t1.jpg", 50, (320, 300)).read_bytes()
        (folder / "t1.jpg").write_bytes(content[: len(content) // 2])
        (folder / "t2.png").write_bytes(b"")
        (folder / "t3.png").write_bytes(b"no picture")
        (folder / "t4.png").unlink()
        (folder / "t4.png").symlink_to(folder / "gone.png")
        status, findings, _ = check(capsys, path)
        named = [Path(example.split(": ")[0]).name for example in findings["unreadable-picture"]["examples"]]
        assert status == 1 and named == ["t1.jpg", "t2.png", "t3.png"]
        assert [Path(example).name for example in findings["missing-picture"]["examples"]] == ["t4.png"]

    @pytest.mark.parametrize("suffix", [".jpg", ".png"])
    def test_rotated_ones_are_warned_of(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
        path = good(tmp_path)
        file = write_scene(tmp_path / f"images/train/t1{suffix}", 60, (512, 300))
        (tmp_path / "images/train/t1.png").unlink() if suffix == ".jpg" else None
        assert "exif-rotated" not in check(capsys, path)[1]
        if suffix == ".jpg":
            file.write_bytes(with_orientation(file.read_bytes(), 6))
        else:
            image = cv2.imread(str(file))
            _, jpeg = cv2.imencode(".jpg", image)
            block = with_orientation(jpeg.tobytes(), 6)[6:][6:32]
            _, content = cv2.imencodeWithMetadata(
                ".png", image, [cv2.IMAGE_METADATA_EXIF], [np.frombuffer(block, np.uint8)]
            )
            file.write_bytes(content.tobytes())
        status, findings, _ = check(capsys, path)
        assert status == 0 and findings["exif-rotated"]["examples"] == [f"{file}: orientation 6"]
        assert scan_picture(file).size_wh == (300, 512) and scan_picture(file).stored_wh == (512, 300)

    @pytest.mark.parametrize(
        ("orientation", "size_wh", "kind"),
        [
            (6, (512, 300), "unturned-labels"),
            (6, (300, 512), None),
            (3, (512, 300), "exif-rotated"),
            (1, (300, 512), "size-mismatch"),
            (6, (100, 100), "size-mismatch"),
            (1, (512, 300), None),
        ],
    )
    def test_sizes_of_coco_tell_how_labels_were_drawn(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        orientation: int,
        size_wh: tuple[int, int],
        kind: str | None,
    ) -> None:
        file = write_scene(tmp_path / "images/a.jpg", 3, (512, 300))
        file.write_bytes(with_orientation(file.read_bytes(), orientation))
        image = {"id": 1, "file_name": "a.jpg", "width": size_wh[0], "height": size_wh[1]}
        (tmp_path / "a.json").write_text(
            coco([image], [{"image_id": 1, "category_id": 1, "bbox": [9, 9, 30, 30]}], {1: "cat"})
        )
        _, findings, _ = check(capsys, write_yaml(tmp_path, "train: {images: images, labels: a.json}\n"))
        told = {"unturned-labels", "exif-rotated", "size-mismatch"} & set(findings)
        assert told == ({kind} if kind else set())

    def test_sizes_of_voc_are_compared(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_scene(tmp_path / "images/a.png", 3)
        (tmp_path / "images/a.xml").write_text(voc("cat", (1, 1, 20, 20), size="640x480"))
        _, findings, _ = check(capsys, write_yaml(tmp_path, "train: images\n"))
        assert findings["size-mismatch"]["examples"] == [f"{tmp_path / 'images/a.png'}: 64x48, labelled as 640x480"]

    def test_tiny_boxes_are_measured_at_the_training_size(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = good(tmp_path)
        write_scene(tmp_path / "images/train/t1.png", 70, (1280, 640))
        (tmp_path / "labels/train/t1.txt").write_text("0 .5 .5 .0093 .2\n0 .2 .2 .0095 .015\n")
        _, findings, _ = check(capsys, path, "--size", "320")
        told = [
            each.removeprefix(f"{tmp_path / 'images/train/t1.png'}: ") for each in findings["tiny-boxes"]["examples"]
        ]
        assert told == ["cat of 2.98x32 px", "cat of 3.04x2.4 px"]
        (tmp_path / "labels/train/t1.txt").write_text("0 .5 .5 .0095 .2\n0 .2 .2 .0095 .015\n")
        _, findings, _ = check(capsys, path, "--size", "320x640")
        assert findings["few-tiny-boxes"]["count"] == 1 and findings["few-tiny-boxes"]["severity"] == "info"
        assert not {"tiny-boxes", "few-tiny-boxes"} & set(check(capsys, path, "--size", "640")[1])


class TestDuplicates:
    def test_across_and_within_splits(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = good(tmp_path)
        images = tmp_path / "images"
        for name, seed, quality in (
            ("train/p.jpg", 80, 95), ("train/q.jpg", 80, 50), ("train/r.jpg", 81, 95), ("val/p.jpg", 80, 60),
            ("val/r.jpg", 81, 95), ("val/s.jpg", 82, 95), ("val/s2.jpg", 82, 95),
        ):  # fmt: skip
            write_scene(images / name, seed, (640, 480), quality)
        status, findings, _ = check(capsys, path)
        assert status == 1
        assert findings["same-file-in-splits"]["examples"] == [f"val: {images}/val/r.jpg = train: {images}/train/r.jpg"]
        assert findings["similar-in-splits"]["examples"] == [f"val: {images}/val/p.jpg = train: {images}/train/p.jpg"]
        assert findings["similar-picture"]["examples"] == [f"train: {images}/train/q.jpg = {images}/train/p.jpg"]
        assert findings["same-file"]["examples"] == [f"val: {images}/val/s2.jpg = {images}/val/s.jpg"]
        severities = {
            kind: finding["severity"] for kind, finding in findings.items() if "same" in kind or "similar" in kind
        }
        assert severities == {
            "same-file-in-splits": "error",
            "same-file": "warning",
            "similar-in-splits": "warning",
            "similar-picture": "info",
        }

    def test_one_folder_as_two_splits(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        yolo_set(tmp_path, GOOD)
        _, findings, _ = check(
            capsys, write_yaml(tmp_path, "train: images/train\nval: images/train\nnames: [cat, dog]\n")
        )
        assert findings["same-file-in-splits"]["count"] == 12

    def test_even_pictures_have_no_hash(self, tmp_path: Path) -> None:
        for name, level in (("a.png", 10), ("b.png", 200)):
            cv2.imwrite(str(tmp_path / name), np.full((48, 64, 3), level, np.uint8))
        assert [each.hashes for each in scan_pictures(sorted(tmp_path.iterdir())).values()] == [None, None]

    def test_what_saving_again_changes_is_found_and_other_pictures_are_not(self, tmp_path: Path) -> None:
        made = {}
        for seed in range(20):
            for name, size_wh, quality in (("a", (640, 480), 95), ("b", (640, 480), 40), ("c", (320, 240), 90)):
                path = write_scene(tmp_path / f"{seed:02}{name}.jpg", seed, size_wh, quality)
                made[path] = seed
        scans = scan_pictures(made)
        hashes = np.array([scans[path].hashes for path in made], np.uint64)
        first = nearest_earlier(hashes, np.zeros(60, np.int64), 1)[:, 0]
        assert first.tolist() == [3 * seed for seed in range(20) for _ in range(3)]

    @settings(max_examples=100)
    @given(st.integers(0, 2**32 - 1), st.integers(0, 14))
    def test_as_comparing_each_with_each(self, seed: int, flips: int) -> None:
        random = np.random.default_rng(seed)
        bases = random.integers(0, 2**63, (6, 2)).astype(np.uint64)
        hashes = bases[random.integers(0, 6, 15)]
        for _ in range(flips):
            hashes[random.integers(15), random.integers(2)] ^= np.uint64(1) << np.uint64(random.integers(64))
        groups = random.integers(0, 3, 15)
        wanted = np.full((15, 3), 15)
        for one in range(15):
            for other in range(14, -1, -1):
                bits = [int(a ^ b).bit_count() for a, b in zip(hashes[one], hashes[other], strict=True)]
                if max(bits) <= MOST_BITS:
                    wanted[one, groups[other]] = other
        np.testing.assert_array_equal(nearest_earlier(hashes, groups, 3), wanted)

    def test_thousands_of_frames_of_one_scene_find_each_other(self) -> None:
        random = np.random.default_rng(0)
        flips = np.uint64(1) << random.integers(0, 64, (3000, 2)).astype(np.uint64)
        hashes = np.full((3000, 2), 0x0F0F, np.uint64) ^ flips
        near = nearest_earlier(hashes, np.arange(3000) % 2, 2)
        assert (near < 3000).all(), "each has a similar one in both splits"

    def test_equal_keys(self) -> None:
        keys, groups = [b"x", b"y", b"x", b"", b"x"], np.array([0, 0, 1, 0, 1])
        assert first_of_each(keys, groups, 2).tolist() == [[0, 2], [1, 5], [0, 2], [5, 5], [0, 2]]
        assert nearest_earlier(np.zeros((0, 2), np.uint64), np.zeros(0, np.int64), 2).shape == (0, 2)


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_of_a_jpeg(self, tmp_path: Path, orientation: int) -> None:
        content = write_scene(tmp_path / "a.jpg", 1).read_bytes()
        assert exif_orientation(content) == 1
        assert exif_orientation(with_orientation(content, orientation)) == orientation

    @given(
        st.binary(max_size=80),
        st.sampled_from(
            [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF0000WEBPEXIF", b"\xff\xd8\xff\xe1\x00\x30Exif\0\0II*\0"]
        ),
    )
    def test_of_any_bytes(self, content: bytes, begin: bytes) -> None:
        assert exif_orientation(begin + content) in range(1, 9)


@pytest.mark.shared
def test_blood_cells(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "check.json"
    assert main(["check", str(shared / "bccd"), "--json", str(output)]) == 0
    content = json.loads(output.read_text())
    assert {split: each["objects"] for split, each in content["splits"].items()} == {
        "train": 2804,
        "val": 1137,
        "test": 945,
    }
    (finding,) = content["findings"]
    assert finding["kind"] == "similar-in-splits" and "BloodImage_00037.jpg" in finding["examples"][0]


def test_a_name_of_two_lines_is_shown_in_one(tmp_path: Path) -> None:
    summary = SplitSummary(1, 0, 0, np.array([1]), np.array([1]), np.array([[8, 8]]), np.ones((1, 2)), np.ones((1, 2)))
    text = CheckReport("data.yaml", ("a\n\x1b[31mb",), (64, 64), (), {"train": summary}).to_text()
    assert "\x1b" not in text and re.search(r"^0 a.*b +1$", text, re.MULTILINE)
