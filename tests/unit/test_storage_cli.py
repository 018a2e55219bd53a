"""`entrepot storage`, and where a master key comes from."""

from __future__ import annotations

import asyncio
import base64
import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from entrepot.cli import command_line
from entrepot.errors import Error
from entrepot.storage import MasterKey, Store


def url_of(data: Path) -> str:
    return f"sqlite:///{data}/control.db"


async def secret(data: Path, master: MasterKey, *, put: bool = False) -> tuple[bytes | None, int]:
    store = await Store.open(url_of(data), master)
    try:
        if put:
            async with store.change() as change:
                await change.put_secret("/a", b"A")
        return await store.secret("/a"), (await store.revision())[0]
    finally:
        await store.close()


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(command_line(["storage"]), ["storage", *words])
    return done.exit_code, done.output


def test_a_key_in_the_data_folder_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    first = MasterKey.from_file(path)
    asyncio.run(secret(tmp_path, first, put=True))
    assert run("rotate-key", "--data", str(tmp_path)) == (
        0,
        "1 secrets are under a new master key; restart the control plane with it\n",
    )
    second = MasterKey.from_file(path)
    assert second.id != first.id
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(each.name for each in tmp_path.iterdir()) == ["control.db", "master.key"]
    assert asyncio.run(secret(tmp_path, second)) == (b"A", 1)
    assert run("restored", "--data", str(tmp_path)) == (0, "epoch 2 begins; start the control plane\n")
    assert asyncio.run(secret(tmp_path, second)) == (b"A", 2)


def test_a_key_from_elsewhere_is_followed_by_one_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (MasterKey.generate() for _ in range(3))
    asyncio.run(secret(tmp_path, first, put=True))
    monkeypatch.setenv("ENTREPOT_MASTER_KEY", first.text())
    assert run("rotate-key", "--data", str(tmp_path)) == (
        1,
        "it was not done: the master key is missing: set the environment variable `ENTREPOT_NEW_MASTER_KEY`\n",
    )
    monkeypatch.setenv("ENTREPOT_NEW_MASTER_KEY", second.text())
    assert run("rotate-key", "--data", str(tmp_path))[0] == 0
    code, said = run("rotate-key", "--data", str(tmp_path))
    assert code == 1
    assert f"are under the master key {second.id}" in said
    monkeypatch.setenv("ENTREPOT_DATABASE", url_of(tmp_path))
    code, said = run(
        "rotate-key", "--master-key-command", f"echo {second.text()}", "--new-key-command", f"echo {third.text()}"
    )
    assert code == 0, said
    assert asyncio.run(secret(tmp_path, third)) == (b"A", 1)


def test_a_folder_that_is_none_stays_none(tmp_path: Path) -> None:
    for words in (["rotate-key"], ["restored"]):
        code, said = run(*words, "--data", str(tmp_path / "no"))
        assert code == 1
        assert "name the control plane's data folder with `--data`" in said.replace("\n", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("/nowhere/program", "cannot be run: FileNotFoundError"),
        ("false", "ended with status 1"),
        ("echo short", "holds no master key"),
        ("", "cannot be run"),
    ],
)
def test_a_command_that_gives_no_key_is_said(command: str, says: str) -> None:
    with pytest.raises(Error, match=says):
        MasterKey.from_command(shlex.split(command))


def test_a_command_may_print_the_key() -> None:
    key = MasterKey.generate()
    assert MasterKey.from_command([sys.executable, "-c", f"print('{key.text()}')"]).id == key.id


@pytest.mark.parametrize("text", ["", "x", base64.b64encode(b"k" * 31).decode(), "é" * 44, "A" * 43 + "!"])
def test_what_is_no_key_is_not_quoted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "master.key"
    path.write_text(text, encoding="utf-8")
    for get in (lambda: MasterKey.from_file(path), lambda: MasterKey.from_env({"K": text}, "K")):
        with pytest.raises(Error, match="holds no master key: it has to be 32 bytes in base64") as caught:
            get()
        assert len(text) < 2 or text not in str(caught.value)
    with pytest.raises(Error, match="set the environment variable `K`"):
        MasterKey.from_env({}, "K")


def test_nothing_shows_a_key() -> None:
    key = MasterKey.generate()
    assert key.text() not in repr(key)
    assert repr(key) == f"MasterKey({key.id})"
    other = MasterKey.generate()
    with pytest.raises(Error, match="cannot be decrypted"):
        other.open("a", key.seal("a", b"secret"))
    with pytest.raises(Error, match="cannot be decrypted"):
        key.open("b", key.seal("a", b"secret"))
    with pytest.raises(Error, match="cannot be decrypted"):
        key.open("a", b"")
    assert key.open("a", key.seal("a", b"")) == b""
