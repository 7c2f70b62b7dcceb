"""What is hidden in any text, and that it takes linear time."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamer.common.redaction import redact, redact_text

# Not linear, but short: what `redact_text` does with users of URIs without a scheme, and where a URI in a text ends.
USER = re.compile(r"""(?<![\w/*])[^\s'"/:@]+:[^\s'"/@]+@(?=[\w\[])""")
URI_END = re.compile(r"""[.,:;)\]}>'"]*\Z""")

SIGNS = "".join(sorted(set("ab0:@/.,*-_[]= \n'\"")))


@settings(max_examples=1000)
@given(st.text(SIGNS, max_size=30))
@example("admin:secret@host")
@example("/admin:secret@host")
@example("a:b@c:d@e")
@example("-a:b@[::1]")
def test_users_of_uris_without_a_scheme(text: str) -> None:
    assert redact_text(text) == USER.sub("***@", text)


@given(st.text("ab/.", max_size=9), st.text(".,:;)]}>", max_size=9), st.sampled_from(["", " ", "\nmore"]))
def test_signs_after_a_uri_are_not_part_of_it(path: str, signs: str, after: str) -> None:
    uri = f"rtsp://me:secret@host/{path}"
    whole = uri[: URI_END.search(uri).start()]  # type: ignore[union-attr]
    assert redact_text(f"see {uri}{signs}{after}") == f"see {redact(whole)}{uri[len(whole) :]}{signs}{after}"


@pytest.mark.parametrize(
    "part",
    ["-a", ".a.", "a:", ":", "@", "a@", "a:b@", "a:b@c ", "rtsp://", "http://a,", ",", "'", "?a", "?a=", "/a:b@"],
)
def test_long_texts_take_linear_time(part: str) -> None:
    """A quadratic expression would take minutes."""
    for text in (part * 60_000, "http://a" + part * 60_000 + "b", "rtsp://u:p@h/" + part * 60_000):
        assert len(redact_text(text)) <= 3 * len(text)
