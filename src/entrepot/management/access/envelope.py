"""Resources as answered and as sent: the envelope that they share with Azure's, ETags, conditions, changes noted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from entrepot.errors import Code, Detail, Error
from entrepot.management import http
from entrepot.management.etags import named
from entrepot.resources.ids import ACCESS, COLLECTIONS
from entrepot.storage import Row
from entrepot.wire import arm

COMPUTED: Final = frozenset({"id", "name", "type", "etag", "systemData"})
_KNOWN: Final = frozenset({*COMPUTED, "properties", "tags", "location"})
_TAGS: Final = 50


def shown(row: Row, properties: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A row as the API answers it, with other properties than the stored ones where they are given."""
    told = {key: value for key, value in row.body.items() if key not in COMPUTED and key != "properties"}
    return {
        "id": row.id,
        "name": row.name,
        "type": f"{ACCESS}/{COLLECTIONS[row.kind]}",
        "etag": f'"{row.etag}"',
        "systemData": arm.system_data(row.created_by, row.created_ms, row.changed_by, row.changed_ms),
        **told,
        "properties": {"provisioningState": "Succeeded"}
        | dict(row.body.get("properties", {}) if properties is None else properties),
    }


def answer(row: Row, told: Mapping[str, Any], status: int = 200) -> Response:
    return http.answer(told, status, {"etag": f'"{row.etag}"'})


def sent(body: Mapping[str, Any], *, patch: bool = False) -> dict[str, Any]:
    """What of a request's body counts: all but what is computed. Raises Error (400) with every mistake of its form."""
    problems = [
        Detail("InvalidProperty", f"unknown key `{key}`; what is the resource's own stands in `properties`", key)
        for key in body
        if key not in _KNOWN
    ]
    properties = body.get("properties", {})
    if not isinstance(properties, dict) or not ("properties" in body or patch):
        problems.append(Detail("InvalidProperty", 'expected an object; write `"properties": {…}`', "properties"))
    if not _are_tags(body.get("tags"), patch=patch):
        problems.append(Detail("InvalidTags", f"expected at most {_TAGS} tags, all of them strings", "tags"))
    if not isinstance(body.get("location", ""), str):
        problems.append(Detail("InvalidProperty", "expected a string", "location"))
    if problems:
        raise invalid(problems)
    return {key: value for key, value in body.items() if key not in COMPUTED} | {
        "properties": {key: _whole(value) for key, value in properties.items() if key != "provisioningState"}
    }


def _are_tags(tags: Any, *, patch: bool) -> bool:
    if tags is None:
        return True
    if not isinstance(tags, dict) or len(tags) > _TAGS:
        return False
    return all(
        len(key) <= 512 and ((isinstance(value, str) and len(value) <= 256) or (patch and value is None))
        for key, value in tags.items()
    )


def invalid(problems: list[Detail]) -> Error:
    """A 400 with every mistake; the first one is the message where there is only one."""
    message = problems[0].message if len(problems) == 1 else f"the resource has {len(problems)} mistakes"
    return Error(Code.BAD_REQUEST, message, name="InvalidResource", param=problems[0].target, details=tuple(problems))


def check_conditions(request: Request, row: Row | None) -> None:
    """`If-Match` and `If-None-Match` (RFC 9110 §13.1), against the row in the transaction. Raises Error, 412 or 400."""
    wanted, unwanted = named(request, "If-Match"), named(request, "If-None-Match")
    if wanted is not None and (row is None or not wanted & {"*", row.etag}):
        told = "there is no such resource" if row is None else f'it is `"{row.etag}"` now: read it again'
        raise Error(Code.PRECONDITION_FAILED, f"the ETag of `If-Match` does not fit; {told}", name="PreconditionFailed")
    if unwanted is not None and row is not None and unwanted & {"*", row.etag}:
        raise Error(
            Code.PRECONDITION_FAILED,
            "the resource exists already, which `If-None-Match` rules out",
            name="PreconditionFailed",
        )


def _whole(value: Any) -> Any:
    """JSON has one kind of number: `1.0` is the integer 1."""
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value
