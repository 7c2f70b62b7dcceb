"""The certificates that FFmpeg and Python trust on ``https``, ``rtsps`` and ``rtmps``."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from streamer.common.errors import ConfigError

_PORTS = {"https": 443, "rtsps": 322, "rtmps": 443}
SCHEMES = tuple(_PORTS)
REMEDY = "give the file of its authority with --tls-verify FILE, or trust anyone with --tls-verify no"

# Systems' bundles of authorities. The FFmpeg in PyAV's wheels looks in one place only, which Debian lacks.
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_MAX_CHECK_S = 3.0

Trust = bool | Path
"""True: the system's authorities; a path: those in that file (PEM); False: any certificate."""


def check_trust(trust: Path) -> None:
    """Checks a file of authorities.

    Raises:
        ConfigError: if it can't be read, or holds no certificate.
    """
    try:
        tls_context(trust)
    except ssl.SSLError:
        raise ConfigError(f"tls_verify: {str(trust)!r} holds no certificate: give a file in PEM") from None
    except OSError as error:
        raise ConfigError(f"tls_verify: {str(trust)!r} can't be read: {error.strerror}") from None


def tls_context(trust: Trust) -> ssl.SSLContext:
    """Returns the context for Python's connections.

    Raises:
        OSError: if the file can't be read, or holds no certificate (`ssl.SSLError`).
    """
    if isinstance(trust, Path):
        return ssl.create_default_context(cafile=str(trust))
    bundle = system_bundle()
    context = ssl.create_default_context(cafile=None if bundle is None else str(bundle))
    if not trust:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def ffmpeg_options(trust: Trust) -> dict[str, str]:
    """Returns the options for FFmpeg's connections, which check the host name too."""
    bundle = trust if isinstance(trust, Path) else system_bundle()
    authorities = {"ca_file": str(bundle)} if trust and bundle is not None else {}
    return {"tls_verify": "1" if trust else "0"} | authorities


def why_distrusted(url: str, trust: Trust, timeout_s: float) -> str | None:
    """Returns why a server's certificate isn't trusted, as the end of "source 'x' ...", None where it isn't that.

    FFmpeg doesn't say. This connects once more, and sends no request.
    """
    parts = urlsplit(url)
    if not trust or parts.scheme not in _PORTS or parts.hostname is None:
        return None
    try:
        where = (parts.hostname, parts.port or _PORTS[parts.scheme])
        with socket.create_connection(where, timeout=max(0.1, min(timeout_s, _MAX_CHECK_S))) as connection:
            tls_context(trust).wrap_socket(connection, server_hostname=parts.hostname).close()
    except ssl.SSLCertVerificationError as error:
        return distrusted(error)
    except (OSError, ValueError):
        pass
    return None


def distrusted(error: ssl.SSLCertVerificationError) -> str:
    """Returns the message for an untrusted certificate, as the end of "source 'x' ..."."""
    return f"has a certificate that isn't trusted ({error.verify_message.rstrip('.')}); {REMEDY}"


def system_bundle() -> Path | None:
    """Returns the file of the system's authorities, or of `SSL_CERT_FILE`; None where there is none."""
    paths = ssl.get_default_verify_paths()
    return next((Path(path) for path in (paths.cafile, *_BUNDLES) if path and Path(path).is_file()), None)
