"""The components of the OpenAPI document: one schema a kind as sent and answered, one as merged, and what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from entrepot.management.access import organizations, proposal
from entrepot.management.access.schemas import REFERENCE, Schema, camel, component, one_of, table, text
from entrepot.resources import schema
from entrepot.resources.reading import Shape

_READ: Final = {"readOnly": True}
REASON: Final = r"^[^\x00]*[^\s\x00][^\x00]*$"
ANY: Final = r"^[^\x00]*$"
_INSTANT: Final[Schema] = {"type": "string", "format": "date-time"}
_PERSON: Final[Schema] = {
    "type": "object",
    "properties": {"principal": text(), "name": text(), "owner": text("whose principal it is")},
}
# A kind's Shape, the keys of it that are not in `properties` (they are the resource's name), and what is added to it.
_SHAPES: Final[Mapping[str, Shape]] = {
    **{kind: shape for kind, shape in schema.MANY.items() if kind not in {"subscription", "account"}},
    "gateway": schema.GATEWAY,
    "settings": schema.GATEWAY,
}
_NAMED: Final = frozenset({"name"})
_ELSEWHERE: Final[Mapping[str, frozenset[str]]] = {"model": frozenset({"name", "version"}), "site": frozenset()}
_ADDED: Final[Mapping[str, Mapping[str, Schema]]] = {
    "upstream": {
        "credential": one_of("none", "secret") | {"description": "`secret`: one was written to `credentialValue`"},
        "credentialValue": text("the secret itself: kept encrypted, never shown") | {"writeOnly": True},
    },
    "organization": {
        "operator": {
            "type": "string",
            "pattern": "^([A-Za-z0-9][A-Za-z0-9._-]{0,127})$",
            "description": "in whose book it stands; never changes",
        },
        "documents": {"type": "array", "items": {"$ref": REFERENCE + "Document"}},
        "kycReview": {
            "type": "object",
            "properties": {"reviewer": _PERSON, "reviewedAt": _INSTANT},
            "description": "who last approved or rejected; written by the system",
            **_READ,
        },
    },
    "gateway": {
        "sealingKey": text("its X25519 key, in base64") | _READ,
        "enrolledAt": text() | _READ,
        "ledgerKeys": {"type": "array", "items": text("a verifier key of C2SP signed-note")} | _READ,
        "version": text() | _READ,
        "status": {
            "type": "object",
            "properties": {
                "enrolled": {"type": "boolean"},
                "revision": {"type": ["string", "null"], "description": "what all its workers run"},
                "ready": {"type": "boolean"},
                "trusted": {
                    "type": "boolean",
                    "description": "it believes the keys that there are now",
                },
                "lastSeenAt": {"type": ["string", "null"], "format": "date-time"},
            },
            **_READ,
        },
    },
    "settings": {
        "warnDays": {"type": "integer", "minimum": 0, "maximum": 3_650, "default": 30},
        "issuer": {"type": "object", "description": "the token authority's public keys", **_READ},
    },
}
_REQUIRED: Final[Mapping[str, tuple[str, ...]]] = {"organization": ("operator",)}


def title(kind: str) -> str:
    """`policyRelease` → `PolicyRelease`."""
    return kind[0].upper() + kind[1:]


def schemas() -> dict[str, Schema]:
    found: dict[str, Schema] = dict(_PLAIN)
    for shape in schema.INNER.values():
        if shape.kind not in {"deployment", "keys"}:
            found[component(shape)] = table(shape) | {"additionalProperties": False}
    for kind in ("eligibility", "egress", "licence"):
        inner = found[title(kind)]
        inner["properties"] = inner["properties"] | {"grounds": text(), "proposal": text() | _READ}
    for kind in _SHAPES:
        properties = _properties(kind)
        found[title(kind)] = resource(properties)
        found[f"{title(kind)}Patch"] = resource(_patched(properties), patch=True)
    return found


def _properties(kind: str) -> Schema:
    without = _ELSEWHERE.get(kind, _NAMED)
    made = table(_SHAPES[kind], without=without)
    added = _ADDED.get(kind, {})
    required = sorted({*made.get("required", ()), *_REQUIRED.get(kind, ())} - ({"credential"} & added.keys()))
    made = made | {
        "properties": {**made["properties"], **added, "provisioningState": text() | _READ},
        "required": required,
        "additionalProperties": False,
    }
    if kind == "upstream":
        made["anyOf"] = [{"required": ["credential"]}, {"required": ["credentialValue"]}]
    return made


def _patched(properties: Schema) -> Schema:
    """Nothing is required; null takes out what need not be there."""
    required = set(properties["required"])
    inner = {
        name: each if name in required or each.get("readOnly") else {"anyOf": [each, {"type": "null"}]}
        for name, each in properties["properties"].items()
    }
    return {"type": "object", "properties": inner, "additionalProperties": False}


def resource(properties: Schema, *, patch: bool = False) -> Schema:
    tag: Schema = {"type": "string", "pattern": ANY, "maxLength": 256}
    told: Schema = {
        "type": "object",
        "properties": {
            "id": text() | _READ,
            "name": text() | _READ,
            "type": text() | _READ,
            "etag": text() | _READ,
            "systemData": {"type": "object", **_READ},
            "location": {"type": "string", "pattern": ANY},
            "tags": {
                "type": "object",
                "maxProperties": 50,
                "propertyNames": {"pattern": ANY, "maxLength": 512},
                "additionalProperties": {"anyOf": [tag, {"type": "null"}]} if patch else tag,
            },
            "properties": properties,
        },
        "additionalProperties": False,
    }
    return told if patch else told | {"required": ["properties"]}


def _pack() -> Schema:
    kinds: list[Schema] = [text("`entrepot:NAME`, a shipped pack")]
    for key, told in (("text", "TOML"), ("data", "the same in base64")):
        held = {"type": "string", "pattern": ANY, "description": told}
        properties = {"name": text("of the pack, in messages"), key: held}
        kinds.append({"type": "object", "properties": properties, "required": ["name"], "additionalProperties": False})
    return {"anyOf": kinds}


_CHANGES: Final[Mapping[str, Schema]] = {
    "policyRelease": {
        "type": "object",
        "properties": {
            "packs": {"type": "array", "minItems": 1, "items": _pack()},
            "warnDays": {"type": "integer", "minimum": 0, "maximum": 3_650},
        },
        "required": ["packs"],
        "additionalProperties": False,
    },
    "eligibility": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}$"},
            "expires": _INSTANT,
            "grounds": text("the evidence or clause that it rests on"),
        },
        "required": ["name", "grounds"],
        "additionalProperties": False,
    },
    "egress": {
        "type": "object",
        "properties": {"egress": {"type": "array", "items": {"$ref": REFERENCE + "Egress"}}},
        "required": ["egress"],
        "additionalProperties": False,
    },
    "residency": {
        "type": "object",
        "properties": {"residency": {"type": "array", "items": text("a territory or a zone")}},
        "required": ["residency"],
        "additionalProperties": False,
    },
    "reinstatement": {
        "type": "object",
        "properties": {
            "kyc": {"const": "approved"},
            "kycExpires": _INSTANT,
            "screening": {"const": "clear"},
        },
        "additionalProperties": False,
    },
}


def _request() -> Schema:
    reason: Schema = {"type": "string", "pattern": REASON, "maxLength": 2_000}
    kinds: list[Schema] = []
    for kind in proposal.KINDS:
        inner: dict[str, Schema] = {
            "kind": {"const": kind},
            "subject": {"type": "string", "pattern": "^/", "maxLength": 2_048},
            "change": _CHANGES[kind],
            "reason": reason,
        }
        required = ["kind", "change", "reason"]
        if kind == "policyRelease":
            inner |= {"subject": {"const": proposal.RELEASES}, "effectiveAt": _INSTANT}
        else:
            required.append("subject")
        kinds.append({"type": "object", "properties": inner, "required": required, "additionalProperties": False})
    return {"anyOf": kinds}


def _proposal() -> Schema:
    return {
        "type": "object",
        "properties": {
            "kind": one_of(*proposal.KINDS),
            "subject": text(),
            "change": {"type": "object"},
            "reason": text(),
            "effectiveAt": _INSTANT,
            "state": one_of("proposed", *proposal.STATES.values()),
            "proposedBy": _PERSON,
            "proposedAt": _INSTANT,
            "decidedBy": _PERSON,
            "decidedAt": _INSTANT,
            "decisionReason": {"type": "string"},
            "appliesAt": _INSTANT,
            "applied": {"type": "boolean", "description": "whether its instant has come"},
            "breakGlass": {"type": "object", "description": "its proposer approved it, alone"},
            "subjectEtag": {"type": "string"},
            "release": text("the content hash of the packs"),
            "reports": {"type": "object", "description": "`check`, `diff` and `replay` of a policy release"},
        },
        "required": ["kind", "subject", "change", "reason", "state", "proposedBy", "proposedAt"],
    }


def _principal() -> Schema:
    return {
        "type": "object",
        "properties": {
            "displayName": text() | {"maxLength": 256},
            "operator": text("whose staff it is; without it, the instance's") | {"maxLength": 256},
            "owner": text("the person whose principal it is: none approves what another of theirs proposed")
            | {"maxLength": 256},
            "state": one_of("Enabled", "Disabled"),
            "appId": {"type": "string", "format": "uuid", "description": "client id and object id", **_READ},
            "secretMadeAt": _INSTANT | _READ,
            "provisioningState": text() | _READ,
        },
        "additionalProperties": False,
    }


_DECISION: Final[Schema] = {"reason": {"type": "string", "pattern": ANY, "maxLength": 2_000}}
_DETAIL: Final[Schema] = {
    "type": "object",
    "properties": {"code": {"type": "string"}, "message": {"type": "string"}, "target": {"type": "string"}},
    "required": ["code", "message"],
}
_PLAIN: Final[Mapping[str, Schema]] = {
    "Error": {
        "type": "object",
        "properties": {
            "error": _DETAIL | {"properties": {**_DETAIL["properties"], "details": {"type": "array", "items": _DETAIL}}}
        },
        "required": ["error"],
    },
    "Document": {
        "type": "object",
        "properties": {
            **{camel(key): text() for key in sorted(organizations.DOCUMENT)},
            "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        },
        "required": ["name", "sha256"],
        "additionalProperties": False,
    },
    "ProposalRequest": resource(_request()),
    "Proposal": resource(_proposal()),
    "PolicyRelease": resource(
        {
            "type": "object",
            "properties": {
                "state": one_of("scheduled", "inForce", "superseded"),
                "packs": {"type": "array", "items": {"type": "object"}},
                "warnDays": {"type": "integer"},
                "effectiveAt": _INSTANT,
                "inForceSince": _INSTANT,
                "proposal": text(),
            },
            "required": ["state", "packs"],
        }
    ),
    "Approval": {
        "type": "object",
        "properties": {**_DECISION, "breakGlass": {"type": "boolean", "default": False}},
        "additionalProperties": False,
    },
    "Decision": {"type": "object", "properties": dict(_DECISION), "additionalProperties": False},
    "Suspension": {
        "type": "object",
        "properties": {"reason": {"type": "string", "pattern": REASON, "maxLength": 2_000}},
        "required": ["reason"],
        "additionalProperties": False,
    },
    "Suspended": {
        "type": "object",
        "properties": {"id": text(), "name": text(), "etag": text(), "properties": {"type": "object"}},
    },
    "Batch": {
        "type": "object",
        "properties": {
            "requests": {
                "type": "array",
                "minItems": 1,
                "maxItems": 200,
                "items": {
                    "type": "object",
                    "properties": {
                        "method": one_of("PUT", "PATCH", "POST"),
                        "path": text(),
                        "body": {"type": "object"},
                        "ifMatch": text(),
                        "ifNoneMatch": text(),
                    },
                    "required": ["method", "path"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["requests"],
        "additionalProperties": False,
    },
    "KeysRequest": {
        "type": "object",
        "properties": {name: {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"} for name in ("key1", "key2")},
        "minProperties": 1,
        "additionalProperties": False,
    },
    "Principal": resource(_principal()),
    # The other keys of the envelope are passed over here.
    "PrincipalRequest": {
        "type": "object",
        "properties": {"properties": _principal()},
        "propertyNames": {"pattern": ANY},
    },
    "Secret": {
        "type": "object",
        "properties": {"secret": text(), "appId": {"type": "string", "format": "uuid"}, "expiresAt": _INSTANT},
        "required": ["secret"],
    },
    "SecretRequest": {
        "type": "object",
        "properties": {"revokeOthers": {"type": "boolean", "default": False}},
        "propertyNames": {"pattern": ANY},
    },
}


def change_of(kind: str) -> dict[str, Any]:
    """What a proposal of the kind may change."""
    return dict(_CHANGES[kind])
