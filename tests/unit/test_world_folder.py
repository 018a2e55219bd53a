"""A folder as bytes: which files belong to it, and that an edit in the middle of reading gives no mixture."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrepot.resources.folder import fingerprint, read_world
from entrepot.resources.problems import WorldInvalid


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_toml_files_and_named_packs_and_nothing_else(tmp_path: Path) -> None:
    policy = '[policy]\npacks = ["packs/own.toml", "entrepot:base", "packs/missing.toml", "../out.toml", "/etc/x.toml"]'
    write(tmp_path / "world", world="a = 1", more=policy, packs__own="p = 1", packs__other="", sub__deep="")
    write(tmp_path, out="outside = true")
    (tmp_path / "world" / ".hidden.toml").write_text("x", encoding="utf-8")
    (tmp_path / "world" / "notes.txt").write_text("x", encoding="utf-8")
    files = read_world(tmp_path / "world")
    assert list(files) == ["more.toml", "world.toml", "packs/own.toml"]
    assert files["packs/own.toml"] == b"p = 1"


@pytest.mark.parametrize("make", ["nothing", "empty", "file"])
def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, make: str) -> None:
    path = tmp_path / "world"
    if make == "empty":
        path.mkdir()
    elif make == "file":
        path.write_text("", encoding="utf-8")
    with pytest.raises(WorldInvalid) as caught:
        read_world(path)
    assert len(caught.value.problems) == 1


def test_a_symlink_swapped_while_reading_gives_one_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "one", a="one", b="one")
    write(tmp_path / "two", a="two", b="two")
    link = tmp_path / "current"
    link.symlink_to("one")
    # As Kubernetes mounts a volume: the files are links through the one that is swapped.
    world = tmp_path / "world"
    world.mkdir()
    for name in ("a.toml", "b.toml"):
        (world / name).symlink_to(tmp_path / "current" / name)
    reads = []
    original = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        data = original(path)
        if not reads:
            (tmp_path / "next").symlink_to("two")
            (tmp_path / "next").replace(link)
        reads.append(path)
        return data

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert read_world(world) == {"a.toml": b"two", "b.toml": b"two"}


def test_the_fingerprint_changes_with_files_and_packs(tmp_path: Path) -> None:
    write(tmp_path, world='[policy]\npacks = ["packs/own.toml"]', packs__own="1")
    files = read_world(tmp_path)
    marks = [fingerprint(tmp_path, files)]
    assert fingerprint(tmp_path, files) == marks[0]
    write(tmp_path, packs__own="12")
    marks.append(fingerprint(tmp_path, files))
    write(tmp_path, new="")
    marks.append(fingerprint(tmp_path, files))
    (tmp_path / "packs/own.toml").unlink()
    marks.append(fingerprint(tmp_path, files))
    assert len(set(marks)) == 4
