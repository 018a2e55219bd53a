"""Resources as JSON documents, the way the control plane stores and answers them, to the structs of `model` and back.

The rules are the world format's own (`schema`): here are only the other spelling, camelCase under `properties`, and the
places of mistakes. Instants are RFC 3339 strings. `Entrepot.Access` is strict, so that a slip of the pen is told;
`Microsoft.*` passes over what it does not know, as Azure does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from entrepot.resources import model as declared
from entrepot.resources import schema, values
from entrepot.resources.checking import check_gateway
from entrepot.resources.ids import (
    access_id,
    account_id,
    deployment_id,
    group_id,
    part,
    site_name,
    subscription_id,
)
from entrepot.resources.lines import Path
from entrepot.resources.problems import Problem, WorldInvalid
from entrepot.resources.reading import (
    Key,
    Mistake,
    Reader,
    Reported,
    Shape,
    Sheet,
    array,
    describe,
    read_table,
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d([Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d))?")


class Document(NamedTuple):
    """One resource; `body` is Azure's envelope without what is computed: `location`, `sku`, `tags`, `properties`."""

    kind: str
    id: str
    name: str
    body: Mapping[str, Any]


def camel(name: str) -> str:
    """`legal_name` → `legalName`."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _instant(value: Any, path: Path, key: str | int, sheet: Sheet) -> int:
    if type(value) is not str or not _RFC3339.fullmatch(value):
        raise Mistake(
            f"expected an instant as a string, found {describe(value) if type(value) is not str else f'`{value}`'}",
            'write RFC 3339 such as `"2027-01-31T00:00:00Z"`',
        )
    try:
        found = date.fromisoformat(value) if len(value) == 10 else datetime.fromisoformat(value.upper())
    except ValueError:
        raise Mistake(f"`{value}` is no instant", 'write RFC 3339 such as `"2027-01-31T00:00:00Z"`') from None
    return values.instant(found, path, key, sheet)


def timestamp(at_ms: int) -> str:
    """RFC 3339 in UTC."""
    text = (_EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00").removesuffix(".000") + "Z"


def milliseconds(text: object) -> int | None:
    """The instant of an RFC 3339 string; None when it is none."""
    try:
        return _instant(text, (), "", Sheet())
    except Mistake:
        return None


def _credential(value: Any, path: Path, key: str | int, sheet: Sheet) -> str:
    """Only what the control plane keeps: a reference to its host's files would give them to whoever may write one."""
    found = values.text(value, path, key, sheet)
    if found not in ("none", "secret"):
        raise Mistake("not `secret` or `none`", "write the secret itself to `credentialValue`; it is kept encrypted")
    return found


_READERS: Final[Mapping[Any, Reader]] = {values.instant: _instant, values.credential: _credential}
_FORMATS: Final = {
    "openai": "OpenAI",
    "microsoft": "Microsoft",
    "deepseek": "DeepSeek",
    "xai": "xAI",
    "anthropic": "Anthropic",
}
_COMPUTED: Final = frozenset({"provisioningState"})


class _Form(NamedTuple):
    """A table of the world format in camelCase. `more` are fields that belong to whoever keeps the resource."""

    shape: Shape
    inner: Mapping[str, _Form]
    more: frozenset[str]

    def take(self, properties: Mapping[str, Any]) -> dict[str, Any]:
        """What the shape is to read of it. `null` is what is not there."""
        return {key: value for key, value in properties.items() if key not in self.more and value is not None}

    def known(self, properties: Mapping[str, Any]) -> dict[str, Any]:
        """The same, passing over what the shape does not know."""
        readers = self.shape.readers
        return {key: value for key, value in properties.items() if key in readers and value is not None}


