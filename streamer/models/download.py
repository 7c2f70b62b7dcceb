"""Downloads of model files: bounded in time and size, checked, and atomic."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from streamer.common.atomic_file import atomic_file
from streamer.common.errors import ModelError
from streamer.common.timed_http import Deadline, response_within

_LEAST_BYTES_A_S = 10_000


def download(url: str, path: Path, sha256: str | None, *, timeout_s: float = 20.0, max_bytes: int = 1 << 29) -> None:
    """Downloads `url` to `path` atomically, after checking its length and checksum.

    Raises:
        ModelError: the server can't be reached, breaks off, sends less than 10 kB/s or more than `max_bytes`, or the
            checksum differs.
        OSError: `path` can't be written.
    """
    by_hand = f"download it by hand to {str(path)!r}, or give an .onnx file with --model"
    with atomic_file(path) as partial:
        digest = hashlib.sha256()
        size = 0
        with partial.open("wb") as file:
            try:
                deadline = Deadline(timeout_s)
                with _opener(deadline).open(url, timeout=timeout_s) as response:
                    wanted = response.headers.get("Content-Length")
                    while block := response.read1(1 << 16):
                        digest.update(block)
                        size += len(block)
                        if size > max_bytes:
                            raise ModelError(f"{url} gives more than {max_bytes} bytes, which is no model: {by_hand}")
                        file.write(block)
                        deadline.credit(len(block) / _LEAST_BYTES_A_S)
            except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
                raise ModelError(f"can't get {url} ({error}): {by_hand}") from error
        if wanted is not None and size != int(wanted):
            raise ModelError(f"{url} broke off after {size} of {wanted} bytes: try again, or {by_hand}")
        if sha256 is not None and digest.hexdigest() != sha256:
            raise ModelError(f"{url} gave a file with SHA-256 {digest.hexdigest()}, wanted {sha256}: {by_hand}")


def _opener(deadline: Deadline) -> urllib.request.OpenerDirector:
    """Returns an opener whose responses must be complete by a deadline."""

    class Connection(http.client.HTTPConnection):
        response_class = response_within(deadline)

    class TlsConnection(http.client.HTTPSConnection):
        response_class = response_within(deadline)

    class Handler(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Connection, request)

    class TlsHandler(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(TlsConnection, request)

    return urllib.request.build_opener(Handler, TlsHandler)
