"""Error bodies and headers as the real services send them, in the envelope of the client's path family.

The texts are theirs, word for word, where one exists; the rest is `Error.message`. No other module renders an error.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from entrepot.errors import Code, Error
from entrepot.wire.forms import Form, form_of

_INVALID_REQUEST = "invalid_request_error"
_FORBIDDEN = "request_forbidden"
_SERVER = "server_error"
_OWN_NAME = ""  # as a text's code: the name of the error itself
_REDACTED = re.compile(r"(sk-)?\.\.\..{4}", re.DOTALL)
_MIN_ECHOED_KEY = 20


class Text(msgspec.Struct, frozen=True):
    """How one code reads in one envelope. `code` may be null; a `message` of `None` is the error's own.

    `{subject}` is replaced by the error's subject; without a subject the error's own message is used instead.
    """

    code: str | None
    message: str | None = None
    type: str | None = None


_NO_PERMISSION = "Principal does not have access to API/Operation."
_KEYS_DISABLED = "Key based authentication is disabled for this resource."

_OPENAI: dict[Code, Text] = {
    Code.BAD_REQUEST: Text(_OWN_NAME, None, _INVALID_REQUEST),
    Code.INVALID_BODY: Text(_OWN_NAME, None, _INVALID_REQUEST),
    Code.AMBIGUOUS_FIELD: Text(_OWN_NAME, None, _INVALID_REQUEST),
    Code.CONFLICTING_CREDENTIALS: Text(_OWN_NAME, None, _INVALID_REQUEST),
    Code.MODEL_REQUIRED: Text(None, "you must provide a model parameter", _INVALID_REQUEST),
    Code.MISSING_KEY: Text(
        None,
        "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
        "(i.e. Authorization: Bearer YOUR_KEY), or as the password field (with blank username) if you're accessing the "
        "API from your browser and are prompted for a username and password. You can obtain an API key from "
        "https://platform.openai.com/account/api-keys.",
        _INVALID_REQUEST,
    ),
    Code.INVALID_KEY: Text(
        "invalid_api_key",
        "Incorrect API key provided: {subject}. You can find your API key at "
        "https://platform.openai.com/account/api-keys.",
        _INVALID_REQUEST,
    ),
    Code.UNAUTHENTICATED: Text("invalid_token", None, _INVALID_REQUEST),
    Code.PERMISSION_DENIED: Text(_OWN_NAME, _NO_PERMISSION, _INVALID_REQUEST),
    Code.ACCESS_DENIED: Text(_OWN_NAME, None, _FORBIDDEN),
    Code.ACCOUNT_SUSPENDED: Text(_OWN_NAME, None, _FORBIDDEN),
    Code.KEYS_DISABLED: Text(_OWN_NAME, _KEYS_DISABLED, _FORBIDDEN),
    Code.UNSUPPORTED_TERRITORY: Text(
        "unsupported_country_region_territory", "Country, region, or territory not supported", _FORBIDDEN
    ),
    Code.NOT_FOUND: Text(None, "Invalid URL ({subject})", _INVALID_REQUEST),
    Code.DEPLOYMENT_NOT_FOUND: Text(
        "model_not_found", "The model `{subject}` does not exist or you do not have access to it.", _INVALID_REQUEST
    ),
    Code.METHOD_NOT_ALLOWED: Text("method_not_supported", None, _INVALID_REQUEST),
    Code.REQUEST_TIMEOUT: Text(_OWN_NAME, None, _INVALID_REQUEST),
    Code.CONFLICT: Text(_OWN_NAME, None, _INVALID_REQUEST),
    Code.PRECONDITION_FAILED: Text(_OWN_NAME, None, _INVALID_REQUEST),
    Code.BODY_TOO_LARGE: Text(_OWN_NAME, None, _INVALID_REQUEST),
    Code.TARGET_TOO_LONG: Text(_OWN_NAME, None, _INVALID_REQUEST),
    Code.RATE_LIMITED: Text(_OWN_NAME, None, "requests"),
    Code.LIMIT_TOO_SMALL: Text("rate_limit_exceeded", None, "tokens"),
    Code.QUOTA_EXHAUSTED: Text(
        _OWN_NAME,
        "You exceeded your current quota, please check your plan and billing details. For more information on this "
        "error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
        "insufficient_quota",
    ),
    Code.HEADER_TOO_LARGE: Text(_OWN_NAME, None, _INVALID_REQUEST),
    Code.INTERNAL: Text(_OWN_NAME, None, _SERVER),
    Code.UPSTREAM_FAULT: Text(_OWN_NAME, None, _SERVER),
    Code.UPSTREAM_CUT: Text(_OWN_NAME, None, _SERVER),
    Code.NOT_READY: Text(_OWN_NAME, None, _SERVER),
    Code.NO_TARGET: Text(_OWN_NAME, None, _SERVER),
    Code.LEDGER_UNAVAILABLE: Text(_OWN_NAME, None, _SERVER),
    Code.UPSTREAM_TIMEOUT: Text(_OWN_NAME, None, _SERVER),
}

_INVALID_SUBSCRIPTION_KEY = Text(
    "401",
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
    "active subscription and use a correct regional API endpoint for your resource.",
)

_AZURE: dict[Code, Text] = {
    Code.BAD_REQUEST: Text("BadRequest"),
    Code.INVALID_BODY: Text("BadRequest"),
    Code.AMBIGUOUS_FIELD: Text("BadRequest"),
    Code.CONFLICTING_CREDENTIALS: Text("BadRequest"),
    Code.MODEL_REQUIRED: Text("BadRequest"),
    Code.MISSING_KEY: _INVALID_SUBSCRIPTION_KEY,
    Code.INVALID_KEY: _INVALID_SUBSCRIPTION_KEY,
    Code.UNAUTHENTICATED: Text(
        "401",
        "Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), "
        "or have expired.",
    ),
    Code.PERMISSION_DENIED: Text("PermissionDenied", _NO_PERMISSION),
    Code.ACCESS_DENIED: Text(_OWN_NAME),
    Code.ACCOUNT_SUSPENDED: Text(_OWN_NAME),
    Code.KEYS_DISABLED: Text("AuthenticationTypeDisabled", _KEYS_DISABLED),
    Code.UNSUPPORTED_TERRITORY: Text(
        "unsupported_country_region_territory", "Country, region, or territory not supported"
    ),
    Code.NOT_FOUND: Text("404", "Resource not found"),
    Code.DEPLOYMENT_NOT_FOUND: Text(
        "DeploymentNotFound",
        "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, "
        "please wait a moment and try again.",
    ),
    Code.METHOD_NOT_ALLOWED: Text("405"),
    Code.REQUEST_TIMEOUT: Text("Timeout"),
    Code.CONFLICT: Text("Conflict"),
    Code.PRECONDITION_FAILED: Text("PreconditionFailed"),
    Code.BODY_TOO_LARGE: Text("413"),
    Code.TARGET_TOO_LONG: Text("414"),
    Code.RATE_LIMITED: Text("429"),
    Code.LIMIT_TOO_SMALL: Text("429"),
    Code.QUOTA_EXHAUSTED: Text("insufficient_quota"),
    Code.HEADER_TOO_LARGE: Text("431"),
    Code.INTERNAL: Text("InternalServerError"),
    Code.UPSTREAM_FAULT: Text("BadGateway"),
    Code.UPSTREAM_CUT: Text("BadGateway"),
    Code.NOT_READY: Text("ServiceUnavailable"),
    Code.NO_TARGET: Text("ServiceUnavailable"),
    Code.LEDGER_UNAVAILABLE: Text("ServiceUnavailable"),
    Code.UPSTREAM_TIMEOUT: Text("GatewayTimeout"),
}

_BY_STATUS: dict[int, Code] = {
    400: Code.BAD_REQUEST,
    404: Code.NOT_FOUND,
    405: Code.METHOD_NOT_ALLOWED,
    408: Code.REQUEST_TIMEOUT,
    413: Code.BODY_TOO_LARGE,
    414: Code.TARGET_TOO_LONG,
    431: Code.HEADER_TOO_LARGE,
    502: Code.UPSTREAM_FAULT,
    503: Code.NOT_READY,
    504: Code.UPSTREAM_TIMEOUT,
    505: Code.BAD_REQUEST,
}

_RETRIED = frozenset({Code.REQUEST_TIMEOUT, Code.RATE_LIMITED})
_UNDECIDED = frozenset({Code.KEYS_DISABLED, Code.UNSUPPORTED_TERRITORY})
"""403s that name no decision: none was taken, or the body is the provider's own."""


