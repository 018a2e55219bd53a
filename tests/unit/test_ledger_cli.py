"""`entrepot ledger …` and `entrepot receipt …`: exit statuses, and what is printed."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from entrepot.cli import command_line
from entrepot.ledger import store
from entrepot.ledger.entries import Refusals, encode
from entrepot.ledger.files import Files
from entrepot.ledger.frames import erased, recorded, records
from entrepot.ledger.keys import find_signer
from entrepot.ledger.log import Batch, Places
from entrepot.ledger.receipt import receipt_of
from entrepot.ledger.verify import Checkpoint, Unproved, main
from entrepot.ledger.writer import open_writer
from ledgers import LOG, NAME, NOW_MS, ORIGIN, decision, outcome, write

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


def test_a_damaged_entry_costs_the_others_no_receipt(data: Path) -> None:
    flip(data, b"far")
    for _ in range(2):
        with pytest.raises(Unproved, match="entry 3 is damaged or missing: the checkpoint covers it"):
            receipt_of(Places(data), ORIGIN, 3)
        assert receipt_of(Places(data), ORIGIN, 5)
    shutil.rmtree(data / "derived")  # from which it is made
    with pytest.raises(Unproved, match="entry 3 is damaged"):
        receipt_of(Places(data), ORIGIN, 5)
    (data / "ledger" / LOG / "checkpoint").write_bytes(b"\xff")
    with pytest.raises(Unproved, match="the checkpoint is malformed"):
        receipt_of(Places(data), ORIGIN, 5)


def test_there_is_no_receipt_of_a_name_that_no_folder_has(data: Path) -> None:
    assert receipt_of(Places(data), "x" * 9_000, 1) is None


def test_a_checkpoint_that_was_kept_must_still_hold(data: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text(run("ledger", "checkpoint", "--data", data).stdout)
    assert kept.read_bytes() == (data / "ledger" / LOG / "checkpoint").read_bytes()
    write(data).close()
    run("ledger", "verify", data / "ledger", "--key", data / KEY, "--since", kept)
    kept.write_text(kept.read_text().replace("\n7\n", "\n6\n"))
    said = run("ledger", "verify", data / "ledger", "--key", data / KEY, "--since", kept, status=1).stdout
    assert "the signed text was changed" in said


def test_checkpoints_of_many_logs_and_days_are_kept_in_one_file(data: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    run("ledger", "erase", "--data", data, "--before", "2027-01-01")  # in a log of its own
    first = run("ledger", "checkpoint", "--data", data).stdout
    write(data).close()
    kept.write_text(f"{first}\n{run('ledger', 'checkpoint', '--data', data).stdout}\n")
    assert kept.read_text().count("\n— ") == 4
    run("ledger", "verify", data / "ledger", "--key", data / KEY, "--since", kept)
    assert main(["log", str(data / "ledger"), "--key", str(data / KEY), "--since", str(kept)]) == 0

    other = tmp_path / "other"  # the same key, and another history
    (other / "keys").mkdir(parents=True)
    for path in (data / "keys").iterdir():
        (other / "keys" / path.name).write_bytes(path.read_bytes())
    write(other).close()
    said = run("ledger", "verify", other / "ledger", "--key", data / KEY, "--since", kept, status=1).stdout
    assert f"{LOG}: it was cut back: 2 entries are signed, 9 were" in said
    assert f"the log `{NAME}/erasure/2026-11/0` of the earlier checkpoint is not here" in said


def test_both_checkpoints_of_one_size_must_hold(data: Path, tmp_path: Path) -> None:
    checkpoint = data / "ledger" / LOG / "checkpoint"
    (tmp_path / "kept").write_bytes(checkpoint.read_bytes())
    forged = Checkpoint(ORIGIN, 7, bytes(32))
    checkpoint.write_bytes(find_signer(data, NAME, Files()).sign(str(forged)))
    for since in ([], ["--since", tmp_path / "kept"]):
        said = run("ledger", "verify", data / "ledger", "--key", data / KEY, *since, status=1).stdout
        assert "do not have the root that the checkpoint signs" in said


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
    assert run("ledger", "show", "--data", data, "--until", "1970-01-01").stdout == ""
    run("ledger", "show", "--data", data, "--since", "yesterday", status=2)
    run("ledger", "show", "--data", data, "--since", "2026-12-01", "--until", "2026-11-01", status=2)
    run("ledger", "show", "--data", data, "--decision", "maybe", status=2)
    run("ledger", "show", "--data", data / "elsewhere", status=2)


def test_outcomes_come_with_their_decisions_whenever_they_came(tmp_path: Path) -> None:
    writer = write(tmp_path)
    (early, private), (late, other) = decision(0), decision(1_000)
    writer.append(Batch([early, late], [private, other]))
    writer.append(Batch([outcome(f"{ORIGIN}/1", 1_500), outcome(f"{ORIGIN}/2", 2_000)], [None, None]))
    writer.close()
    day = [datetime.fromtimestamp((NOW_MS + after) / 1_000, UTC).isoformat() for after in (0, 500, 1_600)]

    def places(*arguments: str) -> list[int]:
        lines = run("ledger", "export", "--data", tmp_path, "--account", "kanto", *arguments).stdout.splitlines()
        same = run("ledger", "export", "--data", tmp_path, *arguments).stdout.splitlines()
        assert [each for each in same if "opened" not in each and "closed" not in each] == lines
        return [json.loads(each)["index"] for each in lines]

    assert places("--until", day[1]) == [1, 3]
    assert places("--since", day[1]) == [2, 4]
    assert places("--since", day[1], "--until", day[2]) == [2, 4]
    assert places("--since", day[2]) == []


def test_refusals_that_were_counted_together_are_chosen_and_say_how_many(data: Path) -> None:
    many = Refusals("far", NOW_MS, "access_denied", "0" * 64, 55, NOW_MS, "SCREEN-01, TERR-01")
    writer = write(data)
    writer.append(Batch([encode(many)], [None]))
    writer.close()
    for chosen, there in (
        (("--account", "far"), True),
        (("--decision", "refuse", "--account", "far"), True),
        (("--rule", "TERR-01"), True),
        (("--rule", "SCREEN-01", "--until", "2030-01-01"), True),
        (("--rule", "TERR"), False),
        (("--account", "kanto"), False),
        (("--decision", "allow"), False),
    ):
        told = run("ledger", "export", "--data", data, "--format", "csv", *chosen).stdout
        rows = [row for row in csv.DictReader(io.StringIO(told)) if row["kind"] == "refusals"]
        assert [(row["count"], row["rules"], row["decision"]) for row in rows] == [
            ("55", "SCREEN-01, TERR-01", "refuse")
        ] * there, chosen


def test_a_log_that_the_list_names_and_that_is_gone_is_no_small_sum(data: Path) -> None:
    run("ledger", "erase", "--data", data, "--account", "kanto", "--end-user", "user-7")
    pack = data / "own.toml"
    pack.write_text('[pack]\nid = "own"\n')
    (data / "ledger" / LOG).rename(data / "elsewhere")
    wrong = f"the log `{ORIGIN}` is in the list of logs, but it is missing"
    assert "erasure" in run("ledger", "show", "--data", data, status=1).stdout, "the others are shown"
    for command in ("ledger show", "ledger export", "ledger tail", "ledger checkpoint", "usage", "usage check"):
        assert wrong in run(*command.split(), "--data", data, status=1).stderr, command
    assert wrong in run("policy", "replay", pack, "--ledger", data / "ledger", status=1).stderr
    assert wrong in run("ledger", "erase", "--data", data, "--before", "2027-01-01", status=1).stderr


def test_a_folder_without_a_ledger_has_no_sums(data: Path) -> None:
    pack = data / "own.toml"
    pack.write_text('[pack]\nid = "own"\n')
    said = run("policy", "replay", pack, "--ledger", data, status=2)
    assert "is a data folder" in " ".join(said.output.replace("│", " ").split())
    assert "there is no ledger in" in run("policy", "replay", pack, "--ledger", data / "keys", status=2).stderr
    (data / "unmounted" / "ledger").mkdir(parents=True)
    for command in ("ledger show", "usage", "usage check"):
        said = run(*command.split(), "--data", data / "unmounted", status=2)
        assert "there is no ledger in" in " ".join(said.output.replace("│", " ").split())


def test_what_does_not_belong_there_is_named(data: Path) -> None:
    (data / "ledger" / LOG / "copy.entries").touch()
    for command in ("ledger show", "usage", "ledger erase --before 2027-01-01"):
        assert "copy.entries` does not belong there" in run(*command.split(), "--data", data, status=1).stderr
    (data / "ledger" / LOG / "copy.entries").unlink()
    (data / "ledger" / LOG / "checkpoint").unlink()
    assert "No such file" in run("ledger", "checkpoint", "--data", data, status=1).stderr
    (data / "ledger" / "logs").write_bytes(b"\xff")
    assert "2 " not in run("usage", "--data", data).stderr, "the list's order is all that is taken from it"


@pytest.mark.parametrize("command", ["show", "export", "export --format csv", "checkpoint"])
def test_output_that_cannot_be_written_is_no_word_on_the_ledger(data: Path, command: str) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "entrepot", "ledger", *command.split(), "--data", str(data)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (1, "the output cannot be written: No space left on device\n")


def test_tail_gives_the_last_ones(data: Path) -> None:
    said = run("ledger", "tail", "--data", data, "-n", "2").stdout.splitlines()
    assert len(said) == 2
    assert "outcome" in said[0]
    assert f"{ORIGIN}/6 closed" in said[1]


def test_tail_gives_the_last_ones_of_all_logs(data: Path) -> None:
    files = Files()
    open_writer(data, f"{NAME}/w1", find_signer(data, NAME, files), files, lambda: NOW_MS - 1).close()
    said = run("ledger", "tail", "--data", data, "-n", "3").stdout.splitlines()
    assert [line.split()[1] for line in said] == [f"{ORIGIN}/4", f"{ORIGIN}/5", f"{ORIGIN}/6"]
    said = run("ledger", "tail", "--data", data, "-n", "8").stdout.splitlines()
    assert [line.split()[1] for line in said] == [f"{NAME}/w1/2026-11/0/1", *(f"{ORIGIN}/{at}" for at in range(7))]


def test_erasing(data: Path) -> None:
    def erase(*arguments: str, status: int = 0) -> str:
        return run("ledger", "erase", "--data", data, *arguments, status=status).output

    erase(status=2)
    erase("--account", "kanto", status=2)
    erase("--before", "2027-01-01", "--account", "kanto", status=2)
    erase("--before", "2027-01-01", "--end-user", "user-7", status=2)
    erase("--before", "2027-01-01", "--account", "kanto", "--end-user", "user-7", status=2)
    erase("--before", "2027-01-01", "--basis", "\udcff", status=2)
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
