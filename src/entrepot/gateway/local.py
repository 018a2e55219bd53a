"""Requests that no upstream answers: model lists (authenticated, not decided) and the probes of load balancers."""

from __future__ import annotations

from entrepot.errors import Code, Error
from entrepot.gateway.authenticate import authenticate
from entrepot.gateway.call import Call
from entrepot.gateway.heads import JSON, id_head
from entrepot.gateway.routes import MODEL, MODELS, PROBE, Route
from entrepot.wire import models
from entrepot.wire.forms import Form

OPERATIONS = frozenset({MODEL, MODELS, PROBE})


def answer(call: Call, route: Route) -> None:
    """Raises Error for a wrong key or an unknown model."""
    if route.operation == PROBE:
        _respond(call, b'{"status":"ok"}')
        return
    account = call.account = authenticate(call, route)
    listed = [models.Listed(d.name, d.model, d.version, d.provider) for d in account.deployments.values()]
    if route.operation == MODELS:
        _respond(call, models.listing(listed, call.form))
        return
    for model in listed:
        if route.model == (model.base_id if call.form is Form.AZURE else model.name):
            _respond(call, models.item(model, call.form))
            return
    raise Error(Code.DEPLOYMENT_NOT_FOUND, "no model of this name", subject=route.model)


def _respond(call: Call, body: bytes) -> None:
    call.status = 200
    call.exchange.respond(200, id_head(call) + JSON, body)
