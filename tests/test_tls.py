"""Certificates on https and rtsps: real servers on loopback, one whose name fits and one whose name doesn't."""

from __future__ import annotations

import contextlib
import functools
import http.server
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import cv2
import av
import pytest

from streamer.app.config import StreamConfig, read_config
from streamer.app.stream_factory import StreamFactory
from streamer.common.errors import ConfigError, ModelError, SourceError
from streamer.common.queues import OverflowPolicy
from streamer.common.tls import Trust, check_trust, ffmpeg_options
from streamer.models.download import download
from streamer.sources import SourceOptions, open_source
from tests.media import number_of, picture, write_clip
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer
from tests.test_cli import main, model  # noqa: F401 - `model` is a fixture

MATERIAL = Path(__file__).parent / "tls"
AUTHORITY = MATERIAL / "ca.pem"
FILES = ("clip.mp4", "list.m3u8", "watch", "still.jpg", "moved.m3u8", "bytes.m3u8")
PICTURES = 60


def context_of(certificate: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(MATERIAL / certificate)
    return context


class Web:
    """A web server on https.

    Attributes:
        asked: the paths that were asked for, with the passwords sent.
    """

    def __init__(self, folder: Path, certificate: str) -> None:
        self.asked: list[tuple[str, str | None]] = []
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            extensions_map: ClassVar = {".m3u8": "application/vnd.apple.mpegurl", ".jpg": "image/jpeg"}

            def do_GET(self) -> None:
                asked.append((self.path, self.headers.get("Authorization")))
                if self.path.startswith("/guarded/"):
                    if self.headers.get("Authorization") is None:
                        self.send_response(401)
                        self.send_header("WWW-Authenticate", 'Basic realm="x"')
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                        return
                    self.path = self.path.removeprefix("/guarded")
                if self.path == "/moved.m3u8":
                    self.send_response(302)
                    self.send_header("Location", "/hls/list.m3u8")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if self.path == "/watch":
                    self.path = "/list.m3u8"
                part = self.headers.get("Range", "bytes=0-")
                content = Path(self.translate_path(self.path)).read_bytes()
                first, _, last = part.removeprefix("bytes=").partition("-")
                body = content[int(first) : int(last) + 1 if last else None]
                self.send_response(206 if "Range" in self.headers else 200)
                self.send_header("Content-Type", self.guess_type(self.path))
                self.send_header("Content-Length", str(len(body)))
                if "Range" in self.headers:
                    self.send_header("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/{len(content)}")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a client that hangs up because it doesn't trust the certificate

        self._server = Server(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self._server.socket = context_of(certificate).wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port: int = self._server.server_address[1]
        self.url = f"https://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    write_clip(folder / "clip.mp4", PICTURES)
    (folder / "hls").mkdir()
    for options in ({"hls_time": "0.3"}, {"hls_flags": "single_file", "hls_time": "0.3"}):
        name = folder / ("bytes.m3u8" if "hls_flags" in options else "list.m3u8")
        with (
            av.open(str(folder / "clip.mp4")) as clip,
            av.open(str(name), "w", format="hls", options={"hls_list_size": "0", **options}) as playlist,
        ):
            stream = playlist.add_stream_from_template(clip.streams.video[0])
            for packet in clip.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    playlist.mux(packet)
    for file in folder.glob("list*"):
        (folder / "hls" / file.name).write_bytes(file.read_bytes())
    cv2.imwrite(str(folder / "still.jpg"), picture(7))
    return folder


@pytest.fixture
def web(folder: Path) -> Iterator[Web]:
    with closing(Web(folder, "server.pem")) as server:
        yield server


@pytest.fixture
def other(folder: Path) -> Iterator[Web]:
    """One whose certificate is another host's."""
    with closing(Web(folder, "other.pem")) as server:
        yield server


def options_for(trust: Trust) -> SourceOptions:
    return SourceOptions(tls_verify=trust, reconnect=0, overflow_policy=OverflowPolicy.BLOCK)


def numbers(url: str, trust: Trust, count: int | None = None) -> list[int]:
    with open_source(url, options=options_for(trust)) as source:
        return [number_of(frame.image) for frame in islice(source, count)]


@pytest.mark.parametrize("trust", [AUTHORITY, False], ids=["its authority", "anyone"])
@pytest.mark.parametrize("file", FILES)
def test_what_is_trusted_is_read(file: str, trust: Trust, web: Web) -> None:
    if file == "still.jpg":
        assert numbers(f"{web.url}/{file}", trust, 1) == [7]
    else:
        assert numbers(f"{web.url}/{file}", trust) == list(range(PICTURES))


def test_anyone_is_trusted_whatever_the_name(other: Web) -> None:
    assert len(numbers(f"{other.url}/list.m3u8", False)) == len(numbers(f"{other.url}/clip.mp4", False)) == PICTURES


@pytest.mark.parametrize("file", FILES)
def test_who_is_not_trusted_is_sent_nothing(file: str, web: Web, other: Web) -> None:
    for server, trust, why in ((web, True, "certificate"), (other, AUTHORITY, "IP address mismatch")):
        url = f"https://me:secret@127.0.0.1:{server.port}/guarded/{file}"
        with pytest.raises(SourceError, match=rf"certificate that isn't trusted \(.*{why}.*\); .*--tls-verify FILE"):
            numbers(url, trust)
        assert server.asked == []


@pytest.mark.parametrize("file", ["clip.mp4", "list.m3u8"])
def test_a_password_reaches_all_parts_of_who_is_trusted(file: str, web: Web) -> None:
    assert len(numbers(f"https://me:secret@127.0.0.1:{web.port}/guarded/{file}", AUTHORITY)) == PICTURES
    assert all(path.startswith("/guarded/") for path, _ in web.asked)


def test_the_parts_of_a_playlist_are_checked_too(web: Web, other: Web, folder: Path) -> None:
    playlist = (folder / "list.m3u8").read_text()
    for name, place in (("segments.m3u8", other.url), ("files.m3u8", "file://")):
        (folder / name).write_text("\n".join(f"{place}/{x}" if x.endswith(".ts") else x for x in playlist.splitlines()))
    with pytest.raises(SourceError, match="isn't trusted .*IP address mismatch"):
        numbers(f"{web.url}/segments.m3u8", AUTHORITY)
    assert other.asked == []
    assert len(numbers(f"{web.url}/segments.m3u8", False)) == PICTURES
    with pytest.raises(SourceError):
        numbers(f"{web.url}/files.m3u8", AUTHORITY)


def test_encrypted_parts_are_refused_with_a_word(web: Web, folder: Path) -> None:
    lines = (folder / "list.m3u8").read_text().splitlines()
    lines.insert(3, f'#EXT-X-KEY:METHOD=AES-128,URI="{web.url}/clip.mp4"')
    (folder / "encrypted.m3u8").write_text("\n".join(lines))
    with pytest.raises(SourceError, match="has encrypted segments, .* --tls-verify no"):
        numbers(f"{web.url}/encrypted.m3u8", AUTHORITY)


@pytest.mark.parametrize("file", ["clip.mp4", "still.jpg"])
def test_a_redirect_leads_to_nobody_who_is_not_trusted(
    file: str, web: Web, other: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Redirect(f"{other.url}/{file}")) as redirect:
        with pytest.raises(SourceError):
            numbers(f"{redirect.url}/{file}", AUTHORITY)
        assert other.asked == [] and redirect.asked


class Redirect(Web):
    """Sends everybody elsewhere."""

    def __init__(self, target: str) -> None:
        super().__init__(MATERIAL, "server.pem")
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append((self.path, None))
                self.send_response(302)
                self.send_header("Location", target)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server.RequestHandlerClass = Handler


def test_rtsps() -> None:
    url = "rtsps://admin:secret@127.0.0.1:{port}/live"
    for certificate, trust, why in (
        ("server.pem", AUTHORITY, None),
        ("server.pem", False, None),
        ("other.pem", False, None),
        ("server.pem", True, "certificate"),
        ("other.pem", AUTHORITY, "IP address mismatch"),
    ):
        with RtspServer(Loop(fps=60), credentials="admin:secret", tls=context_of(certificate)) as camera:
            if why is None:
                assert numbers(url.format(port=camera.port), trust, 5) == list(range(5))
                continue
            with pytest.raises(SourceError, match=rf"a certificate that isn't trusted \(.*{why}") as caught:
                numbers(url.format(port=camera.port), trust, 5)
            assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("certificate", "trust", "is_trusted"), [("server.pem", AUTHORITY, True), ("other.pem", AUTHORITY, False)]
)
def test_rtmps_says_nothing_to_who_is_not_trusted(certificate: str, trust: Trust, is_trusted: bool) -> None:
    heard: list[bytes] = []

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with contextlib.suppress(OSError), context_of(certificate).wrap_socket(connection, server_side=True) as client:
            heard.append(client.recv(100))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        with pytest.raises(SourceError):
            numbers(f"rtmps://127.0.0.1:{server.getsockname()[1]}/live", trust)
        thread.join(20)
    assert any(heard) == is_trusted


def test_the_systems_authorities_are_known_to_ffmpeg(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the FFmpeg in PyAV's wheels looks for them."""
    monkeypatch.setenv("SSL_CERT_FILE", str(AUTHORITY))
    assert ffmpeg_options(True) == {"tls_verify": "1", "ca_file": str(AUTHORITY)}
    for file in ("clip.mp4", "list.m3u8", "watch"):
        assert len(numbers(f"{web.url}/{file}", True)) == PICTURES


def test_models_come_from_nobody_who_is_not_trusted(web: Web, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="certificate"):
        download(f"{web.url}/clip.mp4", tmp_path / "m.onnx", None)
    assert web.asked == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("written", "trust"),
    [("true", True), ("false", False), ("yes", True), ("no", False), ('"off"', False), ("ca.pem", Path("ca.pem"))],
)
def test_how_it_is_written(written: str, trust: Trust, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"tls_verify: {written}\n")
    assert read_config(tmp_path / "run.yaml", {}).tls_verify == trust
    assert StreamConfig(tls_verify=written.strip('"')).tls_verify == trust
    assert StreamConfig().tls_verify is True


def test_a_file_of_authorities_that_is_none(tmp_path: Path) -> None:
    check_trust(AUTHORITY)
    (tmp_path / "empty.pem").touch()
    for path, why in ((tmp_path / "empty.pem", "holds no certificate"), (tmp_path / "none", "can't be read: No such")):
        with pytest.raises(ConfigError, match=f"tls_verify: .*{path.name}.* {why}"):
            StreamFactory(StreamConfig(tls_verify=path))


def test_it_is_warned_of_once(caplog: pytest.LogCaptureFixture, web: Web) -> None:
    def warnings(*sources: str, **options: Any) -> int:
        caplog.clear()
        config = StreamConfig(source=sources, **options)
        with StreamFactory(config) as factory:
            for spec in config.source:
                factory.open_source(config, spec).close()
        return caplog.text.count("certificates aren't checked")

    caplog.set_level(logging.WARNING)
    assert warnings(f"a={web.url}/clip.mp4", f"b={web.url}/clip.mp4", tls_verify=False) == 1
    assert warnings(f"a={web.url}/clip.mp4", tls_verify=AUTHORITY) == 0
    assert warnings("a=sample", tls_verify=False) == 0


def test_on_the_command_line(web: Web, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    run: Callable[..., int] = lambda *more: main(  # noqa: E731
        ["--source", f"{web.url}/clip.mp4", "--output", "null", "--model", str(model), "--max-frames", "3", *more]
    )
    assert run() == 1
    assert "error: source" in (told := capsys.readouterr().err) and "--tls-verify no" in told
    assert run("--tls-verify", str(AUTHORITY)) == 0
    assert run("--tls-verify", "no") == 0
    assert run("--tls-verify", str(tmp_path / "none.pem")) == 2
