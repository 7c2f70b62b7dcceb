"""A small RTSP camera on loopback: RTSP 1.0 (RFC 2326), H.264 over RTP (RFC 6184) interleaved in the TCP connection.

It serves endless numbered pictures, or footage, in real time to any number of clients, asks for a password if told so,
and can hang up, fall silent, freeze or send damage, as cameras do.
"""

from __future__ import annotations

import base64
import contextlib
import math
import re
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av

from streamer.common.closeable import Closeable
from tests.media import SIZE_WH, picture

_CLOCK_HZ = 90_000
_PAYLOAD_TYPE = 96
_MAX_PAYLOAD = 1200
_LOOP = 30  # pictures before the numbers start again
_KEY_INTERVAL = 10
_FIRST_TIMESTAMP = 12_345  # cameras begin anywhere


def _nal_units(annex_b: bytes) -> list[bytes]:
    """Returns the NAL units of a byte stream with start codes."""
    return [unit for unit in re.split(rb"\x00{2,3}\x01", annex_b) if unit]


def _coded_pictures(size_wh: tuple[int, int], fps: int) -> list[list[bytes]]:
    """Returns the NAL units of `_LOOP` numbered pictures; one in `_KEY_INTERVAL` can be joined at."""
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height = size_wh
    encoder.pix_fmt, encoder.framerate, encoder.time_base = "yuv420p", Fraction(fps), Fraction(1, fps)
    encoder.gop_size = _KEY_INTERVAL
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "slices=1", "threads": "1"}
    packets = []
    for number in range(_LOOP):
        frame = av.VideoFrame.from_ndarray(picture(number, size_wh), format="bgr24")
        frame = frame.reformat(format="yuv420p", threads=1)
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    return [_nal_units(bytes(packet)) for packet in packets]


def coded_footage(video: Path) -> list[list[bytes]]:
    """Returns the NAL units of each picture of an H.264 file, parameter sets before every key frame."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        annex_b = av.BitStreamFilterContext("h264_mp4toannexb", stream)
        packets = [out for packet in container.demux(stream) for out in annex_b.filter(packet)]
    return [_nal_units(bytes(packet)) for packet in packets if packet.size]


def _rtp_payloads(unit: bytes) -> list[bytes]:
    """Returns a NAL unit as one RTP payload, or as FU-A fragments when it is long (RFC 6184, 5.8)."""
    if len(unit) <= _MAX_PAYLOAD:
        return [unit]
    indicator, kind, body = unit[0] & 0xE0 | 28, unit[0] & 0x1F, unit[1:]
    parts = [body[at : at + _MAX_PAYLOAD] for at in range(0, len(body), _MAX_PAYLOAD)]
    flags = [0x80] + [0] * (len(parts) - 2) + [0x40]
    return [bytes([indicator, flag | kind]) + part for flag, part in zip(flags, parts, strict=True)]


def _sdp(first_picture: list[bytes]) -> str:
    """Returns the session description, with the parameter sets of the stream's first picture."""
    sps, pps = (next(unit for unit in first_picture if unit[0] & 0x1F == kind) for kind in (7, 8))
    sets = ",".join(base64.b64encode(unit).decode() for unit in (sps, pps))
    return (
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=numbers\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
        f"m=video 0 RTP/AVP {_PAYLOAD_TYPE}\r\na=rtpmap:{_PAYLOAD_TYPE} H264/{_CLOCK_HZ}\r\n"
        f"a=fmtp:{_PAYLOAD_TYPE} packetization-mode=1; sprop-parameter-sets={sets}\r\na=control:video\r\n"
    )


