"""What schemathesis is told of Entrepot.Access besides its document: how networks look, and what no schema can say."""

from __future__ import annotations

import re
from typing import Any

import schemathesis
from hypothesis import strategies as some

schemathesis.openapi.format("ip-network", some.builds(str, some.ip_addresses(network="10.0.0.0/8")))

# Where a request of the right form is refused all the same, with 400: rules between fields, and instants that are past.
BEYOND_SCHEMAS = re.compile(
    r"properties\.(registration\.number|network|eligibility|kyc|screening|effectiveAt|change|owners\[\d+\]|apiVersion)"
    r"|properties\.(credential|operator|prices|geo|adminListen|originHeader|limits|egress|residency)"
    r"|reason|key2|requests\[\d+\]"
)


@schemathesis.check
def well_formed_is_fit(_: Any, response: Any, case: Any) -> None:
    """In place of `positive_data_acceptance`: a 400 is for what no schema can say, and tells which field it is."""
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code != 400:
        return
    error = response.json()["error"]
    targets = [each.get("target", "") for each in error.get("details", ())] or [error.get("target", "")]
    for target in targets:
        # `azure` needs a version, `openai` has none; PostgreSQL holds no NUL, wherever in a body it stands
        if "api_version" in response.text or "NUL" in response.text:
            continue
        assert BEYOND_SCHEMAS.match(target), f"a well-formed request is refused: {response.text[:600]}"
