"""The inputs that `benchmarks.corrupt` damages, and the command line that opens each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from random import Random
from typing import cast

import cv2
import av
import numpy as np
import numpy.typing as npt
import onnx
from av.video.frame import PictureType
from av.video.stream import VideoStream

from benchmarks.damage import damage, damage_graph, damage_values
from streamer.models.spec import packaged_config
from tests.tiny import tiny_model, tiny_spec, write_tiny

_DATA = Path(__file__).resolve().parent.parent / "streamer" / "data"
_SIZE_WH = (320, 180)
_FRAMES = 30
_FPS = 15
_EVERY = 8  # of the sample's frames, so that there is movement
_PICTURES = 3  # good ones beside the damaged one
_QUIET = ("--no-progress", "--log-level", "warning", "--device", "cpu")
_NULL = ("--output", "null")
_GRAPH_TOO = (damage, damage_graph)
_VALUES_TOO = (damage, damage_values)
_FEW_FRAMES = ("--max-frames", "2")

_X264 = {"preset": "veryfast", "g": "10", "qp": "28"}
# name: file, codec, pixel format, encoder's options, muxer's options
_CLIPS: dict[str, tuple[str, str, str, dict[str, str], dict[str, str]]] = {
    "H.264 mp4": ("h264.mp4", "libx264", "yuv420p", _X264, {}),
    "H.264 mp4, index first": ("first.mp4", "libx264", "yuv420p", _X264, {"movflags": "faststart"}),
    "H.264 fragmented mp4": (
        "fragmented.mp4",
        "libx264",
        "yuv420p",
        _X264,
        {"movflags": "frag_keyframe+empty_moov+default_base_moof"},
    ),
    "H.264 mkv": ("h264.mkv", "libx264", "yuv420p", _X264, {}),
    "HEVC mp4": ("hevc.mp4", "libx265", "yuv420p", {"preset": "ultrafast", "x265-params": "log-level=none"}, {}),
    "MPEG-4 avi": ("mpeg4.avi", "mpeg4", "yuv420p", {"g": "10"}, {}),
    "MJPEG mov": ("mjpeg.mov", "mjpeg", "yuvj420p", {}, {}),
    "VP9 webm": ("vp9.webm", "libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}, {}),
    "MPEG-2 ts": ("mpeg2.ts", "mpeg2video", "yuv420p", {"g": "10"}, {}),
}
_PICTURE_ENDINGS = ("jpg", "png", "webp", "tiff", "bmp")

_STREAM_YAML = """\
# Everything that a stream's configuration can say.
source:
  door: clip.mp4
  yard: pictures/
output: ["{source}.jsonl", "{source}.mp4"]
model: tiny.onnx
engine: openvino
device: cpu
precision: auto
depth: 2
conf: 0.4
iou: 0.5
classes: [person, car]
policy: every-frame
pace: max
duration: 2.5
report: report.json
overlay: true
progress: no
self_check: yes
log_level: warning
camera_size: 1280x720
camera_fps: 30
camera_format: MJPG
reconnect: 0
stall_timeout: 1.5
rtsp_transport: tcp
segment: 10m
retain: 24h
layout: tiled
"""
_SHORT_YAML = """\
source: clip.mp4
output: "null"
model: tiny.onnx
conf: 0.4
"""
_TINY_YAML = """\
name: tiny
family: nanodet
input_size_wh: [64, 64]
keep_ratio: true
mean_bgr: [103.53, 116.28, 123.675]
std_bgr: [57.375, 57.12, 58.395]
strides: [8, 16, 32]
reg_max: 3
anchor_offset: 0.5
activation: LeakyReLU
labels: [person, car, cat]
"""


Change = Callable[[bytes], tuple[bytes, str]]
Way = Callable[[bytes, Random], tuple[bytes, str]]
Prepare = Callable[[Path, Random, Change], tuple[list[str], str]]


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        group: its row in the table.
        name: what it is.
        share: how many of the schedule's cases are of this kind.
        prepare: writes the input into the current folder, from the folder of originals, changed by the function it is
            given; returns the command line that opens it and a phrase that says what was damaged.
        ways: how this kind is damaged, each as often.
        pictures: how many picture files it has, each of which must be seen or be named as skipped; None where there is
            no such number.
    """

    group: str
    name: str
    share: int
    prepare: Prepare
    ways: tuple[Way, ...] = (damage,)
    pictures: int | None = None

    def write(self, originals: Path, seed: int | None) -> tuple[list[str], str]:
        """Writes the input that a seed decides, or the whole one for None, and returns what `prepare` does."""
        if seed is None:
            return self.prepare(originals, Random(0), lambda content: (content, "whole"))
        random = Random(seed)
        way = self.ways[int(random.random() * len(self.ways))]
        return self.prepare(originals, random, lambda content: way(content, random))


