"""Log lines can't steer a terminal, whoever wrote their text."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.common.logs import SafeFormatter

HOSTILE = "\x1b]0;title\x07\x1b[2J\r\n\b\x9b31m\u202e\u2066\u2028\x00\udce9"


def record(text: str, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error is not None else None
    return logging.LogRecord("x", logging.WARNING, __file__, 1, "camera %s", (text,), info)


@given(st.text() | st.just(HOSTILE))
def test_a_record_is_one_printable_line(text: str) -> None:
    line = SafeFormatter().format(record(text))
    assert line.isprintable() and line.startswith("WARNING: camera")


def test_what_was_escaped_can_be_read() -> None:
    line = SafeFormatter().format(record("t\u00fcr \x1b[2J \u202e"))
    assert line == "WARNING: camera t\u00fcr \\x1b[2J \\u202e"


def test_a_traceback_keeps_its_lines_and_is_safe_too() -> None:
    with pytest.raises(ValueError) as caught:
        raise ValueError(HOSTILE + " rtsp://me:hunter2@camera/1")
    lines = SafeFormatter().format(record("x", caught.value)).split("\n")
    assert len(lines) > 3 and all(line.isprintable() for line in lines)
    assert "rtsp://***@camera/1" in lines[-1]


def test_a_stack_is_safe_too() -> None:
    with_stack = record("x")
    with_stack.stack_info = f"Stack:\n{HOSTILE}"
    assert all(line.isprintable() for line in SafeFormatter().format(with_stack).split("\n"))


def test_the_program_writes_such_lines() -> None:

    code = "import logging, streamer.common.logs as l; l.start_logging('INFO'); logging.getLogger('av').info('a\\x1bb')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "INFO: a\\x1bb\n"
