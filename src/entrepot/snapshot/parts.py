"""What a snapshot is made of: keys, accounts, deployments and their candidate targets with policy masks. Immutable."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final, final

import msgspec

from entrepot.http1.message import render_headers
from entrepot.origin.resolve import Egresses
from entrepot.policy import Timeline
from entrepot.providers.request import Prepared
from entrepot.resources import model as declared

NO_LIMITS: Final = declared.Quota()


@final
class Candidate:
    """One target that a deployment's SKU allows, whether or not the policy will permit it.

    `facts` is the policy's `target.*` and `egress.*` as a ledger entry has them. `model` is the JSON string that the
    upstream calls the model; `head` holds the operator's credential.
    """

    __slots__ = (
        "facts",
        "head",
        "mask",
        "model",
        "priority",
        "region",
        "region_head",
        "targets",
        "territory",
        "upstream",
        "weight",
    )

    def __init__(
        self,
        upstream: declared.Upstream,
        region: declared.Region,
        model: str,
        prepared: Prepared,
        mask: int,
        facts: msgspec.Raw,
    ) -> None:
        self.upstream: Final = upstream.name
        self.region: Final = region.name
        self.territory: Final = region.territory
        self.priority: Final = upstream.priority
        self.weight: Final = upstream.weight
        self.mask: Final = mask
        self.facts: Final = facts
        self.model: Final = msgspec.Raw(msgspec.json.encode(model))
        self.head: Final = prepared.head
        self.targets: Final = prepared.targets
        self.region_head: Final = render_headers([("x-ms-region", _shown(region))])

    def __repr__(self) -> str:
        return f"Candidate({self.upstream})"


@final
class Standing:
    """All that the policy knows of a client. Accounts share it.

    `facts` is the policy's `account.*` and `org.*` as a ledger entry has them, beside each of the timeline's masks.
    """

    __slots__ = ("facts", "timeline")

    def __init__(self, timeline: Timeline, facts: tuple[msgspec.Raw, ...]) -> None:
        self.timeline: Final = timeline
        self.facts: Final = facts

    def facts_at(self, at_ms: int) -> msgspec.Raw:
        return self.facts[bisect_right(self.timeline.cuts, at_ms)]


@final
class Deployment:
    """`candidates` are in the order of priority, then name; `provider` is the first one's. Accounts share them.

    INVARIANT: one tuple of candidates is that of one model and version.
    """

    __slots__ = ("candidates", "model", "name", "provider", "version")

    def __init__(self, name: str, model: str, version: str, provider: str, candidates: tuple[Candidate, ...]) -> None:
        self.name: Final = name
        self.model: Final = model
        self.version: Final = version
        self.provider: Final = provider
        self.candidates: Final = candidates


@final
class Account:
    """`egress` holds its attested networks. `takes_keys` and `limits_keys` are what calls ask most of `given`."""

    __slots__ = ("deployments", "egress", "given", "limits_keys", "name", "organization", "standing", "takes_keys")

    def __init__(
        self,
        given: declared.Account,
        organization: declared.Organization,
        standing: Standing,
        egress: Egresses | None,
        deployments: dict[str, Deployment],
    ) -> None:
        self.name: Final = given.name
        self.standing: Final = standing
        self.egress: Final = egress
        self.deployments: Final = deployments
        self.takes_keys: Final = not given.disable_local_auth
        self.limits_keys: Final = given.key_limits != NO_LIMITS
        self.organization: Final = organization
        self.given: Final = given


@final
class Key:
    """Which of its account's keys it is: `key1` or `key2`."""

    __slots__ = ("account", "name")

    def __init__(self, account: Account, name: str) -> None:
        self.account: Final = account
        self.name: Final = name


def _shown(region: declared.Region) -> str:
    """The display name if a header can carry it to every client, else the name."""
    shown = region.display_name or region.name
    return shown if shown.isascii() and shown.isprintable() else region.name