def kinds() -> tuple[Kind, ...]:
    """Returns all kinds of input, in the table's order."""
    return _KINDS


def cases_a_round() -> int:
    """Returns how many cases it takes until every kind has had its share."""
    return len(_SCHEDULE)


def case_of(number: int) -> tuple[Kind, int | None]:
    """Returns a case's kind and its seed: N from 0 goes round the kinds; -1 to -len(kinds()) are the whole inputs."""
    return (_SCHEDULE[number % len(_SCHEDULE)], number) if number >= 0 else (_KINDS[-1 - number], None)


def make_originals(folder: Path) -> None:
    """Writes what is going to be damaged: clips, pictures, models.

    Raises:
        StreamerError, av.FFmpegError: if the packaged sample can't be read, or this build of PyAV lacks an encoder.
    """
    with av.open(str(_DATA / "sample.mp4")) as sample:
        frames = [f for at, f in enumerate(islice(sample.decode(video=0), _FRAMES * _EVERY)) if not at % _EVERY]
    for name, codec, pix_fmt, options, container_options in _CLIPS.values():
        _write_clip(folder / name, frames, codec, pix_fmt, options, container_options)
    _write_clip(folder / "sound.mp4", frames, "libx264", "yuv420p", _X264, {}, with_sound=True)
    pictures = folder / "pictures"
    pictures.mkdir()
    for ending in _PICTURE_ENDINGS:
        for number in range(_PICTURES + 1):
            image = frames[number].reformat(*_SIZE_WH, format="bgr24").to_ndarray()
            cv2.imwrite(str(pictures / f"{number}.{ending}"), image)
    for model in ("nanodet-g_416", "nanodet-g_416_float"):
        shutil.copy(_DATA / f"{model}.onnx", folder)
    write_tiny(folder / "tiny.onnx")
    write_tiny(folder / "undescribed.onnx", described=False)
    onnx.save(tiny_model(tiny_spec(), sigmoid=False), folder / "official.onnx")


def _all_kinds() -> tuple[Kind, ...]:
    shares = {"H.264 mp4": 3, "H.264 fragmented mp4": 2, "H.264 mkv": 2, "MPEG-4 avi": 2}
    return (
        *(Kind("video", name, shares.get(name, 1), _video(clip[0], _NULL)) for name, clip in _CLIPS.items()),
        Kind("video", "H.264 and AAC mp4, to mp4", 2, _video("sound.mp4", ("--output", "seen.mp4"))),
        Kind("pictures", "jpg in a folder", 2, _pictures("jpg"), pictures=_PICTURES + 1),
        Kind("pictures", "png in a folder", 2, _pictures("png"), pictures=_PICTURES + 1),
        Kind("pictures", "webp in a folder", 1, _pictures("webp"), pictures=_PICTURES + 1),
        Kind("pictures", "tiff in a folder", 1, _pictures("tiff"), pictures=_PICTURES + 1),
        Kind("pictures", "bmp in a folder", 1, _pictures("bmp"), pictures=_PICTURES + 1),
        Kind("pictures", "jpg alone", 1, _picture_alone),
        Kind("ONNX model", "INT8, OpenVINO", 2, _model("nanodet-g_416.onnx", "openvino"), _GRAPH_TOO),
        Kind("ONNX model", "INT8, ONNX Runtime", 2, _model("nanodet-g_416.onnx", "onnxruntime"), _GRAPH_TOO),
        Kind("ONNX model", "float, OpenVINO", 1, _model("nanodet-g_416_float.onnx", "openvino"), _GRAPH_TOO),
        Kind("ONNX model", "float, ONNX Runtime", 1, _model("nanodet-g_416_float.onnx", "onnxruntime"), _GRAPH_TOO),
        Kind("ONNX model", "tiny, OpenVINO", 1, _model("tiny.onnx", "openvino"), _GRAPH_TOO),
        Kind("ONNX model", "tiny, ONNX Runtime", 1, _model("tiny.onnx", "onnxruntime"), _GRAPH_TOO),
        Kind("ONNX model", "foreign, OpenVINO", 1, _model("official.onnx", "openvino", _TINY_YAML), _GRAPH_TOO),
        Kind("ONNX model", "foreign, ONNX Runtime", 1, _model("official.onnx", "onnxruntime", _TINY_YAML), _GRAPH_TOO),
        Kind("YAML", "stream configuration", 3, _stream_config(_STREAM_YAML), _VALUES_TOO),
        Kind("YAML", "short stream configuration", 1, _stream_config(_SHORT_YAML), _VALUES_TOO),
        Kind("YAML", "model description, tiny", 1, _model_config("undescribed.onnx", _TINY_YAML), _VALUES_TOO),
        Kind("YAML", "model description, nanodet-g", 1, _model_config("nanodet-g_416_float.onnx", None), _VALUES_TOO),
    )


