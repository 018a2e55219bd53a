"""What stands between a world and a control plane, as steps. Pure: what is held and what is declared come in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec

from entrepot.cli.remote import widening
from entrepot.cli.remote.held import Held, State
from entrepot.cli.remote.widening import Proposal
from entrepot.errors import Error
from entrepot.management.access.declaring import credential_digest
from entrepot.management.arm import quota
from entrepot.management.world import ref
from entrepot.policy import compile as compile_packs
from entrepot.policy import parse
from entrepot.policy.shipped import PREFIX
from entrepot.resources import model as declared
from entrepot.resources.documents import Document, body_of, camel, documents_of
from entrepot.resources.ids import SETTINGS, access_id, account_id
from entrepot.resources.schema import MANY

Verb = Literal["create", "change", "propose", "delete"]
Secrets = Callable[[str], str]

# What may be pruned, and in which order: nothing goes before what needs it.
FIRST_GONE: Final = ("deployment", "site")
LAST_GONE: Final = (
    "account",
    "resourceGroup",
    "subscription",
    "organization",
    "upstream",
    "model",
    "region",
    "provider",
    "operator",
)
PRUNABLE: Final = (*FIRST_GONE, *LAST_GONE)
# Steps of one stage do not wait for each other.
STAGES: Final = (
    *(f"delete {kind}" for kind in FIRST_GONE),
    *("operator", "provider", "region", "model", "upstream", "site", "settings", "gateway", "policyRelease"),
    *("organization", "propose organization", "subscription", "resourceGroup", "account", "propose account"),
    "deployment",
    *(f"delete {kind}" for kind in LAST_GONE),
)
# Keys of `[gateway]` that all gateways of an instance share; the others are one gateway's own.
_SHARED: Final = ("originHeader", "trustedProxies", "dataDomain", "geo", "limits", "limitStore")
_OWN: Final = ("territory", "workers")
# A gateway's own as well, but as they are where a world does not say them.
_OWN_IF_SAID: Final = ("accessLog", "tls")


class Difference(NamedTuple):
    field: str
    before: Any
    after: Any


class Request(NamedTuple):
    """`etag`: of the row that was looked at; another one by now is a conflict. Empty: there must be none yet."""

    method: str
    path: str
    body: Any = None
    etag: str | None = None


class Step(msgspec.Struct, frozen=True):
    """What is done to one resource: its requests one after the other, then its proposals."""

    verb: Verb
    kind: str
    name: str
    stage: str
    differences: tuple[Difference, ...] = ()
    requests: tuple[Request, ...] = ()
    proposals: tuple[Proposal, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """`kept`: what is there and not in the world, by kind. `notes` are told, `problems` keep it from being done."""

    steps: tuple[Step, ...]
    unchanged: int
    kept: dict[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def staged(self) -> Iterator[list[Step]]:
        for stage in STAGES:
            found = [each for each in self.steps if each.stage == stage]
            if found:
                yield found


def plan(world: declared.World, state: State, secrets: Secrets, prune: Iterable[str] = ()) -> Plan:
    """`secrets` resolves `env:NAME` and `file:PATH`, or raises Error. Raises WorldInvalid."""
    planning = _Planning(world, state, secrets)
    planning.catalogue()
    planning.shared()
    planning.policy()
    planning.organizations()
    planning.contracts()
    planning.accounts()
    kept = planning.rest(frozenset(prune))
    return Plan(tuple(planning.steps), planning.unchanged, kept, tuple(planning.notes), tuple(planning.problems))


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> tuple[Difference, ...]:
    return tuple(
        Difference(prefix + key, before.get(key), after.get(key))
        for key in (*before, *(key for key in after if key not in before))
        if before.get(key) != after.get(key)
    )


class _Planning:
    def __init__(self, world: declared.World, state: State, secrets: Secrets) -> None:
        self.world = world
        self.state = state
        self.steps: list[Step] = []
        self.notes: list[str] = []
        self.problems: list[str] = []
        self.unchanged = 0
        self._secrets = secrets
        self._documents: dict[str, list[Document]] = {}
        for document in documents_of(world):
            self._documents.setdefault(document.kind, []).append(document)

    def wanted(self, kind: str) -> list[Document]:
        return self._documents.get(kind, [])

    def catalogue(self) -> None:
        for kind in ("operator", "provider", "region", "model", "site"):
            for document in self.wanted(kind):
                self._put(document, self._compared(document))
        upstreams = {each.name: each for each in self.world.upstreams}
        for document in self.wanted("upstream"):
            self._upstream(document, upstreams[document.name])

    def _compared(self, document: Document) -> tuple[Held | None, dict[str, Any]]:
        """The row, and its properties in the terms of a world."""
        held = self.state.of_kind(document.kind).get(document.id.lower())
        if held is None:
            return None, {}
        struct = self.state.struct(held)
        return held, {} if struct is None else body_of(document.kind, struct)["properties"]

    def _put(
        self, document: Document, compared: tuple[Held | None, dict[str, Any]], more: Mapping[str, Any] | None = None
    ) -> None:
        """`more` is written beside what is declared, and never compared."""
        held, before = compared
        after: Mapping[str, Any] = document.body["properties"]
        found = differences(before, after)
        if held is not None and not found and not more:
            self.unchanged += 1
            return
        managed = {camel(key) for key in MANY[document.kind].keys}
        rest = {} if held is None else {key: each for key, each in held.properties.items() if key not in managed}
        body = {**_envelope(held), "properties": {**rest, **after, **(more or {})}}
        secret = [Difference(key, "…" if held is not None else None, "…") for key in more or ()]
        shown = (*found, *secret) if held is not None else ()
        self._step(document, held, shown, Request("PUT", document.id, body, held.etag if held is not None else ""))

    def _step(self, document: Document, held: Held | None, shown: Iterable[Difference], *requests: Request) -> None:
        verb: Verb = "create" if held is None else "change"
        self.steps.append(Step(verb, document.kind, document.name, document.kind, tuple(shown), requests))

    def _upstream(self, document: Document, upstream: declared.Upstream) -> None:
        held, before = self._compared(document)
        value = None
        if upstream.credential != "none":
            known = held.digests.get("credential") if held is not None else None
            value = self._secret(upstream.credential, document, known is not None)
            kept = known is not None and document.body["properties"].get("baseUrl") == before.get("baseUrl")
            kept = kept and document.body["properties"].get("proxy") == before.get("proxy")
            # For another address the control plane wants it again, though it is the same.
            if kept and value is not None and known == credential_digest(ref(document.id, "credential"), value):
                value = None
        self._put(document, (held, before), {"credentialValue": value} if value is not None else None)

    def _secret(self, reference: str, document: Document, there: bool) -> str | None:
        """The secret itself; None where it cannot be had, which is a problem unless the control plane has one."""
        try:
            return self._secrets(reference)
        except Error as error:
            told = f"{document.kind} `{document.name}`: {error.message}"
            if there:
                self.notes.append(f"{told}; the control plane keeps the one that it has")
            else:
                self.problems.append(told)
            return None

    def shared(self) -> None:
        """Settings, and the gateway's own keys. A world without `[gateway]` says nothing of either."""
        held = next(iter(self.state.of_kind("settings").values()), None)
        before = body_of("settings", self.state.gateway(None))["properties"]
        said = self.world.gateway != declared.Gateway()
        given = body_of("settings", self.world.gateway)["properties"]
        shared = {key: each for key, each in (given if said else before).items() if key in _SHARED}
        warn = {} if self.world.warn_days == declared.World().warn_days else {"warnDays": self.world.warn_days}
        there = {key: each for key, each in before.items() if key in _SHARED}
        if self.state.warn_days() != declared.World().warn_days:
            there["warnDays"] = self.state.warn_days()
        if found := differences(there, {**shared, **warn}):
            rest = {key: each for key, each in (held.properties if held else {}).items() if key not in _SHARED}
            rest.pop("warnDays", None)
            body = {**_envelope(held), "properties": {**rest, **shared, **warn}}
            document = Document("settings", SETTINGS, "default", body)
            self._step(document, held, found, Request("PUT", SETTINGS, body, held.etag if held is not None else ""))
        if said:
            self._gateway(given)

    def _gateway(self, given: Mapping[str, Any]) -> None:
        """Where a gateway listens is said where it is started: it is written for a new one, and then left alone."""
        name = self.world.gateway.log_name
        id_ = access_id("gateway", name)
        held = self.state.of_kind("gateway").get(id_.lower())
        kept = [key for key in _OWN_IF_SAID if key in given]
        own = {key: given[key] for key in (*_OWN, *kept) if key in given}
        if held is None:
            first = {key: each for key, each in given.items() if key not in (*_SHARED, "logName")}
            body = {"properties": first}
            self._step(Document("gateway", id_, name, body), None, (), Request("PUT", id_, body, ""))
            return
        before = {key: held.properties[key] for key in (*_OWN, *kept) if key in held.properties}
        if before.get("territory") == declared.UNKNOWN and "territory" not in own:
            before.pop("territory")
        if found := differences(before, own):
            patch = {"properties": {each.field: each.after for each in found}}
            self._step(held.document, held, found, Request("PATCH", id_, patch, held.etag))

    def policy(self) -> None:
        if not self.world.packs:
            self.notes.append("the world names no policy pack: the release in force stays")
            return
        wanted = compile_packs(parse(self.world.packs)).release
        release = self.state.release()
        if release is not None and release.document.name == wanted:
            self.unchanged += 1
            return
        packs: list[Any] = [
            pack.name if pack.name.startswith(PREFIX) else {"name": pack.name, "text": pack.data.decode()}
            for pack in self.world.packs
        ]
        before = None if release is None else release.document.name
        proposal = Proposal("policyRelease", access_id("policyRelease", ""), {"packs": packs}, wanted)
        step = Step(
            "propose",
            "policyRelease",
            wanted,
            "policyRelease",
            (Difference("inForce", before, wanted),),
            proposals=(proposal,),
        )
        self.steps.append(step)

    def organizations(self) -> None:
        for document in self.wanted("organization"):
            held, before = self._compared(document)
            operator = self._operator(document, held)
            if operator is None:
                continue
            standing = {} if held is None else before
            written, proposals = widening.organization(document.id, standing, document.body["properties"])
            body = {"properties": {**written, "operator": operator}}
            before = before if held is None else {**before, "operator": held.properties.get("operator")}
            self._put(document._replace(body=body), (held, before))
            self._propose(document, proposals)

    def _operator(self, document: Document, held: Held | None) -> str | None:
        """In whose book it stands: as it is, else as its subscription says, else of whoever is the only one."""
        found = (held.properties if held is not None else document.body["properties"]).get("operator")
        if found is None and len(self.world.operators) == 1:
            found = self.world.operators[0].name
        if found is None:
            self.problems.append(
                f"organization `{document.name}`: nothing says in which operator's book it stands; give it a "
                "subscription with `operator` and `channel`"
            )
        return found

    def _propose(self, document: Document, proposals: tuple[Proposal, ...]) -> None:
        if proposals:
            shown = tuple(Difference(each.kind, None, each.told) for each in proposals)
            step = Step("propose", document.kind, document.name, f"propose {document.kind}", shown, (), proposals)
            self.steps.append(step)

    def contracts(self) -> None:
        quotas = _quotas(self.world)
        for document in self.wanted("subscription"):
            if missing := [key for key in ("operator", "channel") if key not in document.body["properties"]]:
                fix = f"say {' and '.join(f'`{key}`' for key in missing)}"
                self.problems.append(f"subscription `{document.name}`: it has no accounts to tell its contract; {fix}")
                continue
            held = self.state.of_kind("subscription").get(document.id.lower())
            struct = self.state.subscription(held) if held is not None else None
            before = body_of("subscription", struct)["properties"] if struct is not None else {}
            after = dict(document.body["properties"])
            if "displayName" not in after and "displayName" in before:
                del before["displayName"]
            own = held.properties.get("quotas", {}) if held is not None else {}
            needed = {**own, **_raised(quotas.get(document.name.lower(), {}), own)}
            found = differences(before, after)
            if needed != own:
                after["quotas"] = needed
                found += differences(own, needed, "quotas.")
            self._known(document, held, found, {"properties": after})
        for document in self.wanted("resourceGroup"):
            held = self.state.of_kind("resourceGroup").get(document.id.lower())
            self._known(document, held, (), dict(document.body))

    def _known(self, document: Document, held: Held | None, found: tuple[Difference, ...], body: Any) -> None:
        """A resource whose PUT keeps what it does not say."""
        if held is not None and not found:
            self.unchanged += 1
            return
        etag = held.etag if held is not None else ""
        self._step(document, held, found if held is not None else (), Request("PUT", document.id, body, etag))

    def accounts(self) -> None:
        documents = {each.id: each for each in self.wanted("account")}
        deployments = {each.id: each for each in self.wanted("deployment")}
        for account in self.world.accounts:
            id_ = account_id(account.subscription, account.resource_group, account.name)
            self._account(documents[id_], account)
        for document in deployments.values():
            self._deployment(document)

    def _account(self, document: Document, account: declared.Account) -> None:
        held = self.state.of_kind("account").get(document.id.lower())
        struct = self.state.account(held) if held is not None else None
        before: dict[str, Any] = {} if struct is None else body_of("account", struct)
        after: Mapping[str, Any] = document.body
        if before and before["location"] != after["location"]:
            self.problems.append(
                f"account `{document.name}`: it is in `{before['location']}` and cannot move to `{after['location']}`; "
                "delete and purge it first, or give the new one another name"
            )
            return
        had, want = before.get("properties", {}), after["properties"]
        plain = {key: each for key, each in want.items() if key not in widening.OF_ACCOUNT}
        there = {key: each for key, each in had.items() if key not in widening.OF_ACCOUNT}
        found = list(differences(there, plain)) if held is not None else []
        requests: list[Request] = []
        if held is None:
            requests.append(Request("PUT", document.id, {**after, "properties": plain}, ""))
        elif found:
            patch = {"properties": {each.field: each.after for each in found}}
            requests.append(Request("PATCH", document.id, patch, held.etag))
        if keys := self._keys(document, account.keys, held):
            requests.append(Request("POST", f"{document.id}/setKeys", keys))
            found += [Difference(name, "…", "…") for name in keys]
        if want.get("state") == "suspended" and had.get("state") != "suspended":
            requests.append(Request("POST", f"{document.id}/suspend", {"reason": "suspended in the world's files"}))
            found.append(Difference("state", "active", "suspended"))
        if requests:
            self._step(document, held, found if held is not None else (), *requests)
        else:
            self.unchanged += 1
        self._propose(document, widening.account(document.id, had, want))

    def _keys(self, document: Document, keys: declared.Keys, held: Held | None) -> dict[str, str]:
        """Those to set. A key that the world does not name stays what it is."""
        digests = held.digests if held is not None else {}
        found: dict[str, str] = {}
        for name, reference in (("key1", keys.key1), ("key2", keys.key2)):
            if reference is None:
                continue
            value: str | None = reference
            if not reference.startswith("sha256:"):
                value = self._secret(reference, document, name in digests)
            if value is not None and widening.digest(value) != digests.get(name):
                found[name] = value
        return found

    def _deployment(self, document: Document) -> None:
        held = self.state.of_kind("deployment").get(document.id.lower())
        sku, model = document.body["sku"], document.body["properties"]["model"]
        there: Mapping[str, Any] = held.document.body if held is not None else {}
        found = differences({key: there.get("sku", {}).get(key) for key in sku}, sku, "sku.")
        of = there.get("properties", {}).get("model", {})
        named = {key: model[key] for key in ("name", "version")}  # the rest is the control plane's to say
        if changed := differences({key: of.get(key) for key in named}, named, "model."):
            found += changed
        elif held is not None:
            model = of
        rest = {key: each for key, each in there.get("properties", {}).items() if key != "deploymentState"}
        body = {**_envelope(held), "sku": {**there.get("sku", {}), **sku}, "properties": {**rest, "model": model}}
        name = f"{document.id.split('/')[8]}/{document.name}"
        self._known(document._replace(name=name), held, found, body)

    def rest(self, prune: frozenset[str]) -> dict[str, tuple[str, ...]]:
        """What the world does not have: deleted where that was asked, else told."""
        kept: dict[str, tuple[str, ...]] = {}
        for kind in PRUNABLE:
            wanted = {each.id.lower() for each in self.wanted(kind)}
            extra = [each for id_, each in self.state.of_kind(kind).items() if id_ not in wanted]
            if kind in prune:
                self.steps += [
                    Step("delete", kind, _name(each), f"delete {kind}", (), (_removal(each),)) for each in extra
                ]
            elif extra:
                kept[kind] = tuple(_name(each) for each in extra)
        return kept


