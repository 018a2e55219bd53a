"""TLS on the data listener: a context from the world's certificate and key, checked before anything uses it."""

from __future__ import annotations

import ssl
from pathlib import Path

from entrepot.resources.model import Tls
from entrepot.resources.problems import Problem, WorldInvalid


def server_tls(tls: Tls) -> ssl.SSLContext:
    """TLS 1.2 or later, HTTP/1.1 only. Raises WorldInvalid for files that cannot be read or do not belong together."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, tls)
    return context


def pair_mark(tls: Tls) -> tuple[tuple[str, int, int, int], ...]:
    """Changes when the files of the certificate and its key do, or are others."""
    marks = []
    for name in (tls.certificate, tls.key):
        try:
            stat = Path(name).stat()
        except OSError:
            marks.append((name, 0, 0, 0))
        else:
            marks.append((name, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(marks)


def load_certificate(context: ssl.SSLContext, tls: Tls) -> None:
    """Handshakes from now on use it. Raises as `server_tls`; only a pair that it took leaves `context` sound."""
    try:
        # Without a password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(tls.certificate, tls.key, password="")
    except (OSError, ValueError) as error:
        what = f"`{tls.certificate}` and `{tls.key}` cannot be used: {error}"
        fix = "name a readable certificate chain and its own key, in PEM, without a password"
        raise WorldInvalid([Problem("world", None, "gateway.tls", what, fix)]) from error
