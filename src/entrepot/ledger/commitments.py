"""What an entry says of personal data without holding it: a digest of the value and a salt (docs/ledger.md)."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import Final

import msgspec

from entrepot.ledger.entries import SALT, Personal

_BLOCK: Final = SALT * 256
_encode: Final = msgspec.json.Encoder().encode
_digest: Final = sha256


class Salts:
    """Random, each given once. From a block of them: to ask the system gives up the interpreter, which costs more."""

    def __init__(self) -> None:
        self._block = b""
        self._at = 0

    def next(self) -> bytes:
        at = self._at
        if at == len(self._block):
            self._block, at = os.urandom(_BLOCK), 0
        self._at = at + SALT
        return self._block[at : at + SALT]


_salts: Final = Salts()


def commit(personal: Personal) -> tuple[bytes, str]:
    """Salt and value for the side file, and the commitment for the entry: the SHA-256 of both, in hexadecimal.

    The salt is fresh each time, so that nobody can find the value by trying: there are only 2^32 IPv4 addresses.
    """
    salted = _salts.next() + _encode(personal)
    return salted, _digest(salted).hexdigest()
