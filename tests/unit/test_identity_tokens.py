"""Tokens of the data plane: what opens it, and all that must not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from joserfc import jws, jwt
from joserfc.jwk import ECKey, KeySet, OctKey, RSAKey

from entrepot.errors import Code, Error
from entrepot.identity import tokens
from entrepot.identity.tokens import LEEWAY_S, LONGEST, Verifier

NOW = 1_800_000_000
URL = "https://127.0.0.1:8443/11111111-1111-4111-8111-111111111111/v2.0"
AUDIENCE = "https://cognitiveservices.azure.com"
OID = "00000000-0000-0000-0000-00000000000a"
EC = ECKey.generate_key("P-256", {"kid": "ec", "use": "sig", "alg": "ES256"})
RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
STRANGER = ECKey.generate_key("P-256", {"kid": "ec"})
P384 = ECKey.generate_key("P-384", {"kid": "p384"})
KEYS = json.dumps(KeySet([EC, RSA, P384]).as_dict(private=False)).encode()


def verifier(keys: bytes = KEYS) -> Verifier:
    return Verifier(URL, keys, [AUDIENCE, "https://ai.azure.com"])


def claims(**changed: Any) -> dict[str, Any]:
    given = {"iss": URL, "aud": AUDIENCE, "exp": NOW + 3600, "nbf": NOW, "iat": NOW, "oid": OID, "sub": OID, **changed}
    return {name: value for name, value in given.items() if value is not None}


def token(key: ECKey | RSAKey = EC, header: dict[str, Any] | None = None, **changed: Any) -> str:
    algorithm = {"P-256": "ES256", "P-384": "ES384"}[key.curve_name] if isinstance(key, ECKey) else "RS256"
    head = {"alg": algorithm, "kid": key.kid, "typ": "JWT", **(header or {})}
    return jwt.encode(head, claims(**changed), key, ["ES256", "ES384", "RS256"])


def part(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw(header: object, payload: object, signature: bytes = b"x" * 64) -> str:
    return f"{part(header)}.{part(payload)}.{part(signature)}"


def resigned(payload: bytes) -> str:
    """Signed by the issuer, whatever is in it."""
    return jws.serialize_compact({"alg": "ES256", "kid": "ec"}, payload, EC, ["ES256"])


def test_a_token_of_another_key_is_recognised_and_what_is_no_token_is_not() -> None:
    known = verifier()
    for text in (token(), token(RSA), token(STRANGER), raw({"alg": "ES256"}, {}), raw({"kid": 5}, {}), raw(b"{", {})):
        assert not known.is_of_another_key(text)
    for text in ("", ".", "ä.b.c", "\udc80", "x" * 9_000, raw({"kid": "p384"}, {})[1:]):
        assert not known.is_of_another_key(text)
    for kid in ("p384", "new"):
        assert known.is_of_another_key(raw({"alg": "none", "kid": kid}, {}))
    assert known.is_of_another_key(token(ECKey.generate_key("P-256", {"kid": "new"})))


def why(text: str, now_s: float = NOW) -> str:
    with pytest.raises(Error) as raised:
        verifier().principal(text, now_s)
    assert raised.value.code is Code.UNAUTHENTICATED
    assert text not in raised.value.message or not text
    return raised.value.message.removeprefix("the token is not valid: ")


@pytest.mark.parametrize(
    "good",
    [
        token(),
        token(RSA),
        token(aud="https://ai.azure.com"),
        token(aud=["else", AUDIENCE]),
        token(nbf=None, iat=None),
        token(nbf=NOW + LEEWAY_S),
        token(exp=NOW - LEEWAY_S + 1),
        token(exp=NOW + 0.5),
    ],
)
def test_a_good_token_names_its_principal(good: str) -> None:
    assert verifier().principal(good, NOW) == OID


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (token(iss=None), "it is of another issuer"),
        (token(iss=URL + "/"), "it is of another issuer"),
        (token(aud=None), "it is for another audience"),
        (token(aud=AUDIENCE + "/"), "it is for another audience"),
        (token(aud="https://management.azure.com"), "it is for another audience"),
        (token(aud={AUDIENCE: 1}), "it is for another audience"),
        (token(aud=[[AUDIENCE]]), "it is for another audience"),
        (token(exp=NOW - LEEWAY_S), "it has expired"),
        (token(exp=None), "its `exp` is no instant"),
        (token(exp="9999999999"), "its `exp` is no instant"),
        (token(exp=True), "its `exp` is no instant"),
        (token(nbf=NOW + LEEWAY_S + 1), "it is not valid yet"),
        (token(nbf="0"), "its `nbf` is no instant"),
        (token(oid=None), "it names no principal"),
        (token(oid=["x"]), "it names no principal"),
        (token(oid=""), "it names no principal"),
        (token(header={"kid": "other"}), "its key is not one of the issuer's"),
        (token(P384), "form or its signature"),
        (token(STRANGER), "form or its signature"),
        (token()[:-4] + "AAAA", "form or its signature"),
        (token(oid="x" * LONGEST), f"it is longer than {LONGEST} characters"),
        (resigned(b"[]"), "form or its signature"),
        (resigned(b"\xff"), "form or its signature"),
        (resigned(b'{"a":' * 1000), "form or its signature"),
        (resigned(json.dumps({**claims(), "exp": float("nan")}).encode()), "its `exp` is no instant"),
        (resigned(json.dumps({**claims(), "exp": float("inf")}).encode()), "its `exp` is no instant"),
        (resigned(json.dumps({**claims(), "exp": 10**400}).encode()), "its `exp` is no instant"),
    ],
)
def test_what_a_signature_does_not_mend(bad: str, reason: str) -> None:
    assert reason in why(bad)


PEM = EC.as_pem(private=False)
JWK = json.dumps(EC.as_dict(private=False)).encode()
HS = {"alg": "HS256", "kid": "ec", "typ": "JWT"}


@pytest.mark.parametrize(
    "secret", [PEM, PEM.strip(), JWK, EC.as_der(private=False), b""], ids=["pem", "stripped", "jwk", "der", "empty"]
)
def test_a_public_key_is_no_shared_secret(secret: bytes) -> None:
    signed = f"{part(HS)}.{part(claims())}"
    mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    assert "form or its signature" in why(f"{signed}.{part(mac)}")


@pytest.mark.parametrize(
    "forged",
    [
        raw({"alg": "none", "kid": "ec"}, claims(), b""),
        raw({"alg": "None", "kid": "ec"}, claims(), b""),
        raw({"alg": "ES256", "kid": "ec"}, claims(), b""),
        raw({"alg": "ES256", "kid": "ec"}, claims(), bytes(64)),  # r = s = 0
        raw({"alg": "RS256", "kid": "ec"}, claims()),
        raw({"alg": "ES256", "kid": "rsa"}, claims()),
        raw({"alg": ["ES256"], "kid": "ec"}, claims()),
        raw({"alg": "ES256", "kid": "ec", "crit": ["b64"], "b64": False}, claims()),
        raw({"alg": "ES256", "kid": "ec", "jwk": STRANGER.as_dict(private=False)}, claims()),
        raw({"alg": "ES256", "kid": "ec", "x5u": "http://127.0.0.1:1/"}, claims()),
        raw({"kid": "ec"}, claims()),
        raw({"alg": "ES256", "kid": ["ec"]}, claims()),
        raw({"alg": "ES256"}, claims()),
        raw([], claims()),
        raw(b"\xff\xfe", claims()),
        token(STRANGER, {"jwk": STRANGER.as_dict(private=False)}),
        token().replace(".", ".."),
        token() + ".x",
        token().rpartition(".")[0] + ".",
        token().rpartition(".")[0],
        "..",
        "a.b.c",
        "ä.ö.ü",
        "\udc80.\udc80.\udc80",
        "",
    ],
)
def test_what_nobody_signed(forged: str) -> None:
    why(forged)


def test_no_part_can_be_taken_from_another_token() -> None:
    theirs, ours = token(oid="other").split("."), token().split(".")
    why(".".join([ours[0], theirs[1], ours[2]]))


def test_a_token_is_verified_once_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = verifier()
    text = token()
    assert checked.principal(text, NOW) == OID
    monkeypatch.setattr(tokens.jwt, "decode", lambda *_: pytest.fail("verified again"))
    assert checked.principal(text, NOW + 3599) == OID
    with pytest.raises(Error, match="expired"):
        checked.principal(text, NOW + 3600 + LEEWAY_S)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "REMEMBERED", 3)
    checked = verifier()
    for n in range(5):
        assert checked.principal(token(oid=f"p{n}"), NOW) == f"p{n}"
    assert len(checked._known) == 3


def test_what_is_refused_is_not_remembered() -> None:
    checked = verifier()
    with pytest.raises(Error):
        checked.principal(token(STRANGER), NOW)
    assert not checked._known


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (b"", "not a JWK set"),
        (b"{}", "not a JWK set"),
        (b'{"keys": []}', "not a JWK set"),
        (b'{"keys": 1}', "not a JWK set"),
        (b"[]", "not a JWK set"),
        (json.dumps({"keys": [OctKey.generate_key(256, {"kid": "o"}).as_dict()]}).encode(), "no key for ES256"),
        (json.dumps(KeySet([P384]).as_dict(private=False)).encode(), "no key for ES256"),
        (json.dumps({"keys": [{**EC.as_dict(private=False), "use": "enc"}]}).encode(), "no key for ES256"),
        (json.dumps({"keys": [{**EC.as_dict(private=False), "alg": "ES384"}]}).encode(), "no key for ES256"),
    ],
    ids=[
        "nothing",
        "no set",
        "no keys",
        "a number",
        "a list",
        "a secret",
        "another curve",
        "for secrecy",
        "another algorithm",
    ],
)
def test_keys_that_verify_nothing_are_refused(keys: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verifier(keys)
