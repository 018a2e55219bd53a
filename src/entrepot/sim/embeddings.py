"""Embeddings: unit vectors that depend on nothing but the text and the number of dimensions."""

from __future__ import annotations

import hashlib
import math
import struct
from base64 import b64encode
from typing import Any

import msgspec

from entrepot.errors import Code, Error
from entrepot.sim.answers import count_tokens
from entrepot.sim.asked import Asked


def embed(asked: Asked, model: str, dimensions: int) -> tuple[bytes, int]:
    """The body and its prompt tokens. Base64 is of little-endian float32. Raises `INVALID_BODY`."""
    inputs = _inputs(asked.input)
    dimensions = asked.dimensions or dimensions
    data: list[dict[str, Any]] = []
    tokens = 0
    for index, (seed, count) in enumerate(inputs):
        packed = _vector(seed, dimensions)
        vector: Any = list(struct.unpack(f"<{dimensions}f", packed))
        if asked.encoding_format == "base64":
            vector = b64encode(packed).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
        tokens += count
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode({"object": "list", "data": data, "model": model, "usage": usage}), tokens


def _inputs(given: Any) -> list[tuple[bytes, int]]:
    if isinstance(given, str) or (isinstance(given, list) and given and all(isinstance(item, int) for item in given)):
        given = [given]
    if not isinstance(given, list) or not given:
        raise Error(Code.INVALID_BODY, "`input` must be a text, tokens, or a list of these", param="input")
    inputs = []
    for item in given:
        if isinstance(item, str):
            inputs.append((item.encode(errors="surrogatepass"), count_tokens(item)))
        elif isinstance(item, list):
            inputs.append((msgspec.json.encode(item), len(item)))
        else:
            raise Error(Code.INVALID_BODY, "`input` must be a text, tokens, or a list of these", param="input")
    return inputs


def _vector(seed: bytes, dimensions: int) -> bytes:
    drawn = struct.unpack(f"<{dimensions}h", hashlib.shake_256(seed).digest(2 * dimensions))
    length = math.sqrt(sum(value * value for value in drawn)) or 1.0
    return struct.pack(f"<{dimensions}f", *(value / length for value in drawn))
