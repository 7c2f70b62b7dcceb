#!/bin/bash
# Expected: options for TLS given to av.open (ca_file, tls_verify) hold for an HLS playlist and for the segments that it names. Seen with PyAV 19.0.2: they hold for the playlist alone; segments are always checked, against one fixed file
# of authorities (/etc/pki/tls/cert.pem) that Debian and Ubuntu don't have, so a stream that PyAV 18 read is "Invalid data". Here: playlists on https are read with PyAV's io_open and Python's own TLS (streamer/sources/http/playlist.py).
set -euo pipefail
PYTHON=${PYTHON:-$(command -v python3.14 || command -v python3.13 || command -v python3.12 || command -v python3)}
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==19.0.2 trustme==1.2.1 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import functools, http.server, ssl, sys, threading
from pathlib import Path

import av, numpy, trustme

print("Python", sys.version.split()[0], "PyAV", av.__version__, "libavformat", av.library_versions["libavformat"])
with av.open("list.m3u8", "w", format="hls", options={"hls_time": "1", "hls_list_size": "0"}) as playlist:
    stream = playlist.add_stream("libx264", rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    for number in range(30):
        picture = numpy.full((48, 64, 3), number, numpy.uint8)
        playlist.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    playlist.mux(stream.encode(None))
segments = sorted(Path().glob("*.ts"))

authority = trustme.CA()
authority.cert_pem.write_to_path("authority.pem")
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
authority.issue_cert("127.0.0.1").configure_cert(context)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        pass


server = Server(("127.0.0.1", 0), functools.partial(Quiet, directory="."))
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
threading.Thread(target=server.serve_forever, daemon=True).start()


def read(name, **options):
    try:
        with av.open(f"https://127.0.0.1:{server.server_port}/{name}", options=options, timeout=10) as container:
            return f"{sum(1 for _ in container.decode(video=0))} pictures"
    except av.FFmpegError as error:
        return type(error).__name__


trusted, unchecked = {"tls_verify": "1", "ca_file": "authority.pem"}, {"tls_verify": "0"}
seen = {
    "a segment alone, its authority given": read(segments[0].name, **trusted),
    "the playlist, its authority given": read("list.m3u8", **trusted),
    "the playlist, tls_verify=0": read("list.m3u8", **unchecked),
}
for what, result in seen.items():
    print(f"{what}: {result}")
values = list(seen.values())
sys.exit(not (values[0].endswith("pictures") and values[1:] == ["InvalidDataError", "InvalidDataError"]))
PROGRAM
