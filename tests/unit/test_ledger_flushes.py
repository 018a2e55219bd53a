"""Flushes by the kernel, beside the thread that asks for them."""

from __future__ import annotations

import os
import platform
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from entrepot.ledger import flushes as flushes_module
from entrepot.ledger.files import Files
from entrepot.ledger.flushes import CALLS, Flushes

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() not in CALLS, reason="a thread does it here"
)


@pytest.fixture
def flushes() -> Iterator[Flushes]:
    made = Flushes()
    yield made
    made.close()


@pytest.fixture
def fds(tmp_path: Path) -> Iterator[list[int]]:
    opened = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in "ab"]
    yield opened
    for fd in opened:
        os.close(fd)


def await_end(flushes: Flushes) -> None:
    while True:
        assert select.select([flushes], [], [], 10)[0]
        if flushes.ended():
            return


def test_one_file_and_two_time_and_again(flushes: Flushes, fds: list[int]) -> None:
    for several in (fds, fds[:1], fds):
        for fd in several:
            os.write(fd, b"entry")
        flushes.begin(several)
        await_end(flushes)
    assert flushes.ended() is False, "nothing is under way"


def test_a_sign_that_comes_after_its_end_was_seen(flushes: Flushes, fds: list[int]) -> None:
    flushes.begin(fds)
    await_end(flushes)
    os.eventfd_write(flushes.fileno(), 1)
    assert flushes.ended() is False
    flushes.begin(fds)
    os.eventfd_write(flushes.fileno(), 1)
    await_end(flushes)


def test_what_cannot_be_flushed(flushes: Flushes, fds: list[int]) -> None:
    """The first, and nothing is begun; a later one, and it is told when those before it have ended."""
    end, other_end = os.pipe()
    with pytest.raises(OSError, match="Invalid argument"):
        flushes.begin([end, *fds])
    flushes.begin([*fds, end])
    with pytest.raises(OSError, match="only some of the files"):
        await_end(flushes)
    flushes.begin(fds)
    await_end(flushes)
    os.close(end)
    os.close(other_end)


@pytest.mark.parametrize(("of", "name"), [("machine", "sparc64"), ("system", "Darwin")])
def test_where_it_is_not_known_there_is_none(monkeypatch: pytest.MonkeyPatch, of: str, name: str) -> None:
    """On another system the same numbers are other calls."""
    monkeypatch.setattr(platform, of, lambda: name)
    with pytest.raises(OSError, match=name):
        Flushes()
    assert Files().flushes() is None


def test_where_the_kernel_offers_the_calls_and_not_this_use_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flushes_module, "FDSYNC", 99)
    assert Files().flushes() is None


def test_where_the_kernel_offers_none_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CALLS, platform.machine(), (1 << 20,) * 4)  # no such system call
    assert Files().flushes() is None
