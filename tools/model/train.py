"""Trains the demonstration model from `corpus.toml` and writes it as GGUF; one CPU thread, about a quarter of an hour.

    uv run --no-project --with torch --with gguf python tools/model/train.py [OUT.gguf] [--steps N]

Weights carry their GGUF names from the start. RoPE turns neighbouring pairs (2i, 2i+1), as llama.cpp does for this
architecture, so nothing is permuted on the way out.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found]  # no dependency of the project
from bpe import ASSISTANT, BEGIN, END, SYSTEM, USER, Tokenizer, learn
from conversations import Author, load, plain_texts
from gguf_file import write
from shape import Shape
from torch.nn import functional as F  # type: ignore[import-not-found]  # noqa: N812 - PyTorch's own name

Weights = dict[str, Any]
SEED = 20240709
OUT = Path(__file__).parents[2] / "src" / "entrepot" / "demo_model" / "entrepot-tiny.gguf"
BATCH = 2048  # tokens in a step
LENGTHS = (
    (0.7, 256),
    (0.9, 512),
    (1.0, 1024),
)  # tokens in a row, up to which share of the steps; short rows are cheaper
PEAK = 2.5e-3
EXCERPTS = 0.6  # share of the conversations whose last answer is cut, and after how many tokens
EXCERPT = 10
IGNORE = -100


def new_weights(shape: Shape) -> Weights:
    def matrix(rows: int, columns: int, scale: float = 0.02) -> Any:
        return (torch.randn(rows, columns) * scale).requires_grad_()

    d, h = shape.width, shape.hidden
    narrow = 0.02 / math.sqrt(2 * shape.layers)
    weights = {
        "token_embd.weight": matrix(shape.vocabulary, d),
        "output_norm.weight": torch.ones(d, requires_grad=True),
    }
    for n in range(shape.layers):
        weights |= {f"blk.{n}.{part}.weight": torch.ones(d, requires_grad=True) for part in ("attn_norm", "ffn_norm")}
        weights |= {f"blk.{n}.{part}.weight": matrix(d, d, 0.04) for part in ("attn_q", "attn_k", "attn_v")}
        weights |= {f"blk.{n}.{part}.weight": matrix(h, d, 0.04) for part in ("ffn_gate", "ffn_up")}
        weights[f"blk.{n}.attn_output.weight"] = matrix(d, d, narrow)
        weights[f"blk.{n}.ffn_down.weight"] = matrix(d, h, narrow)
    return weights


def rope(x: Any, base: float) -> Any:
    """`x` is (batch, heads, time, size); each pair of neighbours is turned by its position times its frequency."""
    size, length = x.shape[-1], x.shape[-2]
    angle = torch.outer(torch.arange(length), base ** (-torch.arange(0, size, 2) / size))
    cos, sin = angle.cos(), angle.sin()
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


def hidden_states(w: Weights, shape: Shape, ids: Any) -> Any:
    x = F.embedding(ids, w["token_embd.weight"])
    for n in range(shape.layers):
        x = x + attention(w, shape, n, norm(x, w[f"blk.{n}.attn_norm.weight"], shape))
        y = norm(x, w[f"blk.{n}.ffn_norm.weight"], shape)
        gated = F.silu(y @ w[f"blk.{n}.ffn_gate.weight"].T) * (y @ w[f"blk.{n}.ffn_up.weight"].T)
        x = x + gated @ w[f"blk.{n}.ffn_down.weight"].T
    return norm(x, w["output_norm.weight"], shape)


def attention(w: Weights, shape: Shape, n: int, x: Any) -> Any:
    def heads(part: str) -> Any:
        return (x @ w[f"blk.{n}.{part}.weight"].T).unflatten(-1, (shape.heads, -1)).transpose(1, 2)

    q, k = rope(heads("attn_q"), shape.rope_base), rope(heads("attn_k"), shape.rope_base)
    out = F.scaled_dot_product_attention(q, k, heads("attn_v"), is_causal=True)
    return out.transpose(1, 2).flatten(-2) @ w[f"blk.{n}.attn_output.weight"].T


def norm(x: Any, weight: Any, shape: Shape) -> Any:
    return F.rms_norm(x, (shape.width,), weight, shape.norm_epsilon)


def encode(tokenizer: Tokenizer, turns: list[tuple[str, str]]) -> tuple[list[int], list[int]]:
    """Ids of a conversation as the chat template renders it, and the targets: what the assistant says, and its end."""
    ids, targets = [BEGIN], [IGNORE]
    for role, content in turns:
        body = [*tokenizer.encode(content), END]
        if role != "text":
            ids.append({"system": SYSTEM, "user": USER, "assistant": ASSISTANT}[role])
            targets.append(IGNORE)
        ids += body
        targets += body if role in ("assistant", "text") else [IGNORE] * len(body)
    return ids, targets


def excerpt(ids: list[int], targets: list[int]) -> tuple[list[int], list[int]]:
    """A conversation up to the first words of its last answer: which answer to give is the hard part."""
    said = len(ids) - 1 - ids[::-1].index(ASSISTANT)
    return ids[: said + 1 + EXCERPT], targets[: said + 1 + EXCERPT]


def batches(tokenizer: Tokenizer, author: Author, steps: int) -> Iterator[tuple[Any, Any]]:
    chance = random.Random(SEED)
    for step in range(steps):
        row = next(length for share, length in LENGTHS if step < share * steps)
        rows = []
        for _ in range(BATCH // row):
            ids: list[int] = []
            targets: list[int] = []
            while len(ids) <= row:
                more_ids, more_targets = encode(tokenizer, author.conversation())
                if ASSISTANT in more_ids and chance.random() < EXCERPTS:
                    more_ids, more_targets = excerpt(more_ids, more_targets)
                ids += more_ids
                targets += more_targets
            rows.append((ids[:row], targets[1 : row + 1]))
        yield torch.tensor([ids for ids, _ in rows]), torch.tensor([targets for _, targets in rows])


def train(w: Weights, shape: Shape, tokenizer: Tokenizer, author: Author, steps: int) -> None:
    matrices = [t for t in w.values() if t.ndim == 2]
    norms = [t for t in w.values() if t.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.98), fused=True)
    began = time.monotonic()
    for step, (ids, targets) in enumerate(batches(tokenizer, author, steps)):
        rate = PEAK * min(1, (step + 1) / 40) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        wanted = targets != IGNORE
        logits = hidden_states(w, shape, ids)[wanted] @ w["token_embd.weight"].T
        loss = F.cross_entropy(logits, targets[wanted])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(w.values()), 1.0)
        optimizer.step()
        if step % 25 == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {loss.item():.4f}  {time.monotonic() - began:6.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", nargs="?", type=Path, default=OUT)
    parser.add_argument("--steps", type=int, default=620)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    corpus = load()
    tokenizer = learn(plain_texts(corpus), 1024)
    shape = Shape(vocabulary=len(tokenizer.tokens))
    w = new_weights(shape)
    print(f"{sum(t.numel() for t in w.values()):,} parameters, {shape.vocabulary} tokens", flush=True)
    train(w, shape, tokenizer, Author(corpus, SEED), arguments.steps)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write(arguments.out, {name: t.detach().numpy() for name, t in w.items()}, tokenizer, shape)
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
