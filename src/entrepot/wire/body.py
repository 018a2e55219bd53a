"""Request bodies, decoded one level deep: nested values stay bytes, and what is sent is built from what was read.

INVARIANT: any JSON reader sees in `encode(fields)` the same fields that were decided on. Hence a repeated key collapses
to its last value here, and names that another reader may take for the same field are refused.
"""

from __future__ import annotations

import msgspec

from entrepot.errors import Code, Error

Fields = dict[str, msgspec.Raw]

# What Entrepot reads or writes. Alone, `Model` would be nothing to us and `model` to a reader that ignores case.
_READ = frozenset(
    {
        "best_of",
        "max_completion_tokens",
        "max_tokens",
        "model",
        "n",
        "stream",
        "stream_options",
        "user",
        "include_usage",
    }
)

_TRUE = msgspec.Raw(b"true")
_FALSE_OR_NULL = (msgspec.Raw(b"false"), msgspec.Raw(b"null"))
_NULL = msgspec.Raw(b"null")
_USAGE_WANTED = msgspec.Raw(b'{"include_usage":true}')

_fields = msgspec.json.Decoder(Fields)
_string = msgspec.json.Decoder(str)
_encoder = msgspec.json.Encoder()


def decode(body: bytes) -> Fields:
    """The fields of a JSON object. Raises `INVALID_BODY`, or `AMBIGUOUS_FIELD` for names that differ only in case."""
    try:
        if not body.isascii():
            body.decode()  # nested values are checked for JSON, but not for UTF-8, by the decoder
        fields = _fields.decode(body)
    except UnicodeDecodeError as exc:
        raise Error(Code.INVALID_BODY, f"the body is not UTF-8 (byte {exc.start})") from exc
    except RecursionError as exc:
        raise Error(Code.INVALID_BODY, "the body is nested too deeply") from exc
    except msgspec.ValidationError as exc:
        raise Error(Code.INVALID_BODY, "the body is not a JSON object") from exc
    except msgspec.DecodeError as exc:
        raise Error(Code.INVALID_BODY, f"the body is not JSON: {str(exc).removeprefix('JSON is malformed: ')}") from exc
    _refuse_ambiguous(fields)
    return fields


def encode(fields: Fields) -> bytes:
    """The object as one JSON text; values leave byte for byte as they came."""
    return _encoder.encode(fields)


def string_field(fields: Fields, name: str) -> str | None:
    """A string, `None` if absent or null. Raises `INVALID_BODY` for anything else."""
    value = fields.get(name)
    if value is None or value == _NULL:
        return None
    try:
        return _string.decode(value)
    except msgspec.ValidationError as exc:
        raise Error(Code.INVALID_BODY, f"`{name}` must be a string", param=name) from exc


def is_stream(fields: Fields) -> bool:
    """Whether an event stream is asked for. Raises `INVALID_BODY` if `stream` is no boolean."""
    return _flag(fields, "stream", "stream")


def set_model(fields: Fields, name: str) -> None:
    """Replace or add `model`."""
    fields["model"] = msgspec.Raw(_encoder.encode(name))


def ask_for_usage(fields: Fields) -> bool:
    """Make a stream end in a usage chunk, other stream options kept. Returns whether the client itself asked for it."""
    given = fields.get("stream_options")
    if given is None or given == _NULL:
        fields["stream_options"] = _USAGE_WANTED
        return False
    if given == _USAGE_WANTED:
        return True
    try:
        options = _fields.decode(given)
    except msgspec.ValidationError as exc:
        raise Error(Code.INVALID_BODY, "`stream_options` must be an object", param="stream_options") from exc
    _refuse_ambiguous(options)
    asked = _flag(options, "include_usage", "stream_options.include_usage")
    options["include_usage"] = _TRUE
    fields["stream_options"] = msgspec.Raw(_encoder.encode(options))
    return asked


def _flag(fields: Fields, name: str, path: str) -> bool:
    value = fields.get(name)
    if value is None or value in _FALSE_OR_NULL:
        return False
    if value == _TRUE:
        return True
    raise Error(Code.INVALID_BODY, f"`{path}` must be true or false", param=path)


def _refuse_ambiguous(fields: Fields) -> None:
    names = "".join(fields)
    if names.isascii() and names.islower():
        return
    seen: dict[str, str] = {}
    for name in fields:
        folded = name.casefold()
        other = seen.setdefault(folded, name)
        if other is not name:
            raise Error(
                Code.AMBIGUOUS_FIELD,
                f"the fields `{other}` and `{name}` differ only in letter case; send one",
                param=name,
            )
        if folded != name and folded in _READ:
            raise Error(Code.AMBIGUOUS_FIELD, f"the field `{name}` must be written `{folded}`", param=name)
