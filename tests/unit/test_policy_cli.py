"""`entrepot policy …`: exit statuses, what is printed, and the JSON that scripts read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from entrepot.cli.policy import app

WORLD = """
[gateway]
territory = "JP"
[[operator]]
name = "harbour"
legal_name = "Harbour K.K."
territory = "JP"
[[region]]
name = "japaneast"
territory = "JP"
operator = "harbour"
[[provider]]
name = "openai"
[[upstream]]
name = "jp-1"
provider = "openai"
region = "japaneast"
api = "openai"
base_url = "https://jp.example/v1"
credential = "none"
models = { "gpt-4o@1" = "gpt-4o" }
[[organization]]
name = "meridian"
legal_name = "Meridian K.K."
territory = "JP"
entity_type = "enterprise"
kyc = "approved"
kyc_expires = 2090-01-01T00:00:00Z
screening = "clear"
[[subscription]]
id = "22222222-2222-4222-8222-222222222222"
organization = "meridian"
[[account]]
name = "meridian-ai"
subscription = "22222222-2222-4222-8222-222222222222"
resource_group = "rg"
location = "japaneast"
channel = "direct"
operator = "harbour"
keys = { key1 = "env:KEY" }
[[account.deployment]]
name = "chat"
model = "gpt-4o"
version = "1"
[policy]
packs = ["entrepot:base", "entrepot:openai-api", "own.toml"]
"""
OWN = """
[pack]
id = "own"
source = { title = "own" }
[[rule]]
id = "OWN-1"
effect = "forbid"
from = 2080-01-01T00:00:00Z
until = 2085-01-01T00:00:00Z
when = { operation = "chat", origin.territory = "JP" }
reason = "closed"
clause = "1"
[[case]]
rule = "OWN-1"
want = "refuse"
at = 2080-01-01T00:00:00Z
facts = { operation = "chat", origin.territory = "JP" }
[[case]]
rule = "OWN-1"
want = "allow"
at = 2079-12-31T23:59:59.999Z
[[invariant]]
id = "OWN-I"
claim = "no direct call from an unsupported territory reaches openai"
never = { target.provider = "openai", account.channel = "direct", origin.territory = "@!openai_supported" }
from = 2024-07-09T00:00:00Z
"""
CALL = ["--account", "meridian-ai", "--deployment", "chat"]


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reviews fall due: the tests stay at 1 December 2026."""
    monkeypatch.setattr("entrepot.cli.policy.wall_clock_ms", lambda: 1_796_083_200_000)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return write(tmp_path / "world", OWN)


def write(folder: Path, own: str) -> Path:
    folder.mkdir()
    (folder / "world.toml").write_text(WORLD)
    (folder / "own.toml").write_text(own)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def read(*arguments: object) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def test_check_tells_of_rules_to_come(world: Path) -> None:
    done = run("check", world)
    assert done.exit_code == 0
    assert "meridian-ai/chat: OWN-1 refuses calls from 2080-01-01T00:00:00Z, in " in done.stdout
    found = read("check", world)
    assert [one["severity"] for one in found["findings"]] == ["note"]
    assert found["announced"][0]["from"] == "2080-01-01T00:00:00Z"


