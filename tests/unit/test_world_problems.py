"""Every mistake in a world is told, with file, line, key, what is wrong and how to mend it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from world_texts import HASH, SECOND_ACCOUNT, SUBSCRIPTION, WORLD, by_key, changed, line_of, load, only, problems

from entrepot.resources.problems import WorldInvalid

DEPLOYMENT = 'sku = "GlobalStandard"'
ORGANIZATION = 'entity_type = "enterprise"'


MISTAKES = tomllib.loads((Path(__file__).parent / "world_mistakes.toml").read_text(encoding="utf-8"))["mistake"]


@pytest.mark.parametrize("case", MISTAKES, ids=lambda case: case["name"])
def test_one_mistake(case: dict[str, str]) -> None:
    assert case["old"] in WORLD
    text = WORLD.replace(case["old"], case["new"], 1)
    problem = only(text)
    assert (problem.level, problem.file, problem.key) == ("error", "world.toml", case["key"])
    assert case["what"] in problem.what
    assert case["fix"] in problem.fix
    assert "hidden" not in str(problem)
    changed_at = line_of(text, next(line for line in text.splitlines() if line not in WORLD.splitlines()))
    if problem.what.startswith("missing key"):
        changed_at = line_of(text, "[[upstream]]")  # what is missing is told at its table
    assert problem.line is not None
    assert changed_at <= problem.line <= changed_at + 2


# Mistakes that have consequences elsewhere, or stand in two places.


def test_missing_keys_stand_at_their_table() -> None:
    text = changed('legal_name = "Harbour Cloud K.K."\n', "")
    problem = only(text)
    assert (problem.key, problem.what) == ("operator[harbour]", "missing key `legal_name`")
    assert problem.line == line_of(text, "[[operator]]")


PACK = b"""\
[pack]
id = "draft"
[set.home]
territories = ["JP"]
[[rule]]
id = "R"
effect = "forbid"
when = { origin.territory = "@!home" }
"""


def test_a_pack_that_the_world_does_not_name_is_one_problem() -> None:
    problem = only(WORLD, draft=PACK)
    assert (problem.file, problem.line, problem.what) == ("draft.toml", 1, "a policy pack that the world does not name")
    assert problem.fix.startswith("add `draft.toml` to `[policy].packs`, or keep a draft outside the folder")
    assert problems(changed('packs = ["entrepot:base"]', 'packs = ["entrepot:base", "draft.toml"]'), draft=PACK) == []
    assert problems(WORLD, drafts__draft=PACK) == []


def test_a_line_that_does_not_parse_may_name_the_pack() -> None:
    text = changed('packs = ["entrepot:base"]', 'packs = ["entrepot:base" "draft.toml"]')
    assert {problem.file for problem in problems(text, draft=PACK)} == {"world.toml"}


def test_tables_that_belong_inside_others() -> None:
    found = by_key(problems(WORLD.replace("[[account.deployment]]", "[[deployment]]")))
    assert found["deployment"].fix == "write `[[account.deployment]]` after its `[[account]]`"


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ('[[operator]]\nname = "harbour"\nlegal_name = "x"\nterritory = "JP"', "operator[harbour].name"),
        ('[[region]]\nname = "island"\noperator = "harbour"\nterritory = "JP"', "region[island].name"),
        ('[[provider]]\nname = "openai"', "provider[openai].name"),
        (
            f'[[subscription]]\nid = "{SUBSCRIPTION}"\norganization = "yangtze-robotics"',
            f"subscription[{SUBSCRIPTION}].id",
        ),
        (SECOND_ACCOUNT.replace('"second"', '"robotics-ai"'), "account[robotics-ai].name"),
        ("[gateway]", "gateway"),
        ('[policy]\npacks = ["entrepot:openai-api"]', "policy"),
    ],
)
def test_names_that_stand_twice_are_told_with_both_places(table: str, key: str) -> None:
    problem = only(WORLD, table)
    kind = table[: table.index("]")].strip("[")
    assert (problem.file, problem.key) == ("more-1.toml", key)
    first = line_of(WORLD, f"[[{kind}]]" if f"[[{kind}]]" in WORLD else f"[{kind}]")
    place, line = problem.what.split("stands here again, first in ")[1].split(":")
    assert place == "world.toml"
    assert int(line) >= first


def test_deployments_are_unique_in_their_account_only() -> None:
    deployment = '[[account.deployment]]\nname = "gpt-4o"\nmodel = "gpt-4o"\nversion = "2024-11-20"\n'
    assert len(load(WORLD, SECOND_ACCOUNT + deployment).world.accounts[1].deployments) == 1
    problem = only(WORLD, SECOND_ACCOUNT + deployment + deployment)
    assert problem.key == "account[second].deployment[gpt-4o].name"
    assert problem.what.endswith("more-1.toml:10")


def test_the_same_model_or_price_twice() -> None:
    price = "{ from = 2025-01-01, input_micros = 1, output_micros = 2 }"
    text = f'[[model]]\nname = "m"\nversion = "1"\nprices = [{price}, {price}]\n[[model]]\nname = "m"\nversion = "1"\n'
    found = by_key(problems(WORLD, text))
    assert found["model[m].prices[1]"].what == "two prices begin at the same instant"
    assert "`m@1` stands here again" in found["model[m].version"].what


def test_a_key_opens_one_account() -> None:
    problem = only(WORLD, SECOND_ACCOUNT.replace("sha256:" + "1b" * 32, HASH))
    assert problem.key == "account[second].keys.key1"
    assert problem.what == f"the same key stands in world.toml:{line_of(WORLD, 'keys = {')}"


def test_a_plain_key_is_compared_with_hashes() -> None:
    found = problems(changed(HASH, "plain-text"), SECOND_ACCOUNT.replace('"sha256:' + "1b" * 32, '"plain-text'))
    assert sorted(problem.level for problem in found) == ["error", "warning", "warning"]
    assert sum("the same key" in problem.what for problem in found) == 1
    assert all("plain-text" not in str(problem) for problem in found)


def test_overlapping_sites() -> None:
    more = (
        '[[site]]\nnetwork = "10.20.5.0/24"\nterritory = "SG"\n[[site]]\nnetwork = "10.20.9.0/24"\nterritory = "SG"\n'
    )
    found = problems(WORLD, more)
    assert [(problem.file, problem.line) for problem in found] == [("more-1.toml", 2), ("more-1.toml", 5)]
    first = f"world.toml:{line_of(WORLD, 'network =')}"
    assert found[0].what == f"`10.20.5.0/24` overlaps `10.20.0.0/16` of {first}"


def test_overlapping_egress_of_one_account() -> None:
    text = changed('territory = "CN" }]', 'territory = "CN" }, { network = "203.0.113.128/25", territory = "CN" }]')
    problem = only(text)
    assert problem.key == "account[robotics-ai].egress[1].network"
    assert problem.what.startswith("`203.0.113.128/25` overlaps `203.0.113.0/24` of world.toml:")


@pytest.mark.parametrize(("sku", "what"), [("Standard", "`island`"), ("DataZoneStandard", "its region has no zone")])
def test_a_deployment_that_no_upstream_can_serve(sku: str, what: str) -> None:
    text = changed('location = "japaneast"', 'location = "island"').replace(DEPLOYMENT, f'sku = "{sku}"')
    problem = only(text)
    assert problem.key == "account[robotics-ai].deployment[gpt-4o].sku"
    assert what in problem.what
    assert "regions where it is served: `japaneast`" in problem.fix


def test_owners_in_a_circle_and_over_the_whole() -> None:
    text = changed('name = "Delta", territory = "CN", share = 60.0', 'name = "Delta", territory = "CN", of = "Isle"')
    assert {problem.key for problem in problems(text)} == {
        "organization[yangtze-robotics].owners[Delta].of",
        "organization[yangtze-robotics].owners[Isle].of",
    }
    over = changed('share = 20, of = "Delta"', "share = 40.5")
    problem = only(over)
    assert (problem.level, problem.what) == ("warning", "the shares in the organization add up to 100.5 per cent")


def test_an_owner_has_one_territory_and_one_share_in_each() -> None:
    text = changed("share = 60.0 },", 'share = 30 },\n    { name = "Delta", territory = "SG", share = 30 },')
    found = problems(text)
    assert len(found) == 2
    assert any("another territory above" in problem.what for problem in found)
    assert any("stands here twice" in problem.what for problem in found)


def test_a_mistake_inside_an_array_hides_none_beside_it() -> None:
    text = changed("share = 60.0", "share = 600").replace('of = "Delta"', 'of = "Gamma"')
    assert len(problems(text)) == 2


def test_warnings_do_not_stop_a_world() -> None:
    text = changed('trusted_proxies = ["127.0.0.1/32"]\n', "")
    found = load(text).warnings
    assert [(problem.level, problem.key) for problem in found] == [("warning", "gateway.origin_header")]


def test_a_file_that_names_itself_as_a_pack() -> None:
    assert only(changed("entrepot:base", "world.toml")).what == "a file with `[policy]` is named as a pack"


def test_both_listeners_at_one_address() -> None:
    found = problems(changed('"127.0.0.1:0"', '"127.0.0.1:8080"\nadmin_listen = "127.0.0.1:8080"'))
    assert [problem.key for problem in found] == ["gateway.admin_listen"]


def test_no_pack_is_warned_of() -> None:
    problem = only(changed('[policy]\npacks = ["entrepot:base"]\n', ""))
    assert (problem.level, problem.line) == ("warning", None)
    assert "every call is refused" in problem.what


# Text that is not TOML.


def test_a_line_that_is_not_toml_hides_nothing_else() -> None:
    text = changed('name = "island"\nterritory = "SG"', 'name = "island"\nterritory = SG')
    text = text.replace('residency = ["apac", "JP"]', 'residence = ["apac"]')
    found = by_key(problems(text))
    syntax = found[""]
    assert (syntax.line, syntax.fix) == (line_of(text, "territory = SG"), 'put text in quotes: `"…"`')
    assert found["account[robotics-ai].residence"].fix == "did you mean `residency`?"
    assert len(found) == 2


def test_syntax_errors_of_all_files_are_told() -> None:
    found = problems(WORLD + "\n[broken\n", "a = \nb = ,\n", 'x = "never closed\n')
    assert [(problem.file, problem.line) for problem in found] == [
        ("more-1.toml", 1),
        ("more-1.toml", 2),
        ("more-2.toml", 1),
        ("world.toml", line_of(WORLD + "\n[broken\n", "[broken")),
    ]


def test_no_name_is_called_dangling_when_its_line_is_lost() -> None:
    found = problems(changed('name = "harbour"', "name = harbour"))
    assert [problem.what for problem in found] == ["not TOML: invalid value"]


def test_an_open_string_over_many_lines_ends_the_file() -> None:
    found = problems(WORLD, 'x = """\nnever closed\n')
    assert [(problem.file, problem.line) for problem in found] == [("more-1.toml", 3)]


