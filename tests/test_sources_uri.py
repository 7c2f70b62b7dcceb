"""How a source is written, named, told apart from others, and printed without its password."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.common.errors import ConfigError, SourceError
from streamer.common.redaction import redact, redact_text
from streamer.sources import SourceOptions, list_sources, open_source
from streamer.sources.cameras import cameras, cameras_text
from streamer.sources.spec import STREAM_SCHEMES, SourceKind, SourceSpec
from tests.media import number_of, write_clip, write_image

NAMES = st.from_regex(r"[A-Za-z0-9_-]+", fullmatch=True)
PASSWORDS = st.text(min_size=6).filter(lambda text: len(set(text)) > 4 and not set(text) <= set("rtsp://user*host"))


@pytest.mark.parametrize(
    ("argument", "name", "uri"),
    [
        ("door=0", "door", "0"),
        ("front-door_2=rtsp://cam/1?a=b", "front-door_2", "rtsp://cam/1?a=b"),
        ("a=b=c", "a", "b=c"),
        ("0", None, "0"),
        ("clip.mp4", None, "clip.mp4"),
        ("rtsp://cam/1?a=b", None, "rtsp://cam/1?a=b"),
        ("folder/a=b.mp4", None, "folder/a=b.mp4"),
        ("my door=0", "my door", "0"),
        ("t\u00fcre=rtsp://cam/1", "t\u00fcre", "rtsp://cam/1"),
        ("1=clip.mp4", "1", "clip.mp4"),
        ("cam.1=clip.mp4", "cam.1", "clip.mp4"),
        (" door=0", None, " door=0"),
        ("door =0", None, "door =0"),
        ("do\nor=0", None, "do\nor=0"),
        ("*=x.jpg", None, "*=x.jpg"),
        ("host?a=b", None, "host?a=b"),
        ("C:a=b", None, "C:a=b"),
        ("=0", None, "=0"),
    ],
)
def test_name_and_uri_are_split(argument: str, name: str | None, uri: str) -> None:
    spec = SourceSpec.parse_named(argument)
    assert spec.uri.reveal() == uri
    assert spec == SourceSpec.parse(uri, name=name)


def test_an_existing_file_is_not_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("take=2.mp4").touch()
    assert SourceSpec.parse_named("take=2.mp4") == SourceSpec.parse("take=2.mp4")
    assert SourceSpec.parse_named("take=3.mp4") == SourceSpec.parse("3.mp4", name="take")


def test_a_name_without_a_uri_is_refused() -> None:
    with pytest.raises(ConfigError, match="'door=' names no URI"):
        SourceSpec.parse_named("door=")


@given(name=NAMES, uri=st.text(min_size=1))
def test_splitting_gives_back_what_was_joined(name: str, uri: str) -> None:
    try:
        wanted = SourceSpec.parse(uri, name=name)
    except ConfigError:
        return
    assert SourceSpec.parse_named(f"{name}={uri}") == wanted


@given(uri=st.text())
def test_splitting_loses_nothing(uri: str) -> None:
    try:
        spec = SourceSpec.parse_named(uri)
    except ConfigError:
        return
    assert uri in (spec.uri.reveal(), f"{spec.name}={spec.uri.reveal()}")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://admin:hunter2@cam:554/1", "rtsp://***@cam:554/1"),
        ("rtsp://hunter2@cam/1", "rtsp://***@cam/1"),
        ("rtsp://:hunter2@cam/1", "rtsp://***@cam/1"),
        ("rtsp://me@home.org:hunter2@cam/1", "rtsp://***@cam/1"),
        ("rtsp:/admin:hunter2@cam/1", "rtsp:/***@cam/1"),
        ("rtsp//hunter2@cam/1", "***@cam/1"),
        ("admin:hunter2@cam", "***@cam"),
        ("cam/v.cgi?loginpas=hunter2", "cam/v.cgi?loginpas=***"),
        ("rtsp://admin:hunter2:10.0.0.1/1", "rtsp://admin:***/1"),
        # where the password has delimiters: more hidden than needed, never less
        ("rtsp://admin:p@ss/w:rd@cam/1", "rtsp://***"),
        ("rtsp://admin:12/34@cam/1", "rtsp://***"),
        ("rtsp://admin:p@ss/w:rd?@cam/1", "rtsp://***"),
        ("rtsp://cam:554/a@b", "rtsp://***"),
        ("http://cam/v?pw=hun@ter2", "http://***"),
        ("http://10.0.0.1:80/v?channel=1&pw=hun@ter2", "http://10.0.0.1:80/v?channel=1&pw=***"),
        # the query, and what isn't sent
        ("http://cam/video?user=a&password=hunter2&x=1", "http://cam/video?user=***&password=***&x=***"),
        ("http://cam/video?hunter2", "http://cam/video?***"),
        ("http://cam/video?aHVudGVyMg==", "http://cam/video?***"),
        ("http://cam/video?pass%77ord=hunter2&hunter2", "http://cam/video?***"),
        ("http://cam/video?channel=hunter2;subtype=0", "http://cam/video?channel=***&subtype=0"),
        ("rtsp://cam/cam/realmonitor?channel=1&subtype=0", "rtsp://cam/cam/realmonitor?channel=1&subtype=0"),
        (
            "http://cam/axis-cgi/mjpg/video.cgi?resolution=640x480",
            "http://cam/axis-cgi/mjpg/video.cgi?resolution=640x480",
        ),
        ("http://cam/video#hunter2", "http://cam/video#***"),
        # the path
        ("rtsp://cam/user=admin_password=hunter2_channel=1", "rtsp://cam/***"),
        ("rtsps://10.0.0.1:7441/hunter2hunter2?enableSrtp", "rtsps://10.0.0.1:7441/***?***"),
        ("rtmp://host/live2/hunt-er2h-unte", "rtmp://host/live2/***"),
        ("https://cdn/hunter2/hls/index.m3u8", "https://cdn/***/hls/index.m3u8"),
        ("https://cdn/12345678/index.m3u8", "https://cdn/***/index.m3u8"),
        # without any secret
        ("rtsp://cam/1", "rtsp://cam/1"),
        ("rtsp://cam/Streaming/Channels/101", "rtsp://cam/Streaming/Channels/101"),
        ("rtsp://cam/h264Preview_01_main", "rtsp://cam/h264Preview_01_main"),
        ("http://[::1]:8080/live", "http://[::1]:8080/live"),
        ("udp://@239.0.0.1:1234", "udp://@239.0.0.1:1234"),
        ("file:///a@b.mp4", "file:///a@b.mp4"),
        ("photos/a@2x.jpg", "photos/a@2x.jpg"),
        ("clip.mp4", "clip.mp4"),
        ("", ""),
    ],
)
def test_redact(uri: str, shown: str) -> None:
    assert redact(uri) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[Errno 5] I/O error: 'rtsp://a:hunter2@cam/1'", "[Errno 5] I/O error: 'rtsp://***@cam/1'"),
        ("choice: 'rtsp://a:hunt er2@cam/1' (choose", "choice: 'rtsp://***@cam/1' (choose"),
        ("{'door': \"rtsp://a:hunt'er2@cam/1\"}", "{'door': \"rtsp://***@cam/1\"}"),
        ("see (http://a:hunter2@cam/live): no", "see (http://***@cam/live): no"),
        ("rtsp://a:hunter2@cam/1, rtsp://b:hunter2@cam/2.", "rtsp://***@cam/1, rtsp://***@cam/2."),
        ("get https://github.com/a/b.onnx: 404", "get https://github.com/a/b.onnx: 404"),
        ("no folder rtsp:/a:hunter2@cam; make it", "no folder rtsp:/***@cam; make it"),
        ("a path: /tmp/a@b, C:/tmp/a@b", "a path: /tmp/a@b, C:/tmp/a@b"),
    ],
)
def test_redact_text(text: str, shown: str) -> None:
    assert redact_text(text) == shown


@pytest.mark.parametrize("password", ["a/b", "a?b", "a#b", "a/1@b", "p:w/x?y#z"])
def test_a_password_that_cuts_off_its_url_is_to_be_encoded(password: str) -> None:
    told = r"'rtsp://\*\*\*.*' has a / \? or # in its user or password: write %2F for /, %3F for \?, %23 for #"
    with pytest.raises(ConfigError, match=told) as caught:
        open_source(f"rtsp://admin:{password}@127.0.0.1:9/live")
    assert password not in str(caught.value)


@pytest.mark.parametrize("user", ["admin:12/34", "TOKEN/x", "admin:p@ss/word"])
def test_one_that_may_do_so_is_opened_and_said_on_failure(user: str) -> None:
    with pytest.raises(SourceError, match=r"if its user or password holds one of / \? #, write %2F for /"):
        open_source(f"rtsp://{user}@127.0.0.1:9/live", options=SourceOptions(reconnect=0, open_timeout_s=5.0))


@pytest.mark.parametrize(
    "uri", ["rtsp://127.0.0.1:9/a@b", "http://a:p%2Fw@127.0.0.1:9/x?y=a@b", "rtsp://a:p@b@127.0.0.1:9/"]
)
def test_no_word_of_it_where_the_host_is_an_address(uri: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(uri, options=SourceOptions(reconnect=0, open_timeout_s=5.0))
    assert "%2F" not in str(caught.value)


@given(password=PASSWORDS, scheme=st.sampled_from(STREAM_SCHEMES), path=st.sampled_from(["", "/1", "/a?b=c"]))
def test_a_password_before_the_host_is_never_shown(password: str, scheme: str, path: str) -> None:
    for written in (password, quote(password, safe="")):
        assert written not in redact(f"{scheme}://user:{written}@host{path}")


@given(password=PASSWORDS, key=st.sampled_from(["password", "pwd", "token", "api_key", "secret", "Signature"]))
def test_a_password_in_the_query_is_never_shown(password: str, key: str) -> None:
    written = quote(password, safe="")
    assert written not in redact(f"http://host/video?user=me&{key}={written}&x=1")


@given(uri=st.text())
def test_redacting_twice_changes_nothing(uri: str) -> None:
    assert redact(redact(uri)) == redact(uri)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("0", "camera0"),
        ("/dev/video2", "camera2"),
        ("videos/front door.mp4", "front door"),
        ("file:///videos/clip.mkv", "clip"),
        ("pictures/*.jpg", "pictures"),
        ("*.jpg", "pictures"),
        ("rtsp://me:secret@192.168.1.9:554/1", "192.168.1.9"),
        ("http://cam.local/video?x=1", "cam.local"),
        ("http://[::1]:8080/x", "1"),
        ("sample", "sample"),
        ("rtsp://-/1", "stream"),
        ("rtsp://*", "stream"),
        ("me:secret@cam", "***@cam"),
        ("cam/v.cgi?pw=secret", "cam"),
    ],
)
def test_default_name(uri: str, name: str) -> None:
    assert SourceSpec.parse(uri).name == name


def test_a_folder_is_named_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "night.1"
    folder.mkdir()
    assert SourceSpec.parse(f"{folder}/").name == "night.1"
    monkeypatch.chdir(folder)
    assert SourceSpec.parse(".").name == "night.1"


@given(uri=st.text())
def test_any_text_opens_or_is_an_error_in_one_line(uri: str) -> None:
    try:
        spec = SourceSpec.parse(uri)
        if not spec.kind.is_live:  # would ask a device or the network
            open_source(spec).close()
    except (ConfigError, SourceError) as error:
        assert len(str(error).splitlines()) == 1


PARTS = st.sampled_from([*"/@?#=&[]*~.:\\\0\n\xe9\udce9-_", "://", "//", "..", "%41"])
WORDS = st.sampled_from(["rtsp", "http", "file", "user", "host", "554", "clip.mp4", "a.jpg", "/dev/video0", "sample"])


@settings(max_examples=300)
@given(st.lists(PARTS | WORDS, max_size=9).map("".join))
def test_any_uri_has_a_kind_and_a_name_and_is_redacted_in_both(uri: str) -> None:
    try:
        spec = SourceSpec.parse(uri)
    except ConfigError:
        return
    assert spec.name and spec.uri.reveal() == uri
    assert (spec.scheme is not None) == (spec.kind is SourceKind.STREAM)
    assert (spec.path is None) == (spec.kind.is_live or spec.kind is SourceKind.STDIN)
    if spec.kind is SourceKind.STREAM:
        assert spec.scheme in STREAM_SCHEMES and spec.url.startswith(f"{spec.scheme}://")
        try:
            secret = SourceSpec.parse(f"{spec.scheme}://user:hunter2hunter2@{uri.partition('://')[2]}")
        except ConfigError as error:
            assert "hunter2hunter2" not in str(error)
        else:
            assert "hunter2hunter2" not in f"{secret} {secret!r} {secret.name}"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("", "a source's URI is empty"),
        ("rstp://cam/1", "unknown scheme 'rstp'; did you mean 'rtsp'"),
        ("ftp://me:hunter2@host/x", r"'ftp://\*\*\*@host/x' has the unknown scheme 'ftp'"),
    ],
)
def test_a_uri_that_nothing_takes(uri: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        open_source(uri)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("clip.mp4", "'clip.mp4' does not exist; did you mean 'clips.mp4'"),
        ("smaple", "'smaple' does not exist; did you mean 'sample'"),
        ("zzzzzz.jpg", "'zzzzzz.jpg' does not exist; check the path"),
        ("no/such/clip.mp4", "does not exist; there is no readable folder 'no/such'"),
        ("no/", "'no/' does not exist"),
        ("file:///no/such/clip.mp4", "does not exist"),
        ("rtsp:/me:hunter2@cam", r"'rtsp:/\*\*\*@cam' does not exist"),
        ("x" * 5000, "does not exist"),
        ("x" * 5000 + ".jpg", "does not exist"),
    ],
)
def test_a_path_that_is_not_there(uri: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("clips.mp4").touch()
    with pytest.raises(SourceError, match=words):
        open_source(uri)


def test_each_kind_opens(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    clip = write_clip(tmp_path / "clips" / "c:l@ip.mp4", 2)
    image = write_image(tmp_path / "a.png", 5)
    for uri in (str(clip), clip.as_uri()):
        with open_source(uri) as source:
            assert source.info.name == "c:l@ip" and source.info.path == clip
            assert [number_of(frame.image) for frame in source] == [0, 1]
    for uri in (str(image), str(tmp_path), f"{tmp_path}/", str(tmp_path / "*.png")):
        with open_source(uri, name="me") as source:
            assert source.info.name == "me" and source.info.uri == uri
            assert [number_of(frame.image) for frame in source] == [5]
    with open_source("sample") as source:
        assert source.info.name == source.info.uri == "sample"
        assert source.info.size_wh == (1280, 720) and source.info.frame_count == 300


def test_a_special_file_is_refused_without_waiting() -> None:
    with pytest.raises(SourceError, match="neither a file nor a folder"):
        open_source("/dev/null")


def test_options_must_be_above_zero() -> None:
    for options in ({"width": 0}, {"fps": -1.0}, {"open_timeout_s": 0.0}, {"stall_timeout_s": float("nan")}):
        with pytest.raises(ConfigError, match="must be above zero"):
            SourceOptions(**options)
    with pytest.raises(ConfigError, match="at least 0"):
        SourceOptions(reconnect=-1)
    with pytest.raises(ConfigError, match="four characters"):
        SourceOptions(pixel_format="H264X")


def test_the_list_names_cameras_and_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in ((10, "Front"), (2, "Webcam C920")):
        (tmp_path / f"video{number}").mkdir()
        (tmp_path / f"video{number}" / "name").write_text(f"{name}\n")
    (tmp_path / "video3").mkdir()  # unplugged while we look
    (tmp_path / "videoX").mkdir()
    assert cameras(tmp_path) == {2: "Webcam C920", 10: "Front"}
    assert cameras_text(tmp_path) == "cameras here: 2 (Webcam C920), 10 (Front)"
    assert cameras_text(tmp_path / "none") == "the system reports no camera"
    monkeypatch.setattr("streamer.sources.cameras", lambda: {2: "Webcam C920"})
    lines = list_sources()
    assert "Webcam C920" in lines[0]
    assert any("rtsp://" in line for line in lines) and any("sample" in line for line in lines)


def test_importing_sources_brings_neither_opencv_nor_pyav() -> None:
    code = "import sys, streamer.sources as s; s.list_sources(); print(sorted({'av', 'cv2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
