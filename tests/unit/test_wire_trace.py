"""Trace context as W3C has it: passed on unchanged where it is valid, not at all where it is not."""

from __future__ import annotations

import pytest

from entrepot.wire.trace import trace_head

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("parent", [PARENT, PARENT[:-2] + "00", "cc" + PARENT[2:] + "-what-will-be", "01" + PARENT[2:]])
def test_what_is_valid_is_passed_on(parent: str) -> None:
    assert trace_head({"traceparent": parent}) == f"traceparent: {parent}\r\n".encode()
    both = trace_head({"traceparent": parent, "tracestate": "congo=t61rcWkgMzE, rojo=00f0"})
    assert both == f"traceparent: {parent}\r\ntracestate: congo=t61rcWkgMzE, rojo=00f0\r\n".encode()


@pytest.mark.parametrize(
    "parent",
    [
        None,
        "",
        "ff" + PARENT[2:],
        PARENT + "-more",
        PARENT + "x",
        PARENT.upper(),
        PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        PARENT.replace("00f067aa0ba902b7", "0" * 16),
        f"{PARENT}, {PARENT}",
        PARENT[:-1],
        "01" + PARENT[2:] + "-" + "x" * 600,
        "01" + PARENT[2:] + "-a\r\nx: y",
        "01" + PARENT[2:] + "-é",
    ],
)
def test_what_is_not_is_dropped_with_its_state(parent: str | None) -> None:
    headers = {"tracestate": "a=1"} if parent is None else {"traceparent": parent, "tracestate": "a=1"}
    assert trace_head(headers) == b""


@pytest.mark.parametrize("state", ["", "é=1", "a=1\r\nx: y", "a=" + "x" * 2_048])
def test_a_state_that_cannot_be_passed_on_leaves_the_parent(state: str) -> None:
    assert trace_head({"traceparent": PARENT, "tracestate": state}) == f"traceparent: {PARENT}\r\n".encode()
