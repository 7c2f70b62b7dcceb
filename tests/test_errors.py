"""What error messages are made of."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.app.cli import main
from streamer.common.errors import counted, listed, one_line, short
from tests.media import write_clip
from tests.tiny import write_tiny


@given(st.text())
def test_any_text_becomes_one_printable_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert one_line(line) == line
    if text.isprintable():
        assert line == text


@pytest.mark.parametrize(
    ("text", "line"), [("a\nb", "a b"), ("\x1b[31mred", "\\x1b[31mred"), ("caf\udce9.mp4", "caf\\udce9.mp4")]
)
def test_one_line(text: str, line: str) -> None:
    assert one_line(text) == line


@pytest.mark.parametrize(
    ("count", "said"), [(0, ""), (1, "a"), (2, "a, b"), (3, "a, b and 1 more"), (5, "a, b and 3 more")]
)
def test_names_are_listed_up_to_a_number(count: int, said: str) -> None:
    assert listed(list("abcde")[:count], 2) == said


@given(st.recursive(st.text() | st.integers(), st.lists))
def test_a_value_is_shown_short(value: object) -> None:
    shown = short(value)
    assert len(shown) <= 60
    assert len(repr(value)) > 40 or "..." in shown or "***" in shown or shown == repr(value)


def test_a_name_that_is_no_text_is_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    clip = write_clip(tmp_path / "clip.mp4", 3)
    model = write_tiny(tmp_path / "tiny.onnx")
    arguments = ["--source", str(clip), "--model", str(model), "--device", "cpu", "--no-progress"]
    assert main([*arguments, "--output", "caf\udce9.jsonl"]) == 0
    assert "wrote caf\\udce9.jsonl" in capsys.readouterr().out
    assert main([*arguments, "--output", "caf\udce9\n.jpeg"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("count", "what", "said"),
    [
        (0, "picture", "0 pictures"),
        (1, "picture", "1 picture"),
        (2, "more thread", "2 more threads"),
        (1, "class", "1 class"),
        (2, "process", "2 processes"),
    ],
)
def test_what_is_counted_agrees_with_its_number(count: int, what: str, said: str) -> None:
    assert counted(count, what) == said
