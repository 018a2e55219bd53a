"""Replay: recorded decisions, taken again under their own release, where all must come out the same, and another's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from entrepot.ledger.entries import Release
from entrepot.ledger.read import Read
from entrepot.policy import PolicyInvalid, Program, parse
from entrepot.policy import compile as compile_packs
from entrepot.policy.program import Decision
from entrepot.projections.again import ACCESS_DENIED, Again, Candidate, Recorded, recorded
from entrepot.projections.parts import REMEMBERED, Key, is_decision, split
from entrepot.projections.refusals import NO_PERMIT, refusing
from entrepot.projections.window import ALWAYS, Window, day_of
from entrepot.resources.model import PackSource

RELEASE = b'{"release":{'
NO_TARGET = "no_target"
EXAMPLES = 3
KEPT = 10_000

Direction = Literal["allow to refuse", "refuse to allow", "other targets"]
"""`other targets`: the call is still allowed, but not to the same ones."""

_release = msgspec.json.Decoder(Release).decode


class Flip(msgspec.Struct):
    """Calls of an account that come out otherwise on a day, by the rules that refuse them now, or had refused them."""

    direction: Direction
    account: str
    rule: str
    day: str
    calls: int = 0
    examples: list[str] = []


class Finding(msgspec.Struct, frozen=True):
    """A decision that its own release does not come to again. `upstream` is empty where the whole call is meant."""

    entry: str
    upstream: str
    recorded: str
    again: str

    def __str__(self) -> str:
        where = f" on `{self.upstream}`" if self.upstream else ""
        return f"`{self.entry}`{where}: recorded as {self.recorded}, but its release decides {self.again}"


class _Flip(NamedTuple):
    direction: Direction
    account: str
    rule: str


class _Verdict(NamedTuple):
    """What comes out for equal calls, while the same rules are in force."""

    since_ms: int
    until_ms: int
    release: str
    checked: bool
    differs: bool
    otherwise: bool
    flip: _Flip | None


class Replay:
    """Give it all entries with `take`, then `finish`.

    `decided` counts the decisions taken again, `otherwise` those that something else than the policy refused.
    `releases` counts them by release. `different` counts those with findings, of which the first `KEPT` are kept.
    """

    def __init__(self, program: Program, window: Window = ALWAYS) -> None:
        self.decided = 0
        self.otherwise = 0
        self.different = 0
        self.releases: Counter[str] = Counter()
        self.findings: list[Finding] = []
        self.flips: dict[tuple[str, str, str, str], Flip] = {}
        self._window = window
        self._verdicts: dict[Key, _Verdict] = {}
        self._new = Again(program)
        self._own: dict[str, Again] = {}
        self._packs: set[bytes] = set()
        self._invalid: list[str] = []
        self._early: Counter[str] = Counter()

    def learn(self, program: Program) -> None:
        """A release by which entries were decided; those in the logs are learnt from there."""
        self._own[program.release] = Again(program)
        self._verdicts.clear()

    def take(self, read: Read) -> None:
        """Raises msgspec.DecodeError for a decision that is none."""
        if not is_decision(read.entry):
            if read.entry.startswith(RELEASE):
                self._read_release(read)
            return
        at_ms, key = split(read.entry)
        if at_ms not in self._window:
            return
        verdict = self._verdicts.get(key)
        if verdict is None or not verdict.since_ms <= at_ms < verdict.until_ms:
            if len(self._verdicts) >= REMEMBERED:
                self._verdicts.clear()
            verdict = self._verdicts[key] = self._judge(read)
        self.decided += 1
        self.releases[verdict.release] += 1
        if not verdict.checked:
            self._early[verdict.release] += 1
        self.otherwise += verdict.otherwise
        if verdict.flip is not None:
            self._flip(verdict.flip, f"{read.origin}/{read.number}", day_of(at_ms))
        if verdict.differs:
            self._differs(read)

    def finish(self, reads: Iterable[Read]) -> None:
        """Check the decisions that came before their release; only if there are any, `reads` is read from its start."""
        late = {name for name in self._early if name in self._own}
        if not late:
            return
        for read in reads:
            if read.entry.startswith(RELEASE):
                late.discard(_release(read.entry[len(RELEASE) - 1 : -1]).release)
            elif is_decision(read.entry):
                past = recorded(read.entry[12:-1])
                if past.release in late and past.at_ms in self._window:
                    self._early[past.release] -= 1
                    if not _agrees(past, self._own[past.release].decide(past)):
                        self._differs(read)

    def problems(self) -> list[str]:
        """Releases that cannot be had: the decisions by them are not checked."""
        missing = [
            f"the release `{name}` of {number} decisions is not in these logs, so they are not checked"
            for name, number in sorted(self._early.items())
            if number
        ]
        return [*self._invalid, *missing]

    def _read_release(self, read: Read) -> None:
        release = _release(read.entry[len(RELEASE) - 1 : -1])
        packs = msgspec.json.encode((release.release, release.packs))
        if packs in self._packs:
            return
        self._packs.add(packs)
        place = f"{read.origin}/{read.number}"
        try:
            program = compile_packs(parse([PackSource(pack.name, pack.data) for pack in release.packs]))
        except PolicyInvalid as invalid:
            self._invalid.append(f"the packs in the release entry `{place}` are not valid: {invalid.problems[0]}")
            return
        if program.release == release.release:
            self.learn(program)
        else:
            told = f"the packs in the release entry `{place}` are those of the release `{program.release}`"
            self._invalid.append(told)

    def _differs(self, read: Read) -> None:
        self.different += 1
        if len(self.findings) < KEPT:
            past, place = recorded(read.entry[12:-1]), f"{read.origin}/{read.number}"
            self.findings += _differences(place, past, self._own[past.release].decide(past))

    def _judge(self, read: Read) -> _Verdict:
        past = recorded(read.entry[12:-1])
        own, differs = self._own.get(past.release), False
        since_ms, until_ms = self._new.period(past.at_ms)
        if own is not None:
            differs = not _agrees(past, own.decide(past))
            own_since_ms, own_until_ms = own.period(past.at_ms)
            since_ms, until_ms = max(since_ms, own_since_ms), min(until_ms, own_until_ms)
        now = self._new.decide(past)
        # What something else than the policy refused stays refused, whatever the policy says.
        otherwise = not past.admitted and any(each.permit for each, _ in now)
        flip = None if otherwise else _flip(_account(past.client).account, now)
        return _Verdict(since_ms, until_ms, past.release, own is not None, differs, otherwise, flip)

    def sorted_flips(self) -> list[Flip]:
        """The most calls first, direction by direction."""
        return [flip for _, flip in sorted(self.flips.items(), key=lambda each: (each[0][0], -each[1].calls, each[0]))]

    def _flip(self, about: _Flip, place: str, day: str) -> None:
        key = (*about, day)
        flip = self.flips.get(key)
        if flip is None:
            flip = self.flips[key] = Flip(*about, day)
        flip.calls += 1
        if len(flip.examples) < EXAMPLES:
            flip.examples.append(place)


def _flip(account: str, now: Sequence[tuple[Candidate, Decision]]) -> _Flip | None:
    before, after = any(each.permit for each, _ in now), any(again.permit for _, again in now)
    if before and after:
        changed = [(each, again) for each, again in now if each.permit != again.permit]
        rules = {
            rule for each, again in changed for rule in (again.rules if each.permit else each.rules) or (NO_PERMIT,)
        }
        return _Flip("other targets", account, ", ".join(sorted(rules))) if changed else None
    if before:
        return _Flip("allow to refuse", account, refusing((again.permit, again.rules) for _, again in now))
    if after:
        return _Flip("refuse to allow", account, refusing((each.permit, each.rules) for each, _ in now))
    return None


class _Client(msgspec.Struct):
    account: str


_account = msgspec.json.Decoder(_Client).decode


def _agrees(past: Recorded, again: Sequence[tuple[Candidate, Decision]]) -> bool:
    permitted = False
    for each, decision in again:
        if each.permit != decision.permit or each.rules != decision.rules:
            return False
        permitted |= decision.permit
    if permitted:
        return True
    return not past.admitted and past.code == _code(again)


def _code(decisions: Sequence[tuple[Candidate, Decision]]) -> str:
    return (decisions[0][1].code or ACCESS_DENIED) if decisions else NO_TARGET


def _differences(place: str, past: Recorded, again: Sequence[tuple[Candidate, Decision]]) -> Iterator[Finding]:
    same = True
    for each, decision in again:
        if (each.permit, each.rules) != (decision.permit, decision.rules):
            same = False
            said, says = _said(each.permit, each.rules), _said(decision.permit, decision.rules)
            yield Finding(place, each.upstream, said, says)
    if same:
        said = "admitted" if past.admitted else f"refused with `{past.code}`"
        yield Finding(place, "", said, f"to refuse with `{_code(again)}`")


def _said(permit: bool, rules: Sequence[str]) -> str:
    return f"{'allow' if permit else 'refuse'} by {', '.join(rules) or 'no rule'}"
