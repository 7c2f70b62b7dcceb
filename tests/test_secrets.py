"""No message, log line, report, name or process list shows what a source's URI keeps secret."""

from __future__ import annotations

import copy
import http.server
import json
import logging
import pickle
import pprint
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from streamer.app.cli import main
from streamer.app.config import SourceOverrides, StreamConfig, read_config
from streamer.common.errors import ConfigError, SourceError, StreamerError, one_line, short
from streamer.common.logs import SafeFormatter
from streamer.common.redaction import redact, redact_text
from streamer.detector import open_detector
from streamer.models.download import download
from streamer.models.file import load_model
from streamer.models.spec import ModelSpec
from streamer.models.zoo import resolve_model
from streamer.sinks import OutputSpec, open_sink
from streamer.sinks.paths import OutputPaths
from streamer.sinks.shared_outputs import outputs_by_source
from streamer.sources import SourceOptions, open_source
from streamer.sources.base import SourceInfo
from streamer.sources.spec import SourceSpec
from streamer.sources.workers import DecoderPool
from tests.fakes import wait_for
from tests.following import Following
from tests.media import write_clip
from tests.test_cli import model, run  # noqa: F401 - `model` is a fixture

SECRET = "s3crEtw0rd"
WITH_DELIMITERS = "s3cr@/?#:Et"
HOST = "127.0.0.1"

# How cameras, recorders and services are reached, after their manuals; {h} is HOST:PORT, {s} what nobody may see.
FORMS = {
    "Hikvision": "rtsp://admin:{s}@{h}/Streaming/Channels/101",
    "Hikvision, a snapshot": "http://admin:{s}@{h}/ISAPI/Streaming/channels/1/picture",
    "Dahua and Amcrest": "rtsp://admin:{s}@{h}/cam/realmonitor?channel=1&subtype=0",
    "Dahua, a snapshot": "http://{h}/cgi-bin/snapshot.cgi?channel=1&loginuse=admin&loginpas={s}",
    "XMEye recorders": "rtsp://{h}/user=admin_password={s}_channel=1_stream=0.sdp?real_stream",
    "XMEye recorders, a query": "rtsp://{h}/user=admin&password={s}&channel=1&stream=0.sdp?",
    "Axis": "rtsp://root:{s}@{h}/axis-media/media.amp?videocodec=h264&resolution=640x480",
    "Axis, MJPEG": "http://root:{s}@{h}/axis-cgi/mjpg/video.cgi?camera=1",
    "Axis, a token": "https://{h}/axis-cgi/mjpg/video.cgi?axis-access-token={s}",
    "Foscam": "rtsp://user:{s}@{h}/videoMain",
    "Foscam, MJPEG": "http://{h}/cgi-bin/CGIStream.cgi?cmd=GetMJStream&usr=admin&pwd={s}",
    "Foscam, old": "http://{h}/videostream.cgi?user=admin&pwd={s}&resolution=32&rate=0",
    "Reolink": "rtsp://admin:{s}@{h}/h264Preview_01_main",
    "Reolink, FLV": "http://{h}/flv?port=1935&app=bcs&stream=channel0_main.bcs&user=admin&password={s}",
    "Reolink, RTMP": "rtmp://{h}/bcs/channel0_main.bcs?channel=0&stream=0&token={s}",
    "Uniview": "rtsp://admin:{s}@{h}/unicast/c1/s0/live",
    "Tapo": "rtsp://camuser:{s}@{h}/stream1",
    "Tapo, an address as user": "rtsp://me@home.example:{s}@{h}/stream2",
    "Wyze, a bridge": "http://{h}/snapshot/cam.jpg?api={s}",
    "Wyze, an RTSP firmware": "rtsp://wyze:{s}@{h}/live",
    "UniFi Protect": "rtsps://{h}/{s}?enableSrtp",
    "UniFi Protect, without TLS": "rtsp://{h}/{s}",
    "Nest": "rtsps://{h}/sdm_live_stream/{s}?auth=g.0.{s}",
    "EZVIZ, the sticker's code": "rtsp://admin:{s}@{h}/h264_stream",
    "Vivotek": "rtsp://root:{s}@{h}/live.sdp",
    "D-Link": "http://admin:{s}@{h}/mjpeg.cgi?user=admin&password={s}&channel=0",
    "Panasonic": "http://admin:{s}@{h}/nphMotionJpeg?Resolution=640x480&Quality=Standard&sid={s}",
    "Bosch": "rtsp://service:{s}@{h}/?inst=1&line=2",
    "Hanwha": "rtsp://admin:{s}@{h}/profile2/media.smp",
    "ESP32-CAM": "http://{h}/stream?{s}",
    "Blue Iris": "http://{h}/mjpg/cam1/video.mjpg?user=me&pw={s}",
    "Frigate and go2rtc": "http://{h}/api/stream.m3u8?src=cam1&jwt={s}",
    "Shinobi": "http://{h}/{s}/mjpeg/group/monitor/channel",
    "a token as user": "rtsp://{s}@{h}/live",
    "a token as user, with a slash": "rtsp://{s}/x@{h}/live",
    "HLS with a token": "https://{h}/hls/live/index.m3u8?hdnts=exp=1700000000~acl=/*~hmac={s}",
    "HLS, signed in its path": "https://{h}/vod/{s}/index.m3u8",
    "HLS, a stream's key": "http://{h}/hls/{s}.m3u8",
    "S3": "https://{h}/clip.mp4?X-Amz-Credential=AKIA%2Fs3&X-Amz-Signature={s}",
    "CloudFront": "https://{h}/video/clip.mp4?Policy={s}&Signature={s}&Key-Pair-Id=K2JCJMDEHXQW5F",
    "Azure": "https://{h}/clip.mp4?sv=2022-11-02&sr=b&sig={s}%3D",
    "SRT": "srt://{h}?mode=caller&passphrase={s}&streamid=read:door:me:{s}",
    "RTMP, a stream's key": "rtmp://{h}/live/{s}",
    "RTMP, librtmp's options": "rtmp://{h}/live/cam1 token={s} pubUser=me pubPasswd={s}",
    "Wowza": "rtsp://{h}/live/cam.stream?wowzatokenhash={s}",
    "a key in percent-encoding": "http://{h}/video.mjpg?pass%77ord={s}&{s}",
    "a fragment": "http://{h}/video.mjpg#{s}",
    "another delimiter": "http://{h}/video.mjpg;jsessionid={s}?channel=1;pwd={s}",
    "no scheme": "admin:{s}@{h}/stream1",
    "no scheme, a query": "{h}/videostream.cgi?user=admin&pwd={s}",
    "a single slash": "rtsp:/admin:{s}@{h}/1",
    "an unknown scheme": "rstp://admin:{s}@{h}/1",
    "no host": "rtsp://admin:{s}",
    "no password's end": "rtsp://admin:{s}/stream1",
    "a password behind the host": "rtsp://{h}:admin:{s}/stream1",
}  # fmt: skip


