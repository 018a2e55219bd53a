from __future__ import annotations

from pathlib import Path

import pytest

from entrepot.errors import Code, Error
from entrepot.management import authority, graph, secret
from entrepot.management.authorize import (
    Caller,
    ancestors,
    chain_from,
    chain_of,
    may,
    reading,
    require,
    tenancy_of,
)
from entrepot.management.changes import Actor
from entrepot.management.recent import concerns_access
from entrepot.management.roles import (
    AUDITOR,
    BY_ID,
    CALL_MODEL,
    COGNITIVE_CONTRIBUTOR,
    COGNITIVE_USER,
    COMPLIANCE_OFFICER,
    CONTRIBUTOR,
    OPENAI_CONTRIBUTOR,
    OPENAI_USER,
    OWNER,
    READER,
    REVIEWER,
    ROLES,
    USAGES_READER,
    Assignment,
    covers,
    data_scopes,
    find_role,
)
from entrepot.management.throttle import FREE, LONGEST_S, REMEMBERED, Throttle
from entrepot.storage import EVERYTHING, Row, Tenancy

SUB = "/subscriptions/11111111-0000-4000-8000-000000000001"
GROUP = f"{SUB}/resourcegroups/rg"
ACCOUNT = f"{GROUP}/providers/microsoft.cognitiveservices/accounts/a"
OPERATOR = "/providers/entrepot.access/operators/north"
ACCOUNTS = "Microsoft.CognitiveServices/accounts"


def who(*given: tuple[str, str]) -> Caller:
    assignments = tuple(Assignment("p", role, scope) for role, scope in given)
    return Caller(Actor("p", "somebody", "r", "127.0.0.1"), assignments, tenancy_of(assignments))


def test_a_chain_leads_from_a_resource_to_the_instance() -> None:
    deployment = "/Subscriptions/11111111-0000-4000-8000-000000000001/resourceGroups/RG"
    deployment += "/providers/Microsoft.CognitiveServices/accounts/A/deployments/d"
    assert chain_from(deployment, "North") == (f"{ACCOUNT}/deployments/d", ACCOUNT, GROUP, SUB, OPERATOR, "/")
    assert chain_from("/providers/Entrepot.Access/operators/north", "north") == (OPERATOR, "/")
    assert chain_from("/", None) == ("/",)
    row = Row(id="/providers/Entrepot.Access/principals/p", kind="principal", name="p", operator="")
    assert chain_of(row) == ("/providers/entrepot.access/principals/p", "/")
    assert ancestors(f"{GROUP}/providers/Microsoft.Authorization/roleAssignments/x")[1:] == [GROUP, SUB]


@pytest.mark.parametrize(
    ("action", "pattern", "hit"),
    [
        ("Microsoft.CognitiveServices/accounts/read", "*/read", True),
        ("microsoft.cognitiveservices/ACCOUNTS/Read", "Microsoft.CognitiveServices/*/read", True),
        ("Microsoft.CognitiveServices/accounts/readx", "*/read", False),
        ("Microsoft.CognitiveServicesX/accounts/read", "Microsoft.CognitiveServices/*", False),
        ("a/b/action", "a/*/action", True),
        ("a.b/read", "aXb/read", False),
    ],
)
def test_wildcards(action: str, pattern: str, hit: bool) -> None:
    assert covers(action, pattern) is hit


