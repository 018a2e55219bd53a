"""Trace context (W3C Trace Context, https://www.w3.org/TR/trace-context/): passed on as it came, or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping

# §3.2: four parts in lower-case hexadecimal, neither id all zeros; ff is no version, and 00 has nothing behind them.
_PARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<more>-[\x21-\x7e]*)?"
)
_STATE = re.compile(r"[\x20-\x7e\t]{1,2048}")
LONGEST = 512


def trace_head(headers: Mapping[str, str]) -> bytes:
    """Header lines for the upstream. Nothing where there is no valid `traceparent`; then `tracestate` says nothing.

    We are a pass-through in the sense of §2.3 and §4.3: no span of ours is reported anywhere, so a new parent id would
    name a span that nobody knows, and the caller's is passed on unchanged; therefore `tracestate` is too.
    """
    parent = headers.get("traceparent")
    if parent is None:
        return b""
    found = _PARENT.fullmatch(parent) if len(parent) <= LONGEST else None
    if found is None or (found["version"] == "00" and found["more"]):
        return b""
    state = headers.get("tracestate")
    if state is None or not _STATE.fullmatch(state):
        return f"traceparent: {parent}\r\n".encode()
    return f"traceparent: {parent}\r\ntracestate: {state}\r\n".encode()
