from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from streamer.app.listing import list_known
from streamer.common.errors import ConfigError, ModelError
from streamer.models import zoo
from streamer.models.download import download
from tests.tiny import write_tiny

_LEFT = threading.Event()
CONTENT = bytes(range(256)) * 400


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/drip":
            self._drip()
            return
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1000] if self.path == "/cut" else CONTENT)

    def _drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            while not _LEFT.wait(0.02):
                self.wfile.write(b"x")

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        _LEFT.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANODET_STREAMER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_download(server: str, tmp_path: Path) -> None:
    download(f"{server}/ok", tmp_path / "m.onnx", hashlib.sha256(CONTENT).hexdigest())
    assert (tmp_path / "m.onnx").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "sha256", "says"),
    [("/cut", None, "broke off"), ("/missing", None, "404"), ("/ok", "0" * 64, "SHA-256")],
)
def test_failed_download_leaves_nothing(server: str, tmp_path: Path, path: str, sha256: str, says: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    with pytest.raises(ModelError, match=says) as caught:
        download(server + path, folder / "m.onnx", sha256)
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []


def test_unreachable_server_names_the_way_by_hand(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="by hand"):
        download("http://127.0.0.1:1/m.onnx", tmp_path / "m.onnx", None)


def test_official_model_is_downloaded_once(server: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = zoo.ZooModel("nanodet-plus-m_416", 1.17, 30.4, f"{server}/ok")
    monkeypatch.setitem(zoo.ZOO, entry.name, entry)
    assert zoo.where(entry) == "download"
    path, spec = zoo.resolve_model(entry.name)
    assert path.read_bytes() == CONTENT
    assert spec is not None
    assert (spec.family, spec.input_size_wh, spec.keep_ratio) == ("nanodet-plus", (416, 416), False)
    assert zoo.where(entry) == "cached"
    monkeypatch.setitem(zoo.ZOO, entry.name, zoo.ZooModel(entry.name, 1.17, 30.4, f"{server}/missing"))
    assert zoo.resolve_model(entry.name)[0] == path


@pytest.mark.parametrize("name", [name for name, model in zoo.ZOO.items() if zoo.where(model) == "packaged"])
def test_a_damaged_packaged_model_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, spec = zoo.resolve_model(name)
    assert spec is None
    monkeypatch.setitem(zoo.ZOO, name, replace(zoo.ZOO[name], sha256=hashlib.sha256(b"other").hexdigest()))
    with pytest.raises(ModelError, match=f"{whole.name}' is damaged or changed: install the package again"):
        zoo.resolve_model(name)


def test_model_without_a_public_file_says_how_to_make_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(zoo.ZOO, "nanodet-m_320", zoo.ZooModel("nanodet-m_320", 0.95, 20.6))
    with pytest.raises(ModelError, match="calibration export"):
        zoo.resolve_model("nanodet-m_320")


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'nanodet-g_416'"):
        zoo.resolve_model("nanodet-g_461")


def test_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "mine.onnx")
    assert zoo.resolve_model(str(path)) == (path, None)
    with pytest.raises(ConfigError, match="did you mean 'mine.onnx'"):
        zoo.resolve_model(str(tmp_path / "mime.onnx"))
    with pytest.raises(ConfigError, match="can't be read: File name too long"):
        zoo.resolve_model(f"{'x' * 300}.onnx")
    with pytest.raises(ConfigError, match="unknown model 'x{20}[x.]*'") as caught:
        zoo.resolve_model("x" * 5000)
    assert len(str(caught.value)) < 200


def test_unwritable_cache(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NANODET_STREAMER_CACHE", str(tmp_path / "file"))
    monkeypatch.setitem(zoo.ZOO, "x", zoo.ZooModel("x", 1.0, 1.0, f"{server}/ok"))
    with pytest.raises(ModelError, match="can't write"):
        zoo.resolve_model("x")


def test_a_server_that_drips_is_given_up(server: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"can't get .* \(timed out\): download it by hand"):
        download(f"{server}/drip", tmp_path / "m.onnx", None, timeout_s=0.5)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_sends_too_much_is_refused(server: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"gives more than {len(CONTENT) - 1} bytes, which is no model"):
        download(f"{server}/ok", tmp_path / "m.onnx", None, max_bytes=len(CONTENT) - 1)
    assert list(tmp_path.iterdir()) == []


def test_the_list_says_size_accuracy_speed_and_place(cache: Path) -> None:
    folder = cache / "compiled"
    folder.mkdir(parents=True)
    sha256 = zoo.ZOO["nanodet-g_416"].sha256
    header = {"model_sha256": sha256, "precision": "int8", "fps": 90.2, "busy": False}
    (folder / ("0" * 32)).write_text(json.dumps(header) + "\n")
    (cache / "nanodet-plus-m_320.onnx").write_bytes(b"0" * 4_800_000)
    head, *lines, about, more = list_known("models")
    assert head.split() == ["name", "parameters", "AP", "file", "speed", "here", "where"]
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines}
    assert rows["nanodet-g_416"] == "3.81 M 22.9 3.9 MB 90 a second, openvino int8 packaged"
    assert rows["nanodet-plus-m_320"] == "1.17 M 27.0 4.8 MB not measured yet cached"
    assert rows["nanodet-plus-m-1.5x_416"] == "2.44 M 34.1 not measured yet download"
    assert about.startswith("AP: COCO val2017")
    assert "docs/models.md" in more