MATRIX = {
    # action: the roles that allow it at their scope
    f"{ACCOUNTS}/read": {
        OWNER,
        CONTRIBUTOR,
        READER,
        OPENAI_USER,
        OPENAI_CONTRIBUTOR,
        COGNITIVE_CONTRIBUTOR,
        COGNITIVE_USER,
        COMPLIANCE_OFFICER,
        REVIEWER,
        AUDITOR,
    },
    f"{ACCOUNTS}/write": {OWNER, CONTRIBUTOR, COGNITIVE_CONTRIBUTOR},
    "Entrepot.Access/gateways/enrol/action": {OWNER},
    f"{ACCOUNTS}/listKeys/action": {OWNER, CONTRIBUTOR, COGNITIVE_CONTRIBUTOR, COGNITIVE_USER},
    f"{ACCOUNTS}/deployments/write": {OWNER, CONTRIBUTOR, COGNITIVE_CONTRIBUTOR, OPENAI_CONTRIBUTOR},
    "Microsoft.CognitiveServices/locations/usages/read": {
        OWNER,
        CONTRIBUTOR,
        READER,
        OPENAI_USER,
        OPENAI_CONTRIBUTOR,
        COGNITIVE_CONTRIBUTOR,
        COGNITIVE_USER,
        USAGES_READER,
        COMPLIANCE_OFFICER,
        REVIEWER,
        AUDITOR,
    },
    "Microsoft.Authorization/roleAssignments/write": {OWNER},
    "Microsoft.Authorization/roleAssignments/delete": {OWNER},
    "Entrepot.Access/organizations/write": {OWNER, CONTRIBUTOR, COMPLIANCE_OFFICER},
    "Entrepot.Access/organizations/review/action": {OWNER, COMPLIANCE_OFFICER, REVIEWER},
    "Entrepot.Access/proposals/write": {OWNER, CONTRIBUTOR, COMPLIANCE_OFFICER},
    "Entrepot.Access/proposals/approve/action": {OWNER, COMPLIANCE_OFFICER, REVIEWER},
    "Entrepot.Access/principals/newSecret/action": {OWNER},
    "Entrepot.Access/accounts/suspend/action": {OWNER, CONTRIBUTOR, COMPLIANCE_OFFICER},
}


@pytest.mark.parametrize("action", MATRIX)
def test_who_may_do_what_at_the_instance(action: str) -> None:
    assert {role.id for role in ROLES if may(who((role.id, "/")), action, ("/",))} == MATRIX[action]


@pytest.mark.parametrize("action", [action for action in MATRIX if action.startswith("Entrepot.Access/")])
@pytest.mark.parametrize("scope", [SUB, GROUP, ACCOUNT])
def test_what_the_policy_reads_no_role_of_a_tenant_can_write(action: str, scope: str) -> None:
    chain = chain_from(ACCOUNT, "north")
    for role in ROLES:
        assert not may(who((role.id, scope)), action, chain)
    assert may(who((OWNER, OPERATOR)), action, chain)


def test_a_tenant_may_propose_its_own_and_read_what_was_proposed() -> None:
    chain = chain_from(ACCOUNT, "north")
    owner = who((OWNER, SUB))
    assert may(owner, "Entrepot.Access/proposals/tenant/action", chain)
    assert may(owner, "Entrepot.Access/proposals/read", chain)
    assert not may(owner, "Entrepot.Access/proposals/write", chain)


def test_the_catalogue_is_everybodys_to_read_and_nobodys_to_write() -> None:
    nobody = who()
    for kind in ("regions", "providers", "models", "sites", "settings", "policyReleases"):
        assert may(nobody, f"Entrepot.Access/{kind}/read", ("/",))
        assert not may(nobody, f"Entrepot.Access/{kind}/write", ("/",))
    assert not may(nobody, "Entrepot.Access/organizations/read", ("/",))


def test_a_role_reaches_down_and_not_sideways_or_up() -> None:
    owner = who((OWNER, GROUP))
    chain = chain_from(ACCOUNT, "north")
    assert may(owner, f"{ACCOUNTS}/write", chain)
    assert not may(owner, f"{ACCOUNTS}/write", chain_from(ACCOUNT.replace("/rg/", "/rg2/"), "north"))
    assert not may(owner, "Microsoft.Resources/subscriptions/resourceGroups/write", chain_from(SUB, "north"))
    assert not may(who((OWNER, OPERATOR)), f"{ACCOUNTS}/read", chain_from(ACCOUNT, "south"))


def test_who_may_not_read_is_told_that_there_is_nothing() -> None:
    chain = chain_from(ACCOUNT, "north")
    with pytest.raises(Error) as hidden:
        require(who((OWNER, GROUP.replace("rg", "rg2"))), f"{ACCOUNTS}/listKeys/action", chain)
    assert (hidden.value.code, hidden.value.name) == (Code.NOT_FOUND, "ResourceNotFound")
    with pytest.raises(Error) as refused:
        require(who((READER, SUB)), f"{ACCOUNTS}/listKeys/action", chain)
    assert (refused.value.code, refused.value.name) == (Code.ACCESS_DENIED, "AuthorizationFailed")
    assert refused.value.message.startswith("The client 'somebody' with object id 'p' does not have authorization")
    assert reading("A/b/listKeys/action") == reading("A/b/write") == "A/b/read"


