"""Long-running operations in the form that clients poll. Here an answer comes after the change is durable and in force.

So the status is always known: an operation is the change itself, and its id is that of the outbox's record. An
operation that fails is answered with its error at once and never has an id.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from entrepot.errors import Code, Error
from entrepot.management.arm.where import subscription_at
from entrepot.management.changes import Change
from entrepot.management.http import answer
from entrepot.resources.ids import COGNITIVE
from entrepot.storage import Recorded
from entrepot.wire import arm

RETRY_AFTER_S = 1
_LONGEST_NUMBER = 18


def polled(request: Request, change: Change, subscription: str, location: str) -> dict[str, str]:
    """The headers of an answer to a PUT, PATCH or DELETE of `Microsoft.CognitiveServices`.

    Only a DELETE has a `Location`: after it, pollers would read the result of a PUT or PATCH there, not the resource.
    """
    if change.recorded is None:
        return {}
    place = f"{subscription}/providers/{COGNITIVE}/locations/{location}"
    operation = _operation(change.recorded)
    headers = {
        "azure-asyncoperation": _link(request, f"{place}/operationStatuses/{operation}"),
        "retry-after": str(RETRY_AFTER_S),
    }
    if request.method == "DELETE":
        headers["location"] = _link(request, f"{place}/operationResults/{operation}")
    return headers


def located(request: Request, change: Change, subscription: str) -> dict[str, str]:
    """The headers of an answer to the DELETE of a resource group: its poller knows `Location` only."""
    if change.recorded is None:
        return {}
    link = _link(request, f"{subscription}/operationresults/{_operation(change.recorded)}")
    return {"location": link, "retry-after": str(RETRY_AFTER_S)}


async def get_status(request: Request) -> Response:
    found = await _recorded(request)
    at = arm.instant(found.at_ms)
    value: dict[str, Any] = {
        "id": request.url.path,
        "name": request.path_params["operation"],
        "status": "Succeeded",
        "startTime": at,
        "endTime": at,
        "percentComplete": 100.0,
    }
    return answer(value)


async def get_result(request: Request) -> Response:
    """What a poller of `Location` reads: the operation is over."""
    await _recorded(request)
    return answer(None, 204)


async def get_group_result(request: Request) -> Response:
    await _recorded(request)
    return answer(None, 200)


async def _recorded(request: Request) -> Recorded:
    """The change that the path names. Raises Error NOT_FOUND, also for a change of other subscriptions only."""
    where = await subscription_at(request)
    given: str = request.path_params["operation"]
    number, _, id_ = given.partition("-")
    if number.isascii() and number.isdigit() and len(number) <= _LONGEST_NUMBER:
        found = await where.control.store.recorded(int(number))
        below = where.subscription.id.lower() + "/"
        if found is not None and found.id == id_ and any(t.lower().startswith(below) for t in found.touched):
            return found
    raise Error(Code.NOT_FOUND, f"The operation '{given[:80]}' was not found.", name="OperationNotFound")


def _operation(recorded: Recorded) -> str:
    return f"{recorded.n}-{recorded.id}"


def _link(request: Request, path: str) -> str:
    version = next((value for key, value in request.query_params.multi_items() if key.lower() == "api-version"), "")
    return f"{request.url.scheme}://{request.url.netloc}{path}?api-version={version}"
