"""What is hidden in any text, and that it takes linear time."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamer.common.redaction import cuts_userinfo, redact, redact_text

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


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://10.0.0.7/1", "rtsp://10.0.0.7/1"),
        (
            "rtsp://me:secret@10.0.0.7:554/cam/realmonitor?channel=1&token=secret",
            "rtsp://***@10.0.0.7:554/cam/realmonitor?channel=1&token=***",
        ),
        ("rtsp://host:554/stream1", "rtsp://host:554/stream1"),
        ("rtsp://host:secret/1", "rtsp://host:***/1"),
        ("rtsp://host:554554/1", "rtsp://host:***/1"),
        ("rtsp://[fe80::1%25eth0]:554/1", "rtsp://***/1"),
        ("rtsp://[::1]/live", "rtsp://[::1]/live"),
        ("rtsp://@host/1", "rtsp://@host/1"),
        ("rtsp://a@host/1", "rtsp://***@host/1"),
        ("rtsp://:@host/1", "rtsp://***@host/1"),
        ("rtsp://me:a/b@host/1", "rtsp://***@host/1"),
        ("rtsp://me:a?b@host/1", "rtsp://***"),
        ("rtsp://me:1/b@host/1", "rtsp://***"),
        ("rtsp://me:a@b@host/1", "rtsp://***@host/1"),
        ("rtsp://host/1/me@x", "rtsp://***"),
        ("rtsp://10.0.0.7/me@x", "rtsp://10.0.0.7/***"),
        ("rtsp://10.0.0.7:554/me@x", "rtsp://10.0.0.7:554/***"),
        ("rtsp://[::1]:554/me@x", "rtsp://[::1]:554/***"),
        ("rtsp://host/a?u=b@c", "rtsp://***"),
        ("rtsp://me:x@10.0.0.7/me@x", "rtsp://***@10.0.0.7/***"),
        ("rtsp://me:p#w@host/1", "rtsp://***"),
        ("rtsp://ho st/1", "rtsp://***/1"),
        ("rtsp:///1", "rtsp:///1"),
        ("rtsp:/host/1", "rtsp:/host/1"),
        ("rtsp://", "rtsp://"),
        ("rtmp://host/app/KEY123abc", "rtmp://host/app/***"),
        ("rtmp://host/live/4000", "rtmp://host/live/4000"),
        ("rtmp://host/live/40000", "rtmp://host/live/***"),
        ("rtsps://host/AbCdEf", "rtsps://host/***"),
        ("rtsp://host/Streaming/Channels/101", "rtsp://host/Streaming/Channels/101"),
        ("rtsp://host/ISAPI/videoStream", "rtsp://host/ISAPI/videoStream"),
        ("rtsp://host/h264Preview_01_main", "rtsp://host/h264Preview_01_main"),
        (
            "http://host/axis-cgi/mjpg/video.cgi?resolution=640x480&fps=25",
            "http://host/axis-cgi/mjpg/video.cgi?resolution=640x480&fps=25",
        ),
        ("http://host/v?camera_id=1&Cam_ID=7;channel=2", "http://host/v?camera_id=***&Cam_ID=7&channel=2"),
        ("http://host/v?camera=12345", "http://host/v?camera=***"),
        ("http://host/v?a=b&c=d&&x", "http://host/v?a=***&c=***&&***"),
        ("http://host/v?a=b&a=b", "http://host/v?a=***"),
        ("http://host/v?=b&c=&c==&ab=c=d&1key=x", "http://host/v?***&ab=***&***"),
        ("http://host/v?", "http://host/v?"),
        ("http://host/v#", "http://host/v#***"),
        ("http://host/v#part?x", "http://host/v#***"),
        ("http://host/v?channel=1#part", "http://host/v?channel=1#***"),
        ("https://github.com/a/SECRETPART/b?x=y", "https://github.com/a/SECRETPART/b?x=***"),
        ("https://github.com.evil/a/SECRETPART", "https://github.com.evil/a/***"),
        ("file:///home/me:secret@x/1", "file:///home/me:secret@x/1"),
        ("FILE:///secret@1", "FILE:///secret@1"),
        ("a:/x", "a:/x"),
        ("clips/a.mp4", "clips/a.mp4"),
        ("a@b.mp4", "***@b.mp4"),
        ("x/a@b.mp4", "x/a@b.mp4"),
        ("x:y/a@b", "***@b"),
        ("x//y@b", "***@b"),
        ("me:secret@host:554/1", "***@host:554/1"),
        ("dir/clip.mp4?token=abc&channel=1", "dir/clip.mp4?token=***"),
        ("dir/clip?abc", "dir/clip?abc"),
        ("dir/pass=abc/x", "dir/pass=***"),
        ("PASSWORD=abc", "PASSWORD=***"),
        ("mykey=1", "mykey=***"),
        ("dir/a.mp4?sig=1=2", "dir/a.mp4?sig=***"),
        ("token=a\nb", "token=***"),
        ("a@b@host/1", "***@host/1"),
        ("http://me@host:80/", "http://***@host:80/"),
        ("//host/x@y", "***@y"),
        ("x//pass=1", "x//pass=***"),
        ("rtsp://me:x/a@b@host/1", "rtsp://***@host/1"),
        ("http://host/v?a=X", "http://host/v?a=***"),
        ("dir/a?b=c?d=e", "dir/a?b=***"),
        ("dir/clip?abc=d", "dir/clip?abc=***"),
    ],
)
def test_what_is_shown_of_a_uri(uri: str, shown: str) -> None:
    assert redact(uri) == shown


@pytest.mark.parametrize(
    ("uri", "cuts"),
    [
        ("rtsp://me:a/b@host/1", True),
        ("rtsp://me:1/b@host/1", None),
        ("rtsp://host/1", False),
        ("rtsp://me@host/1", False),
        ("rtsp://me:a?b@host", True),
        ("rtsp://10.0.0.7/a@b", False),
        ("rtsp://x@10.0.0.7/a@b", False),
        ("rtsp://[::1]:1/a@b", False),
        ("host/a@b", False),
        ("a/b@c", False),
        ("rtsp://me:x@1:a/b@host", True),
        ("rtsp://host:/b@c", None),
        ("rtsp://host/b@c", None),
        ("rtsp://@me:a/b@c", True),
        ("rtsp://h:1/a#b@c", None),
        ("rtsp://a b/c@d", True),
        ("rtsp://me:a/@", True),
        ("rtsp://host:123456/a@b", True),
        ("rtsp://a/@b", None),
        ("rtsp://me:x@10.0.0.7/a@b/", False),
        ("@/b", False),
        ("rtsp://@10.0.0.7/@", False),
        ("rtsp://a@b@h:1/x@y", None),
    ],
)
def test_whether_a_sign_in_the_password_ends_the_host_too_early(uri: str, cuts: bool | None) -> None:
    assert cuts_userinfo(uri) is cuts


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see rtsp://me:s@h/1, or 'http://me:s@h/a b'", "see rtsp://***@h/1, or 'http://***@h/***'"),
        ('open "x=rtsp://me:s@h/a b', 'open "x=rtsp://***@h/***'),
        ("rtsp:/me:s@h/1", "rtsp:/***@h/1"),
        ("a?token=x y", "a?token=*** y"),
        ("no", "no"),
        ("a+rtsp://me:s@h/", "a+rtsp://***@h/"),
        ("me:s@h and x:y@[::1]", "***@h and ***@[::1]"),
        ("MQTT:/me:s@h/1 mqtts:/me:s@h", "MQTT:/***@h/1 mqtts:/***@h"),
        ("ab://me:s@h", "ab://***@h"),
        ("'foo:/me:s@h/1'", "'foo:/***@h/1'"),
        ("'a\\'b' 'rtsp://u:p\\'w@h/1'", "'a\\'b' 'rtsp://***@h/1'"),
        ("x='rtsp://h/SECRET1'", "x='rtsp://h/***'"),
    ],
)
def test_what_is_shown_of_a_text(text: str, shown: str) -> None:
    assert redact_text(text) == shown
