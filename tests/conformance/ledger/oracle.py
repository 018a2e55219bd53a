"""Asks another implementation, `aics-tlog`, whether it accepts a ledger: its checkpoints, roots, receipts.

It needs Python 3.12, so this is run by hand, in an environment of its own; nothing of ours is imported:

    uv run --no-project --python 3.12 --with aics-tlog tests/conformance/ledger/oracle.py VKEY LEDGER [RECEIPT …]
"""

from __future__ import annotations

import base64
import struct
import sys
from pathlib import Path

from aics_tlog import MerkleTree, parse_note, parse_vkey, verify_checkpoint, verify_leaf_inclusion
from aics_tlog.checkpoint import checkpoint_from_note


def entries(log: Path) -> list[bytes]:
    """As docs/ledger.md says: frames of twelve bytes and an entry, the first of each segment a header."""
    found = []
    for segment in sorted(log.glob("*.entries")):
        data, at = segment.read_bytes(), 0
        while at + 12 < len(data):
            magic, length, _checksum, _zero = struct.unpack_from(">3sIIB", data, at)
            if length == 0:
                break
            if magic != b"EpH":
                found.append(data[at + 12 : at + 12 + length])
            at += 12 + length
    return found


def main() -> None:
    key = parse_vkey(Path(sys.argv[1]).read_text(encoding="utf-8").strip())
    trees = {}
    for log in sorted(path for path in Path(sys.argv[2]).iterdir() if path.is_dir()):
        note = parse_note((log / "checkpoint").read_bytes())
        result = verify_checkpoint(note, key)
        assert result.ok, result
        signed, _ = checkpoint_from_note(note)
        tree = MerkleTree(entries(log))
        assert tree.root(signed.size) == signed.root, signed.origin
        trees[signed.origin] = tree
        print(f"{signed.origin}: signature and root of {signed.size} entries accepted")
    for receipt in map(Path, sys.argv[3:]):
        proof, _, text = receipt.read_text(encoding="utf-8").partition("\n\n")
        lines = proof.split("\n")
        entry = base64.b64decode(lines[1].removeprefix("extra "))
        index = int(lines[2].removeprefix("index "))
        note = parse_note(text)
        assert verify_checkpoint(note, key).ok
        signed, _ = checkpoint_from_note(note)
        path = [base64.b64decode(line) for line in lines[3:]]
        assert verify_leaf_inclusion(entry, index, signed.size, path, signed.root)
        print(f"{receipt.name}: entry {index} of {signed.origin} accepted")


if __name__ == "__main__":
    main()
