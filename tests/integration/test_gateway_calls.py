"""What a served call looks like from both ends: what the upstream gets, and what the client gets of its answer."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest

from entrepot.gateway.records import named
from entrepot.sim.settings import Rule, Settings
from harness import CONTENT, Answer, House, ask, asked, body_of, call_bytes, opened, raw, to_end

CHAT = "/v1/chat/completions"
IN_AZURE = "/openai/deployments/{}/chat/completions?api-version=2024-10-21"


def call(house: House, path: str = CHAT, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
    return ask(house.gateway.data, path, body or body_of(), house.key(), headers)


def sent(house: House) -> dict[str, Any]:
    """The body that the upstream got last."""
    found: dict[str, Any] = json.loads(house.openai.seen[-1].body)
    return found


class TestUpstream:
    def test_gets_the_operator_s_credential_and_nothing_of_the_client_s_head(self, house: House) -> None:
        key = house.key()
        headers = {
            "authorization": f"Bearer {key}",
            "api-key": key,
            "x-api-key": key,
            "accept-encoding": "gzip, br",
            "connection": "x-hop",
            "x-hop": "1",
            "te": "trailers",
            "upgrade": "h2c",
            "cookie": "session=1",
            "openai-organization": "org-clients",
            "user-agent": "a client",
            "x-forwarded-for": "203.0.113.9",
            "x-stainless-retry-count": "0",
        }
        assert ask(house.gateway.data, CHAT, body_of(), None, headers).status == 200
        seen = house.openai.seen[-1]
        assert (seen.method, seen.path, seen.query) == ("POST", CHAT, "")
        assert seen.headers == {
            "host": house.openai.base_url.removeprefix("http://"),
            "content-type": "application/json",
            "content-length": str(len(seen.body)),
            "accept": "application/json, text/event-stream",
            "accept-encoding": "identity",
            "user-agent": "entrepot",
            "authorization": f"Bearer {house.gateway.world.upstream_key}",
        }

    def test_of_azure_s_kind_is_asked_in_azure_s_way(self, house: House) -> None:
        answer = call(house, body=body_of("on-azure"))
        assert answer.status == 200
        seen = house.azure.seen[-1]
        assert seen.path == "/openai/deployments/their%20deployment/chat/completions"
        assert seen.query == "api-version=2024-10-21"
        assert seen.headers["api-key"] == house.gateway.world.upstream_key
        assert "authorization" not in seen.headers
        assert not house.openai.seen

    def test_gets_the_body_byte_for_byte_but_for_the_model(self, house: House) -> None:
        body = (
            '{ "model" : "gpt-4o", "messages":[ {"role":"user","content":"\\u00fc\\ud83d\\ude00 \\/ ünï"} ],'
            ' "temperature":1.0E+0, "seed":  12345678901234567890123, "x_unknown":{ "b":1, "a" : [ ] } }'
        ).encode()
        assert call(house, body=body).status == 200
        assert (
            house.openai.seen[-1].body
            == (
                '{"model":"gpt-4o-upstream","messages":[ {"role":"user","content":"\\u00fc\\ud83d\\ude00 \\/ ünï"} ],'
                '"temperature":1.0E+0,"seed":12345678901234567890123,"x_unknown":{ "b":1, "a" : [ ] }}'
            ).encode()
        )

    @pytest.mark.parametrize(
        "body",
        [
            b'{"model":"gpt-9","model":"gpt-4o","messages":[{"role":"user","content":"x"}]}',
            b'{"\\u006dodel":"gpt-9","model":"gpt-4o","messages":[{"role":"user","content":"x"}]}',
            b'{"model":"gpt-9","\\u006dodel":"gpt-4o","messages":[{"role":"user","content":"x"}]}',
        ],
    )
    def test_gets_one_model_however_often_it_was_named(self, house: House, body: bytes) -> None:
        assert call(house, body=body).status == 200
        assert house.openai.seen[-1].body == b'{"model":"gpt-4o-upstream","messages":[{"role":"user","content":"x"}]}'

    def test_gets_the_deployment_of_the_path_whatever_the_body_says(self, house: House) -> None:
        assert call(house, IN_AZURE.format("gpt-4o"), body_of("gpt-9")).status == 200
        assert sent(house)["model"] == "gpt-4o-upstream"
        assert call(house, IN_AZURE.format("gpt-4o"), body_of(None)).status == 200
        assert sent(house)["model"] == "gpt-4o-upstream"
        assert call(house, IN_AZURE.format("embed").replace("chat/completions", "embeddings"), b'{"input":"x"}')
        assert sent(house) == {"input": "x", "model": "embedder"}

    @pytest.mark.parametrize(
        ("given", "options"),
        [
            ({}, {"include_usage": True}),
            ({"stream_options": None}, {"include_usage": True}),
            ({"stream_options": {"include_usage": False}}, {"include_usage": True}),
            ({"stream_options": {"x": 1, "include_usage": True}}, {"x": 1, "include_usage": True}),
        ],
    )
    def test_is_asked_for_usage_at_the_end_of_streams(
        self, house: House, given: dict[str, Any], options: dict[str, Any]
    ) -> None:
        assert call(house, body=body_of(stream=True, **given)).status == 200
        assert sent(house)["stream_options"] == options

    def test_is_not_asked_for_it_without_a_stream(self, house: House) -> None:
        assert call(house, body=body_of(stream=False)).status == 200
        assert "stream_options" not in sent(house)

    def test_is_asked_over_kept_connections(self, house: House) -> None:
        before = house.openai.counters.connections
        for _ in range(5):
            assert call(house).status == 200
        assert house.openai.counters.connections <= before + 1


class TestClient:
    @pytest.mark.parametrize("path", [CHAT, "/openai/v1/chat/completions", IN_AZURE.format("gpt-4o")])
    def test_gets_the_answer_as_it_is(self, house: House, path: str) -> None:
        body = b'{"id":"1" ,  "model":"gpt-4o-2024-11-20-theirs","x":[1.50],"usage":{"prompt_tokens":3}}'
        house.openai.use(Settings(script=(Rule(body=body.decode(), headers={"openai-processing-ms": "12"}),)))
        answer = call(house, path)
        assert (answer.status, answer.body) == (200, body)
        assert answer.headers["content-type"].startswith("application/json")
        assert answer.headers["openai-processing-ms"] == "12"
        assert answer.headers["x-ms-region"] == "Japan East"

    def test_does_not_get_the_operator_s_headers(self, house: House) -> None:
        theirs = {"x-request-id": "theirs", "apim-request-id": "theirs", "x-ms-region": "Mars", "set-cookie": "a=b"}
        limits = {"x-ratelimit-remaining-requests": "7", "openai-organization": "operators", "server": "x"}
        house.openai.use(Settings(script=(Rule(headers={**theirs, **limits}),)))
        answer = call(house)
        assert answer.status == 200
        assert set(answer.headers) <= {
            "apim-request-id",
            "content-length",
            "content-type",
            "date",
            "openai-processing-ms",
            "openai-version",
            "x-entrepot-receipt",
            "x-ms-region",
            "x-request-id",
            *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
        }
        assert "theirs" not in answer.headers.values()
        assert answer.headers["x-ms-region"] == "Japan East"

    def test_gets_ids_of_its_own_for_each_call(self, house: House) -> None:
        with opened(house.gateway.data) as connection:
            ids = [asked(connection, CHAT, body_of(), house.key()).headers["x-request-id"] for _ in range(3)]
        assert len(set(ids)) == 3

    @pytest.mark.parametrize("operation", ["chat/completions", "completions", "embeddings"])
    @pytest.mark.parametrize("form", ["/v1/", "/openai/v1/", "/accounts/kanto/v1/", "/accounts/kanto/openai/v1/"])
    def test_has_three_operations_in_each_form(self, house: House, operation: str, form: str) -> None:
        model = "embed" if operation == "embeddings" else "gpt-4o"
        body = body_of(model, prompt="x", input="x")
        assert call(house, form + operation, body).status == 200
        assert house.openai.seen[-1].path == f"/v1/{operation}"

    def test_sees_its_own_mistake_as_the_upstream_put_it(self, house: House) -> None:
        theirs = {"error": {"message": "max_tokens is too large", "type": "x", "param": "max_tokens", "code": "c"}}
        house.openai.use(Settings(script=(Rule(status=400, json=theirs),)))
        answer = call(house)
        assert (answer.status, answer.json) == (400, theirs)
        assert house.openai.counters.statuses[400]
        assert len(house.openai.seen) == 1  # nobody tries a mistake again

    def test_sees_it_in_its_own_form(self, house: House) -> None:
        theirs = {"error": {"code": "content_filter", "message": "filtered", "innererror": {"code": "X"}}}
        house.azure.use(Settings(script=(Rule(status=400, json=theirs),)))
        answer = call(house, body=body_of("on-azure"))
        assert (answer.status, answer.json["error"]) == (
            400,
            {
                "message": "filtered",
                "type": "invalid_request_error",
                "param": None,
                "code": "content_filter",
                "innererror": {"code": "X"},
            },
        )
        assert call(house, IN_AZURE.format("on-azure")).json == theirs

    def test_gets_an_upstream_s_429_with_its_delay(self, house: House) -> None:
        house.openai.use(Settings(script=(Rule(error="rate_limit_exceeded", headers={"retry-after": "7"}),)))
        answer = call(house)
        assert answer.status == 429
        assert answer.headers["retry-after"] == "7"
        assert answer.json["error"]["code"] == "rate_limit_exceeded"

    def test_may_say_little_of_http(self, house: House) -> None:
        body = body_of()
        head = f"POST {CHAT} HTTP/1.0\r\nhost: a\r\nx-api-key: {house.key()}\r\ncontent-length: {len(body)}\r\n\r\n"
        with raw(house.gateway.data, head.encode() + body) as sock:
            answer = to_end(sock)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["choices"]

    def test_may_send_two_calls_at_once(self, house: House) -> None:
        body = body_of()
        calls = call_bytes(body, house.key()) + call_bytes(body, house.key(), more="connection: close\r\n")
        with raw(house.gateway.data, calls) as sock:
            assert to_end(sock).count(b"HTTP/1.1 200 OK\r\n") == 2


class TestModels:
    def test_are_the_account_s_deployments(self, house: House) -> None:
        for path in ("/v1/models", "/openai/v1/models", "/accounts/kanto/v1/models"):
            answer = ask(house.gateway.data, path, key=house.key())
            assert answer.status == 200
            assert [model["id"] for model in answer.json["data"]] == ["gpt-4o", "gpt-4o-again", "embed", "on-azure"]
        assert answer.json["data"][0] == {
            "id": "gpt-4o",
            "object": "model",
            "created": 1732060800,
            "owned_by": "openai",
        }

    def test_are_base_models_in_azure_s_classic_form(self, house: House) -> None:
        answer = ask(house.gateway.data, "/openai/models?api-version=2024-10-21", key=house.key())
        assert [model["id"] for model in answer.json["data"]] == [
            "gpt-4o-2024-11-20",
            "text-embedding-3-small-2024-11-20",
            "gpt-4o-az-2024-11-20",
        ]

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("/v1/models/gpt-4o-again", 200),
            ("/openai/v1/models/embed", 200),
            ("/openai/models/gpt-4o-2024-11-20?api-version=2024-10-21", 200),
            ("/openai/models/gpt-4o?api-version=2024-10-21", 404),
            ("/v1/models/gpt-9", 404),
            ("/accounts/cloudy/v1/models", 401),
        ],
    )
    def test_one_by_one(self, house: House, path: str, status: int) -> None:
        answer = ask(house.gateway.data, path, key=house.key())
        assert answer.status == status
        assert answer.headers["apim-request-id"]
        if status == 200:
            assert answer.json["id"] == path.partition("?")[0].rpartition("/")[2]

    def test_need_a_key_and_no_decision(self, house: House) -> None:
        assert ask(house.gateway.data, "/v1/models").status == 401
        assert ask(house.gateway.data, "/v1/models", key=house.key("halted")).status == 200

    def test_have_heads_too(self, house: House) -> None:
        answer = ask(house.gateway.data, "/v1/models", key=house.key(), method="HEAD")
        assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_probes_need_no_key(house: House, path: str, method: str) -> None:
    answer = ask(house.gateway.data, path, method=method)
    assert (answer.status, answer.body) == (200, b'{"status":"ok"}' if method == "GET" else b"")


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [("/healthz", 200, "ok"), ("/readyz", 200, '"ready":true'), ("/metrics", 200, "entrepot_"), ("/", 404, "/metrics")],
)
def test_the_admin_listener(house: House, path: str, status: int, said: str) -> None:
    answer = ask(house.gateway.admin, path)
    assert answer.status == status
    assert said in answer.body.decode()
    assert ask(house.gateway.admin, path, b"", method="POST").status == 405


def test_metrics_count_calls_and_tokens(house: House) -> None:
    series = {
        'entrepot_calls_total{operation="chat",outcome="served",status="200"}': 2,
        'entrepot_calls_total{operation="chat",outcome="refused",status="403"}': 1,
        'entrepot_errors_total{code="unsupported_territory"}': 1,
        'entrepot_attempts_total{result="answered",upstream="main"}': 2,
        'entrepot_tokens_total{direction="completion",upstream="main"}': 14,
        'entrepot_call_seconds_count{operation="chat"}': 2,
    }
    before = {name: house.gateway.metric(name) for name in series}
    assert call(house, body=body_of(max_tokens=7)).status == 200
    assert call(house, body=body_of(max_tokens=7, stream=True)).status == 200
    assert ask(house.gateway.data, CHAT, body_of(), house.key("far")).status == 403
    assert {name: house.gateway.metric(name) - before[name] for name in series} == series


def test_the_log_says_nothing_of_a_served_call(house: House) -> None:
    before = len(house.gateway.log)
    assert call(house).status == 200
    assert CONTENT.encode() in house.openai.seen[-1].body
    assert len(house.gateway.log) == before


class TestEndUser:
    @pytest.mark.parametrize("user", ["1e999", "17", "null", '["u"]', f'"{"u" * 200_000}"', '"u-1"'])
    def test_is_never_a_fault_of_ours(self, house: House, user: str) -> None:
        for field in ("user", "safety_identifier"):
            body = b'{"%b":%b,%b' % (field.encode(), user.encode(), body_of()[1:])
            assert ask(house.gateway.data, body=body, key=house.key()).status == 200


@pytest.mark.parametrize(
    ("user", "kept"),
    [("u" * 256, "u" * 256), ("u" * 257, "sha256:" + sha256(b"u" * 257).hexdigest())],
)
def test_a_long_name_is_kept_as_its_digest(user: str, kept: str) -> None:
    assert named(user) == kept
