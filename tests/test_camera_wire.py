"""The wire to the simulated camera."""

from __future__ import annotations

import random
import socket
import struct
import threading
from itertools import pairwise

import pytest

from tests.rtsp.wire import Wire, reserved_port
from tests.test_camera import PATIENCE_S, open_files


def interleaved(channel: int, payload: bytes) -> bytes:
    packet = bytes(range(12)) + payload
    return struct.pack(">cBH", b"$", channel, len(packet)) + packet


def through_a_wire(sent: list[bytes], share: float, seed: int = 1) -> bytes:
    """Returns what a client gets of bytes that a camera sends in that many pieces."""
    total = sum(map(len, sent))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE_S)
        wire = Wire(server.getsockname()[1])
        try:
            wire.corrupt(share, seed)
            with socket.create_connection(("127.0.0.1", wire.port), PATIENCE_S) as client:
                camera, _ = server.accept()
                with camera:
                    camera.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    for piece in sent:
                        camera.sendall(piece)
                    got = b""
                    while len(got) < total:
                        got += client.recv(total)
        finally:
            wire.close()
    return got


def test_corruption_hits_only_the_payload_of_rtp() -> None:
    reply = b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 8\r\n\r\n$\x00\x00\x02body"
    pieces = [reply, *(interleaved(n % 2, bytes([n]) * 50) for n in range(20)), b"RTSP/1.0 200 OK\r\nCSeq: 2\r\n\r\n"]
    stream = b"".join(pieces)
    dice = random.Random(3)
    cuts = [0, *sorted(dice.sample(range(1, len(stream)), 30)), len(stream)]
    in_shreds = [stream[start:end] for start, end in pairwise(cuts)]
    assert through_a_wire(in_shreds, 0.0) == stream
    damaged = through_a_wire(in_shreds, 1.0)
    assert through_a_wire([stream], 1.0) == damaged != through_a_wire([stream], 1.0, seed=2)
    at = 0
    for piece in pieces:
        wrong = [place for place in range(len(piece)) if piece[place] != damaged[at + place]]
        is_rtp = piece[:2] == b"$\x00"
        assert len(wrong) == is_rtp and all(place >= 16 for place in wrong)
        at += len(piece)
    some = through_a_wire([stream], 0.5)
    assert 0 < sum(x != y for x, y in zip(some, stream, strict=True)) < 10


def test_a_wire_passes_on_the_end() -> None:
    before = threading.active_count(), open_files()
    with socket.create_server(("127.0.0.1", 0)) as server:
        wire = Wire(server.getsockname()[1])
        for direction in ("to the client", "to the camera"):
            with socket.create_connection(("127.0.0.1", wire.port), PATIENCE_S) as client:
                camera, _ = server.accept()
                ends, other = (camera, client) if direction == "to the client" else (client, camera)
                with camera:
                    camera.settimeout(PATIENCE_S)
                    ends.sendall(b"RTSP/1.0 200 OK\r\n\r\n")
                    ends.shutdown(socket.SHUT_WR)
                    assert other.recv(100) == b"RTSP/1.0 200 OK\r\n\r\n" and other.recv(100) == b""
    reset = pytest.raises(ConnectionResetError)  # since nothing listens behind it
    with reset, socket.create_connection(("127.0.0.1", wire.port), PATIENCE_S) as client:
        client.recv(1)
    wire.close()
    assert (threading.active_count(), open_files()) == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", wire.port))


def test_a_reserved_port_refuses_until_somebody_listens_there() -> None:
    with reserved_port() as holder:
        address = holder.getsockname()
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            with socket.create_server(address):
                socket.create_connection(address).close()
