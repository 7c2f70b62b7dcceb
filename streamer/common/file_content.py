"""Text where a binary file is expected: what it is, and how to get the file itself."""

from __future__ import annotations

TEXT = "holds text"
_TEXT_BYTES = bytes(range(0x20, 0x7F)) + b"\t\n\r\f"
_LFS = b"version https://git-lfs.github.com/spec/"
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<body")
_LEAST_TEXT = 4
"""Fewer bytes may as well be the beginning of anything, cut short."""


def text_instead(head: bytes) -> str | None:
    """Returns what a file that holds text is, as the end of "FILE ...", by its first bytes; None for anything else.

    Example:
        >>> text_instead(b"version https://git-lfs.github.com/spec/v1")
        'is a Git LFS pointer, not the file itself: run git lfs pull in its repository, or download it'
    """
    if head.startswith(_LFS):
        return "is a Git LFS pointer, not the file itself: run git lfs pull in its repository, or download it"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(_PAGES):
        return "is a web page that was saved under this name: download the file itself, for instance by its 'raw' link"
    return TEXT if len(head) >= _LEAST_TEXT and not head.translate(None, _TEXT_BYTES) else None
