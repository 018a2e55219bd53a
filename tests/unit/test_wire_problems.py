from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.errors import Code, Error
from entrepot.wire import problems
from entrepot.wire.forms import Form, form_of
from entrepot.wire.problems import headers_for, redact, render, render_status

ROOT = Path(__file__).parents[2]
TERRITORY = (
    b'{"error":{"code":"unsupported_country_region_territory",'
    b'"message":"Country, region, or territory not supported","param":null,"type":"request_forbidden"}}'
)


def test_every_code_is_documented_with_its_bodies() -> None:
    text = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    cases = json.loads((ROOT / "tests/conformance/wire/errors.json").read_text(encoding="utf-8"))
    for code in Code:
        assert f"| `{code.label}` | {code.status} |" in text
        assert f"### `{code.label}`\n" in text
        assert {case["form"] for case in cases if case["code"] == code.name} == {form.name for form in Form}
    for case in cases:
        assert json.dumps(case["body"], ensure_ascii=False, separators=(",", ":")) in text


# Fixed texts that are another's words. Those that a capture or a document of theirs has shown to be so, and the others.
VERIFIED = {
    ("OpenAI", Code.QUOTA_EXHAUSTED),
    ("OpenAI", Code.UNSUPPORTED_TERRITORY),
    ("OpenAI", Code.PERMISSION_DENIED),  # Azure's text, as is the next
    ("OpenAI", Code.KEYS_DISABLED),
    ("Azure", Code.MISSING_KEY),
    ("Azure", Code.INVALID_KEY),
    ("Azure", Code.PERMISSION_DENIED),
    ("Azure", Code.KEYS_DISABLED),
    ("Azure", Code.UNSUPPORTED_TERRITORY),  # OpenAI's text
    ("Azure", Code.DEPLOYMENT_NOT_FOUND),
}


def test_texts_that_are_not_verified_are_marked() -> None:
    text = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    for code in Code:
        section = text.partition(f"### `{code.label}`\n")[2].partition("\n### ")[0]
        note = section.partition("```")[0]
        for service, texts in (("OpenAI", problems._OPENAI), ("Azure", problems._AZURE)):
            fixed = texts[code].message is not None and (service, code) not in VERIFIED
            assert ("not verified" in note and f"{service}'s" in note) == fixed, (code, service)


def test_a_territory_refusal_is_the_providers_own_body_to_the_byte() -> None:
    error = Error(Code.UNSUPPORTED_TERRITORY, "x", name="unsupported_territory")
    assert render(error, Form.OPENAI, decision_id="d", reason="r") == TERRITORY


@given(st.text("sk-projaZ09_é.*", max_size=80))
def test_no_more_of_a_key_is_echoed_than_its_last_four_characters(key: str) -> None:
    shown = redact(key)
    if len(key) < 20:
        assert shown is None
    else:
        assert shown is not None
        assert len(shown) <= 10
        assert shown.endswith("..." + key[-4:])
    body = render(Error(Code.INVALID_KEY, "unknown key", subject=shown), Form.OPENAI).decode()
    assert json.loads(body)["error"]["message"].startswith("Incorrect API key provided")
    for form in Form:
        told = json.loads(render(Error(Code.INVALID_KEY, key, subject=key), form))["error"]["message"]
        assert len(key) < 20 or key not in told


def test_a_short_key_is_not_echoed_at_all() -> None:
    error = Error(Code.INVALID_KEY, "unknown key", subject=redact("secret"))
    message = json.loads(render(error, Form.OPENAI))["error"]["message"]
    assert message == (
        "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys."
    )


def test_a_refusal_has_the_rules_code_reason_and_decision() -> None:
    error = Error(Code.ACCESS_DENIED, "refused", name="screening_hit")
    for form in Form:
        inner = json.loads(render(error, form, decision_id="gw1/7", reason="under review"))["error"]
        assert inner["code"] == "screening_hit"
        assert inner["message"] == "under review (decision gw1/7)"


def test_another_version_of_http_is_the_clients_fault() -> None:
    head, body = render_status("", 505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    inner = json.loads(body)["error"]
    assert (inner["code"], inner["type"]) == ("bad_request", "invalid_request_error")
    assert b"x-should-retry: false\r\n" in head


def test_without_a_subject_the_message_stands() -> None:
    error = Error(Code.NOT_FOUND, "Invalid URL (GET /x)")
    assert json.loads(render(error, Form.OPENAI))["error"]["message"] == "Invalid URL (GET /x)"


@pytest.mark.parametrize("code", Code)
def test_only_what_may_pass_is_retried(code: Code) -> None:
    refused = b"x-should-retry: false" in headers_for(Error(code, "x"))
    assert refused == (code.status < 500 and code not in {Code.REQUEST_TIMEOUT, Code.RATE_LIMITED})


def test_retry_after_in_both_spellings() -> None:
    head = headers_for(Error(Code.RATE_LIMITED, "x", retry_after_s=6))
    assert head.endswith(b"retry-after: 6\r\nretry-after-ms: 6000\r\n")


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/v1/chat/completions", Form.OPENAI),
        ("/openai/v1/chat/completions", Form.AZURE_V1),
        ("/openai/v1", Form.AZURE_V1),
        ("/openai/v1x", Form.AZURE),
        ("/openai/deployments/d/chat/completions", Form.AZURE),
        ("/accounts/a/openai/v1/models", Form.AZURE_V1),
        ("/accounts/a/openai/models", Form.AZURE),
        ("/accounts/a/v1/models", Form.OPENAI),
        ("/accounts/openai", Form.OPENAI),
        ("/openaix", Form.OPENAI),
        ("", Form.OPENAI),
    ],
)
def test_form_of_a_path(path: str, form: Form) -> None:
    assert form_of(path) is form


@pytest.mark.parametrize(("status", "code"), [(400, "400"), (431, "431"), (417, "400"), (500, "500"), (501, "500")])
def test_the_engines_failures_are_worded_in_the_paths_form(status: int, code: str) -> None:
    head, body = render_status("/v1/models", status, "because")
    assert json.loads(body)["error"]["message"] == "because"
    assert head.startswith(b"content-type: application/json\r\n")
    _, azure = render_status("/openai/models", status, "because")
    assert set(json.loads(azure)["error"]) == {"code", "message"}
