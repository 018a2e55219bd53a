"""Checks of registration numbers by their published algorithms. A number that passes need not exist."""

from __future__ import annotations

import re

_USCC_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_USCC_WEIGHTS = (1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28)
_USCC_FORM = re.compile(rf"[{_USCC_ALPHABET}]{{2}}[0-9]{{6}}[{_USCC_ALPHABET}]{{10}}")
_LEI_FORM = re.compile(r"[0-9A-Z]{18}[0-9]{2}")


def check_registration(kind: str, number: str) -> str | None:
    """What is wrong with a number of the kinds `uscc` and `lei`, naming the check; None when nothing is known to be."""
    if kind == "uscc":
        return _uscc(number)
    if kind == "lei":
        return _lei(number)
    return None


def _uscc(number: str) -> str | None:
    """Unified Social Credit Code, GB 32100-2015 §4: 18 characters, the last a weighted sum modulo 31."""
    if not _USCC_FORM.fullmatch(number):
        return "not a USCC: 18 digits and capitals without I, O, S, V, Z, characters 3 to 8 digits (GB 32100-2015)"
    total = sum(_USCC_ALPHABET.index(c) * w for c, w in zip(number, _USCC_WEIGHTS, strict=False))
    if _USCC_ALPHABET[-total % 31] != number[17]:
        return "its check character does not fit (USCC, GB 32100-2015, modulo 31)"
    return None


def _lei(number: str) -> str | None:
    """Legal Entity Identifier, ISO 17442: with letters as 10 to 35 the number is 1 modulo 97 (ISO 7064)."""
    if not _LEI_FORM.fullmatch(number):
        return "not an LEI: 18 digits and capitals, then two digits (ISO 17442)"
    if int("".join(str(int(c, 36)) for c in number)) % 97 != 1:
        return "its check digits do not fit (LEI, ISO 17442, modulo 97-10)"
    return None
