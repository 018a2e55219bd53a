"""What the ledger's entries are, and their one spelling as bytes: RFC 8785 (docs/ledger.md, "Entries").

INVARIANT: every struct here has its fields in the order of their names, and names in ASCII. There are no floats, and
integers stay below 2^53. msgspec then writes exactly what RFC 8785 asks for; tests compare it with another encoder.
Instants are milliseconds since 1970 in UTC. What is not known or does not apply is left out, never null.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

SALT = 16
_COMMITMENT = b'"commitment":"'

Result = Literal["served", "failed", "cut", "client_gone", "lost"]
Source = Literal["reported", "counted", "estimated"]


class Origin(msgspec.Struct, frozen=True):
    """Where the call came from, and by which data that is known."""

    attested: bool
    edition: str
    network: str
    source: str
    territory: str


class Owner(msgspec.Struct, frozen=True, omit_defaults=True):
    """A holder of a share, without its name: `name` is a number within its organization, `of` that of another owner."""

    name: str
    of: str | UnsetType = UNSET
    share_micros: int | UnsetType = UNSET
    territory: str = ""


class Client(msgspec.Struct, frozen=True):
    """`facts` are the policy's `account.*` and `org.*`; those that are sets are sorted lists."""

    account: str
    facts: dict[str, str | list[str]]
    organization: str
    owners: tuple[Owner, ...]


class Deployment(msgspec.Struct, frozen=True):
    model: str
    name: str
    version: str


class Candidate(msgspec.Struct, frozen=True):
    """A target, and how the policy decided on it: `rules` are the ids of all rules that determined it."""

    facts: Raw
    permit: bool
    rules: tuple[str, ...]
    upstream: str


