"""How a refusal by the access policy reads in the management API. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The real service's words (docs/azure-management.md, "Refusals"); clients and their users search for this sentence.
LOCAL_REGULATIONS = "CannotDeployDueToLocalRegulations"
_LOCAL_REGULATIONS = (
    "Due to local regulatory requirements, in mainland China only enterprise customers with a registered business "
    "license are eligible to subscribe to the Azure OpenAI Service."
)
_OWN_CODES = {"cannot_deploy_due_to_local_regulations": LOCAL_REGULATIONS}
_OTHER = "RefusedByAccessPolicy"


def refusal(code: str | None, reason: Mapping[str, str], decision: str, request: str) -> dict[str, Any]:
    """The whole body of a refused deployment.

    `code` is the determining rule's, None where no rule permitted; `reason` is its text per language; `decision` is
    the place of the decision in the ledger, by which the operator can explain it.
    """
    name = _OWN_CODES.get(code or "") or (_camel(code) if code else _OTHER)
    text = reason.get("en") or next(iter(reason.values()), "the access policy does not permit this deployment")
    info: dict[str, Any] = {"decision": decision, "request": request}
    if reason:
        info["reason"] = dict(reason)
    return {
        "error": {
            "code": name,
            "message": _LOCAL_REGULATIONS if name == LOCAL_REGULATIONS else text,
            "additionalInfo": [{"type": "AccessDecision", "info": info}],
        }
    }


def _camel(code: str) -> str:
    """`outside_residency` → `OutsideResidency`: rules name their codes as the data plane shows them."""
    return "".join(word[:1].upper() + word[1:] for word in code.split("_"))
