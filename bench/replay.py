"""How many entries a second usage and replay take in, on one core.

    python bench/replay.py --calls 200000 --accounts 1000

Calls of many accounts from many origins, three candidates each, under the shipped packs, with their outcomes. CPU time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from random import Random

import msgspec

from entrepot.ledger import entries as e
from entrepot.ledger.files import Files
from entrepot.ledger.keys import find_signer
from entrepot.ledger.log import Batch
from entrepot.ledger.read import Read
from entrepot.ledger.writer import open_writer
from entrepot.policy import Program, parse, shipped, shipped_names
from entrepot.policy import compile as compile_packs
from entrepot.policy.ownership import holding
from entrepot.projections.check import check
from entrepot.projections.follow import Logs
from entrepot.projections.replay import Replay
from entrepot.projections.usage import Usage
from entrepot.resources.model import Owner

NAME = "entrepot.example/bench"
NOW_MS = 1_795_000_000_000
BATCH = 256
TERRITORIES = ("JP", "DE", "US", "FR", "CN", "HK", "SG", "unknown")
REGIONS = (("japaneast", "JP", "apac"), ("koreacentral", "KR", "apac"), ("westeurope", "NL", "eu"))

DEPLOYMENTS = 3

Target = tuple[tuple[int, msgspec.Raw], str]
Client = tuple[int, msgspec.Raw, str, list[list[Target]]]
Facts = dict[str, str | frozenset[str]]


class Calls:
    """Draws calls; what repeats in a gateway repeats here."""

    def __init__(self, program: Program, accounts: int, random: Random) -> None:
        self._program = program
        self._random = random
        self._targets = [(self._target(*region, name), name) for region in REGIONS for name in ("a", "b")]
        self._clients = [self._client(number) for number in range(accounts)]

    def _client(self, number: int) -> Client:
        territory = self._random.choice(TERRITORIES)
        facts: Facts = {
            "account.channel": self._random.choice(("direct", "cloud")),
            "account.operator": "harbour",
            "account.state": "active",
            "org.eligibility": frozenset(("openai@cloud",)),
            "org.entity_type": "enterprise",
            "org.flag": frozenset(),
            "org.kyc": "approved",
            "org.licence": "valid",
            "org.screening": "clear",
            "org.territory": territory,
        }
        owners = holding([Owner("1", territory, 60_000_000)])
        told = e.Client(
            f"account-{number}",
            e.facts(facts),
            f"org-{number}",
            (e.Owner("1", share_micros=60_000_000, territory=territory),),
        )
        deployments = [self._random.sample(self._targets, 3) for _ in range(DEPLOYMENTS)]
        return self._program.mask(facts, owners), e.raw(told), territory, deployments

    def _target(self, region: str, territory: str, zone: str, provider: str) -> tuple[int, msgspec.Raw]:
        facts: Facts = {
            "egress.territory": "JP",
            "target.in_residency": "true",
            "target.model": "gpt-4o",
            "target.operator": "harbour",
            "target.provider": "openai" if provider == "a" else "anthropic",
            "target.region": region,
            "target.territory": territory,
            "target.zone": frozenset((zone,)),
        }
        return self._program.mask(facts), msgspec.Raw(msgspec.json.encode(e.facts(facts)))

    def draw(self, number: int) -> bytes:
        """A decision entry."""
        random, program = self._random, self._program
        client, told, territory, deployments = random.choice(self._clients)
        network, at_ms = random.choice(("isp", "business", "mobile")), NOW_MS + number
        origin = program.mask({"origin.territory": territory, "origin.network": network, "origin.attested": "false"})
        mask = client & origin & program.of("operation", "chat") & program.segment(at_ms)[0]
        tried = random.choice(deployments)
        decisions = [program.decide(mask & target[0]) for target, _ in tried]
        admitted = any(one.permit for one in decisions)
        candidates = [
            e.raw(e.Candidate(target[1], one.permit, one.rules, f"main-{name}"))
            for (target, name), one in zip(tried, decisions, strict=True)
        ]
        return e.encode(
            e.Decision(
                admitted=admitted,
                at_ms=at_ms,
                candidates=candidates,
                client=told,
                code=msgspec.UNSET if admitted else decisions[0].code or "access_denied",
                commitment="0" * 64,
                deployment=e.raw(e.Deployment("gpt-4o", "gpt-4o", "2024-11-20")),
                operation="chat",
                origin=e.raw(e.Origin(False, "iptocc-3", network, "iptocc", territory)),
                release=program.release,
                request=f"{number:032x}",
                revision=1,
            )
        )


def fill(data: Path, program: Program, sources: Iterable[tuple[str, bytes]], given: argparse.Namespace) -> None:
    files = Files()
    writer = open_writer(data, NAME, find_signer(data, NAME, files), files, lambda: NOW_MS)
    calls = Calls(program, given.accounts, Random(1))
    packs = tuple(e.Pack(content, name) for name, content in sources)
    writer.append(Batch([e.encode(e.Release(NOW_MS, packs, program.release, 1))], [None]))
    numbers = iter(range(given.calls))
    usage, legs = e.Usage(0, 64, 400, 0, "reported"), (e.Leg(700, "answered", "main-a"),)
    while drawn := [calls.draw(number) for number in islice(numbers, BATCH)]:
        origin, first = writer.append(Batch(drawn, [None] * len(drawn)))
        ends = [
            e.encode(
                e.Outcome(NOW_MS, f"{origin}/{at}", first_byte_ms=40, legs=legs, status=200, total_ms=700, usage=usage)
            )
            for at, entry in enumerate(drawn, first)
            if entry.startswith(b'{"decision":{"admitted":true')
        ]
        writer.append(Batch(ends, [None] * len(ends)))
    writer.close()


def timed(what: str, reads: Iterable[Read], take: Callable[[Read], None]) -> None:
    started, count = time.process_time(), 0
    for read in reads:
        take(read)
        count += 1
    took = time.process_time() - started
    print(f"{what:24} {count:9,} entries in {took:6.2f} s: {count / took:9,.0f} a second, {took / count * 1e6:5.2f} µs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--accounts", type=int, default=1_000)
    given = parser.parse_args()
    packs = [shipped(name) for name in shipped_names()]
    program = compile_packs(parse(packs))
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), program, [(pack.name, pack.data) for pack in packs], given)
        logs = Logs(Path(folder) / "ledger")
        timed("reading alone", logs, lambda _: None)
        usage = Usage()
        timed("usage", logs, usage.take)
        replay = Replay(compile_packs(parse(packs[:3])))
        timed("replay, all entries", logs, replay.take)
        decisions = [read for read in logs if read.entry.startswith(b'{"decision')]
        again = Replay(program)
        again.learn(program)
        timed("replay, decisions alone", decisions, again.take)
        started = time.process_time()
        checked = check(logs)
        print(f"{'usage check':24} {time.process_time() - started:.2f} s, {len(checked.findings)} findings")
        flips = sum(flip.calls for flip in replay.sorted_flips())
        print(
            f"{replay.decided:,} decisions, {replay.different} different, {flips:,} flips, {len(again.flips)} of none"
        )
        sys.exit(1 if replay.problems() or replay.different or checked.findings else 0)


if __name__ == "__main__":
    main()