def _form(
    shape: Shape,
    *more: str,
    lists: Mapping[str, _Form] | None = None,
    objects: Mapping[str, _Form] | None = None,
) -> _Form:
    """`lists` and `objects` are the forms of what stands in keys of the shape (as it spells them)."""
    lists, objects = lists or {}, objects or {}
    keys: dict[str, Key] = {}
    for name, (reader, field) in shape.readers.items():
        if name in lists:
            keys[camel(name)] = Key(array(_object(lists[name]), "objects"), field)
        elif name in objects:
            keys[camel(name)] = Key(_object(objects[name]), field)
        else:
            keys[camel(name)] = Key(_READERS.get(reader, reader), field)
    inner = {camel(name): form for name, form in {**lists, **objects}.items()}
    return _Form(Shape(shape.kind, shape.struct, keys, shape.check), inner, _COMPUTED | frozenset(more))


def _object(form: _Form) -> Reader:
    def read(value: Any, path: Path, key: str | int, sheet: Sheet) -> Any:
        if type(value) is not dict:
            raise Mistake(f"expected an object, found {describe(value)}", "write `{ … }`")
        return read_table(form.take(value), (*path, key), form.shape, sheet)

    return read


_EGRESS = _form(schema.EGRESS, "grounds", "proposal")
_ELIGIBILITY = _form(schema.ELIGIBILITY, "grounds", "proposal")
_QUOTA = _form(schema.QUOTA, lists={"budgets": _form(schema.BUDGET)})
_GATEWAY_OBJECTS: Final = {
    "tls": _form(schema.TLS),
    "limits": _form(schema.LIMITS),
    "geo": _form(schema.GEO),
    "limit_store": _form(schema.LIMIT_STORE),
}
_FORMS: Final[Mapping[str, _Form]] = {
    "operator": _form(schema.OPERATOR),
    "region": _form(schema.REGION),
    "provider": _form(schema.PROVIDER),
    "model": _form(schema.MODEL, lists={"prices": _form(schema.PRICE)}, objects={"rate": _form(schema.RATE)}),
    "upstream": _form(schema.UPSTREAM, objects={"proxy": _form(schema.PROXY), "timeouts": _form(schema.TIMEOUTS)}),
    "site": _form(schema.SITE),
    "organization": _form(
        schema.ORGANIZATION,
        "operator",
        "documents",
        "kycReview",
        lists={"eligibility": _ELIGIBILITY, "owners": _form(schema.OWNER)},
        objects={
            "registration": _form(schema.REGISTRATION),
            "licence": _form(schema.LICENCE, "grounds"),
            "limits": _QUOTA,
        },
    ),
    "gateway": _form(schema.GATEWAY, "sealingKey", "enrolledAt", "version", "ledgerKeys", objects=_GATEWAY_OBJECTS),
    "settings": _form(schema.GATEWAY, "warnDays", "issuer", objects=_GATEWAY_OBJECTS),
    "subscription": _form(schema.SUBSCRIPTION),
    "account": _form(schema.ACCOUNT, lists={"egress": _EGRESS}, objects={"limits": _QUOTA, "key_limits": _QUOTA}),
    "deployment": _form(schema.DEPLOYMENT),
}
# INVARIANT: nothing else of an account's properties is read. The others are its subscription's, or other resources.
_OF_ACCOUNT: Final = ("state", "residency", "egress", "disableLocalAuth", "limits", "keyLimits")
_NO_KEY: Final = "sha256:" + "0" * 64
# Where a key of the shape stands in the document, unless it is under `properties` by its own name.
_PLACES: Final[Mapping[tuple[str, str], str]] = {
    ("model", "version"): "name",
    ("subscription", "id"): "name",
    ("account", "location"): "location",
    ("account", "subscription"): "id",
    ("account", "resourceGroup"): "id",
    ("deployment", "sku"): "sku.name",
    ("deployment", "capacity"): "sku.capacity",
    ("deployment", "model"): "properties.model.name",
    ("deployment", "version"): "properties.model.version",
}


