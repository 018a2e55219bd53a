"""Calls of every fate through a real gateway: what `usage` and `policy replay` say, against what is known otherwise.

    python tests/faults/mixed_calls.py --calls 10000

Each fate has a model and upstreams of its own, which count what they serve; so sums can be compared by model.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import structs

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from entrepot.sim.server import Sim, simulated
from entrepot.sim.settings import Rule, Settings, Sse
from harness import (
    BASE_PACK,
    FROM_CN,
    FROM_JP,
    Account,
    Fleet,
    Place,
    Upstream,
    World,
    ask,
    asked,
    body_of,
    call_bytes,
    opened,
    raw,
)

CALLERS = 12
TOKENS = 12
CUT_AFTER = 7
TEXT = "what is written without a count of it, in pieces of four bytes"
WHERE = (FROM_JP, FROM_JP, FROM_CN)
STRICTER = """
[[rule]]
id = "TEST-NO-CLOUD-FROM-CN"
effect = "forbid"
when = { origin.territory = "CN", account.channel = "cloud", target.model = ["whole", "silent"] }
code = "not_from_there"
"""


ANY = Rule()


@dataclass(frozen=True)
class Fate:
    """`rule` is how its upstream answers; where `before` is given, another one fails so and is tried first."""

    name: str
    rule: Rule = ANY
    streams: tuple[bool, ...] = (False, True)
    before: Rule | None = None
    leaves: bool = False
    weight: int = 4


FATES = (
    Fate("whole", weight=20),
    Fate("silent", Rule(sse=Sse(usage="never"), text=TEXT)),
    Fate("cut", Rule(fault="cut", after=CUT_AFTER), streams=(True,)),
    Fate("told-and-cut", Rule(fault="cut", after=CUT_AFTER, sse=Sse(usage="every")), streams=(True,)),
    Fate("left", Rule(pace_ms=10, tokens=200), streams=(True,), leaves=True, weight=1),
    Fate("error", Rule(status=500)),
    Fate("busy", before=Rule(status=429, headers={"retry-after": "0"})),
    Fate("half", before=Rule(fault="cut", after=9), streams=(False,)),
    Fate("late", before=Rule(fault="cut"), streams=(False,)),
    Fate("mute", before=Rule(fault="cut"), streams=(True,)),
)


@dataclass
class Side:
    """The upstreams of one fate; `first` fails, `then` answers."""

    then: Sim
    first: Sim | None = None


class Done(NamedTuple):
    """A call as its client knows it."""

    fate: str
    account: str
    source: str
    status: int
    receipt: str
    stream: bool


@dataclass
class Doing:
    """What callers share."""

    calls: list[tuple[Fate, Account, str, bool]]
    done: list[Done] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> tuple[Fate, Account, str, bool] | None:
        with self.lock:
            return self.calls.pop() if self.calls else None


def accounts() -> list[Account]:
    named = tuple((fate.name, fate.name, "GlobalStandard") for fate in FATES)
    return [Account("kanto", deployments=named), Account("cloudy", channel="cloud", deployments=named)]


def upstreams(sides: dict[str, Side]) -> Iterator[Upstream]:
    for name, side in sides.items():
        models = {name: f"upstream-{name}"}
        yield Upstream(f"then-{name}", side.then.base_url, models, priority=2)
        if side.first is not None:
            yield Upstream(f"first-{name}", side.first.base_url, models, region="koreacentral", priority=1)


def simulate(stack: ExitStack, calls: int) -> dict[str, Side]:
    found = {}
    for fate in FATES:
        then = stack.enter_context(simulated(Settings(tokens=TOKENS, script=(fate.rule,))))
        first = None
        if fate.before is not None:
            bad = fate.before
            if fate.name == "late":  # all of the answer but its last byte, its usage included
                bad = Rule(fault="cut", after=len(directly(then, body_of(f"upstream-{fate.name}"))) - 1)
                vars(then.counters).update(vars(type(then.counters)()))
            # Every other answer is good, for an upstream that only fails is left alone.
            once = [structs.replace(rule, times=1) for rule in (bad, Rule())]
            first = stack.enter_context(simulated(Settings(tokens=TOKENS, script=tuple(once * calls))))
        found[fate.name] = Side(then, first)
    return found


def directly(sim: Sim, body: bytes) -> bytes:
    host, _, port = sim.base_url.removeprefix("http://").rpartition(":")
    return ask(Place(host, int(port)), body=body).body


def mixed(calls: int, chance: random.Random) -> Doing:
    weights = [fate.weight for fate in FATES]
    fates = chance.choices(FATES, weights, k=calls)
    made = [(fate, chance.choice(accounts()), chance.choice(WHERE), chance.choice(fate.streams)) for fate in fates]
    return Doing(made)


def caller(place: Place, doing: Doing) -> None:
    """Makes calls until none is left, over connections that it keeps."""
    with ExitStack() as stack:
        kept = {source: stack.enter_context(opened(place, source)) for source in set(WHERE)}
        while (one := doing.next()) is not None:
            fate, account, source, stream = one
            body = body_of(fate.name, stream=stream)
            if fate.leaves:
                status, receipt = leave(place, call_bytes(body, account.key), source)
            else:
                answer = asked(kept[source], body=body, key=account.key)
                status, receipt = answer.status, answer.headers["x-entrepot-receipt"]
            with doing.lock:
                doing.done.append(Done(fate.name, account.name, source, status, receipt, stream))


def leave(place: Place, request: bytes, source: str) -> tuple[int, str]:
    """Read some of a stream, then go."""
    with raw(place, request, source) as sock:
        seen = b""
        while seen.count(b"data: ") < CUT_AFTER and not seen.startswith(b"HTTP/1.1 403"):
            block = sock.recv(65_536)
            assert block, seen
            seen += block
    head = seen.partition(b"\r\n\r\n")[0].decode()
    return int(head.split(" ")[1]), head.partition("x-entrepot-receipt: ")[2].partition("\r\n")[0]


def entrepot(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "entrepot", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check_usage(rows: dict[str, dict[str, Any]], sides: dict[str, Side], done: list[Done]) -> None:
    """Equal to what the upstreams counted where it is reported; within one token a relayed chunk elsewhere."""
    for fate in FATES:
        row, mine = rows[fate.name], [one for one in done if one.fate == fate.name and one.status != 403]
        counters = [side.counters for side in (sides[fate.name].then, sides[fate.name].first) if side is not None]
        sent = sum(each.prompt_tokens for each in counters), sum(each.completion_tokens for each in counters)
        check = Check(fate.name, row, len(mine), sum(one.stream for one in mine), *sent)
        assert row["calls"] == len(mine) > 0, fate.name
        became = {"left": "client_gone", "cut": "cut", "told-and-cut": "cut"}.get(fate.name, "served")
        assert row[became] == len(mine), (fate.name, row)
        first = sides[fate.name].first
        bad = 0 if first is None or fate.name == "busy" else -(-first.counters.requests // 2)
        assert row["failed_legs"] == bad, (fate.name, row, bad)
        if fate.name in {"whole", "told-and-cut", "error", "busy"}:
            check.reported(0)
        elif fate.name == "late":
            check.reported(bad * TOKENS)
        elif fate.name in {"half", "mute"}:
            check.legs(bad)
        else:
            check.counted()


def tokens(row: dict[str, Any], kind: str) -> int:
    return sum(row[f"{kind}_{source}"] for source in ("reported", "counted", "estimated"))


class Check(NamedTuple):
    """One fate's sums, and what its upstreams sent."""

    fate: str
    row: dict[str, Any]
    calls: int
    streams: int
    prompt: int
    completion: int

    def reported(self, unseen: int) -> None:
        """All of it; the upstream did not get to count so many tokens of answers that it broke off."""
        row = self.row
        assert (row["prompt_reported"], row["completion_reported"]) == (self.prompt, self.completion + unseen), self
        assert (tokens(row, "prompt"), tokens(row, "completion")) == (self.prompt, self.completion + unseen), self

    def legs(self, bad: int) -> None:
        """What was served is reported; of each try that broke off the prompt is estimated."""
        row = self.row
        assert tokens(row, "completion") == row["completion_reported"] == self.completion, self
        assert row["prompt_estimated"] == row["prompt_failed_legs"] > 0, self
        assert abs(tokens(row, "prompt") - self.prompt) <= bad, self

    def counted(self) -> None:
        row = self.row
        assert row["prompt_reported"] + row["completion_reported"] == 0, self
        assert abs(tokens(row, "prompt") - self.prompt) <= self.calls, self
        whole = self.calls - self.streams  # each is one chunk
        assert abs(tokens(row, "completion") - self.completion) <= row["completion_counted"] + whole, self
        if self.fate == "silent":  # the first and the last event of a stream hold no token
            assert abs(tokens(row, "completion") - self.completion - 2 * self.streams) <= whole, self


