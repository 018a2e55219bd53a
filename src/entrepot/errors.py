"""The one error class, and the closed list of codes with their HTTP status. Bodies are rendered in `wire/` only."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Code(Enum):
    """What went wrong, as a stable name and the HTTP status that it has on the data plane."""

    BAD_REQUEST = ("bad_request", 400)
    INVALID_BODY = ("invalid_body", 400)
    AMBIGUOUS_FIELD = ("ambiguous_field", 400)
    CONFLICTING_CREDENTIALS = ("conflicting_credentials", 400)
    MODEL_REQUIRED = ("model_required", 400)
    MISSING_KEY = ("missing_key", 401)
    UNAUTHENTICATED = ("unauthenticated", 401)
    INVALID_KEY = ("invalid_key", 401)
    PERMISSION_DENIED = ("permission_denied", 401)
    ACCESS_DENIED = ("access_denied", 403)
    ACCOUNT_SUSPENDED = ("account_suspended", 403)
    KEYS_DISABLED = ("keys_disabled", 403)
    UNSUPPORTED_TERRITORY = ("unsupported_territory", 403)
    NOT_FOUND = ("not_found", 404)
    DEPLOYMENT_NOT_FOUND = ("deployment_not_found", 404)
    METHOD_NOT_ALLOWED = ("method_not_allowed", 405)
    REQUEST_TIMEOUT = ("request_timeout", 408)
    CONFLICT = ("conflict", 409)
    PRECONDITION_FAILED = ("precondition_failed", 412)
    BODY_TOO_LARGE = ("body_too_large", 413)
    TARGET_TOO_LONG = ("target_too_long", 414)
    RATE_LIMITED = ("rate_limit_exceeded", 429)
    LIMIT_TOO_SMALL = ("limit_too_small", 429)
    QUOTA_EXHAUSTED = ("insufficient_quota", 429)
    HEADER_TOO_LARGE = ("header_too_large", 431)
    INTERNAL = ("internal", 500)
    UPSTREAM_FAULT = ("upstream_fault", 502)
    UPSTREAM_CUT = ("upstream_cut", 502)
    NOT_READY = ("not_ready", 503)
    NO_TARGET = ("no_target", 503)
    LEDGER_UNAVAILABLE = ("ledger_unavailable", 503)
    UPSTREAM_TIMEOUT = ("upstream_timeout", 504)

    def __init__(self, label: str, status: int) -> None:
        self.label = label
        self.status = status


class Detail(NamedTuple):
    """One of several mistakes: `target` names the field, `message` says what is wrong and how to mend it."""

    code: str
    message: str
    target: str | None = None


class Error(Exception):
    """A failure that a client may see: `code` decides the status, `message` is for the client and holds no secret.

    `name` replaces the code's label where a rule of the access policy chose its own; `param` names the request's field;
    `subject` is what the answer quotes: the model, `METHOD /path`, the redacted key, the methods that are allowed, or
    what a rate limit counts: `requests` or `tokens`; `retry_after_s` is in whole seconds, at least 1, `retry_after_ms`
    the same more exactly. `details` are for the management API, which tells all mistakes.
    """

    def __init__(  # noqa: PLR0913 - the facts of one failure, each with its name
        self,
        code: Code,
        message: str,
        *,
        name: str | None = None,
        param: str | None = None,
        subject: str | None = None,
        retry_after_s: int | None = None,
        retry_after_ms: int | None = None,
        details: tuple[Detail, ...] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.name = name or code.label
        self.param = param
        self.subject = subject
        if retry_after_ms is not None:
            retry_after_s = max(1, -(-retry_after_ms // 1_000))
        elif retry_after_s is not None:
            retry_after_ms = retry_after_s * 1_000
        self.retry_after_s = retry_after_s
        self.retry_after_ms = retry_after_ms
        self.details = details
