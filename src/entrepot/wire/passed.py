"""An upstream's own error body, made to fit the client's path family: what the client did wrong is told in full."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

import msgspec

from entrepot.wire.forms import Form

_OPENAI_KEYS = frozenset({"message", "type", "param", "code"})
_TYPES = {400: "invalid_request_error", 422: "invalid_request_error", 429: "requests"}
# Providers name the caller's organization and project in messages; here that is the operator, not the client.
_OPERATORS_ID = re.compile(r"\b(?:org-|proj_)[A-Za-z0-9]{4,}")


def passed_on(status: int, body: bytes, form: Form) -> bytes:
    """The body to answer with. One that already has the form's envelope, and names no operator, stays as it is."""
    error = error_object(body)
    if error is None:
        error = {"message": _phrase(status)}
    elif _fits(error, form) and _OPERATORS_ID.search(body.decode("utf-8", "replace")) is None:
        return body
    error = {**error, "message": _OPERATORS_ID.sub("[redacted]", str(error.get("message") or _phrase(status)))}
    code = error.get("code")
    if form is Form.OPENAI:
        error.setdefault("type", _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"))
        error.setdefault("param", None)
        error["code"] = code
    else:
        error["code"] = str(status) if code is None else str(code)
    return msgspec.json.encode({"error": error})


def error_object(body: bytes) -> dict[str, Any] | None:
    """The `error` object of a JSON answer; a flat `{"message": …}` counts as one. None if there is neither."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    error = document.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str):
        return {"message": error}
    return {"message": document["message"]} if isinstance(document.get("message"), str) else None


def _fits(error: dict[str, Any], form: Form) -> bool:
    if not isinstance(error.get("message"), str):
        return False
    return error.keys() >= _OPENAI_KEYS if form is Form.OPENAI else isinstance(error.get("code"), str)


def _phrase(status: int) -> str:
    try:
        return f"the model's provider answered {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"the model's provider answered {status}"
