"""Whatever stands in a pack, it loads or every mistake is told: nothing else is ever raised."""

from __future__ import annotations

import os
import re
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from entrepot import policy
from entrepot.policy.analysis.check import check
from entrepot.policy.model import Pack
from entrepot.resources.model import PackSource

# Small packs with every key of the language, so that each value is hit often.
PACK = """
[pack]
id = "p"
owner = "o"
about = "a"
as_of = 2026-01-01
review = 2026-01-01
source = { title = "t", url = "u", retrieved = 2026-01-01 }
[set.s]
territories = ["DE", { code = "FR", from = 2020-01-01T00:00:00Z, until = 2021-01-01T00:00:00Z }]
excludes = ["CN"]
complete = true
from = 2020-01-01T00:00:00Z
until = 2021-01-01T00:00:00Z
note = "n"
[set.n]
names = ["x", { name = "y", from = 2020-01-01T00:00:00Z }]
[[rule]]
id = "R"
effect = "forbid"
status = "stayed"
from = 2020-01-01T00:00:00Z
until = 2030-01-01T00:00:00Z
revives = 2021-01-01T00:00:00Z
when = { target.provider = "x", target.in_residency = true }
any = { origin.territory = ["@s", "unknown"], org.eligibility = "@!n" }
unless = [{ org.owned_25 = "@s" }, { operation = ["chat"] }]
unknown = "pass"
code = "c"
reason = { en = "r" }
clause = "c"
[[rule]]
id = "P"
effect = "permit"
[[case]]
rule = "R"
want = "refuse"
at = 2026-01-01T00:00:00Z
facts = { target.provider = "x", org.eligibility = ["x"] }
owners = [{ name = "A", territory = "DE", share = 50.1, of = "B" }]
[[invariant]]
id = "I"
claim = "c"
never = { origin.territory = "@s" }
unless = { operation = "chat" }
"""
JUNK = (
    *("1", "-1.5", "true", '""', '" "', '"x"', '"@s"', '"@!"', '"@"', '"unknown"', '"DE"', '"UA-43"', "[]", "{}"),
    *("[[]]", "[{}]", "[1]", '["x", 1]', '{ a = 1 }', "{ a = {} }", "{ en = 1 }"),
    *("2020-01-01", "07:32:00", "nan", "inf", "2020-01-01T00:00:00", "2020-01-01T00:00:00.0001Z"),
    *("9999-12-31T23:59:59Z", "[{ target = 1 }]", '{ target = "x" }', "{ org.kyc.x = 1 }"),
    *('{ operation = [["chat"]] }', '"*other*"', "9" * 30),
    '{ org.owned_25 = ["@s", "@n"] }',
)  # fmt: skip
VALUE = re.compile(r'"[^"]*"|\[[^\]]*\]|\{[^{}]*\}|\d{4}-[\dT:Z-]+|true|\d+\.\d')


@settings(max_examples=int(os.environ.get("POLICY_EXAMPLES", "60")), deadline=None)
@given(st.integers(0, 2**64 - 1).map(Random))
def test_a_pack_with_junk_in_it(random: Random) -> None:
    for _ in range(10):
        text = PACK
        for _ in range(random.randint(1, 3)):
            spots = list(VALUE.finditer(text))
            spot = random.choice(spots)
            text = text[: spot.start()] + random.choice(JUNK) + text[spot.end() :]
        packs = parsed(text.encode())
        if packs is not None:
            assert policy.compile(packs).release
            check(packs, "2026-01-01")


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_pack(data: bytes) -> None:
    parsed(data)


def test_what_exhausts_the_toml_reader_is_a_problem_too() -> None:
    assert parsed(b"x = " + b"[" * 5_000) is None
    assert parsed(b"x = " + b"1" * 5_000) is None


def parsed(data: bytes) -> tuple[Pack, ...] | None:
    try:
        return policy.parse([PackSource("p.toml", data)])
    except policy.PolicyInvalid as invalid:
        told = [str(problem) for problem in invalid.problems]
    assert told
    return None
