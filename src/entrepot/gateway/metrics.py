"""The metrics of a gateway: every name, with what it counts. `docs/metrics.md` explains how to read them."""

from __future__ import annotations

from entrepot.telemetry.metrics import Description

CATALOGUE = {
    "entrepot_calls_total": Description(
        "counter",
        "Requests answered, by operation, outcome (served, refused, failed, cut, client_gone) and HTTP status.",
        ("operation", "outcome", "status"),
    ),
    "entrepot_errors_total": Description(
        "counter",
        "Errors given to clients, by the code of docs/errors.md.",
        ("code",),
    ),
    "entrepot_attempts_total": Description(
        "counter",
        "Tries at upstreams, by upstream and result (answered, failed, abandoned).",
        ("upstream", "result"),
    ),
    "entrepot_tokens_total": Description(
        "counter",
        "Tokens that upstreams reported, by upstream and direction (prompt, completion).",
        ("upstream", "direction"),
    ),
    "entrepot_limited_total": Description(
        "counter",
        "Calls that did not fit into a limit, by whose it is (deployment, key, account, organization) and its kind.",
        ("scope", "kind"),
    ),
    "entrepot_limits_shared": Description(
        "gauge", "Workers whose limits are counted with all others; the rest admits a share of each limit for itself."
    ),
    "entrepot_call_seconds": Description(
        "histogram",
        "From the complete request to the end of its answer, admitted calls only, by operation.",
        ("operation",),
    ),
    "entrepot_stage_seconds": Description(
        "histogram",
        "Of admitted calls, by stage: admit (until decided), ledger (until durable), upstream (until its first byte).",
        ("stage",),
    ),
    "entrepot_deployment_calls_total": Description(
        "counter",
        "Calls that named a deployment, by outcome or code of the refusal; *other* past the first 1,000 deployments.",
        ("account", "deployment", "result"),
    ),
    "entrepot_access_log_dropped_total": Description(
        "counter", "Lines of calls that were not written, since nobody took them."
    ),
    "entrepot_shipping_behind": Description(
        "gauge", "Signed entries of the ledger that a control plane does not have yet; the most of them.", (), "max"
    ),
    "entrepot_shipping_failing": Description("gauge", "Control planes that the ledger cannot be shipped to."),
    "entrepot_connections": Description("gauge", "Client connections open now."),
    "entrepot_upstream_healthy": Description("gauge", "Workers that find the upstream in good health.", ("upstream",)),
    "entrepot_ledger_available": Description("gauge", "Workers whose ledger takes entries; the others serve nothing."),
    "entrepot_ledger_signs": Description("gauge", "Workers whose ledger writes checkpoints: else no receipts."),
    "entrepot_world_revision": Description("gauge", "Revision of the world that is served.", (), "max"),
    "entrepot_world_invalid": Description(
        "gauge",
        "1 while what is declared or published cannot be served or is not heard of; /readyz says why.",
        (),
        "max",
    ),
    "entrepot_workers": Description("gauge", "Workers that serve."),
    "entrepot_worker_restarts_total": Description("counter", "Workers that ended unasked and were started again."),
}
