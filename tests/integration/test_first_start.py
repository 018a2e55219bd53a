"""What a first start makes: all of it or nothing, once, and a usable beginning."""

from __future__ import annotations

import asyncio
import json
import stat
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from entrepot.errors import Error
from entrepot.identity.tokens import Verifier
from entrepot.management import first, secret
from entrepot.management.authority import Authority, Site
from entrepot.management.authorize import Directory
from entrepot.management.control import Control
from entrepot.management.first import Place, administrator, begin, listen_at, renew_token_key
from entrepot.management.issuing import TOKEN_KEY
from entrepot.management.roles import OWNER
from entrepot.management.running import Options, run
from entrepot.resources.ids import SETTINGS, access_id
from entrepot.storage import EVERYTHING, MasterKey

SITE = Site("https://127.0.0.1:8443", "http://127.0.0.1:8080", "t")


@asynccontextmanager
async def control(folder: Path, name: str = "control") -> AsyncIterator[Control]:
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    master = MasterKey.from_file(folder.parent / "master.key")
    opened = await Control.open(folder, f"sqlite:///{folder.parent / 'control.db'}", master, name=name)
    try:
        yield opened
    finally:
        await opened.close()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"territory": "Japan"}, "`--territory`: `Japan` is no territory"),
        ({"data_url": "api.example"}, "`--data-url`: `api.example` is no `http://` or `https://` URL"),
        ({"data_url": "https://api.example?x=1"}, "`--data-url`"),
        ({"data_listen": "nope", "local_gateway": True}, "`--listen`: `nope` is no `HOST:PORT`"),
        ({"admin_listen": "127.0.0.1:70000"}, "`--admin-listen`: `127.0.0.1:70000` is no `HOST:PORT`"),
    ],
)
def test_wrong_options_are_told_before_anything_is_written(tmp_path: Path, given: dict[str, Any], says: str) -> None:
    options = Options(data=tmp_path / "data", listen="127.0.0.1:0", **given)
    with pytest.raises(Error, match=says):
        asyncio.run(run(options, MasterKey(bytes(32)), lambda *_: None))
    assert not (tmp_path / "data").exists()


def test_a_first_start_makes_a_usable_beginning_and_the_second_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with control(tmp_path / "data") as made:
            begun = await begin(made, SITE, Place(territory="DE"))
            assert begun.fresh
            rows = await made.store.all()
            kinds = Counter(row.kind for row in rows)
            assert kinds == {
                "settings": 1,
                "operator": 3,
                "region": 64,
                "gateway": 1,
                "organization": 1,
                "subscription": 1,
                "principal": 1,
                "roleAssignment": 1,
                "policyRelease": 1,
            }
            (assignment,) = [row for row in rows if row.kind == "roleAssignment"]
            assert assignment.body["properties"]["scope"] == "/"
            assert assignment.body["properties"]["roleDefinitionId"].endswith(OWNER)
            assert assignment.body["properties"]["principalId"] == begun.client_id == await administrator(made)
            file = tmp_path / "data" / "admin.secret"
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            kept = await made.store.secret(f"{access_id('principal', 'administrator').lower()}/secret")
            assert kept is not None
            assert secret.matching(kept, file.read_text(), 0)
            assert file.read_text() not in kept.decode()
            # It is published: the policy is in force, and gateways can verify tokens.
            assert made.snapshot.program.release.startswith("sha256:")
            assert made.snapshot.issuer is not None
            Verifier(made.snapshot.issuer.url, made.snapshot.issuer.keys, made.snapshot.issuer.audiences)
            (subscription,) = await made.store.list(EVERYTHING, "subscription")
            assert subscription.body["properties"]["channel"] == "cloud"
            revision = await made.store.revision()
            again = await begin(made, SITE, Place())
            assert again == (begun.client_id, False)
            await listen_at(made, "127.0.0.1:8080", None)
            assert await made.store.revision() == revision
            row = await listen_at(made, "127.0.0.1:8081", None)
            assert row.body["properties"]["listen"] == "127.0.0.1:8081"
            assert row.body["properties"]["territory"] == "DE"
        async with control(tmp_path / "data") as made:
            assert await begin(made, SITE, Place()) == (begun.client_id, False)

    asyncio.run(run())


