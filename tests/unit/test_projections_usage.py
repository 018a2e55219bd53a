"""Usage is the sum of the entries, in whatever order they come."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from entrepot.cli import command_line
from entrepot.ledger import entries as e
from entrepot.ledger.commitments import commit
from entrepot.ledger.erase import erase
from entrepot.ledger.frames import framed, header
from entrepot.ledger.read import Read
from entrepot.ledger.verify import Unproved
from entrepot.projections.check import check
from entrepot.projections.follow import Logs
from entrepot.projections.prices import Prices, cost, exact, rounded
from entrepot.projections.refusals import NO_PERMIT, Refusals
from entrepot.projections.refusals import grouped as grouped_refusals
from entrepot.projections.usage import DIMENSIONS, Sums, Usage, grouped, total
from entrepot.projections.window import ALWAYS, DAY_MS, Window, day_of
from entrepot.resources.model import Model, Price
from ledgers import NAME, NOW_MS, Batch, some_log, write

ORIGIN = "entrepot.example/gateway-1/2026-11/0"
ACCOUNTS, MODELS, UPSTREAMS = ("kanto", "far"), ("gpt", "other"), ("main", "spare")
REGIONS = {"main": "japaneast", "spare": "koreacentral"}
PRICES = Prices(
    [
        Model("gpt", "1", prices=(Price(NOW_MS + DAY_MS, 3, 10, 1), Price(NOW_MS, 2_500_000, 10_000_000))),
        Model("other", "1", prices=(Price(NOW_MS + DAY_MS, 7, 9, currency="EUR"),)),
    ]
)
seeds = st.integers(0, 2**64 - 1).map(Random)


def decided(
    at_ms: int = NOW_MS,
    *,
    account: str = "kanto",
    model: str = "gpt",
    admitted: bool = True,
    rules: tuple[str, ...] = ("A",),
    code: str = "no",
) -> bytes:
    candidates = [
        e.raw(e.Candidate(msgspec.Raw(b'{"target.region":"%s"}' % region.encode()), admitted, rules, upstream))
        for upstream, region in REGIONS.items()
    ]
    return e.encode(
        e.Decision(
            admitted=admitted,
            at_ms=at_ms,
            candidates=candidates,
            client=e.raw(e.Client(account, {}, "org", ())),
            code=msgspec.UNSET if admitted else code,
            commitment="00",
            deployment=e.raw(e.Deployment(model, f"my-{model}", "1")),
            operation="chat",
            origin=e.raw(e.Origin(False, "", "isp", "", "JP")),
            release="sha256:0",
            request="id",
            revision=1,
        )
    )


def some_usage(random: Random) -> e.Usage:
    prompt, completion = random.randrange(5_000), random.randrange(5_000)
    source = random.choice(("reported", "counted", "estimated"))
    return e.Usage(random.randint(0, prompt), completion, prompt, random.randint(0, completion), source)


def some_outcome(random: Random, place: str) -> e.Outcome:
    legs = [
        e.Leg(1, random.choice(("answered", "failed", "abandoned")), random.choice(UPSTREAMS), maybe(random))
        for _ in range(random.randrange(4))
    ]
    result = random.choice(("served", "failed", "cut", "client_gone", "lost"))
    return e.Outcome(NOW_MS, place, legs=legs, result=result, usage=maybe(random))


def maybe(random: Random) -> e.Usage | msgspec.UnsetType:
    return some_usage(random) if random.random() < 0.6 else msgspec.UNSET


def some_reads(random: Random) -> list[Read]:
    """Calls as they come, some still without an outcome, and entries of other kinds between them."""
    made: list[bytes] = []
    for _ in range(random.randrange(1, 40)):
        open_calls = [n for n, entry in enumerate(made) if entry.startswith(b'{"decision":{"admitted":true')]
        ended = {json.loads(one)["outcome"]["decision"] for one in made if one.startswith(b'{"outcome')}
        waiting = [n for n in open_calls if f"{ORIGIN}/{n}" not in ended]
        at_ms = NOW_MS + random.randrange(3 * DAY_MS)
        what = random.random()
        if waiting and what < 0.5:
            made.append(e.encode(some_outcome(random, f"{ORIGIN}/{random.choice(waiting)}")))
        elif what < 0.8:
            made.append(decided(at_ms, account=random.choice(ACCOUNTS), model=random.choice(MODELS)))
        elif what < 0.9:
            made.append(decided(at_ms, admitted=False, rules=random.choice(((), ("A",), ("A", "B")))))
        else:
            made.append(e.encode(e.Refusals("kanto", at_ms, "limited", "00", random.randrange(1, 9), at_ms, "LIMIT")))
    return [Read(ORIGIN, number, entry) for number, entry in enumerate(made)]


def usage_of(reads: list[Read], window: Window = ALWAYS) -> Usage:
    found = Usage(PRICES, window)
    for read in reads:
        found.take(read)
    found.finish()
    return found


def naive(reads: list[Read], by: tuple[str, ...]) -> dict[tuple[str, ...], Counter[str]]:
    """As one would do it by hand: every piece of usage with all that is known of it, one after the other."""
    plain = {f"{read.origin}/{read.number}": json.loads(read.entry) for read in reads}
    ends = {one["outcome"]["decision"]: one["outcome"] for one in plain.values() if "outcome" in one}
    sums: dict[tuple[str, ...], Counter[str]] = {}
    for place, entry in plain.items():
        decision = entry.get("decision")
        if decision is None or not decision["admitted"]:
            continue
        about = {
            "account": decision["client"]["account"],
            "deployment": decision["deployment"]["name"],
            "model": decision["deployment"]["model"] + "@1",
            "day": day_of(decision["at_ms"]),
        }

        def line(upstream: str, about: dict[str, str] = about) -> Counter[str]:
            told = about | {"region": REGIONS.get(upstream, "")}
            return sums.setdefault(tuple(told[name] for name in by), Counter())

        outcome = ends.get(place)
        if outcome is None:
            line("")["calls"] += 1
            line("")["open"] += 1
            continue
        answered = [leg["upstream"] for leg in outcome["legs"] if leg["result"] == "answered"]
        tried = [leg["upstream"] for leg in outcome["legs"]]
        upstream = answered[-1] if answered else tried[-1] if tried else ""
        line(upstream)["calls"] += 1
        line(upstream)[outcome["result"]] += 1
        parts = [(leg["upstream"], leg["usage"], True) for leg in outcome["legs"] if "usage" in leg]
        parts += [(upstream, outcome["usage"], False)] if "usage" in outcome else []
        for where, usage, failed in parts:
            sum_ = line(where)
            for kind in ("prompt", "completion"):
                sum_[f"{kind}_{usage['source']}"] += usage[kind]
                sum_[f"{kind}_failed_legs"] += usage[kind] if failed else 0
            sum_["failed_legs"] += failed
            sum_["cached"] += usage["cached"]
            sum_["reasoning"] += usage["reasoning"]
            late = decision["at_ms"] >= NOW_MS + DAY_MS
            if decision["deployment"]["model"] == "gpt":
                rates = (3, 1, 10) if late else (2_500_000, 2_500_000, 10_000_000)
            else:
                rates = (7, 7, 9)
                if not late:
                    sum_["unpriced"] += usage["prompt"] + usage["completion"]
                    continue
            amounts = (usage["prompt"] - usage["cached"], usage["cached"], usage["completion"])
            currency = "USD" if decision["deployment"]["model"] == "gpt" else "EUR"
            sum_[currency] += sum(rate * amount for rate, amount in zip(rates, amounts, strict=True))
    return sums


def counts(sums: Sums) -> Counter[str]:
    told = {name: getattr(sums, name) for name in Sums.__struct_fields__ if name != "cost"} | sums.cost
    return +Counter(told)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_usage_is_the_naive_sum_by_every_grouping_in_any_order(random: Random) -> None:
    reads = some_reads(random)
    found = usage_of(reads)
    shuffled = random.sample(reads, len(reads))
    again = usage_of(shuffled)
    assert again.cells == found.cells
    assert sorted(again.without_outcome) == sorted(found.without_outcome)
    for number in range(1 << len(DIMENSIONS)):
        by = tuple(name for at, name in enumerate(DIMENSIONS) if number >> at & 1)
        assert {group: counts(sums) for group, sums in grouped(found.cells, by).items()} == {
            group: +sums for group, sums in naive(reads, by).items()
        }


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_windows_that_meet_share_the_whole(random: Random) -> None:
    reads = some_reads(random)
    cut = NOW_MS + random.randrange(3 * DAY_MS)
    parts = [usage_of(reads, Window(None, cut)), usage_of(reads, Window(cut, None))]
    whole = Sums()
    for part in parts:
        whole.add(total(part.cells))
    assert counts(whole) == counts(total(usage_of(reads).cells))


def test_a_second_outcome_and_one_of_nothing_are_not_counted() -> None:
    end = e.encode(e.Outcome(NOW_MS, f"{ORIGIN}/0", usage=e.Usage(0, 1, 1, 0, "reported")))
    lost = e.encode(e.Outcome(NOW_MS, f"{ORIGIN}/9", result="lost"))
    found = usage_of([Read(ORIGIN, n, entry) for n, entry in enumerate([decided(), end, end, lost])])
    assert found.without_decision == [f"{ORIGIN}/0", f"{ORIGIN}/9"]
    assert total(found.cells).prompt == 1


def test_costs_are_exact_and_rounded_only_to_be_read() -> None:
    price = Price(0, 2_500_000, 10_000_000, 1_250_000)
    used = e.Usage(1, 3, 3, 0, "reported")
    assert Fraction(exact(cost(price, used))) == Fraction(2 * 2_500_000 + 1_250_000 + 3 * 10_000_000, 10**12)
    assert exact(36_250_000) == "0.000036250000"
    assert exact(10**12 * 12 + 5) == "12.000000000005"
    assert (rounded(49_999_999), rounded(50_000_000), rounded(1_999_950_000_000)) == ("0.0000", "0.0001", "2.0000")


@given(st.integers(0, 10**24))
def test_an_exact_cost_reads_back(amount: int) -> None:
    assert Fraction(exact(amount)) == Fraction(amount, 10**12)
    assert abs(Fraction(rounded(amount)) - Fraction(amount, 10**12)) <= Fraction(1, 20_000)


def test_refusals_are_counted_once_each_with_all_their_rules() -> None:
    entries = [
        decided(admitted=False, rules=("B", "A"), code="no"),
        decided(admitted=False, rules=("B", "A"), code="no"),
        decided(admitted=False, rules=(), account="far"),
        decided(NOW_MS + DAY_MS),
        e.encode(e.Refusals("far", NOW_MS, "limited", "00", 40, NOW_MS, "LIMIT")),
    ]
    found = Refusals()
    for number, entry in enumerate(entries):
        found.take(Read(ORIGIN, number, entry))
    assert grouped_refusals(found.cells, ("account", "rule", "code", "territory")) == {
        ("far", NO_PERMIT, "no", "JP"): 1,
        ("far", "LIMIT", "limited", ""): 40,
        ("kanto", "A, B", "no", "JP"): 2,
    }


def a_ledger(data: Path, seed: int = 1) -> list[Read]:
    """A log with calls that have all ended, in a data folder."""
    writer = write(data)
    random, at = Random(seed), writer.log.size
    ours: list[bytes] = []
    for _ in range(40):
        admitted = random.random() < 0.8
        ours.append(decided(account=random.choice(ACCOUNTS), model=random.choice(MODELS), admitted=admitted))
        if admitted:
            ours.append(e.encode(some_outcome(random, f"{writer.log.origin}/{at + len(ours) - 1}")))
    salted = commit(e.Personal("203.0.113.1", "kanto/key1", "ada"))[0]
    writer.append(Batch(ours, [salted if entry.startswith(b'{"decision') else None for entry in ours]))
    writer.close()
    return [Read(ORIGIN, n, entry) for n, entry in enumerate(ours)]


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(command_line(["usage"]), ["usage", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_the_check_proves_a_ledger_and_finds_what_does_not_add_up(tmp_path: Path) -> None:
    a_ledger(tmp_path)
    status, said, _ = run("check", "--data", str(tmp_path))
    assert (status, "64 groupings come to what the entries say" in said) == (0, True)
    writer = write(tmp_path)
    place = f"{writer.log.origin}/{writer.log.size}"
    writer.append(Batch([decided()], [None]))
    writer.append(Batch([e.encode(e.Outcome(NOW_MS, "elsewhere/7", result="lost"))], [None]))
    writer.abandon()
    status, said, _ = run("check", "--data", str(tmp_path))
    assert status == 1
    assert f"`{place}` was admitted and has no outcome" in said
    assert "an outcome of `elsewhere/7` has no decision, or is its second" in said
    assert "by nothing: lost is" in said


def test_a_hole_between_segments_ends_the_reading(tmp_path: Path) -> None:
    log = tmp_path / "ledger/log"
    log.mkdir(parents=True)
    for first in (0, 5):
        head = header(ORIGIN, first)
        text, _ = framed([decided(admitted=False)] * 3, len(head))
        (log / f"{first:08d}.entries").write_bytes(head + text)
    hole = f"entry 3 of the log `{ORIGIN}` is damaged or missing: `00000005.entries` follows"
    with pytest.raises(Unproved, match=hole):
        check(Logs(tmp_path / "ledger"))
    for command in ([], ["--refusals"], ["check"]):
        status, said, told = run(*command, "--data", str(tmp_path))
        assert (status, said) == (1, "")
        assert hole in told


def test_erased_personal_data_changes_nothing(tmp_path: Path) -> None:
    a_ledger(tmp_path)
    before = run("--data", str(tmp_path), "--csv", "--by", ",".join(DIMENSIONS))
    assert erase(tmp_path, NAME, lambda *_: True, "a test") > 0
    assert run("--data", str(tmp_path), "--csv", "--by", ",".join(DIMENSIONS)) == before
    assert run("check", "--data", str(tmp_path))[0] == 0


def test_forms_say_the_same(tmp_path: Path) -> None:
    a_ledger(tmp_path)
    data = ("--data", str(tmp_path))
    _, text, _ = run(*data, "--csv", "--by", "account,day")
    rows = list(csv.DictReader(io.StringIO(text)))
    told = json.loads(run(*data, "--json", "--by", "account,day")[1])
    assert [row["account"] for row in rows] == [row["account"] for row in told["rows"]] == ["far", "kanto"]
    assert sum(int(row["calls"]) for row in rows) == told["total"]["calls"]
    assert all(str(row[name]) == text[name] for row, text in zip(told["rows"], rows, strict=True) for name in text)
    plain = run(*data)[1].splitlines()
    assert plain[0].split()[:4] == ["account", "deployment", "model", "calls"]
    assert plain[-1].split()[:2] == ["total", f"{told['total']['calls']:,}"]
    assert run(*data, "--since", "2030-01-01", "--csv")[1].count("\n") == 1
    refusals = json.loads(run(*data, "--refusals", "--json")[1])
    assert refusals["total"]["refusals"] == 40 - told["total"]["calls"]
    assert sum(row["refusals"] for row in refusals["rows"]) == refusals["total"]["refusals"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--by", "colour"), "`colour` is nothing to group by"),
        (("--by", "rule"), "`rule` is nothing to group by"),
        (("--csv", "--json"), "name one of"),
        (("--since", "yesterday"), "`yesterday` is no instant of --since"),
        (("--since", "2026-12-01", "--until", "2026-11-01"), "--until `2026-11-01` is not after --since `2026-12-01`"),
        (("--since", "2026-12-01", "check"), "of the options before `check` only --data goes with it"),
        (("--world", ".", "budgets"), "of the options before `budgets` only --data goes with it"),
        (("budgets",), "--data is of a gateway that does not run, and needs its --world"),
    ],
)
def test_wrong_usage_is_told(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    some_log(tmp_path, [1])
    status, _, error = run("--data", str(tmp_path), *arguments)
    assert (status, said in error) == (2, True)


def test_without_a_ledger_there_is_nothing_to_add_up(tmp_path: Path) -> None:
    status, _, error = run("--data", str(tmp_path))
    assert (status, "there is no ledger in" in error) == (2, True)