def uris(host: str) -> list[str]:
    return [form.format(h=host, s=SECRET) for form in FORMS.values()]


def refusing() -> str:
    """Returns an address on loopback where nobody listens."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return f"{HOST}:{probe.getsockname()[1]}"


def assert_hidden(*shown: object) -> None:
    for text in map(str, shown):
        assert SECRET not in text and quote(WITH_DELIMITERS, safe="") not in text
        assert "s3c" not in text, text  # a part of it is too much as well


def forms_of(uri: str) -> list[object]:
    """Returns every way to print a source that is written so, or the error where none can be."""
    try:
        spec = SourceSpec.parse(uri)
    except ConfigError as error:
        return [error]
    record = logging.LogRecord("a", logging.INFO, "", 0, "%s %r", (spec, spec), None)
    return [
        *(spec, repr(spec), f"{spec}", f"{spec!r:>9}", spec.uri, repr(spec.uri), spec.name, spec.kind, [spec]),
        *(record.getMessage(), pprint.pformat(spec), ValueError(spec), repr(ValueError(spec)), asdict(spec)),
        *(vars(spec), repr(copy.deepcopy(spec)), repr(pickle.loads(pickle.dumps(spec))), repr(replace(spec, name="b"))),
    ]


URIS = pytest.mark.parametrize("uri", uris(refusing()), ids=list(FORMS))


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_what_is_printed_of_a_uri(form: str) -> None:
    for secret in (SECRET, quote(WITH_DELIMITERS, safe="")):
        uri = form.format(h=f"{HOST}:554", s=secret)
        shown = redact(uri)
        assert redact(shown) == shown
        assert_hidden(shown, *forms_of(uri), short(uri), short([{"uri": uri}]), SourceError(f"it's {shown!r}"))
        if ":/" in uri or ":{s}@" in form:
            assert_hidden(redact_text(f"can't get {uri!r}: no"), StreamerError(f"{uri!r}"), one_line(repr({"a": uri})))


def test_a_password_with_raw_delimiters_is_hidden_in_whole() -> None:
    for form in FORMS.values():
        if ":{s}@" in form and "://" in form:
            uri = form.format(h=f"{HOST}:554", s=WITH_DELIMITERS)
            assert_hidden(redact(uri), *forms_of(uri), redact_text(f"source {uri!r}: no"))


def test_quotes_within_a_uri_and_a_quote_that_is_cut_off_hide_nothing_less() -> None:
    for password in (f"x'\"{SECRET}", f"x\\'{SECRET}", f"x\\{SECRET}"):
        assert_hidden(one_line(f"can't open {f'rtsp://a:{password}@{HOST}/1'!r}: no"))
    for form in FORMS.values():
        if "://" in form:
            assert_hidden(one_line(f"can't open {form.format(h=HOST, s=SECRET)!r}"[:-1]))


@URIS
def test_a_source_that_cant_be_opened(uri: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    hurry = SourceOptions(reconnect=0, open_timeout_s=2.0)
    with pytest.raises(StreamerError) as caught:
        open_source(uri, options=hurry)
    assert_hidden(caught.value, repr(caught.value), caplog.text, *(thread.name for thread in threading.enumerate()))


def said(body: Callable[[], object]) -> str:
    """Returns the error that something ends with, with its traceback as the program logs it at debug level."""
    with pytest.raises(StreamerError) as caught:
        body()
    record = logging.LogRecord(
        "x", logging.DEBUG, "x", 1, str(caught.value), None, (caught.type, caught.value, caught.tb)
    )
    return f"{caught.value}\n{caught.value!r}\n{SafeFormatter().format(record)}"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs the program up to its error; returns all that it printed."""
    try:
        status: object = main(arguments)
    except SystemExit as ended:
        status = ended.code
    text = "".join(capsys.readouterr())
    assert status in (1, 2) and "error:" in text
    return text


