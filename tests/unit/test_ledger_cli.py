"""`entrepot ledger …` and `entrepot receipt …`: exit statuses, and what is printed."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from entrepot.cli import command_line
from entrepot.ledger import store
from entrepot.ledger.frames import erased, recorded, records
from entrepot.ledger.log import Batch, Places
from entrepot.ledger.receipt import receipt_of
from entrepot.ledger.verify import main
from ledgers import LOG, NAME, ORIGIN, decision, outcome, write

KEY = "keys/entrepot.example_gateway-1.vkey"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two accounts: kanto's call is served, to kanto's user-7 too; far's is refused."""
    monkeypatch.setattr(store, "AHEAD", 2048)
    monkeypatch.setattr(store, "STEPS", 2)
    writer = write(tmp_path)
    for number, (account, admitted, user) in enumerate(
        (("kanto", True, None), ("far", False, None), ("kanto", True, "user-7"))
    ):
        entry, private = decision(number, admitted=admitted, account=account, user=user)
        origin, index = writer.append(Batch([entry], [private]))
        if admitted:
            writer.append(Batch([outcome(f"{origin}/{index}", number)], [None]))
    writer.close()
    return tmp_path


def run(*arguments: str | Path, status: int = 0) -> Result:
    told = [str(argument) for argument in arguments]
    result = CliRunner().invoke(command_line(told), told)
    assert result.exit_code == status, result.output
    return result


def test_verify_says_what_is_proved(data: Path) -> None:
    said = run("ledger", "verify", data / "ledger", "--key", data / KEY).stdout
    assert f"{ORIGIN}: proved complete up to entry 6" in said
    assert "2 admitted calls, 1 refused, 2 outcomes" in said
    said = run("ledger", "verify", data / "ledger" / LOG, "--key", (data / KEY).read_text().strip()).stdout
    assert "proved complete" in said


def test_verify_says_what_is_not(data: Path) -> None:
    segment = data / "ledger" / LOG / "00000000.entries"
    segment.write_bytes(segment.read_bytes().replace(b"far", b"fur"))
    said = run("ledger", "verify", data / "ledger", "--key", data / KEY, status=1).stdout
    assert "NOT PROVED: " in said
    assert "it was changed, moved or cut short" in said


def test_a_slip_is_no_word_on_the_ledger(data: Path) -> None:
    receipt = data / "r.tlog-proof"
    receipt.write_bytes(receipt_of(Places(data), ORIGIN, 3) or b"")
    for key in ("nokey", "nobody+00000000+AAAA", str(data)):
        for what in (("ledger", "verify", data / "ledger"), ("receipt", "verify", receipt)):
            said = run(*what, "--key", key, status=2)
            assert "PROVED" not in said.output
            assert "verifier key" in " ".join(said.output.replace("│", " ").split())
        with pytest.raises(SystemExit) as ended:
            main(["receipt", str(receipt), "--key", key])
        assert ended.value.code == 2
    said = run("ledger", "verify", data, "--key", data / KEY, status=2)
    assert "is a data folder" in " ".join(said.output.replace("│", " ").split())


def flip(data: Path, at: bytes) -> None:
    """Change a byte of the entry that holds `at`."""
    segment = data / "ledger" / LOG / "00000000.entries"
    held = segment.read_bytes()
    segment.write_bytes(held.replace(at, bytes([at[0] ^ 1]) + at[1:], 1))


def test_damage_before_the_checkpoint_ends_the_reading(data: Path) -> None:
    flip(data, b"far")
    wrong = f"entry 3 of the log `{ORIGIN}` is damaged or missing: its checkpoint covers 7"
    for form in ("jsonl", "csv"):
        said = run("ledger", "export", "--data", data, "--format", form, status=1)
        assert wrong in said.stderr
        assert said.stdout.count("\n") == (3 if form == "jsonl" else 4)
    assert wrong in run("ledger", "show", "--data", data, status=1).stderr
    assert wrong in run("ledger", "tail", "--data", data, status=1).stderr
    assert wrong in run("usage", "--data", data, status=1).stderr
    pack = data / "own.toml"
    pack.write_text('[pack]\nid = "own"\n')
    assert wrong in run("policy", "replay", pack, "--ledger", data / "ledger", status=1).stderr
    before = {path: path.read_bytes() for path in data.rglob("*.private")}
    said = run("ledger", "erase", "--data", data, "--before", "2027-01-01", status=1)
    assert f"not erased: {wrong}" in said.stderr
    assert before == {path: path.read_bytes() for path in data.rglob("*.private")}


def test_a_tail_that_no_checkpoint_covers_may_be_torn(data: Path) -> None:
    writer = write(data)
    entry, private = decision(9)
    writer.append(Batch([entry, entry], [private, private]))
    size, folder = writer.log.size, writer.log.folder
    writer.abandon()
    segment = max(folder.glob("*.entries"))
    held = segment.read_bytes()
    segment.write_bytes(held[: held.rindex(entry) + 10])
    lines = run("ledger", "export", "--data", data).stdout.splitlines()
    assert json.loads(lines[-1])["index"] == size - 2


def test_a_damaged_header_or_checkpoint_ends_the_reading(data: Path) -> None:
    log = data / "ledger" / LOG
    signed = (log / "checkpoint").read_bytes()
    (log / "checkpoint").write_bytes(b"nothing")
    assert "the checkpoint is malformed" in run("ledger", "export", "--data", data, status=1).stderr
    (log / "checkpoint").write_bytes(signed)
    flip(data, ORIGIN.encode())
    assert "00000000.entries` is damaged" in run("ledger", "export", "--data", data, status=1).stderr


