"""Writes what `verify` reads: signed notes, the list of logs, receipts."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from entrepot.ledger.verify import LIST_TITLE, RECEIPT, Checkpoint, Key


def sign_note(text: str, key: Key, private: Ed25519PrivateKey) -> bytes:
    """`text` ends in a newline and holds no blank line."""
    signature = base64.b64encode(key.id + private.sign(text.encode())).decode()
    return f"{text}\n— {key.name} {signature}\n".encode()


def write_receipt(index: int, entry: bytes, path: Sequence[bytes], checkpoint: bytes) -> bytes:
    """C2SP tlog-proof with the entry as its `extra`. `checkpoint` is the signed note."""
    lines = [RECEIPT, f"extra {base64.b64encode(entry).decode()}", f"index {index}"]
    lines += [base64.b64encode(one).decode() for one in path]
    return "\n".join(lines).encode() + b"\n\n" + checkpoint


def write_list(logs: Iterable[Checkpoint | str]) -> str:
    """One line a log: an ended one as `origin size root`, one that still grows by its origin."""
    lines = [one if isinstance(one, str) else str(one)[:-1].replace("\n", " ") for one in logs]
    return "\n".join([LIST_TITLE, *lines]) + "\n"
