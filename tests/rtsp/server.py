"""A small RTSP server on loopback: RTSP 1.0 (RFC 2326), RTP interleaved in the TCP connection or over UDP.

It serves a film in real time to any number of clients, asks for a password (digest) if told so, and can hang up, fall
silent, freeze or send damage, as cameras do.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import socket
import socketserver
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from streamer.common.closeable import Closeable
from tests.rtsp.film import Film, Loop, RtpPackets, sender_report
from tests.rtsp.sound import Microphone
from tests.rtsp.wire import RTP_HEADER

_PATH = "/live"
_REALM, _NONCE = "camera", "8a5f"
_INTERLEAVED = "RTP/AVP/TCP;unicast;interleaved="
_PICTURES, _SOUND = 0, 2  # channels
_REPORT_EVERY = 15  # pictures
_NEVER = (math.inf, b"")
_SEND_BUFFER = 256 * 1024  # so that the kernel holds no seconds of pictures for a client that takes none


class RtspServer(Closeable):
    """Serves from construction to `close`; a context manager.

    Args:
        film: what it sends; None makes a `Loop`.
        credentials: "user:password" that clients must give, or None.
        hang_up_after: closes each connection after that many pictures; None never.
        silent_after: sends nothing after that many pictures, but keeps the connection; None never.
        port: 0 picks a free one.
        transports: by which it sends: "TCP", "UDP".
        tls: encrypts the connections, with the certificate that it has.
        sound: what it sends beside the pictures; None sends no sound. By TCP only.
        reports: whether it tells its clock by RTCP. By TCP only.

    Attributes:
        url: where to connect, without credentials.
        port: the port in use.
        film: what it sends.
        sent: pictures sent to the client that came last.
        stamp_off_s: by how much the stamp of the picture of a number is off; None stamps all rightly.
        damage: changes the payload of every packet sent from now on; None leaves it whole.
    """

    def __init__(
        self,
        film: Film | None = None,
        *,
        credentials: str | None = None,
        hang_up_after: int | None = None,
        silent_after: int | None = None,
        port: int = 0,
        transports: Collection[str] = ("TCP",),
        tls: ssl.SSLContext | None = None,
        sound: Microphone | None = None,
        reports: bool = False,
    ) -> None:
        self.sound, self.reports = sound, reports
        self.film, self.hang_up_after, self.silent_after = film or Loop(), hang_up_after, silent_after
        self.credentials, self.transports = credentials, transports
        self.sent = 0
        self.damage: Callable[[bytes], bytes] | None = None
        self.stamp_off_s: Callable[[int], float] | None = None
        self.thawed = threading.Event()
        self.thawed.set()
        self._is_closed = False
        self._clients: list[socket.socket] = []
        self._lock = threading.Lock()
        self._server = _TcpServer(("127.0.0.1", port), _Client)
        self._server.rtsp = self
        self.port: int = self._server.server_address[1]
        self.url = f"{'rtsp' if tls is None else 'rtsps'}://127.0.0.1:{self.port}{_PATH}"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def joined(self, client: socket.socket) -> None:
        """Notes a client's connection, to cut it on close."""
        with self._lock:
            self._clients.append(client)
        if self._is_closed:
            self.cut()

    def freeze(self) -> None:
        """Sends and answers nothing more; connections stay open, and new ones are accepted."""
        self.thawed.clear()

    def thaw(self) -> None:
        """Ends `freeze`: what was held back is sent at once."""
        self.thawed.set()

    def cut(self) -> None:
        """Breaks off all connections, as a camera that loses power does."""
        with self._lock:
            clients, self._clients = self._clients, []
        for client in clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stops serving and frees the port."""
        self._is_closed = True
        self.thaw()
        self._server.shutdown()
        self.cut()
        self._server.server_close()
        self._thread.join()

    def admits(self, method: str, authorization: str) -> bool:
        """Whether a request has the credentials, by digest (RFC 2617)."""
        if self.credentials is None:
            return True
        given = dict(re.findall(r'(\w+)="([^"]*)"', authorization))
        user, _, password = self.credentials.partition(":")
        secret, request = _md5(f"{user}:{_REALM}:{password}"), _md5(f"{method}:{given.get('uri')}")
        return given.get("username") == user and given.get("response") == _md5(f"{secret}:{_NONCE}:{request}")


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


class _TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    rtsp: RtspServer

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing of clients that break off, as those do that distrust a certificate."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Client(socketserver.StreamRequestHandler):
    server: _TcpServer
    disable_nagle_algorithm = True

    def handle(self) -> None:
        camera = self.server.rtsp
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        camera.joined(self.connection)
        self.gone = threading.Event()
        self.sending = threading.Lock()
        self.send_packet: Callable[[bytes], object] = self._send_interleaved
        sender: threading.Thread | None = None
        with contextlib.ExitStack() as self.resources:
            try:
                while (request := self._request()) is not None:
                    method, url, headers = request
                    camera.thawed.wait()
                    status, answer, body = self._answer_to(method, url, headers)
                    self._answer(status, headers.get("cseq", "0"), answer, body)
                    if method == "PLAY" and status == "200 OK":
                        sender = threading.Thread(target=self._send_pictures, daemon=True)
                        sender.start()
                    elif method == "TEARDOWN":
                        return
            except (OSError, UnicodeDecodeError):
                return  # the client is gone
            finally:
                self.gone.set()
                if sender is not None:
                    sender.join()

    def _request(self) -> tuple[str, str, dict[str, str]] | None:
        """Returns the next request's method, URL and headers; None at the connection's end."""
        while (first := self.rfile.read(1)) == b"$":  # an RTCP report between requests
            _, size = struct.unpack(">BH", self.rfile.read(3))
            self.rfile.read(size)
        if not first:
            return None
        method, url, _ = (first + self.rfile.readline()).decode().split(" ", 2)
        headers: dict[str, str] = {}
        while line := self.rfile.readline().decode().strip():
            key, _, value = line.partition(":")
            headers[key.lower()] = value.strip()
        return method, url, headers

    def _answer_to(self, method: str, url: str, headers: dict[str, str]) -> tuple[str, dict[str, str], str]:
        """Returns the status, headers and body of a request's answer."""
        camera = self.server.rtsp
        if method == "OPTIONS":
            return "200 OK", {"Public": "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN"}, ""
        if not camera.admits(method, headers.get("authorization", "")):
            return "401 Unauthorized", {"WWW-Authenticate": f'Digest realm="{_REALM}", nonce="{_NONCE}"'}, ""
        if not urlsplit(url).path.startswith(_PATH):
            return "404 Not Found", {}, ""
        if method == "DESCRIBE":
            return "200 OK", {"Content-Base": f"{url}/", "Content-Type": "application/sdp"}, self._sdp()
        if method == "SETUP":
            wanted = headers.get("transport", "")
            over = "TCP" if "RTP/AVP/TCP" in wanted else "UDP"
            if over not in camera.transports:
                return "461 Unsupported Transport", {}, ""
            if over == "UDP":
                return "200 OK", {"Transport": self._set_up_udp(wanted)}, ""
            channel = _SOUND if urlsplit(url).path.endswith("/audio") else _PICTURES
            return "200 OK", {"Transport": f"{_INTERLEAVED}{channel}-{channel + 1}"}, ""
        return "200 OK", {}, ""

    def _sdp(self) -> str:
        sound = self.server.rtsp.sound
        return self.server.rtsp.film.sdp + (sound.sdp if sound is not None else "")

    def _set_up_udp(self, wanted: str) -> str:
        """Sends by UDP to the ports that a SETUP names; returns the answer's transport."""
        port = int(wanted.partition("client_port=")[2].partition("-")[0])
        sending = self.resources.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sending.bind(("127.0.0.1", 0))
        own = sending.getsockname()[1]
        self.send_packet = lambda packet: sending.sendto(packet, (self.client_address[0], port))
        return f"RTP/AVP;unicast;client_port={port}-{port + 1};server_port={own}-{own + 1}"

    def _answer(self, status: str, cseq: str, headers: dict[str, str], body: str) -> None:
        lines = [f"RTSP/1.0 {status}", f"CSeq: {cseq}", "Session: 1234;timeout=60"]
        lines += [f"{key}: {value}" for key, value in headers.items()]
        lines += [f"Content-Length: {len(body)}"] if body else []
        with self.sending:
            self.wfile.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())

    def _send_interleaved(self, packet: bytes, channel: int = _PICTURES) -> object:
        with self.sending:
            return self.wfile.write(struct.pack(">cBH", b"$", channel, len(packet)) + packet)

    def _send_pictures(self) -> None:
        camera = self.server.rtsp
        packets = RtpPackets(camera.film)
        sound = camera.sound.packets() if camera.sound is not None else iter(())
        due_s, heard = next(sound, _NEVER)
        with contextlib.suppress(OSError):
            for number, (at_s, coded) in enumerate(camera.film.play(self.gone)):
                camera.thawed.wait()
                while due_s <= at_s:
                    self._send_interleaved(heard, _SOUND)
                    due_s, heard = next(sound, _NEVER)
                if number == camera.silent_after:
                    self.gone.wait()
                    return
                if number == camera.hang_up_after:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                off_s = camera.stamp_off_s(number) if camera.stamp_off_s is not None else 0.0
                if camera.reports and number % _REPORT_EVERY == 0:
                    self._send_interleaved(sender_report(camera.film.utc_s(at_s), at_s), _PICTURES + 1)
                for packet in packets.split(at_s, coded, off_s):
                    header, payload = packet[:RTP_HEADER], packet[RTP_HEADER:]
                    self.send_packet(header + (payload if camera.damage is None else camera.damage(payload)))
                camera.sent = number + 1