class RtspServer(Closeable):
    """Serves from construction to `close`; a context manager.

    Args:
        credentials: "user:password" that clients must give, or None.
        size_wh: of its pictures.
        fps: how many a second it sends.
        hang_up_after: closes each connection after that many pictures; None never.
        silent_after: sends nothing after that many pictures, but keeps the connection; None never.
        port: 0 picks a free one.
        first: number of the picture that every client gets first; it is a key frame when it ends in 0.
        key_frames: False sends no key frames.
        footage: the pictures to send in a loop, see `coded_footage`; None makes numbered ones.
        origin_s: a moment at which it sends (`time.monotonic`), and so at every frame interval from there; None sends
            to each client from the moment it asks.
        tls: encrypts the connections, with the certificate that it has.

    Attributes:
        url: where to connect, without credentials.
        port: the port in use.
        sent: pictures sent to the client that came last.
        stamp_off_s: by how much the stamp of the picture of a number is off; None stamps all rightly.
        damage: changes the payload of every packet sent from now on; None leaves it whole.
    """

    def __init__(
        self,
        *,
        credentials: str | None = None,
        size_wh: tuple[int, int] = SIZE_WH,
        fps: int = 30,
        hang_up_after: int | None = None,
        silent_after: int | None = None,
        port: int = 0,
        first: int = 0,
        key_frames: bool = True,
        footage: Sequence[list[bytes]] | None = None,
        origin_s: float | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.first, self.fps, self.hang_up_after, self.silent_after = first, fps, hang_up_after, silent_after
        self.origin_s, self.sent = origin_s, 0
        self.damage: Callable[[bytes], bytes] | None = None
        self.stamp_off_s: Callable[[int], float] | None = None
        self.thawed = threading.Event()
        self.thawed.set()
        coded = footage or _coded_pictures(size_wh, fps)
        self.sdp = _sdp(coded[0])
        self.pictures = coded if key_frames else coded[1:_KEY_INTERVAL]
        self.token = base64.b64encode(credentials.encode()).decode() if credentials else None
        self.stopped = threading.Event()
        self._clients: list[socket.socket] = []
        self._lock = threading.Lock()
        self._server = _TcpServer(("127.0.0.1", port), _Client)
        self._server.rtsp = self
        self.port: int = self._server.server_address[1]
        self.url = f"{'rtsp' if tls is None else 'rtsps'}://127.0.0.1:{self.port}/live"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def joined(self, client: socket.socket) -> None:
        """Notes a client's connection, to cut it on close."""
        with self._lock:
            self._clients.append(client)

    def freeze(self) -> None:
        """Sends and answers nothing more; connections stay open, and new ones are accepted."""
        self.thawed.clear()

    def thaw(self) -> None:
        """Ends `freeze`: what was held back is sent at once."""
        self.thawed.set()

    def begin_s(self) -> float:
        """Returns when the first picture is due for a client that asks now (`time.monotonic`)."""
        now_s = time.monotonic()
        if self.origin_s is None:
            return now_s
        return self.origin_s + math.ceil((now_s - self.origin_s) * self.fps) / self.fps

    def cut(self) -> None:
        """Breaks off all connections, as a camera that loses power does."""
        with self._lock:
            clients, self._clients = self._clients, []
        for client in clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stops serving and frees the port."""
        self.stopped.set()
        self.thaw()
        self._server.shutdown()
        self.cut()
        self._server.server_close()
        self._thread.join()


class _TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    rtsp: RtspServer


class _Client(socketserver.StreamRequestHandler):
    server: _TcpServer
    disable_nagle_algorithm = True

    def handle(self) -> None:
        camera = self.server.rtsp
        camera.joined(self.connection)
        self.gone = threading.Event()
        self.sending = threading.Lock()
        sender: threading.Thread | None = None
        try:
            while (request := self._request()) is not None:
                method, url, headers = request
                camera.thawed.wait()
                answer: dict[str, str] = {}
                status, body = "200 OK", ""
                if method == "OPTIONS":
                    answer["Public"] = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN"
                elif camera.token is not None and headers.get("authorization") != f"Basic {camera.token}":
                    status, answer["WWW-Authenticate"] = "401 Unauthorized", 'Basic realm="camera"'
                elif not url.split("?")[0].rstrip("/").startswith(camera.url):
                    status = "404 Not Found"
                elif method == "DESCRIBE":
                    body = camera.sdp
                    answer |= {"Content-Base": f"{camera.url}/", "Content-Type": "application/sdp"}
                elif method == "SETUP" and "RTP/AVP/TCP" not in headers.get("transport", ""):
                    status = "461 Unsupported Transport"
                elif method == "SETUP":
                    answer["Transport"] = "RTP/AVP/TCP;unicast;interleaved=0-1"
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

    def _answer(self, status: str, cseq: str, headers: dict[str, str], body: str) -> None:
        lines = [f"RTSP/1.0 {status}", f"CSeq: {cseq}", "Session: 1234;timeout=60"]
        lines += [f"{key}: {value}" for key, value in headers.items()]
        lines += [f"Content-Length: {len(body)}"] if body else []
        with self.sending:
            self.wfile.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())

    def _send_pictures(self) -> None:
        camera = self.server.rtsp
        sequence, number, started = 0, 0, camera.begin_s()
        with contextlib.suppress(OSError):
            while not (camera.stopped.is_set() or self.gone.wait(started + number / camera.fps - time.monotonic())):
                camera.thawed.wait()
                if number == camera.silent_after:
                    self.gone.wait()
                    return
                if number == camera.hang_up_after:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                units = camera.pictures[(camera.first + number) % len(camera.pictures)]
                payloads = [payload for unit in units for payload in _rtp_payloads(unit)]
                for at, payload in enumerate(payloads):
                    marker = 0x80 if at == len(payloads) - 1 else 0
                    off_s = camera.stamp_off_s(number) if camera.stamp_off_s is not None else 0.0
                    stamp = (_FIRST_TIMESTAMP + number * _CLOCK_HZ // camera.fps + int(off_s * _CLOCK_HZ)) & 0xFFFFFFFF
                    header = struct.pack(">BBHII", 0x80, marker | _PAYLOAD_TYPE, sequence & 0xFFFF, stamp, 7)
                    packet = header + (payload if camera.damage is None else camera.damage(payload))
                    with self.sending:
                        self.wfile.write(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                    sequence += 1
                number += 1
                camera.sent = number
