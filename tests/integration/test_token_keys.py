"""Two control planes over one database, of which one makes a new key that signs tokens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from entrepot.management import authority
from entrepot.management.app import app
from entrepot.management.authority import Site
from entrepot.management.control import Control
from entrepot.management.first import Place, begin, renew_token_key
from entrepot.snapshot import Published
from worlds import open_control

SITE = Site("https://control.example", "http://127.0.0.1:8080", "t")
FIRST = ("one", "two")


class Side:
    """A control plane and a client of it, in this loop."""

    def __init__(self, control: Control, served: Any, client: httpx.AsyncClient, secret: dict[str, str]) -> None:
        self.control = control
        self.authority: authority.Authority = served.state.authority
        self._client = client
        self._secret = secret

    async def token(self) -> str:
        form = {"grant_type": "client_credentials", **self._secret}
        answer = await self._client.post("/adfs/oauth2/token", data=form)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    async def takes(self, token: str) -> bool:
        answer = await self._client.get("/subscriptions", headers={"authorization": f"Bearer {token}"})
        if answer.status_code == 401:
            assert answer.json()["error"]["code"] == "InvalidAuthenticationToken"
        else:
            assert answer.status_code == 200, answer.text
        return answer.status_code == 200

    async def keys(self) -> list[str]:
        return [each["kid"] for each in (await self._client.get("/adfs/discovery/keys")).json()["keys"]]

    def published(self) -> list[str]:
        """By which gateways verify."""
        published: Published = self.control.published
        assert published.issuer is not None
        return [each["kid"] for each in json.loads(published.issuer.keys)["keys"]]


@asynccontextmanager
async def both(folder: Path, url: str) -> AsyncIterator[tuple[Side, Side]]:
    sides, secret = [], ""
    made: dict[str, str] = {}
    try:
        for name in FIRST:
            control = await open_control(folder / name, url, name=name)
            begun = await begin(control, SITE, Place())
            secret = secret or (folder / name / "admin.secret").read_text()
            made = {"client_id": begun.client_id, "client_secret": secret}
            served = await app(control, SITE)
            transport = httpx.ASGITransport(served)
            client = httpx.AsyncClient(transport=transport, base_url=SITE.url, params={"api-version": "2025-09-01"})
            sides.append(Side(control, served, client, made))
        yield sides[0], sides[1]
    finally:
        for side in sides:
            await side._client.aclose()
            await side.control.close()


async def published(side: Side, keys: list[str]) -> None:
    async with asyncio.timeout(30):
        while side.published() != keys:  # noqa: ASYNC110 - the control plane looks by itself, twice a second
            await asyncio.sleep(0.05)


def test_the_other_control_plane_takes_a_new_key_over_and_lets_an_old_one_go(url: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with both(tmp_path, url) as (one, two):
            old = await two.token()
            assert await one.takes(old)
            assert await two.takes(old)
            await renew_token_key(one.control, SITE)
            new = await one.token()
            for side in (two, one):  # at once, without a restart, and without asking for anything else before
                assert await side.takes(new)
                assert await side.takes(old)
            assert await two.keys() == await one.keys()
            assert await one.takes(await two.token())
            assert jwt.decode(await two.token(), ECKey.import_key(keys_of(two)[0]), ["ES256"])
            assert keys_of(two)[0]["kid"] == (await one.keys())[0]
            await published(one, await one.keys())
            await published(two, await one.keys())
            # After a leak it is done twice: nobody believes the first key any more, wherever it is shown.
            await renew_token_key(one.control, SITE)
            assert not await two.takes(old)
            assert not await one.takes(old)
            assert await two.takes(new)
            assert await two.takes(await one.token())
            await published(two, await one.keys())

    asyncio.run(run())


def keys_of(side: Side) -> list[dict[str, Any]]:
    return list(side.authority._keys.public["keys"])


def test_tokens_of_unknown_keys_do_not_reach_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with both(tmp_path, f"sqlite:///{tmp_path / 'control.db'}") as (_, two):
            asked = 0
            look = two.control.store.touched_since

            async def counted(n: int) -> Any:
                nonlocal asked
                asked += 1
                return await look(n)

            key = ECKey.generate_key("P-256", {"kid": "forged"})
            forged = jwt.encode({"alg": "ES256", "kid": "forged"}, {"oid": "x"}, key, ["ES256"])
            monkeypatch.setattr(two.control.store, "touched_since", counted)
            monkeypatch.setattr(authority, "UNKNOWN_S", 1e9)
            for token in (forged, forged + "x", "x.y.z", "", forged):
                with pytest.raises(Exception, match="not valid"):
                    await two.authority.principal(token)
            assert asked == 1

    asyncio.run(run())
