"""Registration numbers against their published checks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.resources.registration import check_registration

USCC = ["91110108551385082Q", "91110000600037341L"]
LEI = ["5493000IBP32UQZ0KL24", "529900T8BM49AURSDO55"]


@pytest.mark.parametrize(("kind", "number"), [*(("uscc", n) for n in USCC), *(("lei", n) for n in LEI)])
def test_numbers_in_use_pass(kind: str, number: str) -> None:
    assert check_registration(kind, number) is None


@pytest.mark.parametrize(
    ("kind", "number", "what"),
    [
        ("uscc", "91110000600037342L", "modulo 31"),
        ("uscc", "9111000060003734L", "GB 32100-2015"),
        ("uscc", "91110000600037341l", "GB 32100-2015"),
        ("uscc", "9111000060003734IL", "GB 32100-2015"),
        ("lei", "5493000IBP32UQZ0KL25", "modulo 97-10"),
        ("lei", "5493000IBP32UQZ0KL2", "ISO 17442"),
    ],
)
def test_wrong_numbers_are_told_with_the_check(kind: str, number: str, what: str) -> None:
    found = check_registration(kind, number)
    assert found is not None
    assert what in found


def test_other_kinds_are_free() -> None:
    assert check_registration("vat", "anything") is None


@given(st.sampled_from([("uscc", n) for n in USCC] + [("lei", n) for n in LEI]), st.data())
def test_one_changed_character_is_always_found(case: tuple[str, str], data: st.DataObject) -> None:
    kind, number = case
    at = data.draw(st.integers(0, len(number) - 1))
    alphabet = "0123456789ABCDEFGHJKLMNPQRTUWXY"
    if kind == "lei":  # a letter counts as two digits, so only a change within its kind is sure to be found
        alphabet = alphabet[:10] if number[at].isdigit() else alphabet[10:]
    other = data.draw(st.sampled_from([c for c in alphabet if c != number[at]]))
    assert check_registration(kind, number[:at] + other + number[at + 1 :]) is not None
