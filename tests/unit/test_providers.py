"""How an upstream is asked, what its answers mean, and what a client gets to see of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.http1.client import Endpoint
from entrepot.providers.answers import Meaning, meaning_of
from entrepot.providers.request import prepare
from entrepot.resources.model import Proxy, Upstream
from entrepot.wire.forms import Form
from entrepot.wire.passed import passed_on

REFUSED = (
    b'{"error":{"code":"unsupported_country_region_territory","message":"Country, region, or territory not supported"}}'
)


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (200, b"", Meaning.RELAY),
        (201, b"{}", Meaning.RELAY),
        (400, b"{}", Meaning.RELAY),
        (413, b"", Meaning.RELAY),
        (422, b"", Meaning.RELAY),
        (402, b"", Meaning.RELAY),
        (401, b"", Meaning.OPERATOR),
        (403, b"<html>", Meaning.OPERATOR),
        (404, b'{"error":"no such model"}', Meaning.OPERATOR),
        (302, b"", Meaning.OPERATOR),
        (408, b"", Meaning.RETRY),
        (409, b"", Meaning.RETRY),
        (429, REFUSED, Meaning.RETRY),
        (500, REFUSED, Meaning.RETRY),
        (529, b"", Meaning.RETRY),
        (403, REFUSED, Meaning.TERRITORY),
        (400, REFUSED, Meaning.TERRITORY),
        (451, REFUSED, Meaning.TERRITORY),
        (400, b'{"error":{"message":"User location is not supported for the API use."}}', Meaning.TERRITORY),
        (403, b'{"message":"Access from unsupported countries, regions, or territories"}', Meaning.TERRITORY),
        (403, b'{"error":{"message":null}}', Meaning.OPERATOR),
        (403, b"\xff", Meaning.OPERATOR),
        (403, b"[" * 100_000, Meaning.OPERATOR),
    ],
)
def test_what_an_answer_means(status: int, body: bytes, meaning: Meaning) -> None:
    assert meaning_of(status, body) is meaning


@pytest.mark.parametrize(
    ("body", "form", "error"),
    [
        (
            b"",
            Form.OPENAI,
            {
                "message": "the model's provider answered 400 Bad Request",
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            },
        ),
        (b"<html>", Form.AZURE, {"message": "the model's provider answered 400 Bad Request", "code": "400"}),
        (b'{"error":"x"}', Form.AZURE_V1, {"message": "x", "code": "400"}),
        (
            b'{"message":"x"}',
            Form.OPENAI,
            {"message": "x", "type": "invalid_request_error", "param": None, "code": None},
        ),
        (b'{"error":{"message":"x","code":7}}', Form.AZURE, {"message": "x", "code": "7"}),
        (
            b'{"error":{"message":"of org-AbCd1234 in proj_9999","code":"c"}}',
            Form.AZURE,
            {"message": "of [redacted] in [redacted]", "code": "c"},
        ),
    ],
)
def test_errors_are_made_to_fit_the_form(body: bytes, form: Form, error: dict[str, Any]) -> None:
    assert json.loads(passed_on(400, body, form)) == {"error": error}


def test_an_error_that_fits_passes_byte_for_byte() -> None:
    body = b'{ "error" : {"message":"x", "type":"t","param":null,"code":null, "more":[1]} , "y":1}'
    assert passed_on(400, body, Form.OPENAI) is body


@given(
    st.integers(300, 599),
    st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.one_of(st.none(), st.integers(), st.text(max_size=8)),
            lambda inner: st.dictionaries(
                st.sampled_from(["error", "message", "code", "type", "param"]), inner, max_size=4
            ),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
    ),
    st.sampled_from(Form),
)
def test_whatever_an_upstream_says_an_sdk_can_read_it(status: int, body: bytes, form: Form) -> None:
    meaning_of(status, body)
    error = json.loads(passed_on(status, body, form))["error"]
    assert isinstance(error["message"], str)
    assert {"message", "code"} <= error.keys()
    if form is Form.OPENAI:
        assert {"type", "param"} <= error.keys()
    else:
        assert isinstance(error["code"], str)


def upstream(**given: Any) -> Upstream:
    fields = {"name": "u", "provider": "p", "region": "r", "api": "openai", "base_url": "https://a.example/base/v1"}
    return Upstream(**{**fields, "credential": "env:K", "models": {}, **given})


def test_how_openai_is_asked() -> None:
    prepared = prepare(upstream(), "m", "secret-of-the-operator")
    assert prepared.endpoint == Endpoint("https", "a.example", 443, None)
    assert prepared.targets == {
        "chat": "/base/v1/chat/completions",
        "completions": "/base/v1/completions",
        "embeddings": "/base/v1/embeddings",
    }
    assert b"host: a.example\r\n" in prepared.head
    assert b"authorization: Bearer secret-of-the-operator\r\n" in prepared.head
    assert b"accept-encoding: identity\r\n" in prepared.head
    assert b"api-key" not in prepared.head
    assert "secret" not in repr(prepared)


def test_how_azure_is_asked() -> None:
    given = upstream(api="azure", base_url="https://a.example:8443", api_version="2024-10-21")
    prepared = prepare(given, "a b/ü", "k")
    assert prepared.targets["chat"] == "/openai/deployments/a%20b%2F%C3%BC/chat/completions?api-version=2024-10-21"
    assert b"host: a.example:8443\r\n" in prepared.head
    assert b"api-key: k\r\n" in prepared.head
    assert b"authorization" not in prepared.head


def test_an_upstream_without_a_credential_gets_none() -> None:
    head = prepare(upstream(base_url="http://[::1]:9/v1"), "m", None).head
    assert b"host: [::1]:9\r\n" in head
    assert b"authorization" not in head


def test_the_declared_proxy_is_part_of_the_endpoint() -> None:
    given = upstream(proxy=Proxy("http://proxy.example:3128", "SG"))
    assert prepare(given, "m", None).endpoint.proxy == "http://proxy.example:3128"


def test_a_credential_that_is_two_lines_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError) as raised:
        prepare(upstream(), "m", "k\r\nx-other: 1")
    assert "x-other" not in str(raised.value)