def _removal(held: Held) -> Request:
    return Request("DELETE", held.document.id, None, held.etag)


def _name(held: Held) -> str:
    parts = held.document.id.split("/")
    return f"{parts[8]}/{held.document.name}" if held.document.kind == "deployment" else held.document.name


def _envelope(held: Held | None) -> dict[str, Any]:
    """What of a row's document is neither computed nor declared: its tags."""
    body = held.document.body if held is not None else {}
    return {key: body[key] for key in ("tags", "location") if body.get(key)}


def _quotas(world: declared.World) -> dict[str, dict[tuple[str, str, str], int]]:
    """Of each subscription, by (location, model, SKU): the capacity that the world deploys."""
    found: dict[str, dict[tuple[str, str, str], int]] = {}
    for account in world.accounts:
        own = found.setdefault(account.subscription.lower(), {})
        for each in account.deployments:
            key = (account.location, each.model, each.sku)
            own[key] = own.get(key, 0) + each.capacity
    return found


def _raised(needed: Mapping[tuple[str, str, str], int], own: Mapping[str, Any]) -> dict[str, int]:
    """The quotas that do not suffice: what the operator declares, the subscription may draw."""
    return {
        f"{location}/{quota.usage_name(model, sku)}": capacity
        for (location, model, sku), capacity in needed.items()
        if capacity > quota.limit(model, sku, location, own, {})
    }
