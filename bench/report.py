"""From measured windows to tables (Markdown) and to a JSON document."""

from __future__ import annotations

import os
import platform
import sysconfig
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from measure import Window

OURS = "entrepot"
NOISE = 0.05  # share of the gateway's core used by others above which a window is called noisy


@dataclass(frozen=True)
class Row:
    """One window of one subject in one case; `arrivals` is the probe's report, for streams."""

    subject: str
    case: str
    window: Window
    arrivals: dict[str, float]

    @property
    def cpu_us(self) -> float:
        """Per call, or per chunk of a stream; both as the upstream counted them."""
        return self.window.cpu_s * 1e6 / max(self.window.units, 1)

    @property
    def per_s(self) -> float:
        """Calls that the client saw answered, or chunks that the upstream sent."""
        return (self.window.units if self.arrivals else self.window.load.calls) / self.window.load.duration_s


@dataclass(frozen=True)
class Result:
    rows: list[Row]
    machine: dict[str, str | int]
    versions: dict[str, str]
    rounds: int
    seconds: float
    pace_ms: float


def machine() -> dict[str, str | int]:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": os.cpu_count() or 0,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "python_build": sysconfig.get_config_var("CONFIG_ARGS") or "",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def progress(row: Row) -> str:
    load, unit = row.window.load, "chunk" if row.arrivals else "call"
    text = (
        f"{row.case:>4} {row.subject:<9}{row.cpu_us:9.1f} µs/{unit} {row.per_s:9,.0f}/s p50 {load.p50_us / 1000:.2f} ms"
    )
    if row.arrivals:
        text += f", {row.arrivals['chunks_per_read']:.2f} chunks a read"
    return text + (f", {load.errors} ERRORS" if load.errors else "")


def groups(result: Result) -> dict[str, dict[str, list[Row]]]:
    """Rows by case, then by subject in the order of the first round."""
    grouped: dict[str, dict[str, list[Row]]] = {}
    for row in result.rows:
        grouped.setdefault(row.case, {}).setdefault(row.subject, []).append(row)
    return grouped


def middle(rows: list[Row], of: Callable[[Row], float]) -> float:
    return median(of(row) for row in rows)


def call_p50_ms(row: Row) -> float:
    return row.window.load.p50_us / 1000


def chunk_p50_ms(row: Row) -> float:
    return row.arrivals["delay_p50_us"] / 1000


def cells(rows: list[Row], ours: float | None, direct: list[Row] | None) -> list[str]:
    """One line of a table: medians over the rounds; the CPU's extremes in brackets."""
    name, streams = rows[0].subject, bool(rows[0].arrivals)
    costs = sorted(row.cpu_us for row in rows)
    p50_ms = chunk_p50_ms if streams else call_p50_ms
    p99_ms = middle(rows, lambda row: (row.arrivals["delay_p99_us"] if streams else row.window.load.p99_us) / 1000)
    busy = [middle(rows, lambda row: row.window.gateway_core_busy), middle(rows, lambda row: row.window.load_core_busy)]
    return [
        name + (" ⚠" if any(row.window.load.errors for row in rows) else ""),
        f"{median(costs):,.1f}" + (f" ({costs[0]:,.1f} to {costs[-1]:,.1f})" if len(rows) > 1 else ""),
        f"{ours / median(costs):.2f}" if ours and name not in {OURS, "direct"} else "",
        f"{middle(rows, p50_ms):,.2f}",
        f"{p99_ms:,.2f}",
        f"{middle(rows, p50_ms) - middle(direct, p50_ms):+,.2f}" if direct and name != "direct" else "",
        f"{middle(rows, lambda row: row.per_s):,.0f}",
        *([f"{middle(rows, lambda row: row.arrivals['chunks_per_read']):.2f}"] if streams else []),
        f"{max(row.window.rss_bytes for row in rows) / 2**20:,.0f}",
        f"{busy[0]:.0%} / {busy[1]:.0%}",
    ]


