"""Files that are no model that can be run: each is told what it is, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamer.common.errors import ModelError, StreamerError
from streamer.common.file_content import text_instead
from streamer.models.families import FAMILIES
from streamer.models.file import load_model
from streamer.models.file_forms import TAKEN
from streamer.models.zoo import resolve_model
from streamer.sources.diagnosis import why_unplayable, why_unreadable

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\nsize 12345\n"
)
PAGE = b"\n<!DOCTYPE html>\n<html><body>Not Found</body></html>"
XML = b'<?xml version="1.0"?><net name="x" version="11"></net>'
BINARY = bytes(range(1, 256)) * 8


def said_of(path: Path) -> str:
    with pytest.raises(StreamerError) as caught:
        load_model(*resolve_model(str(path)))
    message = str(caught.value)
    assert "\n" not in message and path.name in message
    return message


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.onnx", POINTER, "is a Git LFS pointer, not the file itself: run git lfs pull"),
        ("m.pt", POINTER, "is a Git LFS pointer"),
        ("m.xml", POINTER, "is a Git LFS pointer"),
        ("m.onnx", PAGE, "is a web page that was saved under this name: download the file itself"),
        ("m.pth", PAGE, "is a web page"),
        (
            "m.onnx",
            b'{"message": "Not Found"}',
            "holds text, not a model: taken are ONNX files and OpenVINO IR of NanoDet",
        ),
        ("m.onnx", b"", "is empty (0 bytes): copy or download it again"),
        ("m.onnx", bytes(2000), "holds only zeros at its start"),
        ("m.onnx", XML, "holds XML: an OpenVINO IR is named .xml, beside its .bin"),
        ("m.xml", XML, "m.bin: No such file or directory; an OpenVINO IR is two files"),
        ("m.onnx", b"PK\3\4" + BINARY, "is a PyTorch checkpoint or another zip archive, not ONNX"),
        ("m.onnx", b"\x80\2}q" + BINARY, "is a pickled checkpoint, not ONNX"),
        ("m.onnx", b"\x1c\0\0\0TFL3" + BINARY, "is a TFLite model, not ONNX: name it .tflite"),
        ("m.onnx", b"\x1c\0\0\0ORTM" + BINARY, "is in ONNX Runtime's own form: give the ONNX file"),
        ("m.onnx", b"ftrt" + BINARY, "is a TensorRT engine, not ONNX"),
        ("m.onnx", BINARY, "is not an ONNX file (or was cut short)"),
        ("yolov8n.pt", BINARY, "is a PyTorch file: taken are ONNX files and OpenVINO IR of NanoDet"),
        ("m.ckpt", BINARY, "is a checkpoint: python -m calibration export"),
        ("m.pth", BINARY, "is a checkpoint: python -m calibration export"),
        ("m.ort", BINARY, "is in ONNX Runtime's own form: give the ONNX file that it was made from"),
        ("m.engine", BINARY, "is a TensorRT engine: give the ONNX file that it was made from"),
        ("m.plan", BINARY, "is a TensorRT engine"),
        ("m.trt", BINARY, "is a TensorRT engine"),
        ("m.torchscript", BINARY, "is a traced PyTorch network"),
        ("m.tflite", BINARY, "is a TFLite model: python -m calibration import "),
        ("m.bin", BINARY, "holds weights alone: give the file beside it"),
        ("m.hef", BINARY, "is compiled for an accelerator"),
    ],
)
def test_each_says_what_it_is(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert says in said_of(path)


def test_weights_name_the_file_beside_them(tmp_path: Path) -> None:
    (tmp_path / "m.xml").write_bytes(XML)
    (tmp_path / "m.bin").write_bytes(POINTER)
    assert "'m.bin', the weights of" in said_of(tmp_path / "m.xml")
    (tmp_path / "m.bin").write_bytes(BINARY)
    assert "holds the weights of m.xml: give that file" in said_of(tmp_path / "m.bin")


def test_a_folder_names_the_file_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "best_openvino_model"
    folder.mkdir()
    (folder / "best.xml").write_bytes(XML)
    assert "is a folder: give the file in it, such as best.xml" in said_of(folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StreamerError, match="is a folder: give the file in it, such as best.xml"):
        resolve_model(folder.name)


@pytest.mark.parametrize("name", ["yolov8n.pt", "yolov8n"])
def test_a_name_of_elsewhere_says_what_is_taken(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StreamerError, match="taken are ONNX files and OpenVINO IR of NanoDet"):
        resolve_model(name)
    Path("m.xyz").write_bytes(BINARY)
    with pytest.raises(StreamerError, match=r"'m.xyz' is a file of an unknown kind: taken are .*named .onnx"):
        resolve_model("m.xyz")


def test_what_is_taken_are_all_families() -> None:
    assert all(family.word in TAKEN for family in FAMILIES.values())


def test_videos_pictures_and_checkpoints_say_it_too(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(POINTER)
    assert "Git LFS pointer" in (why_unplayable(tmp_path / "clip.mp4") or "")
    assert "web page" in (why_unreadable(PAGE) or "")
    checkpoint = pytest.importorskip("calibration.checkpoint", reason="needs PyTorch")
    with pytest.raises(ModelError, match="not a checkpoint: it is a Git LFS pointer"):
        checkpoint.load_checkpoint(tmp_path / "clip.mp4")


def test_text_is_told_from_other_bytes() -> None:
    assert text_instead(b"") is None and text_instead(BINARY) is None
    assert text_instead(b"hello\n") == "holds text"
