"""Turns the corpus into training conversations: paraphrases, noise, system messages, several turns, other subjects."""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).with_name("corpus.toml")


def load() -> dict[str, Any]:
    return tomllib.loads(CORPUS.read_text())


def plain_texts(corpus: dict[str, Any]) -> Iterator[str]:
    """Every text the tokenizer is learned from."""
    other = corpus["elsewhere"]
    for topic in corpus["topic"]:
        yield topic["answer"]
        yield from topic["ask"]
        yield from map(str.lower, topic["ask"])
    yield from corpus["fallback"].values()
    for kind in ("general", "task", "number", "more", "systems", "before", "after"):
        yield from other[kind]
    yield from (" " + word for word in other["words"])


class Author:
    """Writes conversations at random; the same seed writes the same ones."""

    def __init__(self, corpus: dict[str, Any], seed: int) -> None:
        self._topics = corpus["topic"]
        self._fallback = corpus["fallback"]
        self._other = corpus["elsewhere"]
        self._random = random.Random(seed)

    def conversation(self) -> list[tuple[str, str]]:
        """(role, content) pairs; the role `text` is a document without a dialogue, for plain completion."""
        draw = self._random.random()
        if draw < 0.04:
            return [("text", self._random.choice(self._topics)["answer"])]
        turns: list[tuple[str, str]] = []
        if self._random.random() < 0.3:
            turns.append(("system", self._system()))
        for _ in range(self._random.choices((1, 2, 3), (60, 25, 15))[0]):
            turns += self._exchange(first=not any(role == "assistant" for role, _ in turns))
        return turns

    def _exchange(self, *, first: bool) -> list[tuple[str, str]]:
        draw = self._random.random()
        if draw < 0.68:
            topic = self._random.choice(self._topics)
            return [("user", self._vary(self._random.choice(topic["ask"]))), ("assistant", topic["answer"])]
        if draw < 0.72 and not first:
            return [("user", self._random.choice(self._other["more"])), ("assistant", self._fallback["more"])]
        kind = self._random.choices(("general", "task", "number"), (70, 20, 10))[0]
        question = self._fill(self._random.choice(self._other[kind]))
        return [("user", self._vary(question)), ("assistant", self._fallback[kind])]

    def _system(self) -> str:
        sentences = [self._fill(self._random.choice(self._other["systems"]))]
        while self._random.random() < 0.3:
            sentences.append(" ".join(self._word() for _ in range(self._random.randint(3, 12))) + ".")
        return " ".join(sentences)

    def _fill(self, wording: str) -> str:
        while "{}" in wording:
            wording = wording.replace("{}", self._word(), 1)
        while "#" in wording:
            wording = wording.replace("#", str(self._random.randint(0, 10 ** self._random.randint(1, 4))), 1)
        return wording

    def _word(self) -> str:
        if self._random.random() < 0.6:
            return str(self._random.choice(self._other["words"]))
        word = "".join(self._random.choices(self._other["syllables"], k=self._random.randint(1, 4)))
        return word.capitalize() if self._random.random() < 0.4 else word

    def _vary(self, question: str) -> str:
        asked = re.fullmatch(r"What (is|are) (.+)\?", question)
        if asked and self._random.random() < 0.2:
            question = self._random.choice(self._other["frames"]).format(verb=asked[1], thing=asked[2])
        if self._random.random() < 0.12:
            question = self._random.choice(self._other["before"]) + question
        if self._random.random() < 0.12:
            question += self._random.choice(self._other["after"])
        if self._random.random() < 0.12:
            question = question.lower()
        if self._random.random() < 0.12:
            question = question.rstrip("?.!")
        if self._random.random() < 0.06 and len(question) > 12:
            question = self._mistype(question)
        return question

    def _mistype(self, question: str) -> str:
        place = self._random.randrange(4, len(question) - 2)
        if self._random.random() < 0.5:
            return question[:place] + question[place + 1 :]
        return question[:place] + question[place + 1] + question[place] + question[place + 2 :]
