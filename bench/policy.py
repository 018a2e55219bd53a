"""What a decision costs, at 42, 420 and 4,200 rules, beside Cedar and CEL; and what compiling, diff and check cost.

CPU time, best of several runs; the same rules and the same calls for all. `cedarpy` and `common-expression-language`
are measured when they can be imported. `python bench/policy.py --json FILE` writes the figures too.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

from entrepot.policy import Pack, Program, parse
from entrepot.policy import compile as compile_packs
from entrepot.policy.analysis.cedar import cedar, context, schema
from entrepot.policy.analysis.check import check
from entrepot.policy.analysis.diff import diff
from entrepot.policy.facts import FACTS, domain
from entrepot.policy.ownership import holding
from entrepot.resources.model import Owner, PackSource
from entrepot.resources.territories import CODES

AT_MS = 1_790_000_000_000
CALLS = 1_000
OWNERS = (Owner("a", "DE", 100_000_000),)
PER_CALL = ("origin.territory", "origin.network", "origin.attested", "operation")


def pack(count: int, random: Random) -> str:
    """Rules of six kinds, as packs have them: permits, territory rules, ownership, zones, networks."""
    codes, lists, providers = sorted(CODES), max(6, count // 100), max(8, count // 20)
    out = ['[pack]\nid = "p"\n']
    out += [f"[set.s{at}]\nterritories = {json.dumps(random.sample(codes, 120))}\n" for at in range(lists)]
    for at in range(count):
        name, provider = f"@!s{random.randrange(lists)}", f"prov{random.randrange(providers)}"
        date = f"20{random.randrange(20, 27)}-0{random.randrange(1, 10)}-01T00:00:00Z"
        exempt = (
            f'any = {{ origin.territory = "{name}", org.territory = "{name}" }}\n'
            f'unless = [{{ account.channel = "cloud", org.eligibility = "{provider}@cloud" }}]'
        )
        clear = 'org.screening = "clear"'
        kinds = (
            f'effect = "permit"\nwhen = {{ target.provider = "{provider}", org.kyc = "approved", {clear} }}',
            f'effect = "forbid"\nfrom = {date}\nwhen = {{ target.provider = "{provider}" }}\n{exempt}',
            f'effect = "forbid"\nwhen = {{ target.provider = "{provider}", org.owned_over_50 = "{name}" }}',
            f'effect = "forbid"\nwhen = {{ target.zone = "z{at % 20}", target.in_residency = false }}',
            f'effect = "forbid"\nwhen = {{ origin.network = ["tor", "vpn"], target.provider = "{provider}" }}',
            f'effect = "forbid"\nwhen = {{ target.provider = "{provider}", target.territory = "{name}" }}',
        )
        out.append(f'[[rule]]\nid = "R{at}"\n{kinds[at % 6]}\n')
    return "".join(out)


def calls(count: int, random: Random) -> list[dict[str, str | frozenset[str]]]:
    found = []
    for _ in range(CALLS):
        provider = f"prov{random.randrange(max(8, count // 20))}"
        facts: dict[str, str | frozenset[str]] = {
            name: frozenset() if fact.kind == "names" else domain(fact)[0] if fact.values else "DE"
            for name, fact in FACTS.items()
            if fact.kind != "owned"
        }
        facts |= {"target.provider": provider, "org.kyc": "approved", "target.in_residency": "true"}
        facts |= {"origin.territory": random.choice(["DE", "JP", "FR", "CN", "unknown"]), "org.territory": "DE"}
        facts |= {"account.channel": "cloud", "org.eligibility": frozenset({f"{provider}@cloud"})}
        facts |= {"origin.network": random.choice(["isp", "business", "hosting", "tor"])}
        found.append(facts)
    return found


def best(run: Callable[[], object], repeat: int = 7) -> float:
    """Seconds of CPU, the best of several."""
    found = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        run()
        found = min(found, time.process_time() - start)
    return found


def decision_us(program: Program, requests: Sequence[dict[str, str | frozenset[str]]]) -> float:
    """As the gateway does it: two static masks, four rows and the time's mask, then the decision with all its rules."""
    owners = holding(OWNERS)
    org = {name for name in requests[0] if name.startswith(("org.", "account."))}
    rows = [program.tables[name] for name in PER_CALL]
    alive = program.segment(AT_MS)[0]
    prepared: list[tuple[Any, ...]] = [
        (
            program.mask({name: facts[name] for name in org}, owners),
            program.mask({name: value for name, value in facts.items() if name not in org and name not in PER_CALL}),
            *(str(facts[name]) for name in PER_CALL),
        )
        for facts in requests
    ]
    territories, networks, attested, operations = rows
    decide = program.decide

    def run() -> None:
        for account, target, origin, network, attest, operation in prepared:
            asked = territories[origin] & networks[network] & attested[attest] & operations[operation]
            decide(account & target & asked & alive)

    return best(run) / len(prepared) * 1e6


