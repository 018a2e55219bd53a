"""settle: what became of the call, booked exactly once, whatever happened."""

from __future__ import annotations

from entrepot.gateway.call import Call
from entrepot.gateway.upstreams import now_s
from entrepot.telemetry.metrics import Metrics


def settle(call: Call, metrics: Metrics) -> None:
    metrics.count("entrepot_calls_total", (call.operation, outcome(call), str(call.status)))
    if call.error is not None:
        metrics.count("entrepot_errors_total", (call.error.code.label,))
    for attempt in call.attempts:
        metrics.count("entrepot_attempts_total", attempt)
    if call.admission is None:
        return
    metrics.observe("entrepot_call_seconds", now_s() - call.started_s, (call.operation,))
    if call.usage is not None and call.candidate is not None:
        metrics.count("entrepot_tokens_total", (call.candidate.upstream, "prompt"), call.usage.prompt)
        metrics.count("entrepot_tokens_total", (call.candidate.upstream, "completion"), call.usage.completion)


def outcome(call: Call) -> str:
    """One word: `served`, `refused` (no admission), `failed` (admitted, no answer), `cut` or `client_gone`."""
    if call.client_gone:
        return "client_gone"
    if call.cut:
        return "cut"
    if call.error is None:
        return "served"
    return "refused" if call.admission is None else "failed"
