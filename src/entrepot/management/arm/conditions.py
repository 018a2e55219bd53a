"""Conditional requests (RFC 9110 §13): ETags in and out."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from entrepot.errors import Code, Error
from entrepot.management.etags import named
from entrepot.management.http import answer
from entrepot.storage import Row


def etag(row: Row) -> str:
    return f'"{row.etag}"'


def if_match(request: Request, held: Row | None) -> str | None:
    """What the store shall still find: the held row's etag where the header names it, `*`, or nothing without a header.

    Raises Error: PRECONDITION_FAILED where the header names others only, BAD_REQUEST where it names none.
    """
    given = named(request, "If-Match")
    if given is None:
        return None
    if "*" in given and held is not None:
        return "*"
    if held is None or held.etag not in given:
        raise Error(
            Code.PRECONDITION_FAILED,
            "The condition 'If-Match' evaluated to false: the resource was changed meanwhile or does not exist; read "
            "it again",
            name="PreconditionFailed",
            param="If-Match",
        )
    return held.etag


def if_none_match(request: Request, held: Row | None) -> bool:
    """Whether a PUT must create. Raises Error PRECONDITION_FAILED where it finds what it must not."""
    given = named(request, "If-None-Match") or frozenset()
    if held is not None and ("*" in given or held.etag in given):
        raise Error(
            Code.PRECONDITION_FAILED,
            "The condition 'If-None-Match' evaluated to false: the resource exists already",
            name="PreconditionFailed",
            param="If-None-Match",
        )
    return "*" in given


def read(request: Request, row: Row, value: object) -> Response:
    """A GET's answer: 304 where the client has this version."""
    given = named(request, "If-None-Match") or frozenset()
    headers = {"etag": etag(row)}
    if "*" in given or row.etag in given:
        return Response(status_code=304, headers=headers)
    return answer(value, headers=headers)
