"""Bodies of model lists: what an account has deployed (OpenAI form, Azure v1), and its base models (Azure classic)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from entrepot.wire.forms import Form


class Listed(msgspec.Struct, frozen=True):
    """A deployment: the `name` that calls give, and what it serves."""

    name: str
    model: str
    version: str
    provider: str

    @property
    def base_id(self) -> str:
        """How Azure classic names the model that is deployed: `gpt-4o-2024-11-20`."""
        return f"{self.model}-{self.version}"


def listing(deployments: Iterable[Listed], form: Form) -> bytes:
    """The whole list. Azure classic names each base model once, however many deployments it has."""
    if form is Form.AZURE:
        base = {deployment.base_id: _base(deployment) for deployment in deployments}
        return msgspec.json.encode({"data": list(base.values()), "object": "list"})
    return msgspec.json.encode({"object": "list", "data": [_listed(deployment) for deployment in deployments]})


def item(deployment: Listed, form: Form) -> bytes:
    """One item of the list, alone."""
    return msgspec.json.encode(_base(deployment) if form is Form.AZURE else _listed(deployment))


def _listed(deployment: Listed) -> dict[str, Any]:
    return {
        "id": deployment.name,
        "object": "model",
        "created": _released_s(deployment.version),
        "owned_by": deployment.provider,
    }


def _base(deployment: Listed) -> dict[str, Any]:
    # `created_at`, not `created`, and no `owned_by`: so on the wire. What a model can do is told by its name alone.
    released_s = _released_s(deployment.version)
    embeds = "embed" in deployment.model
    return {
        "capabilities": {
            "fine_tune": False,
            "inference": True,
            "completion": False,
            "chat_completion": not embeds,
            "embeddings": embeds,
        },
        "lifecycle_status": "preview" if "preview" in deployment.version else "generally-available",
        "deprecation": {},
        "id": deployment.base_id,
        "status": "succeeded",
        "created_at": released_s,
        "updated_at": released_s,
        "object": "model",
    }


def _released_s(version: str) -> int:
    """Midnight UTC of the date that most versions begin with, in seconds since 1970; 0 for any other version."""
    try:
        return int(datetime.strptime(version[:10], "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        return 0