def _video(name: str, output: tuple[str, ...]) -> Prepare:
    def prepare(originals: Path, random: Random, change: Change) -> tuple[list[str], str]:
        how = _write_damaged(originals / name, Path(name), change)
        return ["--source", name, *output, "--model", str(originals / "tiny.onnx"), *_QUIET], how

    return prepare


def _pictures(ending: str) -> Prepare:
    def prepare(originals: Path, random: Random, change: Change) -> tuple[list[str], str]:
        for picture in (originals / "pictures").glob(f"*.{ending}"):
            shutil.copy(picture, ".")
        damaged = Path(f"{int(random.random() * (_PICTURES + 1))}.{ending}")
        how = _write_damaged(damaged, damaged, change)
        return ["--source", "./", *_NULL, "--model", str(originals / "tiny.onnx"), *_QUIET], how

    return prepare


def _picture_alone(originals: Path, random: Random, change: Change) -> tuple[list[str], str]:
    how = _write_damaged(originals / "pictures" / "0.jpg", Path("0.jpg"), change)
    return ["--source", "0.jpg", *_NULL, "--model", str(originals / "tiny.onnx"), *_QUIET], how


def _model(name: str, engine: str, description: str | None = None) -> Prepare:
    def prepare(originals: Path, random: Random, change: Change) -> tuple[list[str], str]:
        how = _write_damaged(originals / name, Path(name), change)
        arguments = ["--source", str(originals / "h264.mp4"), *_NULL, *_FEW_FRAMES, "--model", name, "--engine", engine]
        if description is not None:
            Path("model.yaml").write_text(description, encoding="utf-8")
            arguments += ["--model-config", "model.yaml"]
        return [*arguments, *_QUIET], how

    return prepare


def _stream_config(text: str) -> Prepare:
    def prepare(originals: Path, random: Random, change: Change) -> tuple[list[str], str]:
        shutil.copy(originals / "h264.mp4", "clip.mp4")
        shutil.copytree(originals / "pictures", "pictures")
        shutil.copy(originals / "tiny.onnx", ".")
        content, how = change(text.encode())
        Path("stream.yaml").write_bytes(content)
        return ["--config", "stream.yaml", "--max-frames", "8"], f"stream.yaml: {how}"

    return prepare


def _model_config(model: str, text: str | None) -> Prepare:
    def prepare(originals: Path, random: Random, change: Change) -> tuple[list[str], str]:
        whole = text.encode() if text is not None else packaged_config("nanodet-g").read_bytes()
        content, how = change(whole)
        Path("model.yaml").write_bytes(content)
        arguments = ["--source", str(originals / "h264.mp4"), *_NULL, *_FEW_FRAMES, "--model", str(originals / model)]
        return [*arguments, "--model-config", "model.yaml", *_QUIET], f"model.yaml: {how}"

    return prepare


def _write_damaged(original: Path, target: Path, change: Change) -> str:
    content, how = change(original.read_bytes())
    target.write_bytes(content)
    return f"{target}: {how}"


def _write_clip(
    path: Path,
    frames: list[av.VideoFrame],
    codec: str,
    pix_fmt: str,
    options: dict[str, str],
    container_options: dict[str, str],
    *,
    with_sound: bool = False,
) -> None:
    # One thread and bit-exact, so that a case is the same on the next run.
    with av.open(str(path), "w", container_options={"fflags": "bitexact", **container_options}) as output:
        stream = cast("VideoStream", output.add_stream(codec, rate=_FPS, options={"threads": "1", **options}))
        stream.width, stream.height = _SIZE_WH
        stream.pix_fmt = pix_fmt
        stream.bit_rate = 400_000
        sound = None
        if with_sound:
            sound = output.add_stream("aac", rate=48_000, layout="stereo", options={"flags": "+bitexact"})
        for index, frame in enumerate(frames):
            scaled = frame.reformat(*_SIZE_WH, format=pix_fmt)
            scaled.pts, scaled.time_base = index, Fraction(1, _FPS)
            scaled.pict_type = PictureType.NONE
            output.mux(stream.encode(scaled))
        output.mux(stream.encode(None))
        if sound is not None:
            for start in range(0, 48_000 * _FRAMES // _FPS, 1024):
                tone = av.AudioFrame.from_ndarray(_tone(start), format="fltp", layout="stereo")
                tone.sample_rate, tone.pts, tone.time_base = 48_000, start, Fraction(1, 48_000)
                output.mux(sound.encode(tone))
            output.mux(sound.encode(None))


def _tone(start: int) -> npt.NDArray[np.float32]:
    """Returns 1,024 samples (2, 1024) of a 440 Hz tone at 48 kHz."""
    wave = 0.2 * np.sin(2 * np.pi * 440 / 48_000 * np.arange(start, start + 1024))
    return np.tile(wave.astype(np.float32), (2, 1))


_KINDS = _all_kinds()
_SCHEDULE = tuple(kind for kind in _KINDS for _ in range(kind.share))
