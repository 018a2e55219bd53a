"""Takes recorded decisions again under one release: all facts are the entry's, nothing is looked up.

Facts repeat, so what a part of an entry means to the release is worked out once for the same bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from entrepot.ledger import entries
from entrepot.policy import FOREVER, Program
from entrepot.policy.derive import Facts
from entrepot.policy.ownership import holding
from entrepot.policy.program import Decision
from entrepot.resources.model import UNKNOWN, Owner

# What a refused client is told where no rule has a code of its own.
ACCESS_DENIED = "access_denied"

_REMEMBERED = 16_384

Part = TypeVar("Part")


class Recorded(msgspec.Struct):
    """As much of a decision entry as it takes to decide it again. Parts that repeat stay bytes."""

    admitted: bool
    at_ms: int
    candidates: list[Raw]
    client: Raw
    operation: str
    origin: Raw
    release: str
    code: str = ""


class Candidate(NamedTuple):
    """A target as it was decided on, and the mask of its facts."""

    mask: int
    permit: bool
    rules: tuple[str, ...]
    upstream: str


class _Client(msgspec.Struct):
    facts: dict[str, str | list[str]]
    owners: tuple[entries.Owner, ...]


class _Origin(msgspec.Struct):
    attested: bool
    network: str
    territory: str


class _Candidate(msgspec.Struct):
    facts: dict[str, str | list[str]]
    permit: bool
    rules: tuple[str, ...]
    upstream: str


recorded = msgspec.json.Decoder(Recorded).decode
_client = msgspec.json.Decoder(_Client).decode
_origin = msgspec.json.Decoder(_Origin).decode
_candidate = msgspec.json.Decoder(_Candidate).decode


class Again:
    """One release's memory of the parts of entries."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._clients: dict[bytes, int] = {}
        self._origins: dict[bytes, int] = {}
        self._candidates: dict[bytes, Candidate] = {}

    def decide(self, entry: Recorded) -> list[tuple[Candidate, Decision]]:
        """Each candidate as recorded, and what the release decides on it at the recorded instant."""
        mask = (
            self._of(self._clients, entry.client, self._client)
            & self._of(self._origins, entry.origin, self._origin)
            & self.program.of("operation", entry.operation)
            & self.program.segment(entry.at_ms)[0]
        )
        decide = self.program.decide
        found = [self._of(self._candidates, each, self._candidate) for each in entry.candidates]
        return [(each, decide(mask & each.mask)) for each in found]

    def period(self, at_ms: int) -> tuple[int, int]:
        """The time around an instant in which the same rules are in force, half-open."""
        cuts = self.program.times.cuts
        index = bisect_right(cuts, at_ms)
        return cuts[index - 1] if index else 0, cuts[index] if index < len(cuts) else FOREVER

    @staticmethod
    def _of(known: dict[bytes, Part], raw: Raw, read: Callable[[bytes], Part]) -> Part:
        data = bytes(raw)
        found = known.get(data)
        if found is None:
            if len(known) >= _REMEMBERED:
                known.clear()
            found = known[data] = read(data)
        return found

    def _client(self, data: bytes) -> int:
        client = _client(data)
        owners = [
            Owner(one.name, one.territory or UNKNOWN, _or_none(one.share_micros), _or_none(one.of))
            for one in client.owners
        ]
        return self.program.mask(_facts(client.facts), holding(owners))

    def _origin(self, data: bytes) -> int:
        origin = _origin(data)
        attested = "true" if origin.attested else "false"
        facts: Facts = {"origin.territory": origin.territory, "origin.network": origin.network}
        return self.program.mask(facts | {"origin.attested": attested})

    def _candidate(self, data: bytes) -> Candidate:
        one = _candidate(data)
        return Candidate(self.program.mask(_facts(one.facts)), one.permit, one.rules, one.upstream)


def _facts(given: dict[str, str | list[str]]) -> Facts:
    return {name: value if isinstance(value, str) else frozenset(value) for name, value in given.items()}


Known = TypeVar("Known", str, int)


def _or_none(value: Known | UnsetType) -> Known | None:
    return None if value is UNSET else value
