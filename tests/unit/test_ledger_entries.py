"""Entries: their one spelling is RFC 8785's, by another implementation of it; nothing is lost in it."""

from __future__ import annotations

import typing
from hashlib import sha256
from types import UnionType
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from entrepot.ledger import entries as e
from entrepot.ledger.commitments import commit

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBER = st.integers(0, 2**53 - 1)


def structs() -> list[type[msgspec.Struct]]:
    return [one for one in vars(e).values() if isinstance(one, type) and issubclass(one, msgspec.Struct)]


def of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a field's type; raw parts are those of the struct that they stand for."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return st.sampled_from(inner)
    if origin in {UnionType, typing.Union}:
        return st.one_of([st.just(msgspec.UNSET) if one is msgspec.UnsetType else of(one) for one in inner])
    if origin is dict:
        return st.dictionaries(st.text("abcxyz._", max_size=6), st.lists(TEXT, max_size=2) | TEXT, max_size=3).map(
            e.facts
        )
    if origin is tuple and inner[-1] is not Ellipsis:
        return st.tuples(*map(of, inner))
    if origin is not None:
        return st.lists(of(inner[0]), max_size=2).map(tuple)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return made(kind)
    return {int: NUMBER, bool: st.booleans(), str: TEXT, bytes: st.binary(max_size=9)}[kind]


RAW = {"client": e.Client, "deployment": e.Deployment, "origin": e.Origin, "candidates": e.Candidate}


def made(struct: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    fields = {}
    for field in msgspec.structs.fields(struct):
        if field.name == "facts" and struct is e.Candidate:
            fields[field.name] = of(dict[str, str]).map(lambda given: msgspec.Raw(msgspec.json.encode(given)))
        elif field.name in RAW and struct is e.Decision:
            part = made(RAW[field.name]).map(e.raw)
            fields[field.name] = st.lists(part, max_size=2).map(tuple) if field.name == "candidates" else part
        else:
            fields[field.name] = of(field.type)
    return st.builds(struct, **fields)


def test_fields_stand_in_the_order_of_their_names() -> None:
    for struct in structs():
        names = struct.__struct_encode_fields__
        assert list(names) == sorted(names), struct
        assert all(name.isascii() for name in names)


@pytest.mark.parametrize("struct", e.KINDS, ids=lambda struct: str(e.KINDS[struct]))
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_the_spelling_is_canonical(struct: type[e.Entry], data: st.DataObject) -> None:
    """RFC 8785, for any text and numbers; and what is read back is what was written."""
    entry = data.draw(made(struct))
    spelled = e.encode(entry)
    assert spelled == rfc8785.dumps(msgspec.json.decode(spelled))
    assert e.encode(e.decode(spelled)) == spelled


def test_every_kind_of_the_design_is_there() -> None:
    assert set(e.KINDS.values()) == {
        *("decision", "outcome", "refusals", "change", "release", "erasure", "opened", "closed", "degraded"),
    }


@pytest.mark.parametrize("wrong", [b"", b"{}", b"[]", b'{"decision":{}}', b'{"unheard":{"at_ms":1}}', b'{"closed":{}}'])
def test_what_is_no_entry_is_refused(wrong: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        e.decode(wrong)


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        e.encode(e.Closed(1, "\ud800"))


def test_a_commitment_opens_to_what_was_committed_to_and_hides_it() -> None:
    personal = e.Personal("203.0.113.9", "kanto/key1", "user-7")
    salted, commitment = commit(personal)
    assert sha256(salted).hexdigest() == commitment
    assert e.disclose(salted) == personal
    assert commit(personal)[1] != commitment, "the salt is fresh"
    assert rfc8785.dumps(msgspec.json.decode(salted[e.SALT :])) == salted[e.SALT :]