def table(case: str, by_subject: dict[str, list[Row]]) -> str:
    streams = bool(next(iter(by_subject.values()))[0].arrivals)
    unit = "chunk" if streams else "call"
    head = ["", f"CPU µs a {unit}", "Entrepot ÷ it", f"{unit} p50 ms", "p99 ms", "p50 added ms", f"{unit}s/s"]
    head += (["chunks a read"] if streams else []) + ["RSS MB", "core 0 / 1 busy"]
    ours = middle(by_subject[OURS], lambda row: row.cpu_us) if OURS in by_subject else None
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    lines += [cells(rows, ours, by_subject.get("direct")) for rows in by_subject.values()]
    return f"### {title(case)}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def title(case: str) -> str:
    connections = case[1:]
    if case.startswith("s"):
        return f"Streams, {connections} connections"
    return f"Calls, {connections} connection{'' if connections == '1' else 's'}"


def summary(result: Result) -> str:
    """Entrepot in one line: CPU beside each peer at 32 connections and 64 streams, and what it adds to one call."""
    grouped, parts = groups(result), []
    for case, unit in (("c32", "a call at 32 connections"), ("s64", "a chunk of 64 streams")):
        rows = grouped.get(case, {})
        ours = middle(rows[OURS], lambda row: row.cpu_us) if OURS in rows else 0.0
        peers = {
            name: middle(each, lambda row: row.cpu_us) for name, each in rows.items() if name not in {OURS, "direct"}
        }
        if ours and peers:
            parts.append(f"CPU of {unit}: " + ", ".join(f"{ours / cpu:.2g} of {name}'s" for name, cpu in peers.items()))
    single = grouped.get("c1", {})
    if OURS in single and "direct" in single:
        added_ms = middle(single[OURS], call_p50_ms) - middle(single["direct"], call_p50_ms)
        parts.append(f"p50 added at 1 connection: {added_ms:.2f} ms")
    return "Entrepot: " + "; ".join(parts) if parts else ""


def remarks(result: Result) -> list[str]:
    """What a reader must know before believing the tables."""
    noisy = sorted({f"{row.case} {row.subject}" for row in result.rows if row.window.others > NOISE})
    lines = [f"NOISY: others used over {NOISE:.0%} of core 0 during: {', '.join(noisy)}"] if noisy else []
    lines += [
        f"FAILED: {row.case} {row.subject}: {row.window.load.errors} errors beside {row.window.load.calls} calls"
        for row in result.rows
        if row.window.load.errors
    ]
    return lines


def text(result: Result) -> str:
    facts = result.machine
    setting = f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, {facts['date']}; "
    setting += f"{result.rounds} rounds of {result.seconds:g} s; a chunk every {result.pace_ms:g} ms"
    notes = (
        "CPU of `direct` is the upstream's own. For streams, p50 and p99 are from the upstream's write of a chunk to "
    )
    notes += "the client's read of it."
    tables = [table(case, by_subject) for case, by_subject in groups(result).items()]
    parts = [setting, "; ".join(result.versions.values()), notes, *tables, summary(result), *remarks(result)]
    return "\n\n".join(part for part in parts if part)


def document(result: Result) -> dict[str, object]:
    """Everything that was measured; medians can be made again from it."""
    windows = [
        asdict(row) | {"cpu_us": row.cpu_us, "per_s": row.per_s, "round": number}
        for by_subject in groups(result).values()
        for rows in by_subject.values()
        for number, row in enumerate(rows, 1)
    ]
    medians = {
        case: {name: round(median(row.cpu_us for row in rows), 2) for name, rows in by_subject.items()}
        for case, by_subject in groups(result).items()
    }
    return {
        "machine": result.machine,
        "versions": result.versions,
        "rounds": result.rounds,
        "seconds": result.seconds,
        "pace_ms": result.pace_ms,
        "cpu_us": medians,
        "windows": windows,
    }
