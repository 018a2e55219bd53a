"""Clients of the management listener that do not say what they want."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from entrepot.management import heard

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"


async def echo(request: Request) -> Response:
    return PlainTextResponse(await request.body())


@contextmanager
def listening() -> Iterator[int]:
    app = Starlette(routes=[Route("/", echo, methods=["POST"])])
    config = uvicorn.Config(app, http=heard.Heard, ws="none", log_config=None, timeout_keep_alive=60)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def answered(client: socket.socket) -> None:
    answer = b""
    while not answer.endswith(b"abc"):
        answer += client.recv(4_096)


def ended(client: socket.socket) -> None:
    while client.recv(4_096):
        pass


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(HEAD, id="half a head"),
        pytest.param(HEAD + b"content-length: 9\r\n\r\nabc", id="half a body"),
    ],
)
def test_who_does_not_go_on_is_let_go(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heard, "HEAD_S", 0.2)
    monkeypatch.setattr(heard, "BODY_S", 0.2)
    with listening() as port, socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(said)
        ended(client)


def test_who_was_answered_is_let_go_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heard, "HEAD_S", 0.2)
    with listening() as port, socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(HEAD + b"content-length: 3\r\n\r\nabc")
        answered(client)
        client.sendall(HEAD)
        ended(client)


def test_who_is_slow_but_goes_on_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heard, "BODY_S", 5.0)
    with listening() as port, socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        for _ in range(2):
            client.sendall(HEAD + b"content-length: 3\r\n\r\n")
            for byte in b"abc":
                time.sleep(0.05)
                client.sendall(bytes([byte]))
            answered(client)