class Reading:
    """Documents onto one sheet, for `checking.check_world`; every mistake knows its resource and its field."""

    def __init__(self) -> None:
        self.sheet = Sheet()
        self._deployments: dict[str, Sequence[Document]] = {}

    def resource(self, document: Document) -> Any:
        """The struct of a resource of `Entrepot.Access` that has one; None when it has mistakes."""
        form = _FORMS[document.kind]
        given = form.take(self._properties(document))
        if document.kind == "model":
            given["name"], _, given["version"] = document.name.partition("@")
        elif document.kind != "site":
            given["name"] = document.name
        found = self._read(document.id, document.kind, given, form)
        if found is not None and document.kind == "site" and document.name != site_name(found.network):
            what, fix = f"`{found.network}` is not what the name says", f"call it `{site_name(found.network)}`"
            self.sheet.mistake(("site", 0, "network"), what, fix, document.id)
            return None
        return found

    def subscription(self, document: Document) -> declared.Subscription | None:
        form = _FORMS["subscription"]
        given = form.known(self._properties(document)) | {"id": document.name}
        found: declared.Subscription | None = self._read(document.id, "subscription", given, form)
        return found

    def account(
        self,
        document: Document,
        deployments: Sequence[Document],
        subscription: declared.Subscription | None,
        keys: declared.Keys | None,
    ) -> declared.Account | None:
        """Operator and channel are the subscription's contract, never what stands in the account."""
        form, properties = _FORMS["account"], self._properties(document)
        given: dict[str, Any] = {key: properties[key] for key in _OF_ACCOUNT if properties.get(key) is not None}
        given |= {
            "name": document.name.lower(),
            "resourceGroup": part(document.id, "resourceGroups"),
            "location": _location(document.body.get("location")),
            "keys": {"key1": _NO_KEY},
        }
        self._deployments[document.id] = deployments
        if subscription is None:
            self._missing(document, ("account", 0, "subscription"), "there is no such subscription")
            return None
        given |= {"subscription": subscription.id}
        if subscription.operator is None or subscription.channel is None:
            self._missing(document, ("account", 0, "subscription"), "the subscription has no operator and channel")
            return None
        given |= {"operator": subscription.operator, "channel": subscription.channel}
        found = self._read(document.id, "account", {k: v for k, v in given.items() if v is not None}, form)
        self.sheet.rows.pop("keys", None)
        if keys is None:
            self._missing(document, ("account", 0, "keys"), "the account has no keys")
        inside = [self._deployment(document.id, at, each) for at, each in enumerate(deployments)]
        if found is None or keys is None or None in inside:
            return None
        running = tuple(
            each
            for each, of in zip(inside, deployments, strict=True)
            if self._properties(of).get("deploymentState") != "Paused"
        )
        account: declared.Account = msgspec.structs.replace(found, keys=keys, deployments=running)
        return account

    def gateway(self, settings: Document | None, gateway: Document | None) -> declared.Gateway | None:
        """A gateway as its row and the instance's settings give it; the row goes before them."""
        given: dict[str, Any] = {}
        for document in (settings, gateway):
            if document is not None:
                given |= _FORMS[document.kind].take(self._properties(document))
        if gateway is not None:
            given.setdefault("logName", gateway.name)
        of = gateway or settings
        found: declared.Gateway | None = self._read(of.id if of else "", "gateway", given, _FORMS["gateway"])
        check_gateway(self.sheet)
        self.sheet.rows.pop("gateway", None)  # a world has one gateway, a control plane many
        return found

    def place(self, file: str, path: Path) -> str:
        """`properties.kycExpires` of a resource, with the resource before it."""
        document, field = self._field(file, path)
        return f"`{document}` ({field})" if field else f"`{document}`"

    def problems(self) -> tuple[Problem, ...]:
        """What was found wrong, `file` being the resource's id and `key` the field."""
        found = []
        for finding in self.sheet.findings:
            document, field = self._field(finding.file, finding.path)
            problem = Problem(document, None, field, finding.what, finding.fix)
            found.append(msgspec.structs.replace(problem, level="warning") if finding.warning else problem)
        return tuple(found)

    def _deployment(self, account: str, at: int, document: Document) -> declared.Deployment | None:
        sku, properties = document.body.get("sku"), self._properties(document)
        model = properties.get("model")
        sku, model = (each if isinstance(each, dict) else {} for each in (sku, model))
        capacity = sku.get("capacity")
        given = {
            "name": document.name,
            "model": model.get("name"),
            "version": model.get("version"),
            "sku": sku.get("name"),
            "capacity": int(capacity) if type(capacity) is str and capacity.isdecimal() else capacity,
        }
        given = {key: value for key, value in given.items() if value is not None}
        self.sheet.file = account
        found: declared.Deployment | None = self._table(
            given, ("account", 0, "deployment", at), _FORMS["deployment"].shape
        )
        return found

    def _properties(self, document: Document) -> Mapping[str, Any]:
        properties = document.body.get("properties")
        if properties is None:
            return {}
        if type(properties) is not dict:
            what = f"expected an object, found {describe(properties)}"
            self.sheet.mistake((document.kind, 0), what, "write `{ … }`", document.id)
            return {}
        return properties

    def _missing(self, document: Document, path: Path, what: str) -> None:
        self.sheet.mistake(path, what, "put the resource where there is one", document.id)

    def _read(self, file: str, kind: str, given: dict[str, Any], form: _Form) -> Any:
        self.sheet.file = file
        return self._table(given, (kind, 0), form.shape)

    def _table(self, given: dict[str, Any], path: Path, shape: Shape) -> Any:
        try:
            return read_table(given, path, shape, self.sheet)
        except Reported:
            return None

    def _field(self, file: str, path: Path) -> tuple[str, str]:
        """The resource that a path of its world file leads to, and the field there."""
        kind, inner = (str(path[0]) if path else ""), path[2:]
        deployments = self._deployments.get(file)
        if kind == "account" and deployments and inner[:1] == ("deployment",) and len(inner) > 1:
            kind, file, inner = "deployment", deployments[int(inner[1])].id, inner[2:]
        if not inner:
            return file, ""
        first, *rest = inner
        text = camel(str(first))
        text = "name" if text == "name" else _PLACES.get((kind, text), f"properties.{text}")
        for each in rest:
            text += f"[{each}]" if isinstance(each, int) else f".{each if first == 'models' else camel(each)}"
        return file, text


