"""The ledger's formats against data: published vectors, another implementation's output, and a ledger of long ago.

`independent.json` was made by `aics-tlog`, which needs Python 3.12; Ed25519 is deterministic, so that equal bytes here
mean that it accepts ours as we accept its. `ledger/oracle.py` asks it again, about any ledger.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from entrepot.ledger.entries import decode, encode
from entrepot.ledger.keys import Signer
from entrepot.ledger.read import entries_of
from entrepot.ledger.tree import Growth, Proofs, check_consistency
from entrepot.ledger.verify import (
    EMPTY_ROOT,
    Checkpoint,
    Tree,
    check,
    check_inclusion,
    key_of,
    leaf_hash,
    main,
    open_checkpoint,
    open_note,
    read_key,
)

DATA = Path(__file__).parent / "ledger"
PUBLISHED: dict[str, Any] = json.loads((DATA / "published.json").read_text(encoding="utf-8"))
INDEPENDENT: dict[str, Any] = json.loads((DATA / "independent.json").read_text(encoding="utf-8"))

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(INDEPENDENT["seed"]))
KEY = key_of(INDEPENDENT["name"], PRIVATE.public_key().public_bytes_raw())
LEAVES = [leaf_hash(b'{"closed":{"at_ms":%d}}' % number) for number in range(300)]


def root_of(leaves: list[bytes]) -> bytes:
    tree = Tree()
    tree.extend(leaves)
    return tree.root()


def proofs() -> Proofs:
    levels = Growth().extend(LEAVES)
    return Proofs(lambda level, first, count: levels[level][first * 32 : (first + count) * 32], len(LEAVES))


def unbase64(lines: list[str]) -> list[bytes]:
    return [base64.b64decode(line) for line in lines]


def test_published_trees() -> None:
    trees = PUBLISHED["trees"]
    leaves = [leaf_hash(bytes.fromhex(leaf)) for leaf in trees["leaves"]]
    assert bytes.fromhex(trees["empty"]) == EMPTY_ROOT
    assert [root_of(leaves[: size + 1]).hex() for size in range(len(leaves))] == trees["roots"]


def test_a_published_note() -> None:
    note = PUBLISHED["note"]
    assert open_note(f"{note['text']}\n{note['signature']}".encode(), read_key(note["vkey"])) == note["text"]


def test_the_verifier_key_is_spelled_alike() -> None:
    assert str(KEY) == INDEPENDENT["vkey"]


@pytest.mark.parametrize("tree", INDEPENDENT["trees"], ids=lambda tree: str(tree["size"]))
def test_another_implementations_trees_checkpoints_and_proofs(tree: dict[str, Any]) -> None:
    size, root = tree["size"], base64.b64decode(tree["root"])
    signed = Checkpoint(INDEPENDENT["origin"], size, root)
    assert root_of(LEAVES[:size]) == root
    assert Signer(KEY, PRIVATE).sign(str(signed)) == tree["checkpoint"].encode()
    assert open_checkpoint(tree["checkpoint"].encode(), KEY) == signed
    of_size = Proofs(proofs().read, size)
    for index, path in tree["inclusion"].items():
        assert of_size.inclusion(int(index)) == unbase64(path)
        check_inclusion(int(index), size, LEAVES[int(index)], unbase64(path), root)


@pytest.mark.parametrize("pair", INDEPENDENT["consistency"], ids=lambda pair: f"{pair['old']}-{pair['new']}")
def test_another_implementations_consistency_proofs(pair: dict[str, Any]) -> None:
    old, new, path = pair["old"], pair["new"], unbase64(pair["path"])
    assert proofs().consistency(old) == path
    check_consistency((old, root_of(LEAVES[:old])), (new, root_of(LEAVES[:new])), path)


def test_a_ledger_of_long_ago_is_still_understood(capsys: pytest.CaptureFixture[str]) -> None:
    """Two logs of format 1 with every kind of entry. If this fails, ledgers out there are no longer verified."""
    folder, key = DATA / "format-1" / "ledger", DATA / "format-1" / "key.vkey"
    found = check(folder, read_key(key.read_text(encoding="utf-8")))
    assert found.findings() == []
    expected = json.loads((DATA / "format-1" / "expected.json").read_text(encoding="utf-8"))
    assert [r.checkpoint.size for r in found.reports.values() if r.checkpoint] == expected["sizes"]
    assert [found.calls.decisions, found.calls.refusals, found.calls.outcomes] == expected["calls"]
    kinds = set()
    for log in sorted(path for path in folder.iterdir() if path.is_dir()):
        for read in entries_of(log):
            entry = decode(read.entry)
            assert encode(entry) == read.entry
            kinds.add(type(entry).__name__.lower())
    assert sorted(kinds) == expected["kinds"]
    for receipt in sorted((DATA / "format-1").glob("*.tlog-proof")):
        assert main(["receipt", str(receipt), "--key", str(key)]) == 0
    assert "proved: entry" in capsys.readouterr().out