def redact(key: str) -> str | None:
    """What may be shown of a key: its last four characters if it has at least 20, else nothing."""
    if len(key) < _MIN_ECHOED_KEY:
        return None
    return f"{'sk-' if key.startswith('sk-') else ''}...{key[-4:]}"


def render(error: Error, form: Form, *, decision_id: str | None = None, reason: str | None = None) -> bytes:
    """The JSON body on one line. `reason` stands for the message of a refusal, `decision_id` is added to it.

    A territory refusal has the provider's own body and nothing else.
    """
    code = error.code
    text = (_OPENAI if form is Form.OPENAI else _AZURE)[code]
    message = _message(error, text, reason)
    if decision_id is not None and code.status == 403 and code not in _UNDECIDED:
        message = f"{message} (decision {decision_id})"
    name = error.name if text.code == _OWN_NAME else text.code
    if form is not Form.OPENAI:
        return _azure(error, form, name, message)
    if code is Code.UNSUPPORTED_TERRITORY:
        return _body({"code": name, "message": message, "param": None, "type": text.type})
    kind = "tokens" if code is Code.RATE_LIMITED and error.subject == "tokens" else text.type
    return _body({"message": message, "type": kind, "param": error.param, "code": name})


def headers_for(error: Error) -> bytes:
    """The answer's header lines: content type, and what tells a client whether and when to try again."""
    lines = [b"content-type: application/json\r\n"]
    code = error.code
    if code.status < 500 and code not in _RETRIED:
        lines.append(b"x-should-retry: false\r\n")
    if code is Code.METHOD_NOT_ALLOWED and error.subject is not None:
        lines.append(b"allow: %b\r\n" % error.subject.encode("ascii"))
    if code.status == 401:
        lines.append(b"www-authenticate: Bearer\r\n")
    if error.retry_after_s is not None and error.retry_after_ms is not None:
        lines.append(b"retry-after: %d\r\nretry-after-ms: %d\r\n" % (error.retry_after_s, error.retry_after_ms))
    return b"".join(lines)


