"""From a request target to an operation, a form, an account and a deployment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.errors import Code, Error
from entrepot.gateway.routes import MODEL, MODELS, PROBE, Route, route
from entrepot.wire.forms import Form

VERSION = "api-version=2024-10-21"


@pytest.mark.parametrize(
    ("method", "path", "query", "expected"),
    [
        ("POST", "/v1/chat/completions", "", Route(Form.OPENAI, "chat")),
        ("POST", "/v1/completions", "x=1", Route(Form.OPENAI, "completions")),
        ("POST", "/v1/embeddings", "", Route(Form.OPENAI, "embeddings")),
        ("POST", "/openai/v1/chat/completions", "", Route(Form.AZURE_V1, "chat")),
        ("POST", "/openai/v1/chat/completions", "api-version=preview", Route(Form.AZURE_V1, "chat")),
        ("POST", "/openai/deployments/d/chat/completions", VERSION, Route(Form.AZURE, "chat", None, "d")),
        (
            "POST",
            "/openai/deployments/d.1_2-3/embeddings",
            VERSION + "-preview&x",
            Route(Form.AZURE, "embeddings", None, "d.1_2-3"),
        ),
        ("POST", "/openai/deployments/%64/completions", VERSION, Route(Form.AZURE, "completions", None, "d")),
        ("POST", "/accounts/a/v1/chat/completions", "", Route(Form.OPENAI, "chat", "a")),
        ("POST", "/accounts/a/openai/v1/embeddings", "", Route(Form.AZURE_V1, "embeddings", "a")),
        ("POST", "/accounts/a/openai/deployments/d/embeddings", VERSION, Route(Form.AZURE, "embeddings", "a", "d")),
        ("POST", "/accounts/a//v1/chat/completions", "", Route(Form.OPENAI, "chat", "a")),
        ("POST", "/accounts/a//openai/v1/embeddings", "", Route(Form.AZURE_V1, "embeddings", "a")),
        ("POST", "/accounts/a//openai/deployments/d/embeddings", VERSION, Route(Form.AZURE, "embeddings", "a", "d")),
        ("POST", "//openai/deployments/d/embeddings", VERSION, Route(Form.AZURE, "embeddings", None, "d")),
        ("POST", "//openai/v1/chat/completions", "", Route(Form.AZURE_V1, "chat")),
        ("GET", "/v1/models", "", Route(Form.OPENAI, MODELS)),
        ("HEAD", "/v1/models", "", Route(Form.OPENAI, MODELS)),
        ("GET", "/v1/models/m:1", "", Route(Form.OPENAI, MODEL, None, None, "m:1")),
        ("GET", "/openai/v1/models/m", "", Route(Form.AZURE_V1, MODEL, None, None, "m")),
        ("GET", "/openai/models", VERSION, Route(Form.AZURE, MODELS)),
        ("GET", "/accounts/a/openai/models/m", VERSION, Route(Form.AZURE, MODEL, "a", None, "m")),
        ("GET", "/healthz", "", Route(Form.OPENAI, PROBE)),
        ("HEAD", "/readyz", "", Route(Form.OPENAI, PROBE)),
    ],
)
def test_paths_that_are_there(method: str, path: str, query: str, expected: Route) -> None:
    assert route(method, path, query) == expected


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("POST", "/v1/chat/completions/", ""),
        ("POST", "/v1//chat/completions", ""),
        ("POST", "//v1/chat/completions", ""),
        ("POST", "/accounts/a///v1/chat/completions", ""),
        ("POST", "/accounts/a/v1//chat/completions", ""),
        ("POST", "/V1/chat/completions", ""),
        ("POST", "/v1/chat%2Fcompletions", ""),
        ("POST", "/v1/responses", ""),
        ("POST", "/v1", ""),
        ("POST", "/", ""),
        ("POST", "*", ""),
        ("POST", "/openai", ""),
        ("POST", "/openai/v1", ""),
        ("POST", "/openai/deployments/d/chat/completions", ""),
        ("POST", "/openai/deployments/d/chat/completions", "api-version="),
        ("POST", "/openai/deployments/d/chat/completions", "api-version=2024-10-21%0A"),
        ("POST", "/openai/deployments/d/chat/completions", f"{VERSION}&{VERSION}"),
        ("POST", "/openai/deployments/a/b/chat/completions", VERSION),
        ("POST", "/openai/deployments/a%2Fb/chat/completions", VERSION),
        ("POST", "/openai/deployments/%2e%2e/chat/completions", VERSION),
        ("POST", "/openai/deployments/%ff/chat/completions", VERSION),
        ("POST", "/openai/deployments/" + "d" * 200 + "/chat/completions", VERSION),
        ("POST", "/accounts//v1/chat/completions", ""),
        ("POST", "/accounts/a", ""),
        ("POST", "/accounts/a/accounts/b/v1/chat/completions", ""),
        ("POST", "/accounts/../v1/chat/completions", ""),
        ("GET", "/v1/models/", ""),
        ("GET", "/v1/models/a/b", ""),
        ("GET", "/openai/deployments", VERSION),
        ("GET", "/metrics", ""),
        ("GET", "/accounts/a/healthz", ""),
        ("POST", "/healthz", ""),
    ],
)
def test_paths_that_are_not(method: str, path: str, query: str) -> None:
    with pytest.raises(Error) as raised:
        route(method, path, query)
    assert (raised.value.code, raised.value.subject) == (Code.NOT_FOUND, f"{method} {path}")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("HEAD", "/openai/v1/embeddings", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/accounts/a/v1/models/m", "GET, HEAD"),
        ("PATCH", "/openai/deployments/d/chat/completions", "POST"),
    ],
)
def test_methods_that_are_not(method: str, path: str, allowed: str) -> None:
    with pytest.raises(Error) as raised:
        route(method, path, VERSION)
    assert (raised.value.code, raised.value.subject) == (Code.METHOD_NOT_ALLOWED, allowed)


_PARTS = st.sampled_from(
    ["accounts", "openai", "v1", "deployments", "models", "chat", "completions", "", "..", "a", "%"]
)


@given(
    st.sampled_from(["GET", "POST", "HEAD", "PUT"]),
    st.one_of(st.lists(_PARTS, max_size=8).map("/".join), st.text(max_size=40)),
    st.one_of(st.just(VERSION), st.text(max_size=20)),
)
def test_any_target_is_a_route_or_a_refusal(method: str, path: str, query: str) -> None:
    try:
        found = route(method, "/" + path, query)
    except Error as error:
        told = error.code
    else:
        told = Code.NOT_FOUND
        for name in (found.account, found.deployment, found.model):
            assert name is None or (name and "/" not in name)
    assert told in {Code.NOT_FOUND, Code.METHOD_NOT_ALLOWED}