def test_there_is_no_receipt_of_a_name_that_no_folder_has(data: Path) -> None:
    assert receipt_of(Places(data), "x" * 9_000, 1) is None


def test_a_checkpoint_that_was_kept_must_still_hold(data: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text(run("ledger", "checkpoint", "--data", data).stdout.removesuffix("\n"))
    write(data).close()
    run("ledger", "verify", data / "ledger", "--key", data / KEY, "--since", kept)
    kept.write_text(kept.read_text().replace("\n7\n", "\n6\n"))
    said = run("ledger", "verify", data / "ledger", "--key", data / KEY, "--since", kept, status=1).stdout
    assert "the signed text was changed" in said


def test_entries_are_chosen_and_exported(data: Path) -> None:
    lines = run("ledger", "export", "--data", data).stdout.splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(7))
    chosen = [
        json.loads(line) for line in run("ledger", "export", "--data", data, "--account", "kanto").stdout.splitlines()
    ]
    assert [next(iter(one["entry"])) for one in chosen] == ["decision", "outcome"] * 2
    told = run("ledger", "export", "--data", data, "--decision", "refuse", "--format", "csv").stdout
    [row] = csv.DictReader(io.StringIO(told))
    assert (row["account"], row["decision"], row["code"]) == ("far", "refuse", "unsupported_territory")
    assert (row["territory"], row["rules"], row["kind"]) == ("JP", "TERR-01", "decision")
    assert run("ledger", "show", "--data", data, "--rule", "TERR-01").stdout.count("\n") == 1
    assert run("ledger", "show", "--data", data, "--since", "2027-01-01").stdout == ""
    assert run("ledger", "show", "--data", data, "--until", "2026-11-18T00:00:00Z").stdout == ""
    run("ledger", "show", "--data", data, "--since", "yesterday", status=2)
    run("ledger", "show", "--data", data, "--decision", "maybe", status=2)
    run("ledger", "show", "--data", data / "elsewhere", status=2)


def test_tail_gives_the_last_ones(data: Path) -> None:
    said = run("ledger", "tail", "--data", data, "-n", "2").stdout.splitlines()
    assert len(said) == 2
    assert "outcome" in said[0]
    assert f"{ORIGIN}/6 closed" in said[1]


def test_erasing(data: Path) -> None:
    def erase(*arguments: str, status: int = 0) -> str:
        return run("ledger", "erase", "--data", data, *arguments, status=status).output

    erase(status=2)
    erase("--account", "kanto", status=2)
    erase("--before", "2027-01-01", "--account", "kanto", status=2)
    assert "personal data of 0 entries" in erase("--account", "far", "--end-user", "user-7")
    assert "personal data of 1 entry" in erase("--account", "kanto", "--end-user", "user-7", "--basis", "asked for")
    assert "personal data of 2 entries" in erase("--before", "2027-01-01", "--key", NAME)
    assert not any(b"203.0.113" in path.read_bytes() for path in data.rglob("*.private"))
    run("ledger", "verify", data / "ledger", "--key", data / KEY)
    assert '"basis":"asked for"' in run("ledger", "export", "--data", data).stdout


def test_personal_data_is_what_entries_commit_to(data: Path) -> None:
    def verify(status: int = 0) -> str:
        return run("ledger", "verify", data / "ledger", "--key", data / KEY, "--private", status=status).stdout

    assert "the personal data of 3 entries is what they commit to; of 0 it was erased, of 0 lost" in verify()
    run("ledger", "verify", data / "ledger" / LOG, "--key", data / KEY, "--private", status=2)
    run("ledger", "erase", "--data", data, "--account", "kanto", "--end-user", "user-7")
    assert "the personal data of 2 entries is what they commit to; of 1 it was erased, of 0 lost" in verify()

    path = data / "ledger" / LOG / "private" / "00000000.private"
    before = path.read_bytes()
    first, second, third = records(before)
    assert (first.private is not None, second.private is not None, third.private) == (True, True, None)
    other = second._replace(private=bytes(16) + b'{"ip":"198.51.100.7","key":"kanto/key1"}')
    for now, said in (
        (erased(first) + before[first.stop :], "entries 1 was erased, and no `erasure` entry says so"),
        (b"", "entries 1, 3 is missing, and no entry says why"),
        (before[: first.stop], "entries 3 is missing, and no entry says why"),
        (before[: first.stop] + recorded(3, [other.private], first.stop), "3 is not what they commit to"),
        (before + recorded(2, [other.private], len(before)), "2 belongs to no entry that commits to any"),
        (before[: second.stop] + recorded(4, [other.private], second.stop), "4 is not what they commit to"),
    ):
        path.write_bytes(now)
        assert said in verify(status=1), said
    path.write_bytes(before)
    verify()


def test_a_receipt_is_proved_or_not(data: Path) -> None:
    found = receipt_of(Places(data), ORIGIN, 3)
    assert found is not None
    receipt = data / "r.tlog-proof"
    receipt.write_bytes(found)
    said = run("receipt", "verify", receipt, "--key", data / KEY).stdout
    assert f"proved: entry 3 is in the log {ORIGIN}" in said
    assert '"account":"far"' in said
    receipt.write_bytes(found.replace(b"index 3", b"index 2"))
    assert "NOT PROVED: " in run("receipt", "verify", receipt, "--key", data / KEY, status=1).stdout
