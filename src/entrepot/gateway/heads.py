"""Header blocks of answers: ours, and the few of an upstream's that are relayed."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from entrepot.gateway.ids import as_openai
from entrepot.http1.message import render_headers
from entrepot.wire.forms import Form
from entrepot.wire.headers import relayed

if TYPE_CHECKING:
    from entrepot.gateway.call import Call
    from entrepot.gateway.dispatch import Answer

JSON = b"content-type: application/json\r\n"


def id_head(call: Call) -> bytes:
    """On every answer the call's id in both spellings; on a decided one where the decision is recorded, and limits."""
    if call.place is None:
        return id_lines(call.id, call.form) + call.limit_head
    return id_lines(call.id, call.form) + call.limit_head + f"x-entrepot-receipt: {call.place.text}\r\n".encode()


def id_lines(guid: str, form: Form) -> bytes:
    request_id = as_openai(guid) if form is Form.OPENAI else guid
    return f"x-request-id: {request_id}\r\napim-request-id: {guid}\r\n".encode()


def answer_head(call: Call, answer: Answer) -> bytes:
    """For an upstream's answer: ids, the region that processed it, and the upstream's headers that may pass."""
    head = id_head(call) + answer.candidate.region_head + _rendered(tuple(relayed(answer.response.headers)))
    admission = call.admission
    if admission is not None and admission.refused_from_ms is not None:
        head += warning(admission.refused_from_ms)
    return head


def warning(refused_from_ms: int) -> bytes:
    """From when on an announced rule will refuse calls like this one."""
    instant = datetime.fromtimestamp(refused_from_ms / 1_000, UTC).isoformat(timespec="seconds")
    return f"x-entrepot-refused-from: {instant.replace('+00:00', 'Z')}\r\n".encode()


# Most answers of an upstream have the same few headers.
_rendered = lru_cache(256)(render_headers)
