"""The OpenAPI 3.1 document of `Entrepot.Access`, made from the Shapes and the tables by which requests are handled."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import entrepot
from entrepot.management import etags, http
from entrepot.management.access import batch, declaring, descriptions, proposals, suspension
from entrepot.management.access.collections import COLLECTED, ROOT, Collection
from entrepot.management.access.proposal import GUID
from entrepot.management.access.schemas import REFERENCE, Schema, text

PATH: Final = f"{ROOT}/openapi.json"
PRINCIPALS: Final = f"{ROOT}/principals"
API_VERSION: Final = "2026-11-01"
_REFUSALS: Final[Mapping[str, str]] = {
    "400": "Malformed, or not fit to stand; `details` has every mistake with its `target`.",
    "401": "No token, or one that does not hold.",
    "403": "The caller may read this, but not do that.",
    "404": "There is nothing, or nothing that the caller may see.",
    "409": "It does not fit what there is: a name in use, a reference to nothing, something decided already.",
    "412": "`If-Match` or `If-None-Match` does not hold.",
    "413": "The body is larger than 4 MiB.",
    "503": "The database or the ledger cannot be written; nothing was changed.",
}


def routes() -> list[Route]:
    return [http.route("GET", PATH, _get, public=True)]


async def _get(_: Request) -> Response:
    return http.answer(document())


@cache
def document() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for collection in COLLECTED:
        paths |= _collection(collection)
    paths |= _proposals() | _principals() | _actions()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Entrepot.Access",
            "version": entrepot.__version__,
            "description": "What Azure's management API has no word for: who may use which model, and who approved it.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "From the authority's token endpoint."}
            },
            "schemas": descriptions.schemas(),
        },
    }


def _collection(collection: Collection) -> dict[str, Any]:
    name = descriptions.title(collection.kind)
    one = f"{ROOT}/{collection.name}/{{name}}"
    item: dict[str, Any] = {"parameters": [_name(collection.pattern), _VERSION]}
    makers = {"GET": _read, "PUT": _write, "PATCH": _merge, "DELETE": _remove}
    for method in collection.methods:
        item[method.lower()] = makers[method](collection.name, name)
    return {f"{ROOT}/{collection.name}": _many(collection.name, name), one: item}


def _many(collection: str, name: str) -> dict[str, Any]:
    page: Schema = {
        "type": "object",
        "properties": {
            "value": {"type": "array", "items": {"$ref": REFERENCE + name}},
            "nextLink": {"type": "string", "format": "uri"},
        },
        "required": ["value"],
    }
    parameters = [_query("$top", "at most so many"), _query("$skipToken", "from `nextLink`")]
    operation = _operation(f"list_{collection}", f"List {collection}.", {"200": _json(page)}, "400", "401")
    return {"parameters": [_VERSION], "get": operation | {"parameters": parameters}}


def _read(collection: str, name: str) -> dict[str, Any]:
    refusals = ("400", "401", "403", "404")
    return _operation(f"get_{collection}", f"Read one of the {collection}.", {"200": _resource(name)}, *refusals)


def _write(collection: str, name: str) -> dict[str, Any]:
    done = {"200": _resource(name), "201": _resource(name)}
    operation = _operation(f"put_{collection}", f"Create or replace one of the {collection}.", done, *_REFUSALS)
    return operation | {"parameters": _CONDITIONS, "requestBody": _body({"$ref": REFERENCE + name})}


def _merge(collection: str, name: str) -> dict[str, Any]:
    told = f"Merge into one of the {collection} (RFC 7396)."
    operation = _operation(f"patch_{collection}", told, {"200": _resource(name)}, *_REFUSALS)
    patch = {"$ref": f"{REFERENCE}{name}Patch"}
    return operation | {"parameters": _CONDITIONS, "requestBody": _body(patch)}


def _remove(collection: str, _: str) -> dict[str, Any]:
    done = {"200": {"description": "It is gone."}, "204": {"description": "There was none."}}
    refusals = [each for each in _REFUSALS if each != "413"]
    operation = _operation(f"delete_{collection}", f"Delete one of the {collection}.", done, *refusals)
    return operation | {"parameters": _CONDITIONS}


def _proposals() -> dict[str, Any]:
    parameters = [_name(GUID.pattern), _VERSION]
    done = {"200": _resource("Proposal"), "201": _resource("Proposal")}
    propose = _operation("put_proposals", "Propose, once and for all.", done, *_REFUSALS)
    propose |= {"parameters": _CONDITIONS, "requestBody": _body({"$ref": REFERENCE + "ProposalRequest"})}
    found = {
        proposals.MANY: _many("proposals", "Proposal"),
        proposals.ONE: {"parameters": parameters, "get": _read("proposals", "Proposal"), "put": propose},
    }
    for verb, schema in (("approve", "Approval"), ("reject", "Decision"), ("withdraw", "Decision")):
        told = f"{verb.capitalize()} what is proposed."
        operation = _operation(f"{verb}_proposals", told, {"200": _resource("Proposal")}, *_REFUSALS)
        body = _body({"$ref": REFERENCE + schema}) | {"required": False}
        found[f"{proposals.ONE}/{verb}"] = {
            "parameters": parameters,
            "post": operation | {"parameters": _CONDITIONS, "requestBody": body},
        }
    return found


def _principals() -> dict[str, Any]:
    parameters = [_name("[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"), _VERSION]
    secret = _operation(
        "new_secret", "A new secret, shown this once.", {"200": _json({"$ref": REFERENCE + "Secret"})}, *_REFUSALS
    )
    body = _body({"$ref": REFERENCE + "SecretRequest"}) | {"required": False}
    request = {"$ref": REFERENCE + "PrincipalRequest"}
    condition = {"parameters": _CONDITIONS[:1]}
    one = {
        "parameters": parameters,
        "get": _read("principals", "Principal"),
        "put": _write("principals", "Principal") | condition | {"requestBody": _body(request)},
        "delete": _remove("principals", "Principal") | condition,
    }
    return {
        PRINCIPALS: _many("principals", "Principal"),
        f"{PRINCIPALS}/{{name}}": one,
        f"{PRINCIPALS}/{{name}}/newSecret": {"parameters": parameters, "post": secret | {"requestBody": body}},
    }


def _actions() -> dict[str, Any]:
    gateway = next(each for each in COLLECTED if each.kind == "gateway")
    token = {
        "type": "object",
        "properties": {"token": text("works once"), "expiresAt": {"type": "string", "format": "date-time"}},
        "required": ["token", "expiresAt"],
    }
    refusals = [each for each in _REFUSALS if each != "413"]
    enrol = _operation("enrol_gateway", "A token with which a gateway enrols.", {"200": _json(token)}, *refusals)
    suspend = _operation(
        "suspend_account", "Suspend an account.", {"200": _json({"$ref": REFERENCE + "Suspended"})}, *_REFUSALS
    )
    names = [_path(each) for each in ("subscription", "group", "account")]
    return {
        f"{ROOT}/gateways/{{name}}/enrol": {"parameters": [_name(gateway.pattern), _VERSION], "post": enrol},
        suspension.PATH: {
            "parameters": [*names, _VERSION],
            "post": suspend | {"parameters": _CONDITIONS, "requestBody": _body({"$ref": REFERENCE + "Suspension"})},
        },
        declaring.PATH: _declared(),
        batch.PATH: {
            "parameters": [_VERSION],
            "post": _operation("batch", "Many writes as one change.", {"200": _json({"type": "object"})}, *_REFUSALS)
            | {"requestBody": _body({"$ref": REFERENCE + "Batch"})},
        },
        declaring.KEYS_PATH: {
            "parameters": [*names, _VERSION],
            "post": _operation("set_keys", "Set an account's keys.", {"200": _json({"type": "object"})}, *_REFUSALS)
            | {"requestBody": _body({"$ref": REFERENCE + "KeysRequest"})},
        },
        PATH: {
            "get": _operation("openapi", "This document.", {"200": _json({"type": "object"})}) | {"security": []},
        },
    }


def _declared() -> dict[str, Any]:
    page: Schema = {
        "type": "object",
        "properties": {"value": {"type": "array", "items": {"type": "object"}}, "nextLink": {"type": "string"}},
        "required": ["value"],
    }
    told = "Everything as a world declares it, with digests of secrets; for the instance's own staff."
    operation = _operation("list_declared", told, {"200": _json(page)}, "400", "401", "403", "404", "503")
    token = {"name": "$skipToken", "in": "query", "description": "from `nextLink`", "schema": {"type": "string"}}
    return {"parameters": [_VERSION], "get": operation | {"parameters": [token]}}


def _operation(id: str, summary: str, done: Mapping[str, Any], *refusals: str) -> dict[str, Any]:  # noqa: A002
    told = {
        status: {"description": _REFUSALS[status], "content": {"application/json": {"schema": _ERROR}}}
        for status in refusals
    }
    return {"operationId": id, "summary": summary, "responses": {**done, **told}}


def _json(schema: Schema) -> dict[str, Any]:
    return {"description": "Done.", "content": {"application/json": {"schema": schema}}}


def _resource(name: str) -> dict[str, Any]:
    etag = {"description": "What `If-Match` wants.", "schema": {"type": "string"}, "required": True}
    return _json({"$ref": REFERENCE + name}) | {"headers": {"ETag": etag}}


def _body(schema: Schema) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _name(pattern: str) -> dict[str, Any]:
    return _path("name") | {"schema": {"type": "string", "pattern": f"^({pattern})$"}}


def _path(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9-]{0,63}$"},
    }


def _query(name: str, told: str) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 0, "maximum": 999_999_999}
    return {"name": name, "in": "query", "description": told, "schema": schema}


_ERROR: Final[Schema] = {"$ref": REFERENCE + "Error"}
_VERSION: Final = {
    "name": "api-version",
    "in": "query",
    "required": True,
    "description": "any; this is the one described here",
    "schema": {"type": "string", "minLength": 1, "default": API_VERSION},
}
_CONDITIONS: Final = [
    {
        "name": header,
        "in": "header",
        "description": told,
        "schema": {"type": "string", "pattern": f"^({etags.PATTERN})$"},
    }
    for header, told in (("If-Match", "only if it still is that one"), ("If-None-Match", "only if it is not there"))
]
