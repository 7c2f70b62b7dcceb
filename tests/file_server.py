"""A web server for whole files on loopback that breaks connections, and leaves out what servers may leave out."""

from __future__ import annotations

import http.server
import re
import threading
from pathlib import Path

from streamer.common.closeable import Closeable


class FileServer(Closeable):
    """Serves a folder's files from construction to `close`; a context manager.

    Attributes:
        url: where the folder is, without a slash at its end.
        ranges: whether byte ranges are served.
        lengths: whether answers say how long they are.
        cuts: by file name, after how many bytes of the file each answer breaks off; the first is for the first answer
            that would come that far, and so on; answers after that are whole.
        refused: by file name, with which status its next answers are refused, one each.
        asked: the names and ranges that were asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ranges = self.lengths = True
        self.cuts: dict[str, list[int]] = {}
        self.refused: dict[str, list[int]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self._server = _Server(("127.0.0.1", 0), _Files)
        self._server.files = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops serving and frees the port. Safe to call twice."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(http.server.ThreadingHTTPServer):
    files: FileServer
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may leave early."""


class _Files(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        files = self.server.files
        name = self.path.split("?")[0].lstrip("/")
        files.asked.append((name, self.headers.get("Range")))
        path = files.folder / name
        statuses = files.refused.get(name)
        if statuses or not path.is_file():
            self.send_error(statuses.pop(0) if statuses else 404)
            return
        content = path.read_bytes()
        asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "") if files.ranges else None
        start = int(asked[1]) if asked else 0
        end = int(asked[2]) + 1 if asked and asked[2] else len(content)
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        if files.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        if files.lengths:
            self.send_header("Content-Length", str(end - start))
        self.send_header("Connection", "close")
        self.end_headers()
        cuts = files.cuts.get(name)
        if cuts and start <= cuts[0] < end:
            end = cuts.pop(0)
        self.wfile.write(content[start:end])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""
