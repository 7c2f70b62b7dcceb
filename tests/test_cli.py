"""The program as a person runs it: real processes, real files, exit statuses and one-line errors."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
from datetime import UTC, datetime, timedelta
from pathlib import Path

import av
import numpy as np
import pytest

from streamer.app.cli import main
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer
from tests.tiny import write_tiny

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "streamer" / "data" / "sample.mp4"
NO_DISPLAY = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "run_stream.py"), *map(str, arguments)]


def run(cwd: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=cwd, env=NO_DISPLAY | environment, capture_output=True, text=True, timeout=120
    )


def frames_of(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def lines_in(path: Path) -> int:
    """Lines of a file that may not be there yet."""
    try:
        return path.read_text().count("\n")
    except FileNotFoundError:
        return 0


def write_clip(path: Path, frames: int = 20, size_wh: tuple[int, int] = (64, 48)) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = size_wh
        for index in range(frames):
            picture = np.full((size_wh[1], size_wh[0], 3), index * 10 % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("model") / "tiny.onnx")


def test_first_command_writes_the_annotated_sample(tmp_path: Path) -> None:
    done = run(tmp_path, "--max-frames", "12", "--report", "r.json")
    assert done.returncode == 0, done.stderr
    assert "12 frames" in done.stdout
    assert "out.mp4" in done.stdout
    assert "no display" in done.stderr
    assert frames_of(tmp_path / "out.mp4") == 12
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["engine"]["model"] == "nanodet-g_416"
    assert report["sources"][0]["frames_processed"] == 12


def test_json_lines_follow_the_contract(tmp_path: Path) -> None:
    done = run(tmp_path, "--source", "sample", "--output", "s.jsonl", "--max-frames", "40", "--conf", "0.3")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(40))
    for line in lines:
        assert set(line) == {"version", "source", "index", "pts_s", "width", "height", "name", "detections"}
        assert (line["source"], line["width"], line["height"], line["name"]) == ("sample", 1280, 720, None)
        assert line["pts_s"] == pytest.approx(line["index"] / 30, abs=1e-3)
    found = [d for line in lines for d in line["detections"]]
    assert {"label", "class_id", "score", "box_xyxy"} == set(found[0])
    assert any(d["label"] == "person" and d["class_id"] == 0 and d["score"] > 0.5 for d in found)
    for d in found:
        left, top, right, bottom = d["box_xyxy"]
        assert 0 <= left < right <= 1280
        assert 0 <= top < bottom <= 720


def test_several_sources_and_outputs(tmp_path: Path, model: Path) -> None:
    write_clip(tmp_path / "a.mp4", 5)
    write_clip(tmp_path / "b.mp4", 9)
    done = run(
        tmp_path, "--source", "x=a.mp4", "--source", "b.mp4", "--output", "{source}_out.mkv", "--output",
        "{source}.jsonl", "--model", model,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert frames_of(tmp_path / "x_out.mkv") == 5
    assert frames_of(tmp_path / "b_out.mkv") == 9
    assert len((tmp_path / "b.jsonl").read_text().splitlines()) == 9


def test_rtsp_camera_with_a_password(tmp_path: Path, model: Path) -> None:
    with RtspServer(Loop(fps=30), credentials="admin:hunter2") as server:
        url = server.url.replace("rtsp://", "rtsp://admin:hunter2@")
        done = run(
            tmp_path, "--source", f"cam={url}", "--output", "{source}.jsonl", "--output", "{source}.mkv",
            "--max-frames", "20", "--model", model, "--report", "r.json", "--log-level", "debug",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    (part,) = report["sources"]
    assert part["frames_processed"] == 20
    assert part["frames_captured"] == part["frames_processed"] + part["frames_dropped"]
    lines = [json.loads(line) for line in (tmp_path / "cam.jsonl").read_text().splitlines()]
    assert len(lines) == frames_of(tmp_path / "cam.mkv") == 20
    times = [line["pts_s"] for line in lines]
    assert times == sorted(times)
    moments = [datetime.strptime(line["captured_at"], "%Y-%m-%dT%H:%M:%S.%fZ") for line in lines]
    assert moments == sorted(moments)
    assert timedelta(0) < datetime.now(UTC).replace(tzinfo=None) - moments[0] < timedelta(seconds=120)
    for text in (done.stdout, done.stderr, *(path.read_text() for path in tmp_path.glob("*.json*"))):
        assert "hunter2" not in text


def test_stream_that_hangs_up_fails_the_run_but_keeps_what_came(tmp_path: Path, model: Path) -> None:
    with RtspServer(Loop(fps=60), hang_up_after=30) as server:
        done = run(
            tmp_path,
            "--source",
            server.url,
            "--output",
            "o.mp4",
            "--model",
            model,
            "--policy",
            "every-frame",
            "--reconnect",
            "0",
        )
    assert done.returncode == 1
    assert "ended" in done.stderr or "broke off" in done.stderr
    assert frames_of(tmp_path / "o.mp4") > 0


@pytest.mark.parametrize("what", ["models", "engines", "devices", "sources", "outputs", "schemas"])
def test_lists(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", what]) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--source", "missing.mp4"], 1, "missing.mp4"),
        (["--source", "clop.mp4"], 1, "clip.mp4"),
        (["--source", "empty.mp4"], 1, "empty"),
        (["--source", "text.mp4"], 1, "text.mp4"),
        (["--source", "cut.mp4"], 1, "cut.mp4"),
        (["--source", "gopher://x/y"], 2, "gopher"),
        (["--source", "99"], 1, "99"),
        (["--source", "rtsp://user:secret@127.0.0.1:1/x"], 1, "127.0.0.1"),
        (["--source", "http://127.0.0.1:1/x.mp4"], 1, "127.0.0.1"),
        (["--source", "nothing/"], 1, "nothing"),
        (["--source", "clip.mp4", "--source", "./clip.mp4", "--output", "null"], 2, "two sources are named"),
        (["--source", "a=clip.mp4", "--source", "b=clip.mp4", "--output", "o.jsonl"], 2, "{source}"),
        (
            ["--source", "a=clip.mp4", "--source", "b=clip.mp4", "--output", "o.mp4", "--layout", "separate"],
            2,
            "--layout tiled",
        ),
        (["--source", "clip.mp4", "--output", "clip.mp4"], 2, "source"),
        (["--source", "x=clip.mp4", "--source", "clip=sample", "--output", "{source}.mp4"], 2, "is also the source"),
        (["--source", "clip.mp4", "--output", "o.mp4", "--output", "./o.mp4"], 2, "two outputs are"),
        (["--source", "clip.mp4", "--output", "null", "--segment", "10m"], 2, "add --output out.mp4"),
        (["--source", "clip.mp4", "--output", "o.mp4", "--segment", "soon"], 2, "10m"),
        (["--source", "clip.mp4", "--output", "o.mp4", "--retain", "24h"], 2, "--segment 10m"),
        (["--source", "clip.mp4", "--output", "none/o.mp4", "--segment", "10m"], 1, "none"),
        (["--source", "clip.mp4", "--output", "none/o.mp4"], 1, "none"),
        (["--source", "clip.mp4", "--output", "o.mpq"], 2, "o.mpq"),
        (["--source", "clip.mp4", "--output", "window"], 1, "display"),
        (["--model", "nanodet-g_461"], 2, "nanodet-g_416"),
        (["--model", "gone.onnx"], 2, "gone.onnx"),
        (["--model", "text.onnx"], 1, "text.onnx"),
        (["--model-config", "gone.yaml"], 2, "gone.yaml"),
        (["--engine", "openvivo"], 2, "openvino"),
        (["--engine", "tensorflow"], 2, "tensorrt"),
        (["--device", "gpu7"], 2, "gpu7"),
        (["--classes", "persn"], 2, "'person'"),
        (["--classes", ","], 2, "classes: wanted at least one label"),
        (["--classes", ""], 2, "classes: wanted at least one label"),
        (["--conf", "7"], 2, "conf"),
        (["--iou", "-1"], 2, "iou"),
        (["--max-frames", "0"], 2, "max_frames"),
        (["--duration", "nan"], 2, "duration"),
        (["--config", "bad.yaml"], 2, "'source'"),
        (["--config", "gone.yaml"], 2, "gone.yaml"),
        (["--report", "none/r.json", "--source", "clip.mp4", "--output", "null"], 1, "report"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_clear_line(
    arguments: list[str], status: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    whole = write_clip(tmp_path / "clip.mp4", 3).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("this is no film\n" * 50)
    (tmp_path / "text.onnx").write_text("this is no network\n" * 50)
    (tmp_path / "bad.yaml").write_text("sorce: 0\n")
    (tmp_path / "nothing").mkdir()
    before = set(tmp_path.iterdir())
    assert main(arguments) == status
    err = capsys.readouterr().err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert says in errors[0]
    assert "Traceback" not in err
    assert "secret" not in err
    assert {path for path in tmp_path.iterdir() if path.name != "out.mp4"} == before
    assert (tmp_path / "clip.mp4").read_bytes() == whole


def test_unknown_option_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--sorce", "0"])
    assert ended.value.code == 2


def test_debug_level_shows_the_traceback(tmp_path: Path) -> None:
    done = run(tmp_path, "--source", "missing.mp4", "--log-level", "debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_replaced_output_is_said(tmp_path: Path, model: Path) -> None:
    write_clip(tmp_path / "clip.mp4")
    (tmp_path / "o.jsonl").write_text("old")
    done = run(tmp_path, "--source", "clip.mp4", "--output", "o.jsonl", "--model", model)
    assert done.returncode == 0
    assert "replacing o.jsonl" in done.stderr
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 20


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_closes_every_output(tmp_path: Path, model: Path, number: signal.Signals, status: int) -> None:
    process = subprocess.Popen(
        command(
            "--source", SAMPLE, "--output", "o.mp4", "--output", "o.jsonl", "--model", model,
            "--pace", "source", "--policy", "every-frame",  # each output may drop frames of its own otherwise
        ),
        cwd=tmp_path, env=NO_DISPLAY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    jsonl = tmp_path / "o.jsonl"
    while lines_in(jsonl) < 10:
        assert process.poll() is None, process.communicate()
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == status, err
    assert "frames" in out
    lines = [json.loads(line) for line in jsonl.read_text().splitlines()]
    assert frames_of(tmp_path / "o.mp4") == len(lines) >= 10


@pytest.mark.slow
def test_interrupt_while_a_silent_camera_is_being_opened(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/x"
        process = subprocess.Popen(
            command("--source", url, "--output", "o.mp4"), cwd=tmp_path, env=NO_DISPLAY, stderr=subprocess.PIPE
        )
        with process, silent.accept()[0]:
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_progress_bar_in_a_terminal_and_only_there(tmp_path: Path, model: Path) -> None:
    clip = write_clip(tmp_path / "c.mp4")
    arguments = command("--source", clip, "--output", "null", "--model", model, "--pace", "source")
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with os.fdopen(terminal, "rb", 0) as screen:
        process = subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=end)
        os.close(end)
        shown = b""
        while True:
            try:
                block = screen.read(4096)
            except OSError:  # how Linux says that the other side has closed its terminal
                break
            if not block:
                break
            shown += block
        assert process.wait(60) == 0
    assert b"/20" in shown
    assert b"frames/s" in shown
    done = run(tmp_path, "--source", "c.mp4", "--output", "null", "--model", model)
    assert "/20" not in done.stderr


def test_missing_opencv_library_names_the_fix(tmp_path: Path) -> None:
    fake = tmp_path / "cv2.py"
    fake.write_text("raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')\n")
    done = run(tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "libgl1" in done.stderr
    assert "opencv-python-headless" in done.stderr
    assert "Traceback" not in done.stderr


def test_engine_that_is_not_installed_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamer.common.errors import EngineError
    from streamer.detector import open_detector

    monkeypatch.setattr("streamer.engines.importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineError, match="pip install"):
        open_detector(engine="onnxruntime")
    with pytest.raises(EngineError, match="pip install"):
        open_detector()


def test_import_is_light() -> None:
    code = (
        "import sys, streamer; "
        "heavy = {'cv2', 'av', 'openvino', 'onnx', 'torch', 'onnxruntime', 'numpy'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