def test_a_first_start_that_breaks_off_leaves_nothing_and_the_next_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise OSError("the power is gone")

    async def run() -> None:
        async with control(tmp_path / "data") as made:
            with monkeypatch.context() as patch:
                patch.setattr(first, "_fill_administrator", broken)
                with pytest.raises(OSError, match="power"):
                    await begin(made, SITE, Place())
            assert await made.store.all() == []
            assert TOKEN_KEY not in await made.store.secrets()
            shown = (tmp_path / "data" / "admin.secret").read_text()
            begun = await begin(made, SITE, Place())
            assert begun.fresh
            kept = await made.store.secret(f"{access_id('principal', 'administrator').lower()}/secret")
            assert kept is not None
            assert secret.matching(kept, shown, 0)

    asyncio.run(run())


def test_two_control_planes_that_start_at_once_make_one_beginning(tmp_path: Path) -> None:
    async def run() -> None:
        async with control(tmp_path / "one") as one, control(tmp_path / "two", "control-2") as two:
            begun = await asyncio.gather(begin(one, SITE, Place()), begin(two, SITE, Place()))
            assert {each.client_id for each in begun} == {await administrator(one)}
            assert sorted(each.fresh for each in begun) == [False, True]
            principals = await one.store.list(EVERYTHING, "principal")
            assert len(principals) == 1
        # The secret of the one that was late opens nothing, so it is not left lying about.

    asyncio.run(run())
    assert len(list(tmp_path.glob("*/admin.secret"))) == 1


def test_a_new_name_of_the_control_plane_reaches_the_gateways(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with control(tmp_path / "data") as made:
            await begin(made, SITE, Place())
            before = await made.store.get(EVERYTHING, SETTINGS)
            assert "another name" not in caplog.text
            await begin(made, Site("https://models.example", "", "t"), Place())
            assert "tokens are issued in another name" in caplog.text  # two with different ones take turns
            after = await made.store.get(EVERYTHING, SETTINGS)
            assert before is not None
            assert after is not None
            assert after.body["properties"]["issuer"]["url"] == "https://models.example/adfs"
            assert after.body["properties"]["issuer"]["keys"] == before.body["properties"]["issuer"]["keys"]
            assert made.snapshot.issuer is not None
            assert made.snapshot.issuer.url == "https://models.example/adfs"

    asyncio.run(run())


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    async def run() -> None:
        async with control(tmp_path / "data") as made:
            (tmp_path / "data" / "admin.secret").mkdir()
            with pytest.raises(Error, match=r"admin\.secret"):
                await begin(made, SITE, Place())
            assert await made.store.all() == []

    asyncio.run(run())


def test_tokens_are_signed_by_a_new_key_and_those_that_are_out_stay_valid(tmp_path: Path) -> None:
    async def run() -> None:
        now = int(time.time())
        async with control(tmp_path / "data") as made:
            await begin(made, SITE, Place())
            keys, tokens = [], []
            for _ in range(3):
                authority = await Authority.open(made.store, SITE, Directory(made.store))
                tokens.append(authority._keys.mint.token("someone", "https://ai.azure.com", ()))
                keys.append(await made.store.secret(TOKEN_KEY))
                assert made.snapshot.issuer is not None
                held = json.loads(made.snapshot.issuer.keys)["keys"]
                assert await authority.keys() == {"keys": held}
                assert len(held) == min(len(tokens), 2)
                assert not any("d" in key for key in held)
                verifier = Verifier(made.snapshot.issuer.url, made.snapshot.issuer.keys, made.snapshot.issuer.audiences)
                for token in tokens[-2:]:
                    assert verifier.principal(token, now) == "someone"
                for token in tokens[:-2]:
                    with pytest.raises(Error):
                        verifier.principal(token, now)
                await renew_token_key(made, SITE)
            assert len(set(keys)) == 3
            await begin(made, SITE, Place())  # another start leaves them

    asyncio.run(run())
