"""A stand-in for a control plane: the HTTP that gateways speak, with real TLS and real sealing, and no more.

Runs in threads of the test, so that gateways in processes of their own can follow it. Can be killed and started again
on its port, and made to answer wrongly.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from entrepot.snapshot import Delta, Published, difference, encode
from entrepot.snapshot.sealed import seal


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    plane: ControlPlane

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go, and handshakes that fail, are what is tested here."""


class ControlPlane:
    def __init__(self) -> None:
        self.authority = trustme.CA()
        self.signer = Ed25519PrivateKey.generate()
        self.published: list[Published] = []
        self.tokens: dict[str, str] = {}
        self.gateways: dict[str, tuple[str, bytes]] = {}
        """Name → secret and sealing key."""
        self.asked: list[tuple[str | None, str]] = []
        """Of each question for the snapshot: If-None-Match and readiness."""
        self.alter: Callable[[bytes], bytes] | None = None
        self.whole_only = False
        self.status: int | None = None
        self.news = threading.Condition()
        self.port = 0
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def token(self, name: str) -> str:
        der = ssl.PEM_cert_to_DER_cert(self.authority.cert_pem.bytes().decode())
        text = f"enrol-{name}-{'0123456789abcdef' * 2}-{sha256(der).hexdigest()[:32]}"
        self.tokens[text] = name
        return text

    def publish(self, published: Published) -> None:
        with self.news:
            self.published.append(published)
            self.news.notify_all()

    def start(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("127.0.0.1").configure_cert(context)
        server = _Server(("127.0.0.1", self.port), _Handler)
        server.plane = self
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self._server = server

    def kill(self) -> None:
        """Connections included: questions that wait get no answer."""
        server, self._server = self._server, None
        assert server is not None
        server.shutdown()
        server.server_close()
        with self.news:
            self.news.notify_all()

    @property
    def running(self) -> bool:
        return self._server is not None

    def answer(self, name: str, after: str | None, wait_s: float) -> bytes | None:
        """Sealed; None when there is nothing newer."""
        until = time.monotonic() + wait_s
        with self.news:
            while str(self.published[-1].revision) == after and (left := until - time.monotonic()) > 0 and self.running:
                self.news.wait(left)
            newest = self.published[-1]
            if str(newest.revision) == after:
                return None
            before = next((each for each in self.published if str(each.revision) == after), None)
        message: Published | Delta | None = None
        if before is not None and not self.whole_only:
            message = difference(before, newest)
        kind: Any = "published" if message is None else "delta"
        sealed = seal(
            encode(message or newest),
            to=self.gateways[name][1],
            signer=self.signer,
            gateway=name,
            kind=kind,
            revision=newest.revision,
        )
        return self.alter(sealed) if self.alter else sealed


class _Handler(BaseHTTPRequestHandler):
    timeout = 60

    @property
    def plane(self) -> ControlPlane:
        assert isinstance(self.server, _Server)
        return self.server.plane

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/entrepot/ca.pem":
            self._send(200, self.plane.authority.cert_pem.bytes())
        elif url.path == "/entrepot/snapshot":
            self._snapshot(float(parse_qs(url.query)["wait"][0]))
        else:
            self._refuse(404, "ResourceNotFound", "no such path")

    def _snapshot(self, wait_s: float) -> None:
        name = self.headers["x-entrepot-gateway"]
        secret, _ = self.plane.gateways.get(name, ("", b""))
        if self.headers["authorization"] != f"Bearer {secret}":
            self._refuse(401, "InvalidAuthenticationToken", "no such gateway")
            return
        etag = self.headers["if-none-match"]
        self.plane.asked.append((etag.strip('"') if etag else None, self.headers["x-entrepot-ready"]))
        if self.plane.status is not None:
            self._refuse(self.plane.status, "Broken", "broken on purpose")
            return
        body = self.plane.answer(name, etag.strip('"') if etag else None, wait_s)
        if not self.plane.running:
            self.close_connection = True
        elif body is None:
            self._send(304, b"")
        else:
            self._send(200, body)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.plane.tokens.pop(asked["token"], None) != asked["name"]:
            self._refuse(401, "InvalidToken", "the token is unknown, used or expired")
            return
        secret = f"secret-of-{asked['name']}-{len(self.plane.gateways)}"
        self.plane.gateways[asked["name"]] = (secret, base64.b64decode(asked["sealing_key"]))
        verifier = base64.b64encode(self.plane.signer.public_key().public_bytes_raw()).decode()
        granted = {"gateway": asked["name"], "secret": secret, "verifier": verifier, "epoch": 0}
        self._send(200, json.dumps(granted).encode())

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._send(status, json.dumps({"error": {"code": code, "message": message}}).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not of interest."""