def _location(value: object) -> object:
    """`Japan East` is `japaneast`, as Azure has it."""
    return value.replace(" ", "").lower() if isinstance(value, str) else value


def body_of(kind: str, struct: msgspec.Struct) -> dict[str, Any]:
    """The document's body of a struct, without what it has from elsewhere: name, keys, deployments, its contract."""
    written = _written(struct, _FORMS[kind])
    if kind == "deployment":
        model = {"name": written.pop("model"), "version": written.pop("version")}
        sku = {"name": written.pop("sku", "Standard"), "capacity": written.pop("capacity", 1)}
        return {"sku": sku, "properties": {"model": model}}
    body: dict[str, Any] = {}
    if kind == "account":
        body = {"location": written.pop("location"), "kind": "OpenAI", "sku": {"name": "S0"}}
        for key in ("subscription", "resourceGroup", "channel", "operator", "keys", "deployment"):
            written.pop(key, None)
    for key in ("name", "id", "version") if kind == "model" else ("name", "id"):
        written.pop(key, None)
    return {**body, "properties": written}


def _written(struct: msgspec.Struct, form: _Form) -> dict[str, Any]:
    defaults = {each.name: each for each in msgspec.structs.fields(struct)}
    out: dict[str, Any] = {}
    for key, (reader, field) in form.shape.readers.items():
        value = getattr(struct, field)
        of = defaults[field]
        if not of.required and value == of.default:
            continue
        if key in form.inner:
            inner = form.inner[key]
            many = isinstance(value, tuple)
            out[key] = [_written(each, inner) for each in value] if many else _written(value, inner)
        elif reader is _instant:
            out[key] = timestamp(value)
        elif reader is values.share:
            out[key] = value / 1_000_000
        elif isinstance(value, tuple):
            out[key] = list(value)
        elif not isinstance(value, msgspec.Struct):
            out[key] = value
    return out