def render_status(path: str, status: int, message: str) -> tuple[bytes, bytes]:
    """Headers and body for a failure of the HTTP engine, which knows a path (or "") and a status only."""
    error = Error(_BY_STATUS.get(status, Code.BAD_REQUEST if status < 500 else Code.INTERNAL), message)
    return headers_for(error), render(error, form_of(path))


def _message(error: Error, text: Text, reason: str | None) -> str:
    if error.code is Code.INVALID_KEY and text.message is not None and "{subject}" in text.message:
        # INVARIANT: a whole key is never echoed, whatever the caller passed.
        if error.subject is not None and _REDACTED.fullmatch(error.subject):
            return text.message.replace("{subject}", error.subject)
        return text.message.replace(": {subject}", "")
    if text.message is None:
        return reason or error.message
    if "{subject}" not in text.message:
        return text.message
    return error.message if error.subject is None else text.message.replace("{subject}", error.subject)


def _azure(error: Error, form: Form, name: str | None, message: str) -> bytes:
    inner: dict[str, Any] = {"code": name, "message": message}
    if form is Form.AZURE_V1 and error.code is Code.DEPLOYMENT_NOT_FOUND:
        inner["type"] = _INVALID_REQUEST
    if error.param is not None:
        inner["param"] = error.param
    return _body(inner)


def _body(inner: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"error": inner})
