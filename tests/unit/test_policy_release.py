"""A release is known by what it says: not by file names, order, comments or spacing."""

from __future__ import annotations

import pytest

from entrepot import policy
from entrepot.policy.release import canonical
from entrepot.resources.model import PackSource

A = """
[pack]
id = "a"
[set.s]
territories = ["DE", "FR"]
[[rule]]
id = "R1"
effect = "forbid"
when = { org.kyc = ["none", "pending"], operation = "chat" }
[[rule]]
id = "R2"
effect = "permit"
from = 2024-07-09T00:00:00Z
"""
A_AGAIN = """
# the same
[[rule]]
effect = "permit"
id     = "R2"
from   = 2024-07-09T09:00:00+09:00
[[rule]]
id     = "R1"
effect = "forbid"
status = "in_force"
[rule.when]
operation = ["chat"]
org.kyc   = ["pending", "none"]
[pack]
id = "a"
[set.s]
territories = ["FR", "DE"]
"""
B = '[pack]\nid = "b"\n[[rule]]\nid = "R3"\neffect = "permit"\n'


def release(*texts: str) -> str:
    sources = [PackSource(f"{at}.toml", text.encode()) for at, text in enumerate(texts)]
    return policy.compile(policy.parse(sources)).release


def test_form_and_order_are_no_part_of_a_release() -> None:
    assert release(A, B) == release(B, A_AGAIN)
    assert release(A).startswith("sha256:")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"DE", "FR"', '"DE"'),
        ("2024-07-09", "2024-07-10"),
        ('effect = "permit"', 'effect = "permit"\nclause = "§1"'),
        ('id = "R1"', 'id = "R1"\nreason = { en = "no" }'),
        ('operation = "chat"', 'operation = "deploy"'),
    ],
)
def test_whatever_a_pack_says_is_part_of_its_release(old: str, new: str) -> None:
    assert old in A
    assert release(A) != release(A.replace(old, new))


def test_the_canonical_form_holds_no_places() -> None:
    packs = policy.parse([PackSource("secret-folder/a.toml", A.encode())])
    assert b"secret-folder" not in canonical(packs)
    assert b'{"fact":"operation","values":["chat"]}' in canonical(packs)
    assert b" " not in canonical(packs)


def test_every_file_is_read_before_it_is_refused() -> None:
    broken = [PackSource("x.toml", b"[pack]\nid = ]"), PackSource("y.toml", b"\xff"), PackSource("z.toml", b"[rule]")]
    with pytest.raises(policy.PolicyInvalid) as caught:
        policy.parse(broken)
    assert {problem.file for problem in caught.value.problems} == {"x.toml", "y.toml", "z.toml"}
    assert "x.toml:2: not TOML" in str(caught.value)


def test_names_are_shared_by_all_packs() -> None:
    with pytest.raises(policy.PolicyInvalid) as caught:
        policy.parse([PackSource("a.toml", A.encode()), PackSource("b.toml", A.encode())])
    told = [problem.what for problem in caught.value.problems]
    assert [what.split(" exists")[0] for what in told] == [
        "the pack `a`",
        "the set `s`",
        "the rule `R1`",
        "the rule `R2`",
    ]
    assert "in a.toml:" in told[0]


def test_a_set_of_another_pack_can_be_named() -> None:
    other = B + 'when = { origin.territory = "@s" }\n'
    assert release(A, other)


def test_too_many_combinations_are_refused_with_the_way_out() -> None:
    group = '{ org.kyc = "none", org.licence = "none", operation = "chat", account.channel = "cloud" }'
    text = B.replace("permit", "forbid") + f"unless = [{', '.join([group] * 6)}]\n"
    with pytest.raises(policy.PolicyInvalid, match="split the rule in two"):
        release(text)