def test_check_against_a_fresh_list(world: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh.toml"
    fresh.write_text('set.openai_supported = ["JP", "DE", "HK"]')
    done = run("check", world, "--against", fresh)
    assert done.exit_code == 1
    assert "@openai_supported: missing HK; no longer listed AD, AE" in done.stdout
    fresh.write_text('set.nothing = ["JP"]')
    assert run("check", world, "--against", fresh).exit_code == 2


def test_fresh_lists_are_normalised_and_a_code_that_is_none_is_named(world: Path, tmp_path: Path) -> None:
    sets = read("show", world)["packs"][1]["sets"]
    listed = next(one for one in sets if one["name"] == "openai_supported")["members"]
    fresh = tmp_path / "fresh.toml"
    codes = [one["value"] for one in listed]
    fresh.write_text(f"set.openai_supported = {json.dumps(['uk' if one == 'GB' else one.lower() for one in codes])}")
    done = run("check", world, "--against", fresh)
    assert "@openai_supported" not in done.stdout
    assert done.exit_code == 0
    fresh.write_text('set.openai_supported = ["JP", "ZZ", "Mars"]')
    done = run("check", world, "--against", fresh)
    assert done.exit_code == 2
    assert "no territory in `set.openai_supported`: `ZZ`, `Mars`; use codes of ISO 3166-1" in done.stderr


def test_warnings_are_findings_and_notes_are_not(world: Path, tmp_path: Path) -> None:
    assert {one["severity"] for one in read("check", world)["findings"]} == {"note"}
    assert run("check", world).exit_code == 0
    folder = write(tmp_path / "warned", OWN.replace('clause = "1"', 'clause = "1"\nunknown = "pass"'))
    assert {one["severity"] for one in read("check", folder)["findings"]} == {"note", "warning"}
    assert run("check", folder).exit_code == 1
    assert run("release", folder).exit_code == 0


def test_an_instant_that_is_none_says_how_to_write_it(world: Path) -> None:
    for text in ("yesterday", "0000-01-01T00:00:00Z", "2024-13-01T00:00:00Z"):
        done = run("explain", world, *CALL, "--origin", "JP", "--at", text)
        assert done.exit_code == 2
        assert done.stderr == f"`{text}` is not an instant; write it like `2024-07-09T00:00:00Z`\n"


def test_errors_of_packs_go_to_stderr_with_status_1(tmp_path: Path) -> None:
    folder = write(tmp_path / "world", OWN.replace("origin.territory", "origin.teritory"))
    done = run("check", folder)
    assert done.exit_code == 1
    assert "own.toml:10: rule `OWN-1`: unknown fact `origin.teritory`; did you mean `origin.territory`?" in done.stderr


def test_cases(world: Path, tmp_path: Path) -> None:
    assert run("test", world).exit_code == 0
    broken = write(
        tmp_path / "broken", OWN.replace('operation = "chat", origin.territory = "JP" }\n[', 'operation = "chat" }\n[')
    )
    done = run("test", broken)
    assert done.exit_code == 1
    assert "but not with origin.territory = " in done.stdout
    assert read("test", broken)["failed"] == 1


def test_explain_has_the_documented_form(world: Path) -> None:
    found = read("explain", world, *CALL, "--origin", "CN", "--at", "2024-07-09T00:00:00Z")
    assert list(found) == ["decision", "code", "release", "at", "targets", "would_allow"]
    assert (found["decision"], found["code"]) == ("refuse", "unsupported_territory")
    (target,) = found["targets"]
    assert target | {"rules": None} == {
        "upstream": "jp-1", "region": "japaneast", "territory": "JP", "decision": "refuse",
        "code": "unsupported_territory", "rules": None,
    }  # fmt: skip
    assert target["rules"][0]["id"] == "OPENAI-TERR-01"
    assert set(target["rules"][0]) >= {"id", "effect", "source", "clause"}
    assert found["would_allow"] == [[{"fact": "account.channel", "is": "direct", "to": "cloud"}]]
    assert read("explain", world, *CALL, "--origin", "CN", "--at", "2024-07-08T23:59:59Z")["decision"] == "allow"


def test_explain_always_ends_with_0_but_for_wrong_usage(world: Path) -> None:
    assert run("explain", world, *CALL, "--origin", "unknown").exit_code == 0
    assert run("explain", world, *CALL, "--origin", "EU").exit_code == 2
    assert run("explain", world, *CALL, "--origin", "JP", "--network", "carrier").exit_code == 2
    assert run("explain", world, *CALL, "--origin", "JP", "--operation", "fly").exit_code == 2
    assert run("explain", world, *CALL, "--origin", "JP", "--at", "2024-07-09").exit_code == 2
    assert run("explain", world, "--account", "x", "--deployment", "y", "--origin", "JP").exit_code == 2


def test_an_eligibility_to_be_had_comes_beside_the_others(tmp_path: Path) -> None:
    forbid = 'when = { org.territory = "JP" }\nunless = [{ org.eligibility = "friend" }]'
    own = OWN.replace('when = { operation = "chat", origin.territory = "JP" }', forbid)
    folder = write(tmp_path / "world", own)
    call = ("explain", folder, *CALL, "--origin", "JP", "--at", "2081-01-01T00:00:00Z")
    assert "would be allowed if org.eligibility had friend (is none)\n" in run(*call).stdout
    screened = 'screening = "clear"'
    (folder / "world.toml").write_text(WORLD.replace(screened, f'{screened}\neligibility = [{{ name = "x" }}]'))
    assert "would be allowed if org.eligibility had friend too (is x)\n" in run(*call).stdout


def test_timeline(world: Path) -> None:
    found = read("timeline", world, *CALL, "--origin", "JP")["timeline"]
    assert [(one["from"], one["decision"], one["because"]) for one in found] == [
        (None, "allow", []),
        ("2080-01-01T00:00:00Z", "refuse", ["OWN-1 takes effect"]),
        ("2085-01-01T00:00:00Z", "allow", ["OWN-1 ends"]),
        ("2090-01-01T00:00:00Z", "refuse", ["org.kyc: approved → expired"]),
    ]
    assert "OWN-1 takes effect" in run("timeline", world, *CALL, "--origin", "JP").stdout


def test_diff_of_worlds_and_of_packs(world: Path, tmp_path: Path) -> None:
    assert run("diff", world, world).exit_code == 0
    other = write(tmp_path / "other", OWN.replace("2080", "2026", 1))
    done = run("diff", world, other)
    assert done.exit_code == 1
    assert "chat calls from JP" in done.stdout
    assert "touches meridian-ai/chat on jp-1: allowed → refused, from 2026-01-01T00:00:00Z" in done.stdout
    found = read("diff", world, other)
    assert found["old"] != found["new"]
    assert found["changes"][0]["rules"] == ["OWN-1"]
    assert read("diff", world, other, "--at", "2025-01-01T00:00:00Z")["changes"] == []


def test_a_diff_at_one_instant_tells_no_period(world: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", OWN.replace("2080", "2026", 1))
    at = ("--at", "2027-01-01T00:00:00Z")
    told = run("diff", world, other, *at).stdout
    assert "screening is clear: allowed → refused (OWN-1)\n" in told
    assert "touches meridian-ai/chat on jp-1: allowed → refused\n" in told
    found = read("diff", world, other, *at)
    assert not {"from", "until"} & (found["changes"][0].keys() | found["touched"][0].keys())


def test_prove(world: Path, tmp_path: Path) -> None:
    assert "proved  OWN-I" in run("prove", world).stdout
    more = tmp_path / "more.toml"
    more.write_text(
        '[pack]\nid = "m"\n[[invariant]]\nid = "M"\nclaim = "nobody is served"\nnever = { operation = "chat" }\n'
    )
    done = run("prove", world, more)
    assert done.exit_code == 1
    assert "refuted M: nobody is served" in done.stdout
    assert read("prove", world)["serves"] is True


def test_what_proves_nothing_says_so(tmp_path: Path) -> None:
    alone = tmp_path / "own.toml"
    alone.write_text(OWN.replace("@!openai_supported", "JP"))
    done = run("prove", alone)
    assert done.stdout.endswith(
        "1 of 1 proved\nno rule permits anything, so that this proves nothing: prove it with the packs that permit\n"
    )
    assert (done.exit_code, read("prove", alone)["serves"]) == (0, False)
    alone.write_text(OWN.partition("[[invariant]]")[0])
    assert run("prove", alone).stdout == "no pack has an `[[invariant]]`: there is nothing to prove\n"


def test_a_refuted_invariant_shows_one_call(world: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.toml"
    facts = 'org.eligibility = "y", org.owned_25 = "@openai_supported", origin.territory = ["JP", "DE"]'
    more.write_text(f'[pack]\nid = "m"\n[[invariant]]\nid = "M"\nclaim = "all"\nalways = {{ {facts} }}\n')
    told = run("prove", world, more).stdout
    assert "    for one: " in told
    assert "; org.eligibility has y; " in told
    assert "; origin.territory = DE; owners in @openai_supported hold 25 % to under 50 %; until 2024-07-09" in told


SIGNED = """
[pack]
id = "signed"
owner = "compliance@harbour.example"
as_of = 2026-01-01
review = 2027-01-01
source = { title = "Law", url = "https://law.example", retrieved = 2026-08-05 }
[set.lands]
territories = ["CN", { code = "FR", from = 2027-03-01T00:00:00Z }]
excludes = ["HK", "MO", "TW"]
complete = false
source = { title = "List", url = "https://list.example", retrieved = 2026-08-06 }
[[rule]]
id = "R"
effect = "forbid"
status = "stayed"
revives = 2027-06-01T00:00:00Z
unknown = "pass"
when = { origin.territory = "@lands" }
any = { org.kyc = "none", org.screening = "hit" }
unless = [{ operation = "chat" }, { operation = "batch" }]
code = "no_lands"
reason = { en = "not from here", de = "nicht von hier" }
clause = "§1"
note = "see annex"
[[rule]]
id = "S"
effect = "forbid"
status = "proposed"
from = 2027-01-01T00:00:00Z
when = {}
source = { title = "Bill" }
[[invariant]]
id = "I"
claim = "nobody there is served"
never = { origin.territory = "@lands" }
from = 2028-01-01T00:00:00Z
"""
PAGE = """
signed: no description
  owner: compliance@harbour.example
  source: Law, https://law.example, retrieved 2026-08-05
  as of 2026-01-01; review by 2027-01-01
  @lands: 2 territories, not complete
    CN, FR (from 2027-03-01T00:00:00Z)
    leaves out knowingly: HK, MO, TW
    source: List, https://list.example, retrieved 2026-08-06
  forbid R, stayed, revives 2027-06-01T00:00:00Z, decides from 2027-06-01T00:00:00Z
    when origin.territory = @lands
    any of org.kyc = none; org.screening = hit
    unless operation = batch
    unless operation = chat
    unknown = "pass": what cannot be told is let through
    code: no_lands
    reason (de): nicht von hier
    reason (en): not from here
    clause: §1
    note: see annex
  forbid S, proposed, decides never (dated from 2027-01-01T00:00:00Z)
    whatever the facts
    no clause
    source: Bill
  never I: nobody there is served
    when origin.territory = @lands
    from 2028-01-01T00:00:00Z
"""


def test_the_page_to_sign_off_holds_all_that_matters(tmp_path: Path) -> None:
    pack = tmp_path / "signed.toml"
    pack.write_text(SIGNED)
    release, _, page = run("show", pack).stdout.partition("\n")
    assert release.startswith("release sha256:")
    assert page == PAGE


def test_a_forbid_without_facts_is_found(tmp_path: Path) -> None:
    pack = tmp_path / "signed.toml"
    pack.write_text(SIGNED)
    told = run("check", pack).stdout
    assert "warning: `S` refuses every call: it names no fact; name facts in `when`" in told
    assert "`R` refuses every call" not in told


def test_release_and_show(world: Path, tmp_path: Path) -> None:
    assert run("release", world).stdout.startswith("sha256:")
    assert read("release", world)["packs"][2]["id"] == "own"
    assert "forbid OPENAI-TERR-01, in_force, from 2024-07-09T00:00:00Z" in run("show", world).stdout
    failing = write(tmp_path / "failing", OWN.replace('want = "allow"', 'want = "refuse"'))
    assert run("release", failing).exit_code == 1


def test_exports(world: Path) -> None:
    policies = run("export", world, "--cedar").stdout
    assert '@id("OPENAI-TERR-01")' in policies
    assert 'context.at >= datetime("2024-07-09T00:00:00Z")' in policies
    assert "action call appliesTo" in run("export", world, "--schema").stdout
    rows = list(csv.DictReader(io.StringIO(run("export", world, "--csv").stdout)))
    assert [row["rule"] for row in rows] == ["BASE-01", "BASE-02", "OPENAI-TERR-01", "OWN-1"]
    assert rows[2]["account.channel"] == "direct"
    assert rows[2]["unless"] == "(org.territory: in openai_supported and origin.territory: in openai_supported)"
    assert read("export", world, "--csv")["release"].startswith("sha256:")
    assert run("export", world).exit_code == 2
    assert run("export", world, "--csv", "--cedar").exit_code == 2


def test_a_table_holds_no_formula(tmp_path: Path) -> None:
    folder = write(tmp_path / "world", OWN.replace('clause = "1"', 'clause = "=1+1"'))
    assert "'=1+1" in run("export", folder, "--csv").stdout


def test_a_misspelt_provider_is_told(tmp_path: Path) -> None:
    own = OWN.replace('operation = "chat", origin', 'target.provider = "opennai", target.region = "mars", origin')
    found = read("check", write(tmp_path / "world", own))["findings"]
    told = {(one["severity"], one["what"], one["fix"]) for one in found if one["subject"] == "OWN-1"}
    provider = "asks for `target.provider` `opennai`, which this world does not have"
    assert ("warning", provider, "did you mean `openai`?") in told
    assert any(severity == "note" and "`mars`" in what for severity, what, _ in told)