def peers_us(packs: Sequence[Pack], requests: Sequence[dict[str, Any]]) -> dict[str, float]:
    pools = {
        f"{sign}{each.name}": [one.value for one in each.members]
        for pack in packs
        for each in pack.sets
        for sign in ("@", "@!")
    }
    contexts = [context(facts, holding(OWNERS), pools, AT_MS) for facts in islice(cycle(requests), 200)]
    text, found = cedar(packs), {}
    for name, measure in (("cedarpy", cedarpy_us), ("cel", cel_us)):
        try:
            found[name] = measure(text, contexts)
        except ImportError:
            continue
    return found


def cedarpy_us(text: str, contexts: Sequence[dict[str, Any]]) -> float:
    engine = import_module("cedarpy")
    policies, shape, entities = (
        engine.PolicySet.from_str(text),
        engine.Schema.from_str(schema()),
        engine.Entities.from_json_str("[]"),
    )
    head = {"principal": 'Client::"c"', "action": 'Action::"call"', "resource": 'Target::"t"'}

    def run() -> None:
        for each in contexts:
            engine.is_authorized({**head, "context": each}, policies, entities, shape)

    return best(run, 3) / len(contexts) * 1e6


def cel_us(text: str, contexts: Sequence[dict[str, Any]]) -> float:
    """All rules as one program that yields a list: Cedar's expressions in CEL's spelling."""
    engine = import_module("cel")
    rules = re.findall(r"when \{ (.*) \}(?:\nunless \{ (.*) \})?;", text)
    rewritten = []
    for when, unless in rules:
        rule = f"({when})" + (f" && !({unless})" if unless else "")
        rule = re.sub(r"(\[[^\]]*\])\.contains\((context\.\w+)\)", r"\2 in \1", rule)
        rule = re.sub(r"(context\.\w+)\.containsAny\((\[[^\]]*\])\)", r"\1.exists(x, x in \2)", rule)
        rule = re.sub(r'(context\.\w+)\.contains\(("[^"]*")\)', r"\2 in \1", rule)
        rewritten.append(rule.replace("datetime(", "timestamp("))
    program = engine.compile(f"[{', '.join(rewritten)}]")
    at = import_module("datetime").datetime.fromisoformat("2026-09-21T14:13:20+00:00")
    given = [{"context": each | {"at": at}} for each in contexts]

    def run() -> None:
        for each in given:
            program.execute(each)

    return best(run, 3) / len(contexts) * 1e6


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    figures: dict[str, Any] = {}
    for count in (42, 420, 4_200):
        random = Random(count)
        text = pack(count, random).encode()
        requests = calls(count, random)
        packs = parse([PackSource("p.toml", text)])
        program = compile_packs(packs)
        row = {
            "terms": program.full.bit_length(),
            "decision_us": decision_us(program, requests),
            "parse_s": best(partial(parse, [PackSource("p.toml", text)]), 2),
            "compile_s": best(partial(compile_packs, packs), 3),
        }
        row |= {f"{name}_us": value for name, value in peers_us(packs, requests).items()} if count == 42 else {}
        figures[str(count)] = row
        print(f"{count} rules: " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()))
    figures["analysis"] = analysis()
    print("50 rules: " + ", ".join(f"{name} {value:.4g}" for name, value in figures["analysis"].items()))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


def analysis() -> dict[str, float]:
    text = pack(50, Random(50))
    old = parse([PackSource("p.toml", text.encode())])
    later = text.replace('id = "R1"\neffect = "forbid"\nfrom = 20', 'id = "R1"\neffect = "forbid"\nfrom = 19')
    new = parse([PackSource("p.toml", later.encode())])
    return {"diff_s": best(lambda: diff(old, new), 3), "check_s": best(lambda: check(old), 3)}


if __name__ == "__main__":
    main()
