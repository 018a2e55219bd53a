"""Carries out a plan: stage after stage, several requests at a time, and tells what came of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec

from entrepot.cli.remote.connection import ACCESS, Connection, Refused, refusal_of
from entrepot.cli.remote.plan import Plan, Request, Step
from entrepot.cli.remote.widening import GROUNDS, Proposal

AT_ONCE: Final = 8
FEW: Final = 20
IN_ONE: Final = 100  # steps in one change: other changes wait for it
TOGETHER: Final = frozenset({"organization", "subscription", "resourceGroup", "account", "deployment"})


class Waiting(msgspec.Struct, frozen=True):
    """A proposal that another person has to approve."""

    name: str
    about: str
    told: str


class Failure(msgspec.Struct, frozen=True):
    verb: str
    kind: str
    name: str
    code: str
    lines: tuple[str, ...]
    by_policy: bool


class Outcome(msgspec.Struct, frozen=True):
    """`left`: steps not begun, as a stage before them failed, or that wait for an approval of the same resource."""

    done: int
    waiting: tuple[Waiting, ...]
    failures: tuple[Failure, ...]
    left: int

    @property
    def status(self) -> int:
        """0: as declared; 1: something failed; 3: something waits for a second person, or the policy forbids it."""
        if any(not each.by_policy for each in self.failures):
            return 1
        return 3 if self.waiting or self.failures or self.left else 0


class _Done(msgspec.Struct, frozen=True):
    waiting: tuple[Waiting, ...] = ()
    failure: Failure | None = None
    left: int = 0


def open_proposals(connection: Connection) -> list[Mapping[str, Any]]:
    """Those that nobody has decided yet."""
    listed = connection.all(f"{ACCESS}/proposals")
    return [each for each in listed if each["properties"]["state"] == "proposed"]


def find_proposal(proposal: Proposal, listed: Iterable[Mapping[str, Any]]) -> str | None:
    """The name of the one that asks for the same."""
    for each in listed:
        there = each["properties"]
        if there["kind"] != proposal.kind:
            continue
        if proposal.kind == "policyRelease":
            same = there.get("release") == proposal.told
        else:
            same = there["subject"].lower() == proposal.subject.lower() and _core(there["change"]) == _core(
                proposal.change
            )
        if same:
            return str(each["name"])
    return None


def _core(change: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in change.items() if key != "grounds"}


class Carrying:
    """`break_glass` is the reason for which the caller approves what they propose themselves; None: nobody does."""

    def __init__(
        self,
        connection: Connection,
        proposed: list[Mapping[str, Any]],
        break_glass: str | None,
        advance: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._proposed = proposed
        self._break_glass = break_glass
        self._advance = advance

    def carry(self, plan: Plan) -> Outcome:
        done: list[_Done] = []
        left = 0
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for steps in plan.staged():
                if any(each.failure is not None and not each.failure.by_policy for each in done):
                    left += len(steps)
                    continue
                done += self._stage(pool, steps)
        failures = tuple(each.failure for each in done if each.failure is not None)
        waiting = tuple(one for each in done for one in each.waiting)
        finished = sum(each.failure is None and not each.waiting for each in done)
        return Outcome(finished, waiting, failures, left + sum(each.left for each in done))

    def _stage(self, pool: ThreadPoolExecutor, steps: list[Step]) -> Iterator[_Done]:
        """Many steps go as a few changes; what does not fit in, by itself."""
        together = [each for each in steps if each.kind in TOGETHER and each.verb in {"create", "change"}]
        if len(together) < FEW:
            together = []
        chunks = [together[at : at + IN_ONE] for at in range(0, len(together), IN_ONE)]
        with ThreadPoolExecutor(2) as two:  # they wait for each other there: one is made while the next one travels
            for found in two.map(self._chunk, chunks):
                yield from found
        alone = {id(each) for each in together}
        yield from pool.map(self._step, (each for each in steps if id(each) not in alone))

    def _chunk(self, steps: list[Step]) -> list[_Done]:
        """One refusal refuses them all: then each goes by itself, so that only what is wrong is left out."""
        requests = [_plain(request) for step in steps for request in step.requests]
        try:
            told = self._connection.post(f"{ACCESS}/batch", {"requests": requests})["value"]
        except Refused as refused:
            if refused.status in {0, 401, 403, 503}:
                failure = refused
                return [_Done(failure=_failure(step, failure)) for step in steps]
            return [self._step(step) for step in steps]
        answers = iter(told)
        return [self._told(step, [next(answers) for _ in step.requests]) for step in steps]

    def _told(self, step: Step, answers: list[dict[str, Any]]) -> _Done:
        self._advance()
        for each in answers:
            if each["status"] >= 400:
                return _Done(failure=_failure(step, refusal_of(each["status"], each)))
        return _Done()

    def _step(self, step: Step) -> _Done:
        try:
            for request in step.requests:
                self._send(request)
            return self._propose(step)
        except Refused as refused:
            return _Done(failure=_failure(step, refused))
        finally:
            self._advance()

    def _send(self, request: Request) -> None:
        plain = _plain(request)
        given = {"if-match": plain.get("ifMatch"), "if-none-match": plain.get("ifNoneMatch")}
        headers = {key: value for key, value in given.items() if value is not None}
        self._connection.send(request.method, request.path, request.body, headers)

    def _propose(self, step: Step) -> _Done:
        """One after the other: the approval of one makes the next one stale, so it is not proposed before."""
        for at, proposal in enumerate(step.proposals):
            name = find_proposal(proposal, self._proposed)
            if name is None:
                name = str(uuid.uuid4())
                subject = {} if proposal.kind == "policyRelease" else {"subject": proposal.subject}
                properties = {"kind": proposal.kind, "change": proposal.change, "reason": GROUNDS, **subject}
                self._connection.put(f"{ACCESS}/proposals/{name}", {"properties": properties})
            if self._break_glass is None:
                waiting = Waiting(name, f"{step.kind} {step.name}", f"{proposal.kind}: {proposal.told}")
                return _Done((waiting,), left=len(step.proposals) - at - 1)
            said = {"breakGlass": True, "reason": self._break_glass}
            self._connection.post(f"{ACCESS}/proposals/{name}/approve", said)
        return _Done()


def _plain(request: Request) -> dict[str, Any]:
    found = {"method": request.method, "path": request.path, "body": request.body or {}}
    if request.etag is not None:
        found |= {"ifMatch": f'"{request.etag}"'} if request.etag else {"ifNoneMatch": "*"}
    return found


def _failure(step: Step, refused: Refused) -> Failure:
    return Failure(step.verb, step.kind, step.name, refused.code, tuple(refused.lines()), refused.decision is not None)
