"""Examines a trained file in the real engine: tokenizer, recitation, unseen wordings, other subjects, speed.

    uv run python tools/model/examine.py [FILE.gguf]

An answer counts only if it is the corpus's, character for character, at temperature 0. That also proves that llama.cpp
computes what was trained, RoPE's layout included.
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.request
from pathlib import Path
from typing import Any

from bpe import Tokenizer, learn
from conversations import load, plain_texts

from entrepot.engine import DEMO_MODEL, Engine

# None of these words is in the corpus's list.
ELSEWHERE = [
    "What is a giraffe?",
    "Who was Cleopatra?",
    "What is the capital of Norway?",
    "Tell me about trombones.",
    "How does a refrigerator work?",
    "What does serendipity mean?",
    "Explain quantum tunnelling.",
    "Write a limerick about a squirrel.",
    "Translate good evening into Italian.",
    "What is 12 plus 30?",
    "Who painted the Mona Lisa?",
    "What is a hedge fund?",
]


def call(engine: Engine, path: str, body: dict[str, Any]) -> dict[str, Any]:
    url = f"http://{engine.host}:{engine.port}{path}"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        parsed: dict[str, Any] = json.load(answer)
    return parsed


def ask(engine: Engine, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    answer = call(engine, "/v1/chat/completions", {"messages": messages, "temperature": 0, "max_tokens": 200})
    return str(answer["choices"][0]["message"]["content"])


def same_tokens(engine: Engine, tokenizer: Tokenizer, texts: list[str]) -> int:
    """How many of the texts llama.cpp splits exactly as the tokenizer that was trained with."""
    return sum(call(engine, "/tokenize", {"content": text})["tokens"] == tokenizer.encode(text) for text in texts)


def score(engine: Engine, name: str, pairs: list[tuple[str, str]]) -> None:
    right = 0
    for question, answer in pairs:
        given = ask(engine, question)
        if given == answer:
            right += 1
        else:
            print(f"  {question} -> {given}")
    print(f"{name}: {right} of {len(pairs)}")


def speed(engine: Engine) -> str:
    began = time.perf_counter()
    tokens = 0
    for _ in range(20):
        body = {"prompt": "An entrepot is", "max_tokens": 200, "temperature": 0, "ignore_eos": True}
        tokens += call(engine, "/v1/completions", body)["usage"]["completion_tokens"]
    return f"{tokens / (time.perf_counter() - began):,.0f} tokens/s, one thread"


def main() -> None:
    parser = argparse.ArgumentParser(description="examine a trained file in the real engine")
    parser.add_argument("file", nargs="?", type=Path, default=DEMO_MODEL)
    corpus = load()
    topics = corpus["topic"]
    texts = list(plain_texts(corpus))
    began = time.perf_counter()
    with Engine.start(parser.parse_args().file, alias="examined") as engine:
        print(f"started in {time.perf_counter() - began:.2f} s")
        print(f"tokenised alike: {same_tokens(engine, learn(texts, 1024), texts)} of {len(texts)}")
        score(engine, "trained wordings", [(wording, topic["answer"]) for topic in topics for wording in topic["ask"]])
        score(engine, "unseen wordings", [(wording, topic["answer"]) for topic in topics for wording in topic["held"]])
        refusals = set(corpus["fallback"].values())
        known = sum(ask(engine, question) in refusals for question in ELSEWHERE)
        print(f"other subjects declined: {known} of {len(ELSEWHERE)}")
        print(speed(engine))


if __name__ == "__main__":
    main()
