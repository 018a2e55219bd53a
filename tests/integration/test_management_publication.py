"""Enrolment and the long poll over a socket, as gateways speak them."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from entrepot.errors import Error
from entrepot.management.changes import ITSELF
from entrepot.management.enrol import make_token
from entrepot.resources.ids import access_id
from entrepot.snapshot import decode
from entrepot.snapshot.sealed import unseal
from entrepot.storage import EVERYTHING
from planes import Plane, plane

EDGE = access_id("gateway", "edge-1")
PRIVATE = X25519PrivateKey.generate()
SEALING = base64.b64encode(PRIVATE.public_key().public_bytes_raw()).decode()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    folder = tmp_path_factory.mktemp("plane")
    (folder / "ca").mkdir()
    (folder / "ca" / "ca.pem").write_bytes(trustme.CA().cert_pem.bytes())
    with plane(folder) as made:
        yield made


def run(served: Plane, work: Any) -> Any:
    """In the control plane's own loop."""
    return asyncio.run_coroutine_threadsafe(work, served.control._ticking.get_loop()).result(30)  # type: ignore[union-attr]


async def put_gateway(served: Plane, **changed: object) -> None:
    async with served.control.change(ITSELF, "test/write") as change:
        row = await change.get(EVERYTHING, EDGE)
        before = row.body["properties"] if row else {"territory": "JP"}
        await change.put(change.draft(EDGE, "gateway", {"properties": {**before, **changed}}))


@pytest.fixture(scope="module")
def enrolled(served: Plane) -> dict[str, Any]:
    run(served, put_gateway(served))
    token, _ = run(served, make_token(served.control, ITSELF, "edge-1"))
    asked = {"token": token, "name": "edge-1", "sealing_key": SEALING, "version": "1"}
    for wrong in (
        {**asked, "sealing_key": "AAAA"},
        {**asked, "sealing_key": "not base64"},
        {**asked, "token": 5},
        {"token": token},
    ):
        assert httpx.post(f"{served.url}/entrepot/enrol", json=wrong).status_code == 400
    answer = httpx.post(f"{served.url}/entrepot/enrol", json=asked)
    assert answer.status_code == 200, answer.text
    again = httpx.post(f"{served.url}/entrepot/enrol", json=asked)
    assert (again.status_code, "another" in again.json()["error"]["message"]) == (401, True)
    return answer.json()


def ask(served: Plane, secret: str, held: str | None = None, wait: object = 0, name: str = "edge-1") -> httpx.Response:
    headers = {"authorization": f"Bearer {secret}", "x-entrepot-gateway": name, "x-entrepot-ready": "true"}
    if held is not None:
        headers["if-none-match"] = held
    return httpx.get(f"{served.url}/entrepot/snapshot?wait={wait}", headers=headers, timeout=30)


def test_the_authority_is_told_to_everybody(served: Plane) -> None:
    assert httpx.get(f"{served.url}/entrepot/ca.pem").text.startswith("-----BEGIN CERTIFICATE-----")


def test_a_gateway_gets_the_whole_then_what_changes(served: Plane, enrolled: dict[str, Any]) -> None:
    answer = ask(served, enrolled["secret"])
    assert answer.status_code == 200
    etag = answer.headers["etag"]
    assert etag == f'"{served.control.revision}"'
    verifier = base64.b64decode(enrolled["verifier"])
    found = unseal(answer.content, private=PRIVATE, verifier=verifier, gateway="edge-1")
    assert (found.kind, found.revision) == ("published", served.control.revision)
    assert decode(found.message).world.gateway.log_name == "edge-1"  # type: ignore[union-attr]
    assert ask(served, enrolled["secret"], etag).status_code == 304
    seen = served.control.publisher.seen("EDGE-1")
    assert seen is not None
    assert (seen.revision, seen.ready) == (served.control.revision, True)
    answers: list[tuple[httpx.Response, float]] = []
    waiting = threading.Thread(
        target=lambda: answers.append((ask(served, enrolled["secret"], etag, 20), time.monotonic()))
    )
    waiting.start()
    time.sleep(0.3)
    run(served, put_gateway(served, territory="SG"))
    changed = time.monotonic()
    waiting.join()
    answer, answered = answers[0]
    assert answered - changed < 1
    found = unseal(answer.content, private=PRIVATE, verifier=verifier, gateway="edge-1")
    assert decode(found.message).world.gateway.territory == "SG"  # type: ignore[union-attr]


@pytest.mark.parametrize("held", ['"9.9"', '"1.999999"', "*", 'W/"1.1"', "x", '"1.1", "1.2"', '"99999999999999999.1"'])
def test_an_unknown_revision_gets_the_whole(served: Plane, enrolled: dict[str, Any], held: str) -> None:
    answer = ask(served, enrolled["secret"], held, "1e9")
    assert answer.status_code == 200
    assert answer.headers["etag"] == f'"{served.control.revision}"'


def test_only_who_has_the_secret_is_answered(served: Plane, enrolled: dict[str, Any]) -> None:
    for name, secret in (
        ("edge-1", "wrong"),
        ("edge-1", "x"),
        ("edge-2", enrolled["secret"]),
        ("gateway-none", "x"),
        ("%00", enrolled["secret"]),
        ("edge-1", "0" * 5_000),
    ):
        answer = ask(served, secret, name=name)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "NotEnrolled"
    assert httpx.get(f"{served.url}/entrepot/snapshot").status_code == 401


def test_a_token_of_a_gateway_that_is_not_there(served: Plane) -> None:
    with pytest.raises(Error, match="no gateway"):
        run(served, make_token(served.control, ITSELF, "nowhere"))
