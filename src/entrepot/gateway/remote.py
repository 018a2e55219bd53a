"""HTTPS to the control plane, over the engine that also speaks to upstreams. Knows no meaning of what is said."""

from __future__ import annotations

import ssl
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

from entrepot import __version__
from entrepot.errors import Code, Error
from entrepot.http1.client import Endpoint, Pool
from entrepot.http1.connect import authority
from entrepot.http1.message import Headers, render_headers
from entrepot.resources.model import Timeouts

WAIT_S: Final = 30
"""How long the control plane may hold a question that has no answer yet."""
LARGEST: Final = 512 * 1024 * 1024
_TIMEOUTS: Final = Timeouts(connect_s=5.0, first_byte_s=WAIT_S + 30.0, idle_s=30.0, total_s=WAIT_S + 300.0)


class Answer(NamedTuple):
    status: int
    headers: Headers
    body: bytes


class Remote:
    """A control plane at an URL. Its questions raise `http1.client.Fault` when there is no whole answer."""

    def __init__(self, url: str, tls: ssl.SSLContext) -> None:
        """Raises Error for what is not the URL of a control plane."""
        self.url = url.rstrip("/")
        host, port = _parse(url)
        self._host = authority(host, port)
        self._endpoint = Endpoint("https", host, port)
        self._pools = [Pool(self._endpoint, _TIMEOUTS, tls, max_idle=1)]

    @classmethod
    def pinned(cls, url: str, ca: str) -> Self:
        """`ca` (PEM) has the only authorities that are believed. Raises Error if it has none."""
        return cls(url, pinned(ca))

    def believe(self, ca: str) -> None:
        """These authorities only, from the next question on; those under way go on. Raises Error if it has none."""
        self._pools.insert(0, Pool(self._endpoint, _TIMEOUTS, pinned(ca), max_idle=1))

    @classmethod
    def unverified(cls, url: str) -> Self:
        """For what anybody may see and forge, and what is compared with something that came another way."""
        tls = _tls()
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
        return cls(url, tls)

    async def get(self, target: str, fields: list[tuple[str, str]]) -> Answer:
        return await self._ask("GET", target, fields, b"")

    async def post(self, target: str, body: bytes) -> Answer:
        return await self._ask("POST", target, [("content-type", "application/json")], body)

    async def put(self, target: str, fields: list[tuple[str, str]], body: bytes) -> Answer:
        return await self._ask("PUT", target, fields, body)

    async def close(self) -> None:
        for pool in self._pools:
            await pool.close()

    async def _ask(self, method: str, target: str, fields: list[tuple[str, str]], body: bytes) -> Answer:
        head = render_headers([("host", self._host), ("user-agent", f"entrepot/{__version__}"), *fields])
        response = await self._pools[0].send(method, target, head, body)
        return Answer(response.status, response.headers, await response.read(LARGEST))


def pinned(ca: str) -> ssl.SSLContext:
    """Raises Error where `ca` has no certificate in PEM."""
    tls = _tls()
    try:
        tls.load_verify_locations(cadata=ca)
    except (ssl.SSLError, ValueError) as error:
        raise Error(Code.NOT_READY, "the control plane's certificate authority is no certificate in PEM") from error
    return tls


def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _parse(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme != "https" or not host or parts.path not in {"", "/"} or parts.query or parts.username is not None:
        raise Error(Code.BAD_REQUEST, f"`{url[:200]}` is not the address of a control plane; give https://HOST:PORT")
    return host, port or 443
