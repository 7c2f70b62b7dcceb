"""Files as answers: whole or the range that a player asks for, also of one that grows meanwhile."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from streamer.web.problems import Problem

_CHUNK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")


def file_answer(path: Path, request: Request, media_type: str, *, download: str | None = None) -> Response:
    """Returns a file, or the part of it that the Range header asks for, as large as it is now.

    Args:
        path: a regular file; a link isn't followed.
        request: whose Range and If-Range headers count. Of several ranges the whole file is answered.
        media_type: of the content.
        download: the name under which browsers save it; None shows it.

    Raises:
        Problem: 404 if it is gone, 416 if the range begins behind its end.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        raise Problem(404, "that file is gone") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Problem(404, "that file is gone")
        etag = f'"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"'
        part = _range(request.headers, status.st_size, etag)
    except BaseException:
        os.close(descriptor)
        raise
    begin, end = part or (0, status.st_size)
    headers = {"Accept-Ranges": "bytes", "ETag": etag, "Content-Length": str(end - begin)}
    if part is not None:
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{status.st_size}"
    if download is not None:
        headers["Content-Disposition"] = f'attachment; filename="{download}"'
    return _FileResponse(
        _content(descriptor, begin, end), 200 if part is None else 206, headers, media_type, descriptor=descriptor
    )  # fmt: skip


class _FileResponse(StreamingResponse):
    """Closes its file, also where the client leaves before the first byte."""

    def __init__(
        self, content: AsyncIterator[bytes], status: int, headers: Mapping[str, str], media_type: str, *,
        descriptor: int,
    ) -> None:  # fmt: skip
        super().__init__(content, status, headers, media_type)
        self._descriptor: int | None = descriptor

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        """Sends the file."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)


async def _content(descriptor: int, begin: int, end: int) -> AsyncIterator[bytes]:
    at = begin
    while at < end:
        part = await asyncio.to_thread(os.pread, descriptor, min(_CHUNK_BYTES, end - at), at)
        if not part:  # it was cut off meanwhile
            return
        at += len(part)
        yield part


def _range(headers: Mapping[str, str], size: int, etag: str) -> tuple[int, int] | None:
    """Returns the first byte to answer and the one behind the last, None for the whole file (RFC 9110, section 14)."""
    found = _RANGE.fullmatch(headers.get("range", ""))
    if found is None or not (found[1] or found[2]) or headers.get("if-range", etag) != etag:
        return None
    if found[1] and found[2] and int(found[2]) < int(found[1]):
        return None
    begin = int(found[1]) if found[1] else max(0, size - int(found[2]))
    end = min(size, int(found[2]) + 1) if found[1] and found[2] else size
    if begin >= end:
        raise Problem(416, "the range begins behind the end", {"Content-Range": f"bytes */{size}"})
    return begin, end
