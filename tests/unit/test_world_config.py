"""Secrets come from the environment or files, and no message ever holds one."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrepot.config import Config
from entrepot.errors import Error


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(tmp_path, {"FULL": "s3cret", "LINE": "s3cret\n", "EMPTY": "", "ONLY_LINE": "\n"})


@pytest.mark.parametrize("ref", ["env:FULL", "env:LINE"])
def test_from_the_environment(config: Config, ref: str) -> None:
    assert config.resolve_secret(ref) == "s3cret"


@pytest.mark.parametrize(
    ("text", "want"), [("s3cret", "s3cret"), ("s3cret\n", "s3cret"), ("a\n\n", "a\n"), ("a\r\n", "a")]
)
def test_from_a_file_without_one_line_end(config: Config, text: str, want: str) -> None:
    path = config.data / "secret"
    path.write_bytes(text.encode())
    assert config.resolve_secret(f"file:{path}") == want


@pytest.mark.parametrize("ref", ["env:NONE", "env:EMPTY", "env:ONLY_LINE", "file:/no/such/file", "file:/", "file:a\0b"])
def test_what_is_missing_or_empty_is_told_by_its_reference(config: Config, ref: str) -> None:
    with pytest.raises(Error) as caught:
        config.resolve_secret(ref)
    assert f"`{ref}`" in caught.value.message


def test_a_secret_in_place_of_a_reference_is_not_repeated(config: Config) -> None:
    with pytest.raises(Error) as caught:
        config.resolve_secret("s3cret")
    assert "s3cret" not in caught.value.message


def test_a_file_that_is_not_text(config: Config) -> None:
    path = config.data / "secret"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(Error, match="UTF-8"):
        config.resolve_secret(f"file:{path}")


def test_the_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENTREPOT_DATA", raising=False)
    assert Config.load().data == Path(".entrepot")
    monkeypatch.setenv("ENTREPOT_DATA", "/srv/entrepot")
    assert Config.load().data == Path("/srv/entrepot")
    assert Config.load(Path("elsewhere")).data == Path("elsewhere")