def documents_of(world: declared.World) -> list[Document]:
    """Every resource that a world declares, in an order in which one after the other can be put.

    Secrets are not in them: `credential` is `secret` where there is one, keys are left out. Raises WorldInvalid where
    accounts of a subscription have different contracts: there operator and channel are the subscription's.
    """
    found = [
        Document(kind, access_id(kind, name), name, body_of(kind, each))
        for kind, many in (
            ("operator", world.operators),
            ("provider", world.providers),
            ("region", world.regions),
            ("model", world.models),
        )
        for each in many
        for name in (f"{each.name}@{each.version}" if isinstance(each, declared.Model) else each.name,)
    ]
    for upstream in world.upstreams:
        kept = upstream if upstream.credential == "none" else msgspec.structs.replace(upstream, credential="secret")
        found.append(_access("upstream", upstream.name, kept))
    found += [_access("site", site_name(each.network), each) for each in world.sites]
    contracts = _contracts(world)
    operators = {each.organization: contracts[each.id].operator for each in reversed(world.subscriptions)}
    for organization in world.organizations:
        document = _access("organization", organization.name, organization)
        if (operator := operators.get(organization.name)) is not None:
            document.body["properties"]["operator"] = operator
        found.append(document)
    for subscription in contracts.values():
        body = body_of("subscription", subscription)
        found.append(Document("subscription", subscription_id(subscription.id), subscription.id, body))
    groups: dict[str, Document] = {}
    accounts: list[Document] = []
    providers = _providers(world)
    for account in world.accounts:
        group = group_id(account.subscription, account.resource_group)
        body = {"location": account.location, "properties": {}}
        groups.setdefault(group.lower(), Document("resourceGroup", group, account.resource_group, body))
        accounts += _account_documents(account, providers)
    return [*found, *groups.values(), *accounts]


def _access(kind: str, name: str, struct: msgspec.Struct) -> Document:
    return Document(kind, access_id(kind, name), name, body_of(kind, struct))


def _account_documents(account: declared.Account, providers: Mapping[str, str]) -> list[Document]:
    own = account_id(account.subscription, account.resource_group, account.name)
    found = [Document("account", own, account.name, body_of("account", account))]
    for each in account.deployments:
        body = body_of("deployment", each)
        body["properties"]["model"]["format"] = model_format(providers.get(f"{each.model}@{each.version}", "openai"))
        found.append(Document("deployment", deployment_id(own, each.name), each.name, body))
    return found


def model_format(provider: str) -> str:
    """What Azure calls whose model it is; of a provider that Azure has no word for, its name."""
    return _FORMATS.get(provider, provider)


def _providers(world: declared.World) -> dict[str, str]:
    """Whose model each `name@version` is: as its own row says, else the first by name of those that serve it."""
    found: dict[str, str] = {}
    for upstream in sorted(world.upstreams, key=lambda each: each.provider):
        for model in upstream.models:
            found.setdefault(model, upstream.provider)
    return found | {f"{each.name}@{each.version}": each.provider for each in world.models if each.provider is not None}


def _contracts(world: declared.World) -> dict[str, declared.Subscription]:
    """The subscriptions with the contract that their accounts have."""
    found = {each.id: each for each in world.subscriptions}
    problems = []
    for account in world.accounts:
        before = found[account.subscription]
        now = msgspec.structs.replace(before, operator=account.operator, channel=account.channel)
        if (before.operator or account.operator, before.channel or account.channel) != (now.operator, now.channel):
            what = f"another operator or channel than its subscription `{before.id}` or an account before it"
            fix = "give accounts under another contract a subscription of their own"
            problems.append(Problem("world", None, f"account[{account.name}].operator", what, fix))
        found[account.subscription] = now
    if problems:
        raise WorldInvalid(problems)
    return found
