"""Azure Resource Manager's envelopes: errors, lists, instants, ids. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from entrepot.errors import Code, Error

# What a code is called on the management plane where nobody gave the error a name of its own.
_NAMES: dict[Code, str] = {
    Code.BAD_REQUEST: "BadRequest",
    Code.INVALID_BODY: "InvalidRequestContent",
    Code.UNAUTHENTICATED: "AuthenticationFailed",
    Code.ACCESS_DENIED: "AuthorizationFailed",
    Code.NOT_FOUND: "ResourceNotFound",
    Code.METHOD_NOT_ALLOWED: "MethodNotAllowed",
    Code.REQUEST_TIMEOUT: "RequestTimeout",
    Code.CONFLICT: "Conflict",
    Code.PRECONDITION_FAILED: "PreconditionFailed",
    Code.BODY_TOO_LARGE: "RequestContentTooLarge",
    Code.RATE_LIMITED: "TooManyRequests",
    Code.INTERNAL: "InternalServerError",
    Code.NOT_READY: "ServiceUnavailable",
    Code.LEDGER_UNAVAILABLE: "ServiceUnavailable",
}


def name_of(error: Error) -> str:
    """The error's code as a client of the management plane reads it."""
    if error.name != error.code.label:
        return error.name
    return _NAMES.get(error.code) or "".join(word.capitalize() for word in error.code.label.split("_"))


def problem(error: Error) -> bytes:
    """`{"error":{"code","message","target"?,"details"?}}`."""
    inner: dict[str, Any] = {"code": name_of(error), "message": error.message}
    if error.param is not None:
        inner["target"] = error.param
    if error.details:
        inner["details"] = [
            {"code": code, "message": message} | ({} if target is None else {"target": target})
            for code, message, target in error.details
        ]
    return msgspec.json.encode({"error": inner})


def problem_headers(error: Error) -> dict[str, str]:
    """What a client has to know besides the body: how to authenticate, when to try again, what is allowed."""
    headers: dict[str, str] = {}
    if error.code.status == 401:
        headers["www-authenticate"] = f'Bearer error="invalid_token", error_description="{_quoted(error.message)}"'
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if error.code is Code.METHOD_NOT_ALLOWED and error.subject is not None:
        headers["allow"] = error.subject
    return headers


def page(values: Iterable[Any], next_link: str | None = None) -> dict[str, Any]:
    """A list as ARM gives it."""
    found: dict[str, Any] = {"value": list(values)}
    if next_link is not None:
        found["nextLink"] = next_link
    return found


def instant(at_ms: int) -> str:
    """`2026-11-22T23:00:00.000Z`."""
    return datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def system_data(created_by: str, created_ms: int, changed_by: str, changed_ms: int) -> dict[str, str]:
    return {
        "createdBy": created_by,
        "createdByType": "Application",
        "createdAt": instant(created_ms),
        "lastModifiedBy": changed_by,
        "lastModifiedByType": "Application",
        "lastModifiedAt": instant(changed_ms),
    }


def _quoted(text: str) -> str:
    """Text that can stand between the quotes of a header's value."""
    return "".join(char for char in text if " " <= char <= "~" and char not in '"\\')
