"""What `check` says about packs that load."""

from __future__ import annotations

import pytest

from entrepot import policy
from entrepot.policy.analysis.check import Finding, check, drift
from entrepot.resources.model import PackSource

SOUND = """
[pack]
id = "p"
review = 2027-01-01
source = { title = "terms" }
[set.home]
territories = ["DE", "JP"]
[[rule]]
id = "P"
effect = "permit"
when = { target.provider = "x" }
clause = "§1"
[[rule]]
id = "F"
effect = "forbid"
when = { target.provider = "x", origin.territory = "@!home" }
clause = "§2"
reason = { en = "home only" }
[[case]]
rule = "P"
want = "allow"
at = 2026-01-01T00:00:00Z
facts = { target.provider = "x" }
[[case]]
rule = "P"
want = "refuse"
at = 2026-01-01T00:00:00Z
facts = { target.provider = "y" }
[[case]]
rule = "F"
want = "allow"
at = 2026-01-01T00:00:00Z
facts = { origin.territory = "DE" }
[[case]]
rule = "F"
want = "refuse"
at = 2026-01-01T00:00:00Z
facts = { target.provider = "x", origin.territory = "FR" }
"""


def found(text: str, today: str | None = None) -> list[Finding]:
    return list(check(policy.parse([PackSource("p.toml", text.encode())]), today))


def test_a_sound_pack_has_no_findings() -> None:
    assert found(SOUND, "2026-11-22") == []


@pytest.mark.parametrize(
    ("old", "new", "severity", "told"),
    [
        ('source = { title = "terms" }', "", "warning", "has no source"),
        ('clause = "§1"', "", "warning", "has no clause"),
        ('reason = { en = "home only" }', "", "note", "gives no reason"),
        ('["DE", "JP"]', '["DE", "JP"]\ncomplete = false', "note", "is not complete"),
        ('["DE", "JP"]', '["DE", "CN", "HK"]\n', "warning", "has CN and takes no position on MO, TW"),
        ('clause = "§2"', 'clause = "§2"\nunknown = "pass"', "warning", "lets calls through"),
        ('when = { target.provider = "x" }', "", "warning", "is open in both provider and channel"),
        ('clause = "§2"', 'clause = "§2"\nstatus = "proposed"', "note", "does not decide"),
        ('clause = "§2"', 'clause = "§2"\nunless = [{ origin.territory = "FR" }]', "error", "has a case that fails"),
        ('origin.territory = "@!home" }', 'origin.territory = "@!home", operation = "chat" }', "error", "operation ="),
        ('"@!home" }', '"DE" }\nany = { origin.territory = "@!home" }', "error", "has a case that fails"),
        ('rule = "P"\nwant = "allow"', 'rule = "P"\nwant = "refuse"', "warning", "has no case that wants `allow`"),
    ],
)  # fmt: skip
def test_each_finding(old: str, new: str, severity: str, told: str) -> None:
    assert old in SOUND
    assert [one for one in found(SOUND.replace(old, new, 1)) if one.severity == severity and told in one.what]


def test_a_position_on_hong_kong_may_be_to_leave_it_out() -> None:
    listed = SOUND.replace('["DE", "JP"]', '["DE", "CN", "HK"]\nexcludes = ["MO", "TW"]')
    assert not [one for one in found(listed) if "position" in one.what]


def test_rules_that_are_never_heard() -> None:
    rules = """
[[rule]]
id = "NEVER"
effect = "forbid"
when = { operation = "chat" }
unless = [{ operation = "chat" }]
clause = "§3"
[[rule]]
id = "ENDED"
effect = "forbid"
status = "stayed"
revives = 2026-01-01T00:00:00Z
until = 2025-01-01T00:00:00Z
clause = "§3"
[[rule]]
id = "COVERED"
effect = "forbid"
when = { target.provider = "x", origin.territory = ["FR", "CN"], operation = "chat" }
clause = "§4"
[[rule]]
id = "P-AGAIN"
effect = "permit"
when = { target.provider = "x", account.channel = "direct" }
clause = "§5"
"""
    told = {
        one.subject: one.what for one in found(SOUND + rules) if "case" not in one.what and one.severity == "warning"
    }
    assert told["NEVER"] == told["ENDED"] == "can never match"
    assert told["COVERED"] == told["P-AGAIN"] == "changes no decision: other rules cover it"
    assert "F" not in told


def test_two_equal_forbids_cover_each_other_only_while_both_are_in_force() -> None:
    twin = '[[rule]]\nid = "G"\neffect = "forbid"\nwhen = { target.provider = "x", origin.territory = "@!home" }\n'
    both = {one.subject for one in found(SOUND + twin) if "cover" in one.what}
    assert both == {"F", "G"}
    later = {one.subject for one in found(SOUND + twin + "from = 2027-01-01T00:00:00Z\n") if "cover" in one.what}
    assert later == {"G"}


def test_reviews_and_invariants() -> None:
    assert [one.what for one in found(SOUND, "2027-01-01")] == ["was due for review on 2027-01-01"]
    claim = '[[invariant]]\nid = "I"\nclaim = "never"\nnever = { target.provider = "x", origin.territory = "DE" }\n'
    (finding,) = found(SOUND + claim)
    assert (finding.severity, finding.subject) == ("error", "I")
    assert "by P" in finding.what


def test_a_list_that_has_drifted() -> None:
    dated = SOUND.replace('"JP"]', '"JP", { code = "HR", from = 2013-07-01T00:00:00Z }]')
    (pack,) = policy.parse([PackSource("p.toml", dated.encode())])
    assert drift(pack.sets[0], ["DE", "FR"], 0) == (("FR",), ("JP",))
    assert drift(pack.sets[0], ["DE", "JP"], 1_700_000_000_000) == ((), ("HR",))
