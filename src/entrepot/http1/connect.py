"""From an endpoint to an open connection: names, TCP, a proxy's CONNECT, TLS. Everything fails as a Fault.

Never reads a proxy from the environment: that would move the egress to an undeclared territory.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from entrepot.http1.response import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from entrepot.http1.upstream import Connection

ADDRESS_TTL_S: Final = 30.0
PROXY_HEAD_BYTES: Final = 16_384
TLS_SHUTDOWN_S: Final = 2.0

Address = tuple[int, tuple[str, int] | tuple[str, int, int, int]]


class Endpoint(msgspec.Struct, frozen=True):
    """Where an upstream listens. `host` is a name or an IP literal without brackets.

    `proxy`: `http://[user:password@]host[:port]`; https goes through it by CONNECT, http in absolute form
    (RFC 9112 §3.2.2).
    """

    scheme: Literal["http", "https"]
    host: str
    port: int
    proxy: str | None = None

    def __repr__(self) -> str:
        """Without the proxy, whose URL may hold a password: this gets into logs."""
        way = ", by a proxy" if self.proxy else ""
        return f"Endpoint({self.scheme}://{authority(self.host, self.port)}{way})"


class Proxy(msgspec.Struct, frozen=True):
    """A proxy's address and the header line of its credential, or nothing."""

    host: str
    port: int
    authorization: bytes

    def __repr__(self) -> str:
        return f"Proxy({authority(self.host, self.port)})"


def client_tls(ca_file: str | None = None) -> ssl.SSLContext:
    """Verification against the system's authorities, or only those of `ca_file` (PEM). TLS 1.2 or later, `http/1.1`.

    Share it between pools: loading the authorities takes milliseconds and a megabyte.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(cafile=ca_file)
    return context


def authority(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 literal."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_proxy(url: str) -> Proxy:
    """Raises ValueError; the message does not repeat the URL, which may hold a password."""
    mistake = "the proxy is not of the form `http://[user:password@]host[:port]`"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        # Without `from`: urlsplit repeats what it could not parse.
        raise ValueError(mistake) from None
    if parts.scheme != "http" or not host or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError(mistake)
    authorization = b""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = b"proxy-authorization: Basic " + base64.b64encode(pair.encode()) + b"\r\n"
    return Proxy(host, port or 80, authorization)


class Connector:
    """Opens connections to one endpoint. Addresses are remembered for 30 s, longer while the name does not resolve."""

    def __init__(self, endpoint: Endpoint, tls: ssl.SSLContext | None) -> None:
        if endpoint.scheme == "https" and tls is None:
            raise ValueError("an https endpoint needs a TLS context")
        self.proxy = parse_proxy(endpoint.proxy) if endpoint.proxy else None
        host = endpoint.host if endpoint.host.isascii() else endpoint.host.encode("idna").decode()
        if not host.isprintable() or not host or set(host) & set(" /?#@[]"):
            raise ValueError(f"`{host[:80]}` is not a host name or an IP literal without brackets")
        self._host, self._port = host, endpoint.port
        self._tls = tls if endpoint.scheme == "https" else None
        self._addresses: list[Address] = []
        self._fresh_until = 0.0

    async def open(self, connection: Callable[[], Connection], limit_s: float) -> Connection:
        """A connected `connection()`, within `limit_s` altogether. Raises Fault(connect | tls), nothing sent."""
        stage = ["connect to"]
        try:
            async with asyncio.timeout(limit_s):
                return await self._open(connection, limit_s, stage)
        except TimeoutError:
            message = f"{stage[0]} {self._name()} took longer than {limit_s:g} s"
            raise Fault("tls" if stage[0] == "TLS with" else "connect", message, sent=False) from None

    async def _open(self, connection: Callable[[], Connection], limit_s: float, stage: list[str]) -> Connection:
        loop = asyncio.get_running_loop()
        sock = await self._dial(loop, loop.time() + limit_s)
        try:
            if self.proxy is not None and self._tls is not None:
                await self._tunnel(loop, sock, self.proxy)
            if self._tls is None:
                return (await loop.create_connection(connection, sock=sock))[1]
            stage[0] = "TLS with"
            _, opened = await loop.create_connection(
                connection, sock=sock, ssl=self._tls, server_hostname=self._host, ssl_shutdown_timeout=TLS_SHUTDOWN_S
            )
        except OSError as error:
            sock.close()
            if stage[0] == "TLS with":
                raise Fault("tls", f"TLS with {self._name()} failed: {_reason(error)}", sent=False) from error
            raise Fault("connect", f"connect to {self._name()} failed: {_reason(error)}", sent=False) from error
        except BaseException:
            sock.close()
            raise
        return opened

    def _name(self) -> str:
        name = f"`{authority(self._host, self._port)}`"
        return name if self.proxy is None else f"{name} by proxy `{authority(self.proxy.host, self.proxy.port)}`"

    async def _dial(self, loop: asyncio.AbstractEventLoop, until: float) -> socket.socket:
        """Try the addresses in order; each has an equal share of the time that is left."""
        addresses = await self._resolve(loop)
        last: OSError = OSError("no address")
        for index, (family, address) in enumerate(addresses):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                async with asyncio.timeout((until - loop.time()) / (len(addresses) - index)):
                    await loop.sock_connect(sock, address)
            except OSError as error:
                # TimeoutError is one of these.
                sock.close()
                last = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        self._fresh_until = 0.0
        raise Fault("connect", f"connect to {self._name()} failed: {_reason(last)}", sent=False) from last

    async def _resolve(self, loop: asyncio.AbstractEventLoop) -> list[Address]:
        if loop.time() < self._fresh_until:
            return self._addresses
        host, port = (self._host, self._port) if self.proxy is None else (self.proxy.host, self.proxy.port)
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            if not self._addresses:
                raise Fault("connect", f"no address for `{host}`: {_reason(error)}", sent=False) from error
        else:
            self._addresses = [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]
        self._fresh_until = loop.time() + ADDRESS_TTL_S
        return self._addresses

    async def _tunnel(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, proxy: Proxy) -> None:
        """CONNECT (RFC 9110 §9.3.6). A TLS server does not speak first, so the head ends what there is to read."""
        target = authority(self._host, self._port).encode()
        await loop.sock_sendall(
            sock, b"CONNECT " + target + b" HTTP/1.1\r\nhost: " + target + b"\r\n" + proxy.authorization + b"\r\n"
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            part = await loop.sock_recv(sock, 4096)
            head += part
            if not part or len(head) > PROXY_HEAD_BYTES or b"\r\n\r\n" in head[:-4]:
                break
        line = head.partition(b"\r\n")[0].split(b" ", 2)
        if len(line) < 2 or not line[0].startswith(b"HTTP/1.") or len(line[1]) != 3 or not line[1].isdigit():
            raise Fault("connect", f"{self._name()}: the proxy did not answer in HTTP/1.1", sent=False)
        if not line[1].startswith(b"2"):
            raise Fault("connect", f"{self._name()}: the proxy answered {int(line[1])}", sent=False)
        if not head.endswith(b"\r\n\r\n"):
            raise Fault("connect", f"{self._name()}: the proxy's answer is too large or cut", sent=False)


def _reason(error: BaseException) -> str:
    """The error in words, without the numbers that asyncio and OpenSSL put around it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "protocol error").lower().replace("_", " ")
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError):
        return (error.strerror or str(error) or type(error).__name__).lower()
    return type(error).__name__
