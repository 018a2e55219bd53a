"""What an upstream's error answer means for the call: pass it on, try the next target, or our own refusal. Pure."""

from __future__ import annotations

from enum import Enum

from entrepot.wire.passed import error_object


class Meaning(Enum):
    """How the gateway goes on after an answer."""

    RELAY = "relay"  # the client's own affair: pass it on
    RETRY = "retry"  # another target may do better; at last, pass it on
    OPERATOR = "operator"  # our credential or model name is wrong there: next target, never shown as the client's fault
    TERRITORY = "territory"  # the provider itself refuses the territory: our refusal, and no further target


_RETRIED = frozenset({408, 409, 429})
_OPERATORS_FAULT = frozenset({401, 403, 404})

# Seen on the wires of OpenAI, Bedrock with Anthropic models, and the Gemini API.
_TERRITORY_CODE = "unsupported_country_region_territory"
_TERRITORY_TEXTS = (
    "unsupported countries, regions, or territories",
    "user location is not supported for the api use",
    "country, region, or territory not supported",
)


def meaning_of(status: int, body: bytes) -> Meaning:
    if status < 300:
        return Meaning.RELAY
    if status < 400:
        return Meaning.OPERATOR  # a redirect: the base URL is wrong, and following it could leave the region
    if status in {400, 403, 451} and is_territory_refusal(body):
        return Meaning.TERRITORY
    if status in _RETRIED or status >= 500:
        return Meaning.RETRY
    if status in _OPERATORS_FAULT:
        return Meaning.OPERATOR
    return Meaning.RELAY


def is_territory_refusal(body: bytes) -> bool:
    error = error_object(body)
    if error is None:
        return False
    if error.get("code") == _TERRITORY_CODE:
        return True
    message = str(error.get("message", "")).lower()
    return any(text in message for text in _TERRITORY_TEXTS)
