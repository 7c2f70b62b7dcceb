"""Passwords from the environment or a file: what is sent to the camera, and what is never printed."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.app.cli import main
from streamer.app.config import read_config
from streamer.common.errors import ConfigError
from streamer.common.redaction import redact_text
from streamer.common.references import expand, expand_uri
from streamer.sources.spec import SourceSpec
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer
from tests.test_cli import NO_DISPLAY, command, model  # noqa: F401

PASSWORD = "p@ss/w?r#d:1 %41&x"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("fr0m-file@\n")
    for name, value in {
        "T_PASSWORD": PASSWORD,
        "T_LOGIN": f"admin:{PASSWORD}",
        "T_HOST": "10.0.0.7:554",
        "T_URL": "rtsp://admin:hunter2@10.0.0.7/1",
        "T_TOKEN": "a/b+c==",
        "T_EMPTY": "",
        "T_LINES": "a\nb",
        "T_FOLDER": str(tmp_path),
        "T_NESTED": "${T_PASSWORD}",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("written", "user", "password", "host"),
    [
        ("rtsp://user:${T_PASSWORD}@10.0.0.7/1", "user", PASSWORD, "10.0.0.7"),
        ("rtsp://user:${env:T_PASSWORD}@10.0.0.7/1", "user", PASSWORD, "10.0.0.7"),
        ("rtsp://user:a${T_PASSWORD}b@10.0.0.7/1", "user", f"a{PASSWORD}b", "10.0.0.7"),
        ("rtsp://${T_LOGIN}@${T_HOST}/1", "admin", PASSWORD, "10.0.0.7"),
        ("rtsp://admin:${file:HERE/secret}@h/1", "admin", "fr0m-file@", "h"),
        ("rtsp://admin:${file:${T_FOLDER}/secret}@h/1", "admin", "fr0m-file@", "h"),
        ("rtsp://admin:${T_NESTED}@h/1", "admin", "${T_PASSWORD}", "h"),
        ("rtsp://admin:$${T_PASSWORD}@h/1", "admin", "${T_PASSWORD}", "h"),
        ("rtsp://admin:a$b$@h/1", "admin", "a$b$", "h"),
        ("${T_URL}", "admin", "hunter2", "10.0.0.7"),
    ],
)
def test_a_value_arrives_as_it_is(written: str, user: str, password: str, host: str, tmp_path: Path) -> None:
    for text in (written, f"door={written}"):
        spec = SourceSpec.parse_configured(text.replace("HERE", str(tmp_path)))
        parts = urlsplit(spec.url)
        assert (unquote(parts.username or ""), unquote(parts.password or ""), parts.hostname) == (user, password, host)
        assert password not in f"{spec} {spec!r} {spec.name}" and "%" not in str(spec)
        assert host in str(spec)


@given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip))
def test_any_password_arrives_as_it_is_and_is_not_printed(password: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T_ANY", password)
        url, shown = expand_uri("rtsp://user:${T_ANY}@10.0.0.7/1")
    parts = urlsplit(url)
    assert (unquote(parts.password or ""), parts.hostname, parts.path) == (password, "10.0.0.7", "/1")
    assert shown == "rtsp://***@10.0.0.7/1"


def test_queries_and_paths() -> None:
    assert expand_uri("http://h/v?channel=1&token=${T_TOKEN}") == (
        "http://h/v?channel=1&token=a%2Fb%2Bc%3D%3D",
        "http://h/v?channel=1&token=***",
    )
    assert expand_uri("rtmp://h/app/${T_HOST}") == ("rtmp://h/app/10.0.0.7:554", "rtmp://h/app/***")
    assert expand_uri("${T_FOLDER}/a.mp4")[0] == expand("${T_FOLDER}/a.mp4")


def test_a_value_is_hidden_wherever_it_turns_up() -> None:
    expand_uri("rtsp://user:${T_PASSWORD}@10.0.0.7/1")
    expand_uri("http://10.0.0.7/x?key=${T_TOKEN}")
    assert redact_text(f"the camera says: {PASSWORD} is wrong, and a/b+c==, a%2Fb%2Bc%3D%3D") == (
        "the camera says: *** is wrong, and ***, ***"
    )


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("${T_PASWORD}", "the environment variable 'T_PASWORD' isn't set; did you mean 'T_PASSWORD'"),
        ("${T_EMPTY}", "the environment variable 'T_EMPTY' is empty"),
        ("${T_LINES}", "the environment variable 'T_LINES' holds more than one line"),
        ("${file:HERE/none}", "none' of a reference can't be read: No such file"),
        ("${file:HERE}", "can't be read: Is a directory"),
        ("${file:HERE/empty}", "is empty"),
        ("${file:HERE/two}", "holds more than one line"),
        ("${file:HERE/large}", "is larger than 4096 bytes"),
        ("${file:HERE/binary}", "is not text in UTF-8"),
        ("${}", "is no reference: write"),
        ("${a b}", "is no reference: write"),
    ],
)
def test_references_without_a_value(written: str, says: str, tmp_path: Path) -> None:
    for name, content in {"empty": b"\n", "two": b"a\nb\n", "large": b"x" * 5000, "binary": b"\xff\xfe"}.items():
        (tmp_path / name).write_bytes(content)
    for form in ("rtsp://user:{}@h/1", "{}", "door=rtsp://h/{}"):
        with pytest.raises(ConfigError) as caught:
            SourceSpec.parse_configured(form.format(written.replace("HERE", str(tmp_path))))
        assert says in str(caught.value)


def test_any_key_may_have_a_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T_CONF", "0.25")
    path = tmp_path / "run.yaml"
    path.write_text(
        "source: {door: {uri: '${T_URL}', output: ['${T_FOLDER}/a.mp4']}, yard: 'rtsp://u:${T_PASSWORD}@h/2'}\n"
        "output: ${T_FOLDER}/{source}.jsonl\nconf: ${T_CONF}\nmodel: ${T_FOLDER}/m.onnx\n"
    )
    config = read_config(path, {"report": "${T_FOLDER}/r.json"})
    assert [spec.name for spec in config.source] == ["door", "yard"]
    assert (config.conf, config.model, config.report) == (0.25, f"{tmp_path}/m.onnx", tmp_path / "r.json")
    assert str(config.output[0]) == f"{tmp_path}/{{source}}.jsonl"
    assert str((config.overrides_for("door").output or ())[0]) == f"{tmp_path}/a.mp4"
    with pytest.raises(ConfigError, match=r"an output's name has \{source\}, without the \$"):
        read_config(None, {"output": ["${source}.mp4"]})


def test_library_calls_replace_nothing() -> None:
    """A URI that comes from elsewhere can't ask for this process's variables."""
    assert "${T_PASSWORD}" in SourceSpec.parse("rtsp://h/${T_PASSWORD}").url


@pytest.mark.parametrize("how", ["options", "file"])
def test_a_camera_gets_the_password_and_nobody_else(how: str, tmp_path: Path, model: Path) -> None:  # noqa: F811
    (tmp_path / "cam").write_text(PASSWORD + "\n")
    with RtspServer(Loop(fps=30), credentials=f"admin:{PASSWORD}") as server:
        reference = "${T_PASSWORD}" if how == "options" else "${file:cam}"
        url = server.url.replace("rtsp://", f"rtsp://admin:{reference}@")
        (tmp_path / "run.yaml").write_text(f"source: {{cam: '{url}'}}\n")
        given_by = [f"cam={url}"] if how == "options" else ["--config", "run.yaml"]
        process = subprocess.Popen(
            command(
                *given_by, "-o", "{source}.jsonl", "--max-frames", "20", "-m", model, "--report", "r.json", "-v"
            ),
            cwd=tmp_path, env=NO_DISPLAY | {"T_PASSWORD": PASSWORD}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        seen = Path(f"/proc/{process.pid}/cmdline")
        listed = seen.read_bytes().decode() if seen.exists() else ""
        guard = threading.Timer(120, process.kill)
        guard.start()
        out, err = process.communicate()
        guard.cancel()
    assert process.returncode == 0, err
    assert json.loads((tmp_path / "r.json").read_text())["sources"][0]["frames_processed"] == 20
    for text in (listed, out, err, (tmp_path / "r.json").read_text(), (tmp_path / "cam.jsonl").read_text()):
        assert PASSWORD not in text and "p%40ss" not in text


def test_advice_on_a_missing_password_is_not_redacted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RtspServer(Loop(fps=30), credentials=f"admin:{PASSWORD}") as server:
        assert main([server.url, "-o", "null", "-q"]) == 1
    assert "write USER:${CAM_PASSWORD}@ before its host" in capsys.readouterr().err
