"""Four eyes over a real socket: who proposes, who approves, what is applied, and what stands on the ledger."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from entrepot.ledger.read import entries_of, folders_of
from entrepot.management.roles import COMPLIANCE_OFFICER, CONTRIBUTOR, DEFINITIONS, OWNER, REVIEWER
from entrepot.policy import parse, shipped
from entrepot.policy.release import release_of
from planes import CLIENTS, NORTH, SECRET, VERSION, Plane, plane

ROOT = "/providers/Entrepot.Access"
NORTHWIND = f"{ROOT}/organizations/northwind"
ACCOUNT = f"/subscriptions/{NORTH}/resourceGroups/rg/providers/Microsoft.CognitiveServices/accounts/fjord"
NORTH_SCOPE = f"{ROOT}/operators/north"


class Staff:
    """Principals as an administrator makes them."""

    def __init__(self, served: Plane) -> None:
        self.served = served
        self._clients: dict[str, httpx.Client] = {}
        for name, role, scope in (
            ("officer", COMPLIANCE_OFFICER, "/"),
            ("reviewer", REVIEWER, "/"),
            ("owner", OWNER, "/"),
            ("contributor", CONTRIBUTOR, "/"),
            ("north-officer", COMPLIANCE_OFFICER, NORTH_SCOPE),
            ("north-reviewer", REVIEWER, NORTH_SCOPE),
            ("south-reviewer", REVIEWER, f"{ROOT}/operators/south"),
        ):
            self._clients[name] = self._made(name, role, scope)
        for name in ("ann-laptop", "ann-script"):
            self._clients[name] = self._made(name, COMPLIANCE_OFFICER, "/", owner="ann")

    def _made(self, name: str, role: str, scope: str, **more: str) -> httpx.Client:
        admin = self.served.of("admin")
        made = admin.put(f"{ROOT}/principals/{name}", json={"properties": {"displayName": name, **more}})
        assert made.status_code == 201, made.text
        secret = admin.post(f"{ROOT}/principals/{name}/newSecret").json()["secret"]
        app_id = made.json()["properties"]["appId"]
        assignment = f"{scope.rstrip('/')}/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}"
        properties = {"roleDefinitionId": DEFINITIONS + role, "principalId": app_id}
        answer = admin.put(assignment, json={"properties": properties})
        assert answer.status_code == 201, answer.text
        form = {"grant_type": "client_credentials", "client_id": app_id, "client_secret": secret}
        token = httpx.post(f"{self.served.url}/adfs/oauth2/token", data=form).json()["access_token"]
        headers = {"authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.served.url, headers=headers, params=VERSION, timeout=60)

    def of(self, name: str) -> httpx.Client:
        return self._clients[name] if name in self._clients else self.served.of(name)

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


@pytest.fixture(scope="module")
def staff(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Staff]:
    with plane(tmp_path_factory.mktemp("proposals") / "data") as served:
        made = Staff(served)
        tenant = served.of("north-tenant")
        group = f"/subscriptions/{NORTH}/resourceGroups/rg"
        assert tenant.put(group, json={"location": "swedencentral"}).status_code in {200, 201}
        account = {"location": "swedencentral", "kind": "OpenAI", "sku": {"name": "S0"}, "properties": {}}
        answer = tenant.put(ACCOUNT, json=account)
        assert answer.status_code in {200, 201}, answer.text
        model = {"format": "OpenAI", "name": "gpt-4o", "version": "2024-11-20"}
        deployment = {"sku": {"name": "Standard", "capacity": 1}, "properties": {"model": model}}
        answer = tenant.put(f"{ACCOUNT}/deployments/gpt-4o", json=deployment)
        assert answer.status_code in {200, 201}, answer.text
        yield made
        made.close()


def at(guid: str = "") -> str:
    return f"{ROOT}/proposals/{guid or uuid.uuid4()}"


def asked(kind: str, subject: str, change: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"properties": {"kind": kind, "subject": subject, "change": change, "reason": "as agreed", **more}}


def eligible(name: str, **more: Any) -> dict[str, Any]:
    return asked("eligibility", NORTHWIND, {"name": name, "grounds": "licence seen", **more})


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"] if answer.status_code >= 400 else ""


def changes(data: Path) -> list[dict[str, Any]]:
    found = []
    for log in folders_of(data / "control" / "ledger"):
        for read in entries_of(log):
            entry = json.loads(read.entry)
            if "change" in entry:
                found.append(entry["change"])
    return found


def test_an_eligibility_takes_two(staff: Staff) -> None:
    id_ = at()
    made = staff.of("north-officer").put(id_, json=eligible("openai@cloud"))
    assert made.status_code == 201, made.text
    assert made.json()["properties"]["state"] == "proposed"
    assert staff.of("admin").get(NORTHWIND).json()["properties"].get("eligibility") is None

    assert code(staff.of("north-officer").post(f"{id_}/approve")) == (403, "SecondPersonRequired")
    assert code(staff.of("north-tenant").post(f"{id_}/approve"))[0] == 404
    assert code(staff.of("south-reviewer").post(f"{id_}/approve")) == (404, "ResourceNotFound")
    assert code(staff.of("contributor").post(f"{id_}/approve")) == (403, "AuthorizationFailed")

    done = staff.of("north-reviewer").post(f"{id_}/approve", json={"reason": "seen"})
    assert done.status_code == 200, done.text
    properties = done.json()["properties"]
    assert (properties["state"], properties["applied"], properties["decidedBy"]["name"]) == (
        "approved",
        True,
        "north-reviewer",
    )
    (entry,) = staff.of("admin").get(NORTHWIND).json()["properties"]["eligibility"]
    assert (entry["name"], entry["grounds"], entry["proposal"]) == ("openai@cloud", "licence seen", id_)
    organization = next(each for each in staff.served.control.world.organizations if each.name == "northwind")
    assert [each.name for each in organization.eligibility] == ["openai@cloud"]
    recorded = [each for each in changes(staff.served.control.data) if each.get("proposal") == id_]
    assert [each["action"] for each in recorded] == ["Entrepot.Access/proposals/approve/action"]
    assert {each["resource"] for each in recorded[0]["resources"]} == {id_, NORTHWIND}

    for verb in ("approve", "reject", "withdraw"):
        assert code(staff.of("officer").post(f"{id_}/{verb}")) == (409, "ProposalDecided")
    narrowed = staff.of("north-officer").patch(NORTHWIND, json={"properties": {"eligibility": []}})
    assert narrowed.status_code == 200, narrowed.text


def test_two_principals_of_one_person_are_one(staff: Staff) -> None:
    id_ = at()
    assert staff.of("ann-laptop").put(id_, json=eligible("ann's")).status_code == 400
    assert staff.of("ann-laptop").put(id_, json=eligible("anns")).status_code == 201
    assert code(staff.of("ann-script").post(f"{id_}/approve")) == (403, "SecondPersonRequired")
    assert staff.of("ann-script").post(f"{id_}/reject").status_code == 200


def test_whose_a_principal_is_may_come_on_record_after_it_proposed(staff: Staff) -> None:
    id_, admin, names = at(), staff.of("admin"), ("eve-one", "eve-two")
    with staff._made(names[0], COMPLIANCE_OFFICER, "/") as one, staff._made(names[1], REVIEWER, "/") as two:
        assert one.put(id_, json=eligible("late")).status_code == 201
        for name in names:
            known = admin.put(f"{ROOT}/principals/{name}", json={"properties": {"owner": "Eve"}})
            assert known.status_code == 200, known.text
        assert code(two.post(f"{id_}/approve")) == (403, "SecondPersonRequired")
        decided = staff.of("reviewer").post(f"{id_}/reject")
        assert decided.status_code == 200, decided.text
        assert decided.json()["properties"]["proposedBy"].keys() == {"principal", "name"}


def test_a_proposal_stays_as_it_was_made(staff: Staff) -> None:
    id_, officer = at(), staff.of("north-officer")
    first = officer.put(id_, json=eligible("one"))
    assert first.status_code == 201, first.text
    again = officer.put(id_, json=eligible("one"))
    assert (again.status_code, again.json()["etag"]) == (200, first.json()["etag"])
    assert code(officer.put(id_, json=eligible("two"))) == (409, "ProposalExists")
    assert code(staff.of("officer").put(id_, json=eligible("one"))) == (409, "ProposalExists")
    assert code(officer.put(id_, json=eligible("one"), headers={"if-none-match": "*"}))[0] == 412
    assert officer.delete(id_).status_code == 405
    assert code(staff.of("north-reviewer").post(f"{id_}/withdraw")) == (403, "AuthorizationFailed")
    assert (
        officer.post(f"{id_}/withdraw", json={"reason": "changed my mind"}).json()["properties"]["state"] == "withdrawn"
    )
    assert code(staff.of("north-reviewer").post(f"{id_}/approve")) == (409, "ProposalDecided")
    assert id_ in {each["id"] for each in officer.get(f"{ROOT}/proposals").json()["value"]}


def test_what_has_changed_since_is_proposed_again(staff: Staff) -> None:
    id_ = at()
    assert staff.of("north-officer").put(id_, json=eligible("stale")).status_code == 201
    assert staff.of("north-officer").patch(NORTHWIND, json={"tags": {"seen": "yes"}}).status_code == 200
    assert code(staff.of("north-reviewer").post(f"{id_}/approve")) == (409, "StaleProposal")
    assert staff.of("admin").get(id_).json()["properties"]["state"] == "proposed"
    assert staff.of("north-reviewer").post(f"{id_}/reject").json()["properties"]["state"] == "rejected"


def test_the_glass_is_broken_by_an_owner_of_the_instance_alone_and_loudly(
    staff: Staff, caplog: pytest.LogCaptureFixture
) -> None:
    id_ = at()
    broken = {"breakGlass": True, "reason": "outage, nobody else reachable"}
    assert staff.of("owner").put(id_, json=eligible("urgent")).status_code == 201
    assert code(staff.of("owner").post(f"{id_}/approve", json={"reason": "mine"})) == (403, "SecondPersonRequired")
    assert code(staff.of("owner").post(f"{id_}/approve", json={"breakGlass": True})) == (400, "ReasonRequired")
    assert code(staff.of("officer").post(f"{id_}/approve", json=broken)) == (403, "AuthorizationFailed")
    assert code(staff.of("north-staff").post(f"{id_}/approve", json=broken)) == (403, "AuthorizationFailed")
    with caplog.at_level(logging.ERROR):
        done = staff.of("owner").post(f"{id_}/approve", json=broken)
    assert done.status_code == 200, done.text
    assert any("break-glass" in each.message and each.levelno == logging.ERROR for each in caplog.records)
    listed = {each["id"]: each["properties"] for each in staff.of("officer").get(f"{ROOT}/proposals").json()["value"]}
    assert listed[id_]["breakGlass"]["reason"] == broken["reason"]
    (recorded,) = [each for each in changes(staff.served.control.data) if each.get("proposal") == id_]
    assert recorded["break_glass"] == broken["reason"]
    assert staff.of("owner").patch(NORTHWIND, json={"properties": {"eligibility": []}}).status_code == 200


def test_a_tenant_proposes_its_own_networks_and_residency(staff: Staff) -> None:
    id_, tenant = at(), staff.of("north-tenant")
    bad = asked("egress", ACCOUNT, {"egress": [{"network": "198.51.100.1/24", "territory": "Sweden"}]})
    refused = tenant.put(at(), json=bad)
    assert {each["target"] for each in refused.json()["error"]["details"]} == {
        "properties.egress[0].network",
        "properties.egress[0].territory",
    }
    networks = [{"network": "198.51.100.0/24", "territory": "SE"}]
    made = tenant.put(id_, json=asked("egress", ACCOUNT, {"egress": networks}))
    assert made.status_code == 201, made.text
    assert tenant.get(id_).status_code == 200
    assert code(tenant.post(f"{id_}/approve")) == (403, "AuthorizationFailed")
    assert code(staff.of("south-tenant").get(id_)) == (404, "ResourceNotFound")
    assert code(staff.of("south-tenant").put(at(), json=asked("egress", ACCOUNT, {"egress": []})))[0] == 404
    assert code(tenant.put(at(), json=eligible("openai@cloud")))[0] == 404
    assert code(tenant.put(at(), json=asked("reinstatement", ACCOUNT, {})))[0] in {403, 404}

    assert staff.of("north-reviewer").post(f"{id_}/approve").status_code == 200
    account = next(each for each in staff.served.control.world.accounts if each.name == "fjord")
    assert [each.network for each in account.egress] == ["198.51.100.0/24"]
    home = at()
    assert tenant.put(home, json=asked("residency", ACCOUNT, {"residency": ["eu"]})).status_code == 201
    assert staff.of("reviewer").post(f"{home}/approve").status_code == 200
    assert next(each for each in staff.served.control.world.accounts if each.name == "fjord").residency == ("eu",)
    nowhere = at()
    assert tenant.put(nowhere, json=asked("residency", ACCOUNT, {"residency": ["atlantis"]})).status_code == 201
    assert staff.of("reviewer").post(f"{nowhere}/approve").status_code == 409
    assert tenant.post(f"{nowhere}/withdraw").status_code == 200


def test_a_tenant_writes_nothing_that_the_policy_reads(staff: Staff) -> None:
    tenant, control = staff.of("north-tenant"), staff.served.control

    def fjord() -> Any:
        return next(each for each in control.world.accounts if each.name == "fjord")

    before = fjord()
    own = {"egress": [{"network": "203.0.113.0/24", "territory": "US"}], "residency": [], "state": "active"}
    own |= {"operator": "south", "channel": "direct", "organization": "southwind", "suspension": None}
    for answer in (
        tenant.patch(ACCOUNT, json={"properties": own}),
        tenant.put(
            ACCOUNT,
            json={"location": "swedencentral", "kind": "OpenAI", "sku": {"name": "S0"}, "properties": own},
        ),
    ):
        assert answer.status_code < 500, answer.text
        assert fjord() == before
    contract = {"properties": {"organization": "southwind", "operator": "south", "channel": "direct"}}
    assert code(tenant.put(f"/subscriptions/{NORTH}", json=contract))[0] in {403, 404}
    assert code(tenant.patch(NORTHWIND, json={"properties": {"kyc": "approved"}}))[0] == 404
    assert code(tenant.get(NORTHWIND))[0] == 404


def test_of_two_who_decide_at_once_one_does(staff: Staff) -> None:
    for _ in range(3):
        id_ = at()
        assert staff.of("officer").put(id_, json=eligible(f"race-{id_[-6:]}")).status_code == 201
        with ThreadPoolExecutor() as pool:
            asked_at_once = [
                pool.submit(staff.of(who).post, f"{id_}/{verb}")
                for who, verb in (("reviewer", "approve"), ("north-reviewer", "reject"), ("owner", "approve"))
            ]
            answers = sorted(each.result().status_code for each in asked_at_once)
        assert answers == [200, 409, 409]
    assert staff.of("owner").patch(NORTHWIND, json={"properties": {"eligibility": []}}).status_code == 200


def test_one_person_suspends_and_two_reinstate(staff: Staff) -> None:
    tenant, id_ = staff.of("north-tenant"), at()
    assert code(tenant.post(f"{ACCOUNT}/suspend", json={"reason": "x"}))[0] == 403
    assert code(staff.of("south-reviewer").post(f"{ACCOUNT}/suspend", json={"reason": "x"}))[0] == 404
    assert code(staff.of("north-officer").post(f"{ACCOUNT}/suspend", json={}))[0] == 400
    assert code(staff.of("north-officer").put(at(), json=asked("reinstatement", ACCOUNT, {})))[0] == 400
    done = staff.of("north-officer").post(f"{ACCOUNT}/suspend", json={"reason": "abuse"})
    assert done.status_code == 200, done.text
    assert done.json()["properties"]["suspension"]["reason"] == "abuse"
    assert staff.of("north-officer").post(f"{ACCOUNT}/suspend", json={"reason": "abuse"}).status_code == 200
    assert next(each for each in staff.served.control.world.accounts if each.name == "fjord").state == "suspended"
    tenant.patch(ACCOUNT, json={"properties": {"state": "active"}})
    assert next(each for each in staff.served.control.world.accounts if each.name == "fjord").state == "suspended"

    assert staff.of("north-officer").put(id_, json=asked("reinstatement", ACCOUNT, {})).status_code == 201
    assert code(staff.of("north-officer").post(f"{id_}/approve")) == (403, "SecondPersonRequired")
    assert staff.of("north-reviewer").post(f"{id_}/approve").status_code == 200
    assert next(each for each in staff.served.control.world.accounts if each.name == "fjord").state == "active"


def test_a_rejected_organization_comes_back_by_two(staff: Staff) -> None:
    staff.of("north-reviewer").patch(NORTHWIND, json={"properties": {"kyc": "rejected"}})
    assert staff.of("admin").get(NORTHWIND).json()["properties"]["kyc"] == "rejected"
    assert code(staff.of("north-officer").patch(NORTHWIND, json={"properties": {"kyc": "approved"}})) == (
        400,
        "ProposalRequired",
    )
    assert code(staff.of("north-reviewer").patch(NORTHWIND, json={"properties": {"legalName": "x"}}))[0] == 403
    assert code(staff.of("contributor").patch(NORTHWIND, json={"properties": {"screening": "hit"}}))[0] == 403
    id_ = at()
    body = asked("reinstatement", NORTHWIND, {"kyc": "approved", "kycExpires": "2099-01-01"})
    assert staff.of("north-officer").put(id_, json=body).status_code == 201
    assert staff.of("north-reviewer").post(f"{id_}/approve").status_code == 200
    properties = staff.of("admin").get(NORTHWIND).json()["properties"]
    assert (properties["kyc"], properties["kycReview"]["reviewer"]["name"]) == ("approved", "north-reviewer")


OWN = """
[pack]
id = "own"
source = { title = "Terms" }
[[rule]]
id = "OWN-01"
effect = "forbid"
clause = "§1"
reason = { en = "not in the zone" }
when = { target.zone = "eu" }
[[case]]
rule = "OWN-01"
want = "refuse"
at = 2026-01-01T00:00:00Z
facts = { target.zone = ["eu"] }
[[case]]
rule = "OWN-01"
want = "allow"
at = 2026-01-01T00:00:00Z
facts = { target.zone = ["us"] }
"""


def release(*packs: Any, **more: Any) -> dict[str, Any]:
    return {"properties": {"kind": "policyRelease", "change": {"packs": list(packs)}, "reason": "new terms", **more}}


def test_a_policy_release_is_examined_approved_and_in_force(staff: Staff) -> None:
    officer, control = staff.of("officer"), staff.served.control
    broken = officer.put(at(), json=release({"name": "own", "text": OWN.replace("forbid", "forbidden")}))
    assert code(broken) == (400, "InvalidPolicyRelease")
    before = control.program.release
    id_ = at()
    made = officer.put(id_, json=release("entrepot:base", {"name": "own", "text": OWN}))
    assert made.status_code == 201, made.text
    properties = made.json()["properties"]
    assert {"check", "diff", "replay"} == properties["reports"].keys()
    assert properties["reports"]["diff"]["counts"]
    assert properties["reports"]["diff"]["changesInAll"] > 0
    (affected,) = properties["reports"]["diff"]["affectedAccounts"]
    assert affected == {"account": "fjord", "directions": {"allowed → refused": ["gpt-4o"]}}
    replay = properties["reports"]["replay"]  # of what was decided on the account, and on its deployment
    assert (replay["decided"], replay["complete"]) == (2, True)
    assert replay["totals"] == {"allow to refuse": 1, "other targets": 1}
    assert {each["rule"] for each in replay["flips"]} == {"OWN-01"}
    assert control.program.release == before
    listed = {each["id"]: each["properties"] for each in officer.get(f"{ROOT}/proposals").json()["value"]}[id_]
    assert "reports" not in listed
    assert listed["change"]["packs"] == [{"name": "entrepot:base"}, {"name": "own"}]
    for name in ("north-officer", "north-staff", "north-tenant"):
        assert code(staff.of(name).get(id_)) == (404, "ResourceNotFound")
        assert code(staff.of(name).post(f"{id_}/approve")) == (404, "ResourceNotFound")
    assert code(staff.of("north-officer").put(at(), json=release("entrepot:base")))[0] in {403, 404}

    other = at()
    assert officer.put(other, json=release("entrepot:base")).status_code == 201
    assert code(officer.post(f"{id_}/approve")) == (403, "SecondPersonRequired")
    done = staff.of("reviewer").post(f"{id_}/approve")
    assert done.status_code == 200, done.text
    name = properties["release"]
    assert control.program.release == name
    told = staff.of("north-tenant").get(f"{ROOT}/policyReleases/{name}").json()["properties"]
    assert (told["state"], told["proposal"]) == ("inForce", id_)
    assert code(staff.of("reviewer").post(f"{other}/approve")) == (409, "StaleProposal")
    assert code(officer.put(at(), json=release("entrepot:base", {"name": "own", "text": OWN}))) == (
        409,
        "ReleaseInForce",
    )
    again = officer.put(id_, json=release("entrepot:base", {"name": "own", "text": OWN}))
    assert (again.status_code, again.json()["properties"]["state"]) == (200, "approved")
    later = release("entrepot:base", {"name": "own", "text": OWN}, effectiveAt="2030-01-01")
    assert code(officer.put(at(), json=later)) == (409, "ReleaseInForce")
    states = [each["properties"]["state"] for each in officer.get(f"{ROOT}/policyReleases").json()["value"]]
    assert states.count("inForce") == 1


def test_a_release_takes_effect_at_its_instant(staff: Staff) -> None:
    officer, control, id_ = staff.of("officer"), staff.served.control, at()
    soon = (datetime.now(UTC) + timedelta(seconds=6)).isoformat()
    made = officer.put(id_, json=release("entrepot:base", effectiveAt=soon))
    assert made.status_code == 201, made.text
    wanted = release_of(parse([shipped("entrepot:base")]))
    assert made.json()["properties"]["release"] == wanted
    done = staff.of("reviewer").post(f"{id_}/approve")
    assert done.status_code == 200, done.text
    assert done.json()["properties"]["applied"] is False
    assert control.program.release != wanted
    until = time.monotonic() + 40
    while control.program.release != wanted and time.monotonic() < until:
        time.sleep(0.1)
    assert control.program.release == wanted
    assert officer.get(id_).json()["properties"]["applied"] is True


@pytest.mark.parametrize("guid", ["x", "00000000-0000-0000-0000-00000000000g", "a" * 200])
def test_a_proposals_name_is_a_guid(staff: Staff, guid: str) -> None:
    assert staff.of("officer").put(at(guid), json=eligible("x")).status_code == 400
    assert staff.of("officer").get(at(guid)).status_code == 404
    assert staff.of("officer").post(f"{at(guid)}/approve").status_code == 404


def test_a_decision_says_nothing_that_is_not_known(staff: Staff) -> None:
    id_ = at()
    assert staff.of("north-officer").put(id_, json=eligible("later")).status_code == 201
    for body in ({"reason": 1}, {"reason": "x" * 2_001}, {"breakGlass": "yes"}, {"approve": True}):
        assert code(staff.of("reviewer").post(f"{id_}/approve", json=body))[0] == 400
    assert code(staff.of("reviewer").post(f"{id_}/reject", json={"breakGlass": True}))[0] == 400
    assert code(staff.of("reviewer").post(f"{id_}/approve", headers={"if-match": '"0"'}))[0] == 412
    assert SECRET not in staff.of("reviewer").get(id_).text
    assert CLIENTS["admin"]