def check_replay(world: World, data: Path, done: list[Done]) -> int:
    """The ledger's own release decides everything the same; a stricter one flips the calls that it names, no others."""
    ledger = ("--ledger", str(data / "ledger"))
    same = entrepot("policy", "replay", str(world.folder), *ledger)
    assert (same["flips"], same["findings"], same["problems"], same["different"]) == ([], [], [], 0)
    assert same["decided"] == len(done)
    (world.folder / "packs" / "base.toml").write_text(BASE_PACK + STRICTER)
    flips = entrepot("policy", "replay", str(world.folder), *ledger)["flips"]
    hit = {
        one.receipt
        for one in done
        if (one.account, one.source) == ("cloudy", FROM_CN) and one.fate in {"whole", "silent"} and one.status != 403
    }
    assert {(flip["direction"], flip["account"], flip["rule"]) for flip in flips} == {
        ("allow to refuse", "cloudy", "TEST-NO-CLOUD-FROM-CN")
    }
    assert sum(flip["calls"] for flip in flips) == len(hit) > 0
    assert {example for flip in flips for example in flip["examples"]} <= hit
    return len(hit)


def run(home: Path, calls: int, fleet: Fleet, seed: int = 1) -> str:
    data, started = home / "data", time.monotonic()
    with ExitStack() as stack:
        sides = simulate(stack, calls)
        world = World(home / "world", list(upstreams(sides)), accounts())
        world.write()
        doing = mixed(calls, random.Random(seed))
        with (
            fleet.gateway(world, home / "gateway", "--data", str(data)) as gateway,
            ThreadPoolExecutor(CALLERS) as pool,
        ):
            for caught in [pool.submit(caller, gateway.data, doing) for _ in range(CALLERS)]:
                caught.result()
            gateway.signal(signal.SIGTERM)  # once: it ends in good order
            assert gateway.wait() == 0
        done = doing.done
        usage = entrepot("usage", "--data", str(data), "--by", "model")
        assert (len(done), usage["doubts"]) == (calls, [])
        check_usage({row["model"].partition("@")[0]: row for row in usage["rows"]}, sides, done)
        refused = entrepot("usage", "--data", str(data), "--refusals", "--by", "account")["rows"]
        statuses = Counter(one.status for one in done)
        assert sum(row["refusals"] for row in refused) == statuses[403] > 0
    flipped = check_replay(world, data, done)
    took, total = time.monotonic() - started, usage["total"]
    told = ", ".join(f"{number} with {status}" for status, number in sorted(statuses.items()))
    return (
        f"{calls} calls in {took:.0f} s ({told}): {tokens(total, 'prompt')} prompt and"
        f" {tokens(total, 'completion')} completion tokens, of them reported"
        f" {total['prompt_reported']} and {total['completion_reported']}; {total['cut']} cut,"
        f" {total['client_gone']} left, {total['failed_legs']} failed legs; {flipped} flips, all well"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(run(Path(folder), given.calls, Fleet(), given.seed))


if __name__ == "__main__":
    main()