class Reserved(msgspec.Struct, frozen=True):
    """Tokens that a call may use at most, as they were estimated."""

    completion: int
    prompt: int


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided on one call, and everything that it rests on.

    `client`, `deployment`, `origin` and each of `candidates` are the bytes of the structs of that name, so that they
    can be encoded once and used for many calls. `code` is what a refused client was told. `commitment` is that of the
    personal data, from `commit`. `revision` numbers the gateway's snapshots, `request` is the call's id. `reserved` is
    there where a budget was reserved from: should the call be lost, it counts as its usage.
    """

    admitted: bool
    at_ms: int
    candidates: Sequence[Raw]
    client: Raw
    code: str | UnsetType = UNSET
    commitment: str
    deployment: Raw
    operation: str
    origin: Raw
    release: str
    request: str
    reserved: Reserved | UnsetType = UNSET
    revision: int


class Usage(msgspec.Struct, frozen=True):
    """Tokens. `cached` is part of `prompt`, `reasoning` of `completion`; `source` is how they were obtained."""

    cached: int
    completion: int
    prompt: int
    reasoning: int
    source: Source


class Leg(msgspec.Struct, frozen=True):
    """One try at an upstream. `usage` is there where it cost something."""

    ms: int
    result: str
    upstream: str
    usage: Usage | UnsetType = UNSET


class Outcome(msgspec.Struct, frozen=True):
    """What became of an admitted call. `decision` is the decision's `origin/index`, as in the call's receipt header.

    `usage` is that of the answer that the client got; legs before it carry their own. `status` is 0 when none was sent.
    """

    at_ms: int
    decision: str
    degraded: tuple[str, ...] | UnsetType = UNSET
    first_byte_ms: int | UnsetType = UNSET
    legs: Sequence[Leg] = ()
    result: Result = "served"
    status: int = 0
    total_ms: int | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET


class Refusals(msgspec.Struct, frozen=True):
    """Refusals of one key by one rule or limit within one minute, past the number that get an entry each."""

    account: str
    at_ms: int
    code: str
    commitment: str
    count: int
    minute_ms: int
    rule: str


class Touched(msgspec.Struct, frozen=True, kw_only=True):
    """`digest` is the SHA-256 of the resource's new form as JSON with sorted keys, left out where it was removed."""

    digest: str | UnsetType = UNSET
    resource: str


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Resources changed together. `id` is the change's own, so that it stands in the ledger once.

    `by` is the principal's object id; `proposal` is what two people agreed on, `break_glass` why one alone acted.
    """

    action: str
    at_ms: int
    break_glass: str | UnsetType = UNSET
    by: str
    epoch: int
    id: str
    proposal: str | UnsetType = UNSET
    resources: tuple[Touched, ...]
    revision: int


class Pack(msgspec.Struct, frozen=True):
    """`data` is base64 in the entry."""

    data: bytes
    name: str


class Release(msgspec.Struct, frozen=True):
    """A policy release took effect."""

    at_ms: int
    packs: tuple[Pack, ...]
    release: str
    revision: int


class Erased(msgspec.Struct, frozen=True):
    """`indices` are half-open ranges."""

    indices: tuple[tuple[int, int], ...]
    origin: str


class Erasure(msgspec.Struct, frozen=True):
    """The personal data of these entries was deleted. The entry does not say whose it was."""

    at_ms: int
    basis: str
    entries: int
    logs: tuple[Erased, ...]


class Previous(msgspec.Struct, frozen=True):
    """The last checkpoint of the log before."""

    origin: str
    root: str
    size: int


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """A process began to write. A log's first entry names the log before, and decisions that wait for an outcome.

    `undisclosed` are entries of this log whose personal data was lost with the process before: see docs/ledger.md.
    """

    at_ms: int
    open: tuple[str, ...] | UnsetType = UNSET
    previous: Previous | UnsetType = UNSET
    program: str
    undisclosed: tuple[int, ...] | UnsetType = UNSET


class Closed(msgspec.Struct, frozen=True):
    """A process ended in good order; with `next`, the log ended too and goes on there."""

    at_ms: int
    next: str | UnsetType = UNSET


class Degraded(msgspec.Struct, frozen=True):
    """Something did not work for a while and works again. `refused` counts the calls that were refused for it."""

    at_ms: int
    problem: str
    refused: int
    since_ms: int
    what: str


Entry: TypeAlias = Decision | Outcome | Refusals | Change | Release | Erasure | Opened | Closed | Degraded

KINDS: Mapping[type[Entry], str] = {
    Decision: "decision",
    Outcome: "outcome",
    Refusals: "refusals",
    Change: "change",
    Release: "release",
    Erasure: "erasure",
    Opened: "opened",
    Closed: "closed",
    Degraded: "degraded",
}

_encode = msgspec.json.Encoder().encode
_HEADS = {struct: f'{{"{kind}":'.encode() for struct, kind in KINDS.items()}
_of_kind = {kind.encode(): msgspec.json.Decoder(struct) for struct, kind in KINDS.items()}


def encode(entry: Entry) -> bytes:
    """`{"kind":{…}}`, canonical. Raises UnicodeEncodeError for text that is no Unicode (a lone surrogate)."""
    return _HEADS[type(entry)] + _encode(entry) + b"}"


def decode(data: bytes) -> Entry:
    """Raises msgspec.DecodeError, or msgspec.ValidationError for an entry of an unknown kind or form."""
    kind = data[2 : data.find(b'"', 2)]
    decoder = _of_kind.get(kind)
    if decoder is None or data[:2] != b'{"':
        raise msgspec.ValidationError(f"no entry is of the kind `{kind.decode('utf-8', 'replace')[:40]}`")
    entry: Entry = decoder.decode(data[len(kind) + 4 : -1])
    return entry


def raw(part: Origin | Client | Deployment | Candidate) -> Raw:
    """A part of a decision, encoded once for many."""
    return Raw(_encode(part))


def facts(given: Mapping[str, str | Iterable[str]]) -> dict[str, str | list[str]]:
    """Facts in the order of their names, sets as sorted lists."""
    return {name: value if isinstance(value, str) else sorted(value) for name, value in sorted(given.items())}


class Personal(msgspec.Struct, frozen=True):
    """What must not be in an entry: it stands in a side file and can be erased."""

    ip: str
    key: str
    user: str | UnsetType = UNSET


def commitment_of(entry: bytes) -> bytes | None:
    """In hexadecimal; None for an entry that commits to nothing. No string of an entry holds an unescaped quote."""
    start = entry.find(_COMMITMENT)
    return entry[start + len(_COMMITMENT) : start + len(_COMMITMENT) + 64] if start >= 0 else None


def disclose(salted: bytes) -> Personal:
    return msgspec.json.decode(salted[SALT:], type=Personal)


def plain(data: bytes) -> dict[str, Any]:
    """An entry as plain JSON values."""
    told: dict[str, Any] = msgspec.json.decode(data)
    return told