@URIS
def test_a_command_line_that_is_refused(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ("--source", uri, "--source", uri, "--output", "null"),  # of one name
        ("--source", f"a={uri}", "--source", f"a={uri}", "--output", "null"),
        ("--source", "a=", "--source", uri),
        ("--config", uri),
        ("--retain", uri),
        ("--max-fps", uri),
        ("--pace", uri),
        ("-o", uri),
        (uri,),
    ):
        assert_hidden(printed(capsys, *arguments))


@URIS
def test_outputs_and_models_that_are_refused(uri: str, tmp_path: Path) -> None:
    a = SourceInfo("a", "0")
    assert_hidden(
        said(lambda: open_sink(uri, a, labels=())),
        said(lambda: OutputPaths().check([(OutputSpec.parse(uri), "a"), (OutputSpec.parse(uri), "b")])),
        said(lambda: outputs_by_source([OutputSpec.parse(uri)], {"a": None, "b": None}, tiled=False)),
        said(lambda: resolve_model(uri)),
        said(lambda: load_model(Path(uri))),
        said(lambda: ModelSpec.from_yaml(uri)),
        said(lambda: open_detector(engine=uri)),
        said(lambda: open_detector(device=uri)),
        said(
            lambda: download(
                f"http://{refusing()}/{uri.partition('://')[2]}".replace(" ", "+"), tmp_path / "m.onnx", None
            )
        ),
    )


CONFIGURATIONS = {
    "a source that isn't there": {"source": {"door": "URI", "yard": None}},
    "a list of mappings": {"source": [{"name": "door", "uri": "URI", "password": SECRET}]},
    "a deep mapping": {"source": {"door": {"uri": {"url": "URI", "password": SECRET}}}},
    "a number": {"source": "URI", "conf": "URI"},
    "an unknown key": {"source": "URI", "URI": 1},
    "an unknown key of a source": {"source": {"door": {"uri": "URI", "URI": 1}}},
    "overrides that aren't": {"source": "URI", "overrides": "URI"},
    "an output": {"source": "sample", "output": ["null", "URI", {"uri": "URI", "password": SECRET}]},
    "a model": {"source": "sample", "model": ["URI"]},
    "a zero byte": {"source": "URI\0"},
    "the whole": ["URI", "URI"],
}
TEXTS = {
    "a colon": "source: URI: x\n",
    "no end": "source: {door: URI\noutput: 'null'\n",
    "a tab": "source:\n\tdoor: URI\n",
    "a quote": 'source: "URI\nconf: 1\n',
    "an escape": 'source: "URI\\q"\n',
    "an indent": "source:\n  a: URI\n b: URI\n",
    "an alias": "source: *SECRET\n",
    "an anchor": "a: &SECRET 1\nb: &SECRET 2\n",
    "a tag": "source: !SECRET x\n",
    "a tag of Python": "source: !!python/object:SECRET URI\n",
    "a value that doesn't fit its tag": "source: !!int URI\nconf: !!bool SECRET\n",
    "a key that is a list": "? [URI, SECRET]\n: 1\n",
    "a byte": "source: URI\x01\n",
    "two documents": "source: URI\n---\nsource: URI\n",
}  # fmt: skip