def test_repeated_keys_and_tables() -> None:
    found = problems(changed('zones = ["apac"]', 'zones = ["apac"]\nzones = []'))
    assert [problem.fix for problem in found] == ["take one of the two out; a table that repeats is written `[[…]]`"]


def test_text_that_is_not_utf8() -> None:
    found = problems(WORLD, bad=b'[[provider]]\nname = "\xff"\n')
    assert [(problem.file, problem.line, problem.what) for problem in found] == [
        ("bad.toml", 2, "the file is not UTF-8")
    ]


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert load("\ufeff" + WORLD).world == load(WORLD).world


def test_everything_at_once_in_the_order_of_lines() -> None:
    text = WORLD
    told = 0
    for old, new in ((case["old"], case["new"]) for case in MISTAKES):
        if text.count(old) == 1 and "\n[[" not in new and "territory" not in old:
            text, told = text.replace(old, new), told + 1
    found = problems(text)
    assert told > 20
    assert len(found) > 30
    assert found == sorted(found, key=lambda problem: problem.line or 0)


def test_the_exception_says_the_first_error_and_how_many_follow() -> None:
    with pytest.raises(WorldInvalid, match=r"^world\.toml:\d+: .* \(and 1 more\)$"):
        load(changed(HASH, HASH[:-1]).replace("share = 60.0", "share = 101"))


def test_a_world_of_nothing_is_a_slip() -> None:
    (problem,) = problems("")
    assert (problem.level, problem.what) == ("error", "the files declare nothing")
