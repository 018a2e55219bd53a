"""Byte-level BPE as GPT-2 has it: learned from the corpus, written into the GGUF file, applied alike by llama.cpp.

The pre-tokeniser is GPT-2's expression, which llama.cpp applies under the name `gpt-2`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

SPECIALS = ("<|begin|>", "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>")
BEGIN, END, PAD, SYSTEM, USER, ASSISTANT = range(len(SPECIALS))
# `\p{L}` and `\p{N}` in the standard library's terms.
_WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:_|[^\s\w])+|\s+(?!\S)|\s+")


def byte_letters() -> list[str]:
    """The printable letter that stands for each byte, GPT-2's table."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    spare = (chr(256 + n) for n in range(256))
    return [chr(byte) if byte in plain else next(spare) for byte in range(256)]


class Tokenizer:
    """Token ids are: the specials, the 256 bytes, then one per merge in rank order."""

    def __init__(self, merges: list[tuple[str, str]]) -> None:
        self.merges = merges
        self.tokens = [*SPECIALS, *byte_letters(), *(left + right for left, right in merges)]
        self._letters = byte_letters()
        self._ids = {token: number for number, token in enumerate(self.tokens)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._words: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; specials in it are not recognised."""
        ids: list[int] = []
        for word in _WORD.findall(text):
            if word not in self._words:
                self._words[word] = self._encode_word(word)
            ids += self._words[word]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        codes = {letter: byte for byte, letter in enumerate(self._letters)}
        text = "".join(self.tokens[number] for number in ids if number >= len(SPECIALS))
        return bytes(codes[letter] for letter in text).decode(errors="replace")

    def _encode_word(self, word: str) -> list[int]:
        parts = [self._letters[byte] for byte in word.encode()]
        while len(parts) > 1:
            best = min(pairwise(parts), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            parts = merged(parts, best)
        return [self._ids[part] for part in parts]


def merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """`parts` with each occurrence of `pair`, from the left, made one."""
    out: list[str] = []
    position = 0
    while position < len(parts):
        if tuple(parts[position : position + 2]) == pair:
            out.append(pair[0] + pair[1])
            position += 2
        else:
            out.append(parts[position])
            position += 1
    return out


def learn(texts: Iterable[str], size: int) -> Tokenizer:
    """A tokenizer of at most `size` tokens. Of equally frequent pairs the alphabetically first is merged first."""
    letters = byte_letters()
    counts = Counter(word for text in texts for word in _WORD.findall(text))
    words = [([letters[byte] for byte in word.encode()], count) for word, count in sorted(counts.items())]
    merges: list[tuple[str, str]] = []
    while len(SPECIALS) + 256 + len(merges) < size:
        pairs: Counter[tuple[str, str]] = Counter()
        for parts, count in words:
            for pair in pairwise(parts):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        merges.append(best)
        words = [(merged(parts, best), count) for parts, count in words]
    return Tokenizer(merges)
