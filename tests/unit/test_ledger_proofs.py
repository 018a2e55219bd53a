"""Trees, proofs, notes and receipts: against RFC 6962's own definition, and against whoever changes a character."""

from __future__ import annotations

import base64
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from entrepot.ledger import verify
from entrepot.ledger.derived import Derived, Stored
from entrepot.ledger.keys import Signer
from entrepot.ledger.note import write_receipt
from entrepot.ledger.tree import HASH, LEVELS, Growth, Proofs, check_consistency, known
from entrepot.ledger.verify import (
    Checkpoint,
    Tree,
    Unproved,
    check_inclusion,
    key_of,
    leaf_hash,
    open_checkpoint,
    open_note,
    open_receipt,
    read_key,
)

ENTRIES = [b'{"entry":%d}' % number for number in range(70)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]


def defined(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + defined(leaves[:k]) + defined(leaves[k:])).digest()


def defined_path(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962 §2.1.1."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m < k:
        return [*defined_path(m, leaves[:k]), defined(leaves[k:])]
    return [*defined_path(m - k, leaves[k:]), defined(leaves[:k])]


def proofs(leaves: list[bytes]) -> Proofs:
    """Over hashes as the growth of a tree stores them, grown in uneven steps."""
    growth = Growth()
    levels = [b""] * LEVELS
    at, step = 0, 1
    while at < len(leaves):
        added = growth.extend(leaves[at : at + step])
        levels = [have + more for have, more in zip(levels, added, strict=True)]
        at, step = at + step, step * 3 % 301 + 1
    assert growth.size == len(leaves)
    assert growth.root() == defined(leaves)
    return Proofs(lambda level, first, count: levels[level][first * HASH : (first + count) * HASH], len(leaves))


def test_every_tree_and_proof_up_to_seventy() -> None:
    """Roots, inclusion of each entry, consistency of each pair, and each of them refused when something is changed."""
    stored = proofs(LEAVES)
    for size in range(1, len(LEAVES) + 1):
        tree = Tree()
        tree.extend(LEAVES[:size])
        root = defined(LEAVES[:size])
        assert tree.root() == root
        of_size = Proofs(stored.read, size)
        for index in range(size):
            path = of_size.inclusion(index)
            assert path == defined_path(index, LEAVES[:size])
            check_inclusion(index, size, LEAVES[index], path, root)
            for wrong in ((index, size, LEAVES[index - 1], path), (index, size, LEAVES[index], path[1:])):
                if size > 1:
                    with pytest.raises(Unproved):
                        check_inclusion(*wrong, root)
        with pytest.raises(Unproved):
            check_inclusion(size, size, LEAVES[0], [], root)
        for old in range(1, size + 1):
            before = (old, defined(LEAVES[:old]))
            path = of_size.consistency(old)
            check_consistency(before, (size, root), path)
            if old < size:
                for forged in (path[:-1], [*path, root], [bytes(32), *path[1:]]):
                    with pytest.raises(Unproved):
                        check_consistency(before, (size, root), forged)
                with pytest.raises(Unproved):
                    check_consistency((old, bytes(32)), (size, root), path)


@pytest.mark.parametrize("size", [255, 256, 257, 511, 512, 1000, 66_000])
def test_proofs_in_trees_of_several_levels(size: int) -> None:
    leaves = [sha256(number.to_bytes(4, "big")).digest() for number in range(size)]
    stored, root = proofs(leaves), defined(leaves)
    for index in {0, 1, 254, size // 2, size - 1}:
        check_inclusion(index, size, leaves[index], stored.inclusion(index), root)
    for old in {1, 255, size // 3, size - 1, size} - {0}:
        if old <= size:
            check_consistency((old, defined(leaves[:old])), (size, root), stored.consistency(old))


def test_derived_files_give_what_was_added(tmp_path: Path) -> None:
    growth, derived = Growth(), Derived(tmp_path)
    leaves = [sha256(number.to_bytes(4, "big")).digest() for number in range(600)]
    derived.add(growth.extend(leaves[:5]), range(5))
    derived.add(growth.extend(leaves[5:]), range(5, 600))
    derived.flush()
    stored = Stored(tmp_path)
    assert stored.hashes(0, 3, 2) == leaves[3] + leaves[4]
    assert stored.hashes(1, 1, 1) == defined(leaves[256:512])
    assert stored.offset(599) == 599
    with pytest.raises(LookupError):
        stored.offset(600)
    derived.close()


NAME = "entrepot.example/gateway-1"
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = key_of(NAME, PRIVATE.public_key().public_bytes_raw())
SIGNER = Signer(KEY, PRIVATE)
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
SIGNED = Checkpoint(f"{NAME}/2026-11/0", len(LEAVES), defined(LEAVES))


def receipt(index: int = 41) -> bytes:
    path = defined_path(index, LEAVES)
    return write_receipt(index, ENTRIES[index], path, SIGNER.sign(str(SIGNED)))


def test_a_receipt_proves_its_entry() -> None:
    assert open_receipt(receipt(), KEY) == (SIGNED, 41, ENTRIES[41])
    assert read_key(f"{KEY}\n") == KEY


def test_any_changed_character_of_a_receipt_is_refused() -> None:
    """Each character replaced, removed and doubled: refused with words, never a crash."""
    whole = receipt().decode()
    for at, old in enumerate(whole):
        for new in ("", old + old, "A" if old != "A" else "B", chr(ord(old) ^ 1)):
            with pytest.raises(Unproved):
                open_receipt((whole[:at] + new + whole[at + 1 :]).encode(), KEY)


@pytest.mark.parametrize("cut", [0, 1, 30, 200, -1])
def test_a_receipt_that_is_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(Unproved):
        open_receipt(receipt()[:cut], KEY)


def test_signatures_of_others_beside_it_do_not_matter() -> None:
    """C2SP signed-note: a witness may add its line; a verifier passes over keys that it does not know."""
    note = SIGNER.sign(str(SIGNED))
    other_key = key_of("witness.example", OTHER.public_key().public_bytes_raw())
    line = Signer(other_key, OTHER).sign(str(SIGNED)).rpartition(b"\n\n")[2]
    for both in (note + line, note.replace("\n\n— ".encode(), b"\n\n" + line + "— ".encode())):
        assert open_checkpoint(both, KEY) == SIGNED
        assert open_checkpoint(both, KEY) == open_checkpoint(note, KEY)
    with pytest.raises(Unproved, match="it is not signed by the key"):
        open_note(line.join([str(SIGNED).encode() + b"\n", b""]), KEY)


def test_a_log_of_another_name_is_refused() -> None:
    """The key of gateway-1 speaks for the logs below its name only."""
    for origin in ("entrepot.example/gateway-2/2026-11/0", "entrepot.example/gateway-10/2026-11/0"):
        with pytest.raises(Unproved, match="is not below the key's name"):
            open_checkpoint(SIGNER.sign(str(SIGNED._replace(origin=origin))), KEY)


@pytest.mark.parametrize("text", ["a\n1\n", "a\n01\nAA==\n", "a\n1\nAA==\n", "a\n-1\n" + "A" * 43 + "=\n"])
def test_a_malformed_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(Unproved, match="malformed"):
        open_checkpoint(SIGNER.sign(text), KEY)


@pytest.mark.parametrize("wrong", ["", "name", "name+00000000+AAAA", str(KEY).replace("+", "+0", 1), str(KEY)[:-4]])
def test_what_is_no_verifier_key_is_refused(wrong: str) -> None:
    with pytest.raises(Unproved):
        read_key(wrong)


def test_the_verifier_runs_alone(tmp_path: Path) -> None:
    """Copied to an empty folder, with the receipt and the key and nothing else of ours."""
    (tmp_path / "verify.py").write_bytes(Path(verify.__file__).read_bytes())
    (tmp_path / "r.tlog-proof").write_bytes(receipt())
    (tmp_path / "forged.tlog-proof").write_bytes(receipt().replace(b"index 41", b"index 40"))
    (tmp_path / "vkey").write_text(f"{KEY}\n")
    imports_only = "import sys; sys.modules['entrepot'] = None; sys.argv = sys.argv[1:]; "
    run = imports_only + "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"

    def told(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-I", "-c", run, "verify.py", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        return done.returncode, done.stdout

    for key in (str(KEY), "vkey"):
        status, said = told("receipt", "r.tlog-proof", "--key", key)
        assert status == 0
        assert f"entry 41 is in the log {NAME}/2026-11/0" in said
        assert ENTRIES[41].decode() in said
    status, said = told("receipt", "forged.tlog-proof", "--key", "vkey")
    assert status == 1
    assert "do not lead to the root that was signed" in said
    assert told("receipt", "missing", "--key", "vkey")[0] == 1


def test_one_spelling_of_base64() -> None:
    """A receipt cannot be had in two forms: bits that base64 would ignore are refused."""
    encoded = base64.b64encode(ENTRIES[5]).decode()
    assert encoded.endswith("=")
    last = encoded.rstrip("=")[-1]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = alphabet[alphabet.index(last) + 1]
    loose = encoded.rstrip("=")[:-1] + other + "=" * encoded.count("=")
    assert base64.b64decode(loose) == ENTRIES[5]
    with pytest.raises(Unproved):
        open_receipt(receipt(5).replace(encoded.encode(), loose.encode()), KEY)


@pytest.mark.parametrize("changed", [None, 0, 300, 999])
def test_what_is_known_of_a_tree_saves_work_and_changes_nothing(tmp_path: Path, changed: int | None) -> None:
    leaves = [sha256(number.to_bytes(4, "big")).digest() for number in range(1_000)]
    growth, derived = Growth(), Derived(tmp_path)
    derived.add(growth.extend(leaves), range(1_000))
    derived.flush()
    derived.close()
    read, root = Stored(tmp_path).hashes, growth.root()
    assert known(read, 1_000, leaves[0]) is None
    assert known(read, 1_001, root) is None
    found = known(read, 1_000, root)
    assert found is not None
    if changed is not None:
        leaves[changed] = leaves[1]
    again = Growth(found)
    for start in range(0, 1_000, 700):
        again.extend(leaves[start : start + 700])
    assert again.root() == defined(leaves)
    assert (again.root() == root) is (changed is None)
