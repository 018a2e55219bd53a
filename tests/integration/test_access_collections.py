"""The collections of Entrepot.Access over a real socket: conventions, validation, what a kind has of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import trustme

from planes import Plane, plane

ROOT = "/providers/Entrepot.Access"
SITE = {"properties": {"network": "10.0.0.0/8", "territory": "SE"}}
ORGANIZATION = {
    "legalName": "Fjord AB",
    "operator": "north",
    "territory": "SE",
    "entityType": "enterprise",
    "registration": {"kind": "uscc", "number": "91110000600037341L"},
    "documents": [{"name": "licence", "sha256": "a" * 64}],
    "owners": [{"name": "Holding", "territory": "SE", "share": 60.5}],
}
UPSTREAM = {
    "provider": "openai",
    "region": "swedencentral",
    "api": "openai",
    "baseUrl": "https://api.example.com/v1",
    "models": {"gpt-4o@2024-11-20": "gpt-4o"},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    data = tmp_path_factory.mktemp("access") / "data"
    with plane(data) as made:
        (data / "ca").mkdir()
        trustme.CA().cert_pem.write_to_path(str(data / "ca" / "ca.pem"))
        yield made


def problem(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    return found


def test_a_resource_is_created_read_merged_replaced_and_deleted(served: Plane) -> None:
    admin, at = served.of("admin"), f"{ROOT}/sites/10.0.0.0-8"
    made = admin.put(at, json=SITE | {"tags": {"team": "net"}})
    assert made.status_code == 201, made.text
    told = made.json()
    assert told["id"] == at
    assert told["type"] == "Entrepot.Access/sites"
    assert told["name"] == "10.0.0.0-8"
    assert told["properties"] == {"network": "10.0.0.0/8", "territory": "SE", "provisioningState": "Succeeded"}
    assert told["systemData"]["createdBy"] == "admin"
    assert told["tags"] == {"team": "net"}
    assert made.headers["etag"] == told["etag"]

    assert admin.get(at.upper().replace("10.0.0.0-8", "10.0.0.0-8")).json() == told
    merged = admin.patch(at, json={"properties": {"networkClass": "business"}, "tags": {"team": None, "a": "b"}})
    assert merged.status_code == 200, merged.text
    assert merged.json()["properties"]["networkClass"] == "business"
    assert merged.json()["tags"] == {"a": "b"}

    assert admin.put(at, json=SITE, headers={"if-match": told["etag"]}).status_code == 412
    assert admin.put(at, json=SITE, headers={"if-none-match": "*"}).status_code == 412
    assert admin.put(at, json=SITE, headers={"if-match": '"of-another-kind"'}).status_code == 412
    for header in ("if-match", "if-none-match"):
        malformed = admin.put(at, json=SITE, headers={header: '"a'})
        assert (malformed.status_code, problem(malformed)["code"]) == (400, "InvalidHeaderValue")
    again = admin.put(at, json=merged.json(), headers={"if-match": merged.json()["etag"]})
    assert again.status_code == 200, again.text
    assert again.json()["properties"] == merged.json()["properties"]

    assert admin.delete(at, headers={"if-match": told["etag"]}).status_code == 412
    assert admin.delete(at).status_code == 200
    assert admin.delete(at).status_code == 204
    assert admin.get(at).status_code == 404
    assert admin.patch(at, json={}).status_code == 404


def test_lists_are_paged(served: Plane) -> None:
    admin = served.of("admin")
    first = admin.get(f"{ROOT}/regions", params={"$top": "2", "api-version": "x"}).json()
    assert len(first["value"]) == 2
    rest = admin.get(f"{ROOT}/regions", params=httpx.URL(first["nextLink"]).params).json()
    assert "nextLink" not in rest
    names = [each["name"] for each in first["value"] + rest["value"]]
    assert names == sorted(names)
    assert {"swedencentral", "japaneast"} <= set(names)


@pytest.mark.parametrize("collection", ["regions", "providers", "models", "sites", "settings", "policyReleases"])
def test_everyone_reads_the_catalogue_and_only_the_instance_writes_it(served: Plane, collection: str) -> None:
    tenant, staff = served.of("north-tenant"), served.of("north-staff")
    assert tenant.get(f"{ROOT}/{collection}").json()["value"] or collection == "sites"
    name = {"sites": "10.0.0.0-8", "settings": "default", "models": "m@1"}.get(collection, "x")
    for who in (tenant, staff):
        answer = who.put(f"{ROOT}/{collection}/{name}", json=SITE)
        assert answer.status_code == (405 if collection == "policyReleases" else 403), answer.text


def test_every_mistake_is_told_at_once(served: Plane) -> None:
    bad = ORGANIZATION | {"territory": "Sweden", "entityType": "club", "legalName": "", "colour": "red", "kyc": "maybe"}
    bad["registration"] = {"kind": "uscc", "number": "91110000600037341M"}
    bad["owners"] = [{"name": "Holding", "share": 160}]
    answer = served.of("north-staff").put(f"{ROOT}/organizations/fjord", json={"properties": bad})
    assert answer.status_code == 400
    assert problem(answer)["code"] == "InvalidResource"
    assert {each["target"] for each in problem(answer)["details"]} == {
        "properties.territory",
        "properties.entityType",
        "properties.legalName",
        "properties.colour",
        "properties.kyc",
        "properties.registration.number",
        "properties.owners[0].share",
    }
    assert all("; " in each["message"] for each in problem(answer)["details"])


def targets(answer: httpx.Response) -> list[str | None]:
    assert answer.status_code == 400, answer.text
    assert problem(answer)["code"] == "InvalidResource"
    return sorted(each.get("target", "") for each in problem(answer)["details"])


@pytest.mark.parametrize("operator", [None, 5, "no name"])
def test_an_organization_without_an_operator_has_its_other_mistakes_told_too(served: Plane, operator: Any) -> None:
    bad = ORGANIZATION | {"operator": operator, "kyc": "maybe", "colour": "red", "documents": [{"name": "licence"}]}
    for who in ("north-staff", "admin"):
        answer = served.of(who).put(f"{ROOT}/organizations/fjord", json={"properties": bad})
        assert targets(answer) == [
            "properties.colour",
            "properties.documents[0].sha256",
            "properties.kyc",
            "properties.operator",
        ]
    # Of what there is, nothing is told to whom it does not concern: with an operator it is another's resource.
    other = {"properties": bad | {"operator": "south"}}
    assert served.of("north-staff").put(f"{ROOT}/organizations/fjord", json=other).status_code == 404
    assert targets(served.of("south-staff").put(f"{ROOT}/organizations/fjord", json=other)) == [
        "properties.colour",
        "properties.documents[0].sha256",
        "properties.kyc",
    ]


def test_an_upstream_without_a_region_or_credential_has_its_other_mistakes_told_too(served: Plane) -> None:
    admin, at = served.of("admin"), f"{ROOT}/upstreams/lost"
    bad = UPSTREAM | {"api": "soap", "colour": "red"}
    wrong = ["properties.api", "properties.colour"]
    assert targets(admin.put(at, json={"properties": bad})) == [*wrong, "properties.credential"]
    assert targets(admin.put(at, json={"properties": bad | {"credentialValue": 5}})) == [
        *wrong,
        "properties.credentialValue",
    ]
    given = bad | {"credentialValue": "sk-1"}
    assert targets(admin.put(at, json={"properties": given | {"region": 5}})) == [*wrong, "properties.region"]
    del given["region"]
    missing = admin.put(at, json={"properties": given})
    assert targets(missing) == ["", *wrong]
    assert "missing key `region`" in missing.text
    nowhere = admin.put(at, json={"properties": UPSTREAM | {"credentialValue": "sk-1", "region": "atlantis"}})
    assert (nowhere.status_code, problem(nowhere)["target"]) == (409, "properties.region")
    assert served.of("north-tenant").put(at, json={"properties": bad}).status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b"", 400),
        (b"{}", 400),
        (b'{"properties":[]}', 400),
        (b'{"properties":{},"tags":{"a":1}}', 400),
        (b'{"properties":{"network":1,"territory":"SE"}}', 400),
        (b'{"properties":{"network":"10.0.0.0/9","territory":"SE"}}', 400),
        (b'{"properties":{"network":"10.0.0.0/8","territory":"SE"},"kind":"x"}', 400),
        (b'{"properties":{"network":"10.0.0.0/8","territory":"SE\\u0000"}}', 400),
        (b'{"properties":' + b'{"a":' * 200 + b"1" + b"}" * 201, 400),
        (b'{"properties":{"network":"' + b"x" * 5_000_000 + b'"}}', 413),
    ],
)
def test_bad_bodies_are_refused(served: Plane, body: bytes, status: int) -> None:
    answer = served.of("admin").put(f"{ROOT}/sites/10.0.0.0-8", content=body)
    assert answer.status_code == status, answer.text
    assert {"code", "message"} <= problem(answer).keys()
    assert served.of("admin").get(f"{ROOT}/sites/10.0.0.0-8").status_code == 404


@pytest.mark.parametrize("name", ["-", "a b", "ä", "x" * 129, "a%2Fb", "..%2F", "%00", "a;b"])
def test_bad_names_are_refused(served: Plane, name: str) -> None:
    body = {"properties": {}}
    assert served.of("admin").put(f"{ROOT}/providers/{name}", json=body).status_code == 400
    assert served.of("admin").get(f"{ROOT}/providers/{name}").status_code in {400, 404}


def test_what_refers_to_nothing_or_is_in_use_conflicts(served: Plane) -> None:
    admin = served.of("admin")
    region = {"properties": {"territory": "SE", "operator": "nobody"}}
    assert admin.put(f"{ROOT}/regions/nowhere", json=region).status_code == 409
    for id_ in ("organizations/northwind", "operators/north", "regions/swedencentral", "providers/openai"):
        answer = admin.delete(f"{ROOT}/{id_}")
        assert answer.status_code == 409, f"{id_}: {answer.text}"
    moved = admin.patch(f"{ROOT}/regions/swedencentral", json={"properties": {"operator": "south"}})
    assert moved.status_code == 409


def test_an_upstreams_secret_is_written_and_never_shown(served: Plane) -> None:
    staff, at = served.of("north-staff"), f"{ROOT}/upstreams/secretive"
    secret = "sk-upstream-9f27"
    assert staff.put(at, json={"properties": UPSTREAM}).status_code == 400
    for reference in ("env:HOME", "file:/etc/passwd", "secret:x", "secret"):
        refused = staff.put(at, json={"properties": UPSTREAM | {"credential": reference}})
        assert refused.status_code == 400, reference
        assert problem(refused)["details"][0]["target"] == "properties.credential"
    made = staff.put(at, json={"properties": UPSTREAM | {"credentialValue": secret}})
    assert made.status_code == 201, made.text
    assert made.json()["properties"]["credential"] == "secret"
    again = staff.put(at, json=made.json())
    assert again.status_code == 200, again.text
    for answer in (made, again, staff.get(at), staff.get(f"{ROOT}/upstreams")):
        assert secret not in answer.text
        assert "credentialValue" not in answer.text
    # Nor is it sent elsewhere by who could not read it.
    for elsewhere in ({"baseUrl": "http://127.0.0.1:8"}, {"proxy": {"url": "http://127.0.0.1:8", "territory": "SE"}}):
        refused = staff.patch(at, json={"properties": elsewhere})
        assert problem(refused)["details"][0]["code"] == "CredentialRequired", refused.text
        assert staff.put(at, json={"properties": made.json()["properties"] | elsewhere}).status_code == 400
        moved = staff.patch(at, json={"properties": elsewhere | {"credentialValue": secret}})
        assert moved.status_code == 200, moved.text
    none = staff.patch(at, json={"properties": {"credential": "none"}})
    assert none.json()["properties"]["credential"] == "none"
    assert staff.patch(at, json={"properties": {"credential": "secret"}}).status_code == 400
    assert staff.delete(at).status_code == 200


def test_an_organization_stands_in_one_operators_book(served: Plane) -> None:
    staff, at = served.of("north-staff"), f"{ROOT}/organizations/fjord"
    assert staff.put(at, json={"properties": ORGANIZATION | {"operator": "south"}}).status_code == 404
    assert staff.put(at, json={"properties": ORGANIZATION | {"operator": None}}).status_code == 400
    made = staff.put(at, json={"properties": ORGANIZATION})
    assert made.status_code == 201, made.text
    assert made.json()["properties"]["documents"] == ORGANIZATION["documents"]
    assert "kycReview" not in made.json()["properties"]
    assert served.of("admin").patch(at, json={"properties": {"operator": "south"}}).status_code == 409

    forged = {"reviewer": {"principal": "x", "name": "the king"}, "reviewedAt": "2020-01-01T00:00:00Z"}
    reviewed = staff.patch(
        at, json={"properties": {"kyc": "approved", "kycExpires": "2099-01-01", "kycReview": forged}}
    )
    assert reviewed.status_code == 200, reviewed.text
    assert reviewed.json()["properties"]["kycReview"]["reviewer"]["name"] == "north-staff"
    widened = staff.patch(at, json={"properties": {"eligibility": ["openai@cloud"]}})
    assert widened.status_code == 400
    assert problem(widened)["code"] == "ProposalRequired"
    assert "PUT /providers/Entrepot.Access/proposals/" in problem(widened)["details"][0]["message"]

    rejected = staff.patch(at, json={"properties": {"kyc": "rejected"}})
    assert rejected.status_code == 200, rejected.text
    for kyc in ("approved", "pending", None):
        assert staff.patch(at, json={"properties": {"kyc": kyc}}).status_code == 400
    kept = staff.delete(at)
    assert (kept.status_code, problem(kept)["code"]) == (409, "FindingOnRecord")


def test_gateways_are_the_instances_and_tell_what_they_run(served: Plane) -> None:
    admin, at = served.of("admin"), f"{ROOT}/gateways/edge-1"
    made = admin.put(at, json={"properties": {"territory": "SE", "sealingKey": "forged", "status": {"ready": True}}})
    assert made.status_code == 201, made.text
    properties = made.json()["properties"]
    assert "sealingKey" not in properties
    never = {"enrolled": False, "revision": None, "ready": False, "trusted": False, "lastSeenAt": None}
    assert properties["status"] == never
    token = admin.post(f"{at}/enrol")
    assert token.status_code == 200, token.text
    assert token.json()["token"].startswith("enrol-edge-1-")
    assert admin.post(f"{ROOT}/gateways/none/enrol").status_code == 404
    assert served.of("north-staff").get(at).status_code == 404
    assert served.of("north-staff").post(f"{at}/enrol").status_code == 404
    assert served.of("north-staff").get(f"{ROOT}/gateways").json()["value"] == []
    assert admin.delete(at).status_code == 200


def test_settings_keep_the_issuer(served: Plane) -> None:
    admin, at = served.of("admin"), f"{ROOT}/settings/default"
    before = admin.get(at).json()["properties"]
    answer = admin.put(at, json={"properties": {"warnDays": 10, "issuer": {"url": "https://evil.example"}}})
    assert answer.status_code == 200, answer.text
    assert answer.json()["properties"]["issuer"] == before["issuer"]
    assert answer.json()["properties"]["warnDays"] == 10
    assert admin.delete(at).status_code == 405
    assert admin.put(f"{ROOT}/settings/other", json={"properties": {}}).status_code == 400
    for url, status in (("redis://x:pw@store", 400), ("unix:///s?password=pw", 400), ("env:STORE", 200)):
        answer = admin.patch(at, json={"properties": {"limitStore": {"url": url}}})
        assert answer.status_code == status, answer.text
        assert "pw" not in answer.text  # everybody reads settings
    assert admin.patch(at, json={"properties": {"warnDays": -1}}).status_code in {400, 409}


def test_methods_that_a_path_does_not_have(served: Plane) -> None:
    admin = served.of("admin")
    for method, path, allowed in (
        ("POST", "regions", "GET, HEAD"),
        ("DELETE", "regions", "GET, HEAD"),
        ("OPTIONS", "proposals", "GET, HEAD"),
        ("POST", "regions/x", "DELETE, GET, HEAD, PATCH, PUT"),
        ("DELETE", "settings/default", "GET, HEAD, PATCH, PUT"),
        ("PUT", "policyReleases/x", "GET, HEAD"),
        ("DELETE", "proposals/x", "GET, HEAD, PUT"),
    ):
        answer = admin.request(method, f"{ROOT}/{path}")
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed), f"{method} {path}"
    for path, instead in (("policyReleases/x", "proposed by one person"), ("proposals/x", "decided with POST")):
        assert instead in admin.delete(f"{ROOT}/{path}").json()["error"]["message"]
