"""Random packs, calls and owners for the property tests of the access policy.

Drawn from a seed and not step by step: a decision takes microseconds, and the tests should see many.
"""

from __future__ import annotations

from random import Random

from entrepot.policy.facts import FACTS, OPERATIONS, domain
from entrepot.policy.model import Condition, Member, Pack, Place, Rule, Set
from entrepot.policy.naive import Call
from entrepot.policy.ownership import holding
from entrepot.policy.program import Program
from entrepot.resources.model import Owner

HERE = Place("random.toml")
INSTANTS = (1_000, 2_000, 3_000, 4_000)
TERRITORIES = ("UA", "UA-43", "UA-14", "CN", "HK", "DE", "GB-ENG")
CALLED = (*TERRITORIES, "UA-05", "GB", "FR", "unknown", "junk")
NAMES = ("alpha", "beta", "gamma")
# A few facts of each kind and side, so that rules meet: more of them would only thin the matches out.
ASKED = (
    *("org.territory", "org.owned_25", "org.owned_50", "org.owned_over_50", "org.screening", "org.kyc"),
    *("org.eligibility", "target.zone", "target.provider", "origin.territory", "origin.network", "operation"),
)


def interval(random: Random) -> tuple[int | None, int | None]:
    start, until = random.choice([None, *INSTANTS]), random.choice([None, *INSTANTS])
    if start is not None and until is not None and until <= start:
        return start, None
    return start, until


def some_sets(random: Random) -> tuple[Set, ...]:
    found = []
    for name, kind, values in (
        ("t1", "territories", TERRITORIES),
        ("t2", "territories", TERRITORIES),
        ("n1", "names", NAMES),
        ("n2", "names", NAMES),
        ("ops", "names", OPERATIONS[:4]),
    ):
        chosen = random.sample(values, random.randint(0, min(4, len(values))))
        dated = random.random() < 0.3
        members = tuple(Member(value, *(interval(random) if dated else ())) for value in sorted(chosen))
        start, until = interval(random) if random.random() < 0.2 else (None, None)
        found.append(Set(name, kind, members, HERE, from_ms=start, until_ms=until))
    return tuple(found)


def choices(name: str) -> list[str]:
    fact = FACTS[name]
    if fact.kind == "territory":
        return [*TERRITORIES, "@t1", "@!t1", "@t2", "@!t2", "unknown"]
    if fact.kind in {"name", "names"}:
        return [*NAMES, "@n1", "@!n1", "@n2", "@!n2"]
    if name == "operation":
        return [*OPERATIONS[:4], "@ops", "@!ops"]
    return list(domain(fact))


def condition(random: Random, asked: tuple[str, ...] = ASKED) -> Condition:
    name = random.choice(asked)
    if FACTS[name].kind == "owned":
        reference = random.choice(["@t1", "@!t1", "@t2", "@!t2"])
        return Condition(name, (reference, "unknown") if random.random() < 0.3 else (reference,))
    values = random.sample(choices(name), random.randint(1, 3))
    return Condition(name, tuple(sorted(values)))


def conditions(random: Random, asked: tuple[str, ...], least: int, most: int) -> tuple[Condition, ...]:
    return tuple(condition(random, asked) for _ in range(random.randint(least, most)))


def rule(random: Random, name: str, effect: str | None = None, asked: tuple[str, ...] = ASKED) -> Rule:
    start, until = interval(random)
    effect = effect or random.choice(["permit", "forbid"])
    status = random.choice(["in_force"] * 6 + ["contract_term", "proposed", "stayed", "rescinded"])
    return Rule(
        id=name,
        pack="random",
        effect=effect,
        place=HERE,
        status=status,
        from_ms=start,
        until_ms=until,
        revives_ms=random.choice([None, *INSTANTS]) if status == "stayed" else None,
        when=conditions(random, asked, 0, 2),
        any=conditions(random, asked, 0, 2),
        unless=tuple(conditions(random, asked, 1, 2) for _ in range(random.randint(0, 2))),
        unknown_passes=effect == "forbid" and random.random() < 0.25,
    )


def pack(random: Random, asked: tuple[str, ...] = ASKED) -> Pack:
    rules = tuple(rule(random, f"R{at}", None, asked) for at in range(random.randint(1, 6)))
    return Pack("random", HERE, sets=some_sets(random), rules=rules)


def owners(random: Random) -> tuple[Owner, ...]:
    """Chains, cycles, missing shares and contradictory records included."""
    names = ["a", "b", "c", "d"]
    return tuple(
        Owner(
            name=random.choice(names),
            territory=random.choice(["UA", "UA-43", "CN", "DE", "FR", "unknown"]),
            share_micros=random.choice([None, 0, 25_000_000, 30_000_000, 50_000_000, 50_100_000, 100_000_000]),
            of=random.choice([None, None, *names]),
        )
        for _ in range(random.randint(0, 4))
    )


def call(random: Random) -> Call:
    facts: dict[str, str | frozenset[str]] = {}
    for name in ASKED:
        kind = FACTS[name].kind
        if kind == "names":
            facts[name] = frozenset(random.sample([*NAMES, "delta", "unknown"], random.randint(0, 2)))
        elif kind == "name":
            facts[name] = random.choice([*NAMES, "delta"])
        elif kind == "territory":
            facts[name] = random.choice(CALLED)
        elif kind == "closed":
            facts[name] = random.choice([*domain(FACTS[name]), "junk"])
    return Call(facts, owners(random), random.choice(INSTANTS) + random.choice([-1, 0, 1]))


def mask_of(program: Program, call: Call) -> int:
    return program.mask(call.facts, holding(call.owners)) & program.segment(call.at_ms)[0]
