from __future__ import annotations

import json

from entrepot.errors import Code, Detail, Error
from entrepot.wire.arm import instant, name_of, page, problem, problem_headers, system_data


def test_an_error_names_its_target_and_all_details() -> None:
    error = Error(
        Code.BAD_REQUEST,
        "two mistakes",
        name="InvalidResource",
        param="properties",
        details=(Detail("A", "first", "x"), Detail("B", "second")),
    )
    assert json.loads(problem(error)) == {
        "error": {
            "code": "InvalidResource",
            "message": "two mistakes",
            "target": "properties",
            "details": [{"code": "A", "message": "first", "target": "x"}, {"code": "B", "message": "second"}],
        }
    }
    assert json.loads(problem(Error(Code.NOT_FOUND, "m"))) == {"error": {"code": "ResourceNotFound", "message": "m"}}


def test_every_code_has_a_name_as_azure_spells_names() -> None:
    for code in Code:
        name = name_of(Error(code, "m"))
        assert name.isalnum()
        assert name[0].isupper()
    assert name_of(Error(Code.CONFLICT, "m", name="RoleAssignmentExists")) == "RoleAssignmentExists"


def test_headers_tell_how_to_go_on() -> None:
    found = problem_headers(Error(Code.UNAUTHENTICATED, 'bad "token"\r\nx-evil: 1 é', retry_after_s=3))
    assert found["www-authenticate"] == 'Bearer error="invalid_token", error_description="bad tokenx-evil: 1 "'
    assert found["retry-after"] == "3"
    assert problem_headers(Error(Code.METHOD_NOT_ALLOWED, "m", subject="GET")) == {"allow": "GET"}


def test_lists_instants_and_system_data() -> None:
    assert page([1]) == {"value": [1]}
    assert page([], "https://x/next") == {"value": [], "nextLink": "https://x/next"}
    assert instant(1_795_390_091_042) == "2026-11-22T23:28:11.042Z"
    assert system_data("a", 0, "b", 1_000)["lastModifiedAt"] == "1970-01-01T00:00:01.000Z"