@pytest.mark.parametrize("content", CONFIGURATIONS.values(), ids=list(CONFIGURATIONS))
def test_configurations_that_are_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    for uri in uris(HOST):
        path.write_text(yaml.safe_dump(content).replace("URI", uri.replace("'", "''")))
        assert_hidden(said(lambda: read_config(path, {})))


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_files_that_are_no_yaml(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    for uri in uris(HOST):
        path.write_text(text.replace("URI", uri).replace("SECRET", SECRET))
        assert_hidden(said(lambda: read_config(path, {})))


@URIS
def test_what_a_configuration_is_printed_as(uri: str) -> None:
    try:
        spec = SourceSpec.parse(uri, name="door")
    except ConfigError:
        return
    config = StreamConfig(source=(spec,), model=uri, overrides={"door": SourceOverrides()})
    assert_hidden(config, repr(config))
    assert_hidden(said(lambda: print(StreamConfig(output=uri))))
    try:
        output = OutputSpec.parse(f"{uri}/")
    except ConfigError as error:  # an address of a live page has no path
        assert_hidden(error, repr(error))
        return
    assert_hidden(output, repr(output), f"{output}")


def test_what_a_run_that_follows_its_file_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("source: {kept: one}\n")
    caplog.set_level(logging.DEBUG)
    caplog.handler.setFormatter(SafeFormatter())
    following = Following(path)
    following.streams.refuse = lambda spec: SourceError(f"no, {spec!r} {spec}")
    for uri in uris(refusing()):
        for content in (["kept=one", uri], ["kept=one", uri, uri], {"kept": "one", "a": uri, uri: "sample"}):
            count = following.reads
            following.write(yaml.safe_dump({"source": content}))
            wait_for(lambda count=count: following.reads > count)  # type: ignore[misc]
    wait_for(lambda: "can't be added" in caplog.text)
    following.end()
    assert_hidden(caplog.text, *following.result)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that gives a clip whatever it is asked for."""
    clip = write_clip(tmp_path_factory.mktemp("web") / "clip.mp4", 10).read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "video/mp4")
            self.send_header("Content-Length", str(len(clip)))
            self.end_headers()
            self.wfile.write(clip)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((HOST, 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"{HOST}:{httpd.server_address[1]}"
        httpd.shutdown()


@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_run(processes: str, server: str, model: Path, tmp_path: Path) -> None:  # noqa: F811
    served = [uri for uri in uris(server) if uri.startswith("http:") and ".m3u8" not in uri]
    assert len(served) > 10
    named = [f"s{number}={uri}" for number, uri in enumerate(served[1:])]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"source": [served[0], *named]}))
    done = run(
        tmp_path, "--config", "run.yaml", "--model", model, "--log-level", "debug", "--report", "r.json",
        "--output", "{source}.jsonl", "--output", "{source}.mp4", "--decode-processes", processes,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (tmp_path / "run.yaml").unlink()
    assert_hidden(done.stdout, done.stderr)
    report = json.loads((tmp_path / "r.json").read_text())
    assert len(report["sources"]) == len(served) and all(source["frames_captured"] for source in report["sources"])
    files = sorted(tmp_path.iterdir())
    assert len(files) == 1 + 2 * len(served)
    for file in files:
        assert_hidden(file.name, file.read_bytes().decode("latin-1"))


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="this system has no /proc")
def test_what_other_users_see_of_decoding_processes(server: str) -> None:
    with DecoderPool(1) as processes:
        source = processes.open(SourceSpec.parse(f"http://{server}/video.mjpg?pwd={SECRET}"), SourceOptions())
        source.wait_ready()
        (process,) = processes.status()
        for name in ("cmdline", "environ"):
            assert_hidden(Path(f"/proc/{process.pid}/{name}").read_text())
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            assert_hidden((task / "comm").read_text())
        assert_hidden(source.info, source)


def test_names_made_from_uris(tmp_path: Path) -> None:
    for uri in uris(HOST):
        try:
            info = SourceInfo(SourceSpec.parse(uri).name, redact(uri))
        except ConfigError:
            continue
        sink = open_sink(f"{tmp_path}/{{source}}.jsonl", info, labels=())
        sink.close()
        assert_hidden(info)
    assert_hidden(*tmp_path.iterdir())