def test_the_tenancy_of_a_caller() -> None:
    assert who((READER, "/")).tenancy == EVERYTHING
    found = who((READER, OPERATOR), (READER, ACCOUNT)).tenancy
    assert found == Tenancy(operators=frozenset({"north"}), subscriptions=frozenset({SUB.split("/")[2]}))
    assert who().tenancy == Tenancy()


def test_only_roles_with_data_actions_may_call_models() -> None:
    calling = {role.id for role in ROLES if role.allows_data(CALL_MODEL)}
    assert calling == {OPENAI_USER, OPENAI_CONTRIBUTOR, COGNITIVE_USER}
    given = [
        Assignment("b", OPENAI_USER, ACCOUNT),
        Assignment("a", COGNITIVE_USER, SUB),
        Assignment("a", OWNER, "/"),
        Assignment("a", OPENAI_USER, GROUP),
        Assignment("c", "", SUB),
    ]
    assert data_scopes(given) == {"a": (SUB, GROUP), "b": (ACCOUNT,)}


def test_roles_are_found_by_their_id_however_it_is_written() -> None:
    role = BY_ID[READER]
    for spelled in (READER, READER.upper(), f"/providers/Microsoft.Authorization/roleDefinitions/{READER}"):
        assert find_role(spelled) is role
    assert find_role("Reader") is None
    assert len(BY_ID) == len({role.name for role in ROLES}) == len(ROLES)


def test_what_concerns_access() -> None:
    assert concerns_access(f"{SUB}/providers/Microsoft.Authorization/roleAssignments/x".lower())
    assert concerns_access("/providers/entrepot.access/principals/p")
    assert not concerns_access(ACCOUNT.lower())


def test_secrets_are_kept_as_hashes_and_two_of_them_work() -> None:
    first, second, third = secret.generate(), secret.generate(), secret.generate()
    held = secret.kept(first, 0)
    assert first.encode() not in held
    assert secret.matching(held, first, 1)
    assert not secret.matching(held, second, 1)
    assert not secret.matching(held, first, secret.LIFETIME_MS)
    held = secret.kept(third, 2, secret.kept(second, 1, held))
    assert [secret.matching(held, each, 3) for each in (first, second, third)] == [False, True, True]
    held = secret.kept(first, 4, held, alone=True)
    assert [secret.matching(held, each, 5) for each in (first, second, third)] == [True, False, False]
    assert not secret.matching(b"[]", "", 0)


def test_guesses_are_slowed_down_where_they_come_from_and_nowhere_else() -> None:
    now_s = 1_000.0
    throttle = Throttle(lambda: now_s)
    for _ in range(FREE):
        assert throttle.wait_s("c", "10.0.0.1") == 0
        throttle.failure("c", "10.0.0.1")
    assert throttle.wait_s("c", "10.0.0.1") > 0
    assert throttle.wait_s("c", "10.0.0.2") == throttle.wait_s("other", "10.0.0.1") == 0
    for _ in range(100):
        throttle.failure("c", "10.0.0.1")
    assert throttle.wait_s("c", "10.0.0.1") == LONGEST_S == throttle.wait_s("other", "10.0.0.1")
    now_s += LONGEST_S
    assert throttle.wait_s("c", "10.0.0.1") == 0
    throttle.success("c", "10.0.0.1")
    assert throttle.failed == FREE + 100


def test_guessing_from_everywhere_takes_no_memory() -> None:
    throttle = Throttle(lambda: 0.0)
    for n in range(REMEMBERED + 500):
        throttle.failure("c" * 500, f"10.0.{n // 256}.{n % 256}")
    assert len(throttle._pairs) == len(throttle._peers) == REMEMBERED


def test_every_role_is_documented_with_its_id() -> None:
    text = (Path(__file__).parents[2] / "docs/identity.md").read_text(encoding="utf-8")
    for role in ROLES:
        assert f"| {role.name} | `{role.id}` |" in text


def test_every_route_of_the_authority_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs/identity.md").read_text(encoding="utf-8")
    for each in (*authority.routes(), *graph.routes()):
        path = each.path.removesuffix("/{id}")
        assert path in text, path
