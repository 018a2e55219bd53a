"""The program as the gateway uses it: rows, masks over time, decisions, and what they are remembered by."""

from __future__ import annotations

from msgspec.structs import replace

from entrepot import policy
from entrepot.policy import FOREVER, Target
from entrepot.policy.program import Program
from entrepot.resources.model import Account, Eligibility, Keys, Licence, Organization, Owner, PackSource

PACK = """
[pack]
id = "p"
[set.home]
territories = ["DE", "JP"]
[[rule]]
id = "P"
effect = "permit"
when = { org.kyc = "approved", org.licence = "valid", org.eligibility = "openai@cloud", target.provider = "openai" }
[[rule]]
id = "F-RESIDENCY"
effect = "forbid"
when = { target.in_residency = false }
[[rule]]
id = "F-ZONE"
effect = "forbid"
when = { target.zone = "closed" }
[[rule]]
id = "F-OWNED"
effect = "forbid"
when = { org.owned_over_50 = "@!home" }
"""

ORGANIZATION = Organization(
    name="o",
    legal_name="O",
    territory="DE",
    entity_type="enterprise",
    kyc="approved",
    kyc_expires_ms=3_000,
    screening="clear",
    licence=Licence("L", expires_ms=2_000),
    eligibility=(Eligibility("openai@cloud", expires_ms=1_000), Eligibility("azure@cloud")),
    owners=(Owner("A", "DE", 100_000_000),),
)
ACCOUNT = Account("a", "s", "rg", "r", "cloud", "harbour", Keys("sha256:0"))
TARGET = Target("openai", "gpt-4o", "japaneast", "JP", "harbour", "JP", ("apac",))


def program(text: str = PACK) -> Program:
    return policy.compile(policy.parse([PackSource("p.toml", text.encode())]))


def test_a_decision_changes_at_the_instant_of_an_expiry() -> None:
    compiled = program()
    timeline = compiled.principal(ORGANIZATION, ACCOUNT)
    target = compiled.target(TARGET)

    def permitted(at_ms: int) -> bool:
        return compiled.decide(timeline.at(at_ms)[0] & target & compiled.segment(at_ms)[0]).permit

    assert permitted(0)
    assert permitted(999)
    assert not permitted(1_000)
    assert timeline.at(0)[1] == 1_000
    assert timeline.at(1_000)[1] == 2_000
    assert timeline.at(2_999)[1] == 3_000
    assert timeline.at(3_000)[1] == FOREVER


def test_each_expiry_alone_ends_the_permit() -> None:
    compiled = program()
    lasting = replace(
        ORGANIZATION, kyc_expires_ms=None, licence=Licence("L"), eligibility=(Eligibility("openai@cloud"),)
    )
    target = compiled.target(TARGET)
    for ends in (
        {"kyc_expires_ms": 500},
        {"licence": Licence("L", 500)},
        {"eligibility": (Eligibility("openai@cloud", 500),)},
    ):
        timeline = compiled.principal(replace(lasting, **ends), ACCOUNT)
        assert compiled.decide(timeline.at(499)[0] & target).permit
        assert not compiled.decide(timeline.at(500)[0] & target).permit
    assert compiled.principal(lasting, ACCOUNT).at(500)[1] == FOREVER


def test_an_approval_that_was_never_given_does_not_expire() -> None:
    pending = replace(ORGANIZATION, kyc="pending", licence=None, eligibility=())
    assert program().principal(pending, ACCOUNT).cuts == ()


def test_targets_differ_by_residency_and_zone() -> None:
    compiled = program()
    client = compiled.principal(ORGANIZATION, ACCOUNT).at(0)[0]

    def rules(target: Target) -> tuple[str, ...]:
        return compiled.decide(client & compiled.target(target)).rules

    assert rules(TARGET) == ("P",)
    assert rules(replace(TARGET, in_residency=False)) == ("F-RESIDENCY",)
    assert rules(replace(TARGET, zones=("apac", "closed"), in_residency=False)) == ("F-RESIDENCY", "F-ZONE")
    assert rules(replace(TARGET, provider="other")) == ()


def test_residency() -> None:
    assert policy.within_residency((), "unknown", ())
    assert policy.within_residency(("apac",), "JP", ("apac",))
    assert policy.within_residency(("JP",), "JP-13", ())
    assert not policy.within_residency(("JP-13",), "JP", ())
    assert not policy.within_residency(("DE",), "unknown", ("eu",))


def test_a_value_that_no_rule_names_is_never_an_error() -> None:
    compiled = program()
    assert compiled.of("target.provider", "nobody") == compiled.of("target.provider", "*other*")
    assert compiled.of("org.kyc", "nonsense") == compiled.of("org.kyc", "unknown")
    assert compiled.of("origin.territory", "xx") == compiled.of("origin.territory", "unknown")
    assert compiled.mask({}) == compiled.full


def test_an_empty_release_permits_nothing() -> None:
    compiled = policy.compile(())
    assert not compiled.decide(compiled.full & compiled.segment(0)[0]).permit
    assert compiled.segment(0) == (0, FOREVER)


def test_remembered_decisions_are_bounded() -> None:
    flags = "".join(f'[[rule]]\nid = "R{at}"\neffect = "permit"\nwhen = {{ org.flag = "f{at}" }}\n' for at in range(14))
    compiled = program('[pack]\nid = "p"\n' + flags)
    for mask in range(2**13):
        assert compiled.decide(mask).permit == bool(mask)
    assert len(compiled._decisions) <= 4096


def test_of_several_forbids_the_client_is_told_of_one_in_a_fixed_order() -> None:
    def told(*codes: str | None) -> str | None:
        rules = "".join(
            f'[[rule]]\nid = "R{at}"\neffect = "forbid"\n' + (f'code = "{code}"\n' if code else "")
            for at, code in enumerate(codes)
        )
        compiled = program('[pack]\nid = "p"\n' + rules)
        return compiled.decide(compiled.full).rule

    assert told(None, None) == "R0"
    assert told(None, "house_rule") == "R1"
    assert told("house_rule", "access_denied") == "R1"
    assert told("access_denied", "unsupported_territory", "account_suspended") == "R1"
    assert told("b_rule", "a_rule") == "R0"


def test_a_rule_to_come_is_seen_in_time() -> None:
    rules = """
[[rule]]
id = "P"
effect = "permit"
[[rule]]
id = "F-1"
effect = "forbid"
from = 1970-01-02T00:00:00Z
when = { operation = "chat" }
[[rule]]
id = "F-2"
effect = "forbid"
from = 1970-01-03T00:00:00Z
"""
    compiled = program('[pack]\nid = "p"\n' + rules)
    day = 86_400_000
    chat, batch = compiled.of("operation", "chat"), compiled.of("operation", "batch")
    assert compiled.refused_from(chat, 0, day - 1) is None
    assert compiled.refused_from(chat, 0, day) == day
    assert compiled.refused_from(batch, 0, day) is None
    assert compiled.refused_from(batch, 0, 2 * day) == 2 * day
