"""What a change does, over real databases and a real ledger: all of it, or nothing."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import event

from changing import (
    ACCOUNT,
    DEPLOYMENT,
    EDGE,
    JAPAN,
    SUBSCRIPTION,
    YANGTZE,
    capacity_of,
    changes_of,
    over,
    properties,
    refused,
    row_of,
    scale,
    write,
)
from entrepot.clock import wall_clock_ms
from entrepot.errors import Code, Error
from entrepot.ledger import entries
from entrepot.ledger.read import entries_of, folders_of
from entrepot.management.changes import digest_of
from entrepot.management.control import Control
from entrepot.management.enrol import enrol, make_token
from entrepot.management.keyring import Keyring
from entrepot.management.roles import DEFINITIONS, OPENAI_USER
from entrepot.resources.ids import SETTINGS, access_id, deployment_id, subscription_id
from entrepot.snapshot import Compiled, Delta, Published, applied, decode
from entrepot.snapshot.revision import Revision
from entrepot.snapshot.sealed import unseal
from entrepot.storage import EVERYTHING, Row
from worlds import ADMIN, key_of, open_control


def test_a_change_is_in_the_database_in_the_ledger_and_published(tmp_path: Path, url: str) -> None:
    async def work(control: Control, data: Path) -> None:
        before = control.revision
        change = await scale(control, 7)
        recorded = change.recorded
        assert recorded is not None
        assert recorded.n == control.revision.n == before.n + 1
        assert recorded.touched == (DEPLOYMENT,)
        assert capacity_of(control) == 7
        assert control.publisher.revision == control.revision
        place, entry = changes_of(data)[-1]
        assert (entry.id, entry.revision, entry.epoch) == (recorded.id, recorded.n, control.revision.epoch)
        assert (entry.by, entry.action) == (ADMIN.principal, "test/write")
        digest = digest_of(await row_of(control, DEPLOYMENT))
        assert entry.resources == (entries.Touched(digest=digest, resource=DEPLOYMENT),)
        for _ in range(500):  # where it stands is noted a moment later
            if (kept := await control.store.recorded(recorded.n)) and kept.place is not None:
                break
            await asyncio.sleep(0.02)
        assert kept is not None
        assert kept.place == place

    over(work, tmp_path, url)


def test_after_a_start_all_is_as_before(tmp_path: Path, url: str) -> None:
    async def work(control: Control, data: Path) -> None:
        await scale(control, 9)

    over(work, tmp_path, url)

    async def again() -> None:
        control = await open_control(tmp_path, url)
        try:
            assert capacity_of(control) == 9
            assert control.revision.n == len(await control.store.since(0))
            assert await control.store.unplaced() == []
        finally:
            await control.close()

    asyncio.run(again())


def test_mistakes_are_told_with_their_fields_and_change_nothing(tmp_path: Path) -> None:
    async def work(control: Control, data: Path) -> None:
        yangtze, account = await row_of(control, YANGTZE), await row_of(control, ACCOUNT)
        deployment = await row_of(control, DEPLOYMENT)
        cases: list[tuple[Row, dict[str, Any], Code, str, str]] = [
            (yangtze, properties(yangtze, legalNam="x"), Code.INVALID_BODY, "properties.legalNam", "`legalName`"),
            (yangtze, properties(yangtze, kycExpires="soon"), Code.INVALID_BODY, "properties.kycExpires", "RFC 3339"),
            (
                yangtze,
                properties(yangtze, owners=[{"name": "A", "share": 120}]),
                Code.INVALID_BODY,
                "properties.owners[0].share",
                "0 to 100",
            ),
            (
                yangtze,
                properties(yangtze, registration={"kind": "uscc", "number": "91110000600037341X"}),
                Code.INVALID_BODY,
                "properties.registration.number",
                "check character",
            ),
            (account, {**account.body, "location": "nowhere"}, Code.CONFLICT, "location", "`japaneast`"),
            (account, properties(account, residency=["apak"]), Code.CONFLICT, "properties.residency[0]", "`apac`"),
            (
                account,
                properties(
                    account,
                    egress=[
                        {"network": "192.0.2.0/24", "territory": "JP"},
                        {"network": "192.0.2.0/28", "territory": "JP"},
                    ],
                ),
                Code.CONFLICT,
                "properties.egress[1].network",
                "overlaps",
            ),
            (deployment, {**deployment.body, "sku": {"name": "Best"}}, Code.INVALID_BODY, "sku.name", "`Standard`"),
            (
                deployment,
                properties(deployment, model={"name": "entrepot-tini", "version": "1"}),
                Code.CONFLICT,
                "properties.model.name",
                "`entrepot-tiny@1`",
            ),
        ]
        for row, body, code, target, text in cases:
            error = await refused(control, write(control, row, body))
            assert error.code is code, (target, error)
            assert [detail.target for detail in error.details] == [target], error.details
            assert text in error.details[0].message, error.details
        assert len(changes_of(data)) == control.revision.n

    over(work, tmp_path)


def test_settings_and_regions_that_would_break_others_are_refused(tmp_path: Path) -> None:
    async def settings(control: Control, given: dict[str, Any]) -> None:
        async with control.change(ADMIN, "test/write") as change:
            await change.put(change.draft(SETTINGS, "settings", {"properties": given}))

    async def work(control: Control, data: Path) -> None:
        for given, target in (
            ({"warnDays": "soon"}, "properties.warnDays"),
            ({"issuer": {"url": 5}}, "properties.issuer"),
            ({"dataDomain": "Not A Domain"}, "properties.dataDomain"),
            ({"trustedProxies": ["0.0.0.0/0"]}, "properties.trustedProxies[0]"),
        ):
            error = await refused(control, settings(control, given))
            assert (error.code, [detail.target for detail in error.details]) == (Code.INVALID_BODY, [target])
        await settings(control, {"warnDays": 3})
        assert control.world.warn_days == 3
        japan = await row_of(control, JAPAN)
        error = await refused(control, write(control, japan, properties(japan, zones=["far"])))
        assert error.code is Code.CONFLICT
        assert "`robotics-ai`" in error.message

    over(work, tmp_path)


def test_what_is_in_use_cannot_be_deleted(tmp_path: Path) -> None:
    async def delete(control: Control, resource: str) -> None:
        async with control.change(ADMIN, "test/delete") as change:
            assert await change.delete(resource)

    async def work(control: Control, data: Path) -> None:
        for resource, user in (
            (access_id("operator", "harbour"), "the region `japaneast`"),
            (JAPAN, "the upstream `jp-1`"),
            (access_id("provider", "openai"), "the upstream `jp-1`"),
            (access_id("upstream", "jp-1"), "no upstream can serve"),
            (YANGTZE, f"the subscription `{SUBSCRIPTION}`"),
        ):
            error = await refused(control, delete(control, resource))
            assert error.code is Code.CONFLICT
            assert user in error.message
        await delete(control, ACCOUNT)
        assert "robotics-ai" not in control.snapshot.accounts
        assert [touched.digest for touched in changes_of(data)[-1][1].resources] == [entries.UNSET] * 2
        await delete(control, subscription_id(SUBSCRIPTION))
        await delete(control, YANGTZE)
        assert [each.name for each in control.world.organizations] == ["meridian-labs", "li-lei"]

    over(work, tmp_path)


def test_a_stale_etag_changes_nothing(tmp_path: Path, url: str) -> None:
    async def work(control: Control, data: Path) -> None:
        row = await row_of(control, DEPLOYMENT)
        await scale(control, 3)
        error = await refused(control, write(control, row, row.body, if_match=row.etag))
        assert error.code is Code.PRECONDITION_FAILED

    over(work, tmp_path, url)


def test_what_fails_inside_the_block_changes_nothing(tmp_path: Path, url: str) -> None:
    async def half(control: Control) -> None:
        async with control.change(ADMIN, "test/write") as change:
            await change.delete(DEPLOYMENT)
            raise Error(Code.ACCESS_DENIED, "second thoughts")

    async def work(control: Control, data: Path) -> None:
        assert (await refused(control, half(control))).code is Code.ACCESS_DENIED
        await scale(control, 4)  # the writer's lock is free
        async with control.change(ADMIN, "test/read") as change:
            await change.get(EVERYTHING, DEPLOYMENT)
        assert change.recorded is None

    over(work, tmp_path, url)


def test_a_caller_that_goes_away_leaves_no_half_of_a_change(tmp_path: Path, url: str) -> None:
    async def work(control: Control, data: Path) -> None:
        for delay in range(25):
            asked = asyncio.ensure_future(scale(control, 100 + delay))
            await asyncio.sleep(delay / 1000)
            asked.cancel()
            await asyncio.wait([asked])
            row = await row_of(control, DEPLOYMENT)
            assert capacity_of(control) == row.body["sku"]["capacity"]
            assert control.revision.n == (await control.store.revision())[1] == len(changes_of(data))

    over(work, tmp_path, url)


def test_many_at_once_take_turns(tmp_path: Path, url: str) -> None:
    async def add(control: Control, number: int) -> None:
        async with control.change(ADMIN, "test/write") as change:
            model = {"format": "OpenAI", "name": "entrepot-tiny", "version": "1"}
            body = {"sku": {"name": "GlobalStandard", "capacity": number}, "properties": {"model": model}}
            await change.put(
                change.draft(deployment_id(ACCOUNT, f"d-{number}"), "deployment", body, subscription=SUBSCRIPTION)
            )

    async def work(control: Control, data: Path) -> None:
        await asyncio.gather(*(add(control, number) for number in range(1, 21)))
        assert len(control.snapshot.accounts["robotics-ai"].deployments) == 21
        numbers = [change.revision for _, change in changes_of(data)]
        assert numbers == list(range(1, control.revision.n + 1))

    over(work, tmp_path, url)


def test_keys_go_out_as_hashes_and_change_at_once(tmp_path: Path) -> None:
    async def work(control: Control, data: Path) -> None:
        old, new = key_of("robotics-ai").encode(), b"a-fresh-key"
        assert sha256(old).digest() in control.snapshot.keys
        async with control.change(ADMIN, "test/regenerateKey/action") as change:
            await change.put_secret(f"{ACCOUNT.lower()}/key1", new)
        assert change.recorded is not None
        assert change.recorded.touched == (ACCOUNT,)
        assert sha256(old).digest() not in control.snapshot.keys
        assert control.snapshot.keys[sha256(new).digest()].name == "key1"
        assert new not in (data / "control.db").read_bytes()

    over(work, tmp_path)


def test_a_subscription_passes_on_its_contract_and_its_state(tmp_path: Path) -> None:
    async def work(control: Control, data: Path) -> None:
        row = await row_of(control, subscription_id(SUBSCRIPTION))
        account = await row_of(control, ACCOUNT)
        # What a tenant writes into the account counts for nothing.
        await write(control, account, properties(account, channel="direct", operator="harbour", keys={"key1": "x"}))
        given = control.snapshot.accounts["robotics-ai"].given
        assert (given.channel, given.operator) == ("cloud", "bluewater")
        await write(control, row, properties(row, state="Disabled"))
        assert control.snapshot.accounts["robotics-ai"].given.state == "suspended"
        await write(control, row, properties(row, state="Enabled", channel="direct"))
        given = control.snapshot.accounts["robotics-ai"].given
        assert (given.state, given.channel) == ("active", "direct")

    over(work, tmp_path)


def test_ids_are_the_same_in_any_case(tmp_path: Path) -> None:
    async def work(control: Control, data: Path) -> None:
        before = control.world
        for resource in (YANGTZE, ACCOUNT, DEPLOYMENT, JAPAN):
            row = await row_of(control, resource.upper())
            again = {field: getattr(row, field) for field in ("operator", "subscription")}
            async with control.change(ADMIN, "test/write") as change:
                await change.put(change.draft(resource.upper(), row.kind, row.body, **again))
        assert sorted(control.world.accounts, key=str) == sorted(before.accounts, key=str)
        assert control.world.organizations == before.organizations
        assert control.world.regions == before.regions
        # What lies in an account and is no deployment is none of the gateways' business.
        async with control.change(ADMIN, "test/write") as change:
            at = f"{ACCOUNT}/raiPolicies/strict"
            await change.put(change.draft(at, "raiPolicy", {"properties": {}}, subscription=SUBSCRIPTION))
        assert [each.name for each in control.world.accounts] == [each.name for each in before.accounts]

    over(work, tmp_path)


def test_a_change_reads_only_what_it_touches(tmp_path: Path) -> None:
    statements: list[str] = []

    async def count(control: Control, capacity: int) -> int:
        statements.clear()
        await scale(control, capacity)
        return len(statements)

    async def work(control: Control, data: Path) -> None:
        event.listen(
            control.store.engine.sync_engine,
            "before_cursor_execute",
            lambda _connection, _cursor, statement, *_rest: statements.append(statement),
        )
        before = await count(control, 2)
        async with control.change(ADMIN, "test/write") as change:
            for number in range(200):
                given = {"legalName": "A", "territory": "JP", "entityType": "enterprise"}
                at = access_id("organization", f"org-{number}")
                await change.put(change.draft(at, "organization", {"properties": given}, operator="harbour"))
        assert abs(await count(control, 3) - before) <= 4  # what is done now and then is done meanwhile, or later
        assert before <= 16, statements

    over(work, tmp_path)


def test_soft_deleted_and_recovered(tmp_path: Path) -> None:
    async def work(control: Control, data: Path) -> None:
        before = control.world
        async with control.change(ADMIN, "test/delete") as change:
            assert len(await change.soft_delete(ACCOUNT, wall_clock_ms() + 1_000_000)) == 2
        assert "robotics-ai" not in control.snapshot.accounts
        async with control.change(ADMIN, "test/recover") as change:
            assert len(await change.recover(ACCOUNT)) == 2
        assert sorted(control.world.accounts, key=str) == sorted(before.accounts, key=str)

    over(work, tmp_path)


def test_role_assignments_become_grants(tmp_path: Path) -> None:
    oid = "aaaaaaaa-0000-4000-8000-000000000001"

    async def work(control: Control, data: Path) -> None:
        async with control.change(ADMIN, "test/write") as change:
            body = {"properties": {"appId": oid, "displayName": "ci", "state": "Enabled"}}
            await change.put(change.draft(access_id("principal", "ci"), "principal", body))
            assigned = {
                "properties": {"roleDefinitionId": DEFINITIONS + OPENAI_USER, "principalId": oid, "scope": ACCOUNT}
            }
            at = f"{ACCOUNT}/providers/Microsoft.Authorization/roleAssignments/bbbbbbbb-0000-4000-8000-000000000001"
            await change.put(change.draft(at, "roleAssignment", assigned, subscription=SUBSCRIPTION))
        assert control.snapshot.grants == {oid: (ACCOUNT.lower(),)}
        async with control.change(ADMIN, "test/delete") as change:
            await change.delete(at)
        assert control.snapshot.grants == {}

    over(work, tmp_path)


def test_deploying_is_decided_and_written_down(tmp_path: Path) -> None:
    async def work(control: Control, data: Path) -> None:
        async with control.change(ADMIN, "test/write") as change:
            site = {"properties": {"network": "127.0.0.0/8", "territory": "CN", "networkClass": "business"}}
            await change.put(change.draft(access_id("site", "127.0.0.0-8"), "site", site))
        account = await control.declared_account(ACCOUNT)
        verdict = await control.judge("deploy", "127.0.0.1", {}, account, account.deployments[0], actor=ADMIN)
        assert verdict.permit, verdict
        yangtze = await row_of(control, YANGTZE)
        await write(control, yangtze, properties(yangtze, entityType="individual"))
        for operation, deployment in (("deploy", account.deployments[0]), ("subscribe", None)):
            verdict = await control.judge(operation, "127.0.0.1", {}, account, deployment, actor=ADMIN)
            assert (verdict.permit, verdict.code) == (False, "cannot_deploy_due_to_local_regulations")
            assert "only enterprise customers" in verdict.reason["en"]
        held = {
            f"{read.origin}/{read.number}": entries.decode(read.entry)
            for log in folders_of(data / "control" / "ledger")
            for read in entries_of(log)
        }
        decision = held[verdict.place]
        assert isinstance(decision, entries.Decision)
        assert (decision.operation, decision.admitted, decision.code) == (
            "subscribe",
            False,
            "cannot_deploy_due_to_local_regulations",
        )
        assert decision.revision == control.revision.number()

    over(work, tmp_path)


def test_gateways_enrol_once_and_follow(tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca" / "ca.pem").write_bytes(trustme.CA().cert_pem.bytes())
    private = X25519PrivateKey.generate()

    async def work(control: Control, data: Path) -> None:
        async with control.change(ADMIN, "test/write") as change:
            body = {"properties": {"listen": "127.0.0.1:0", "territory": "JP"}}
            await change.put(change.draft(EDGE, "gateway", body))
            await change.put(change.draft(SETTINGS, "settings", {"properties": {"dataDomain": "models.example"}}))
        token, expires_ms = await make_token(control, ADMIN, "edge-1")
        assert expires_ms > wall_clock_ms()
        sealing = private.public_key().public_bytes_raw()
        wrong = token[:-1] + ("0" if token[-1] != "0" else "1")
        with pytest.raises(Error) as caught:
            await enrol(control, wrong, sealing, "0", "127.0.0.1")
        assert caught.value.code is Code.UNAUTHENTICATED
        told = await enrol(control, token, sealing, "0", "127.0.0.1")
        with pytest.raises(Error):
            await enrol(control, token, sealing, "0", "127.0.0.1")
        secret = str(told["secret"])
        assert secret.encode() not in await asyncio.to_thread((data / "control.db").read_bytes)
        verifier = (await Keyring(control.store, data / "ca").keys()).trust.verifier

        async def fetch(held: Revision | None, wait_s: float = 5) -> Published | Delta | None:
            sent = await control.publisher.send("edge-1", secret, held, wait_s)
            if sent is None:
                return None
            found = unseal(sent[1], private=private, verifier=verifier, gateway="edge-1", held=held)
            assert found.revision == sent[0]
            return decode(found.message)

        whole = await fetch(None)
        assert isinstance(whole, Published)
        gateway = whole.world.gateway
        assert (gateway.log_name, gateway.territory, gateway.data_domain) == ("edge-1", "JP", "models.example")
        running = Compiled.whole(whole)
        assert await fetch(running.revision, 0.05) is None
        waiting = asyncio.ensure_future(fetch(running.revision))
        await asyncio.sleep(0.05)
        await scale(control, 21)
        delta = await waiting
        assert isinstance(delta, Delta)
        # Several changes since come as one.
        await scale(control, 22)
        async with control.change(ADMIN, "test/delete") as change:
            await change.delete(DEPLOYMENT)
        merged = await fetch(running.revision)
        assert isinstance(merged, Delta)
        assert (merged.after, merged.revision) == (running.revision, control.revision)
        running = running.changed(merged)
        assert sorted(running.published().world.accounts, key=str) == sorted(control.world.accounts, key=str)
        assert applied(whole, merged).revision == control.revision
        # The catalogue, the settings, and what concerns this gateway come as a whole.
        region = await row_of(control, JAPAN)
        await write(control, region, properties(region, displayName="Edo"))
        whole = await fetch(running.revision)
        assert isinstance(whole, Published)
        assert whole.world.regions[0].display_name == "Edo"
        edge = await row_of(control, EDGE)
        await write(control, edge, properties(edge, territory="SG"))
        whole = await fetch(whole.revision)
        assert isinstance(whole, Published)
        assert whole.world.gateway.territory == "SG"
        waiting = asyncio.ensure_future(fetch(whole.revision))
        await asyncio.sleep(0.05)
        async with control.change(ADMIN, "test/delete") as change:
            await change.delete(EDGE)
            await change.forget_secrets(f"{EDGE.lower()}/")
        with pytest.raises(Error) as caught:
            await waiting
        assert caught.value.code is Code.UNAUTHENTICATED

    over(work, tmp_path)
