"""Counters, gauges and histograms as plain numbers: cheap to raise, easy to send to another process and add up.

A `Catalogue` is the closed list of metrics: a name that is not in it is a programming error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

Kind = Literal["counter", "gauge", "histogram"]
BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Description(msgspec.Struct, frozen=True):
    """`merge` says how the values of several workers become one: added up, or the largest."""

    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    merge: Literal["sum", "max"] = "sum"


Catalogue = Mapping[str, Description]
Labels = tuple[str, ...]


class Report(msgspec.Struct):
    """What one process has counted so far: values by metric and labels; histograms as bucket counts and a sum."""

    values: dict[str, dict[Labels, float]]
    histograms: dict[str, dict[Labels, tuple[list[int], float]]]


class Metrics:
    """The numbers of one process. Not thread-safe: it belongs to the event loop."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._values: dict[str, dict[Labels, float]] = {n: {} for n, d in catalogue.items() if d.kind != "histogram"}
        self._histograms: dict[str, dict[Labels, tuple[list[int], list[float]]]] = {
            n: {} for n, d in catalogue.items() if d.kind == "histogram"
        }

    def count(self, name: str, labels: Labels = (), by: float = 1) -> None:
        series = self._values[name]
        series[labels] = series.get(labels, 0) + by

    def set(self, name: str, value: float, labels: Labels = ()) -> None:
        self._values[name][labels] = float(value)

    def add_observed(self, name: str, labels: Labels, buckets: Sequence[int], seconds: float) -> None:
        """Add observations that were counted elsewhere, in the same buckets."""
        series = self._histograms[name]
        counts, total = series.setdefault(labels, ([0] * len(buckets), [0.0]))
        counts[:] = [a + b for a, b in zip(counts, buckets, strict=True)]
        total[0] += seconds

    def report(self) -> Report:
        return Report(
            {name: dict(series) for name, series in self._values.items()},
            {
                name: {labels: (list(counts), total[0]) for labels, (counts, total) in series.items()}
                for name, series in self._histograms.items()
            },
        )


def lasting(catalogue: Catalogue, reports: Iterable[Report]) -> Report:
    """What was counted in several reports, as one: counters and histograms, not gauges."""
    metrics = Metrics(catalogue)
    for report in reports:
        for name, series in report.values.items():
            if catalogue[name].kind == "counter":
                for labels, value in series.items():
                    metrics.count(name, labels, value)
        for name, histogram in report.histograms.items():
            for labels, (buckets, seconds) in histogram.items():
                metrics.add_observed(name, labels, buckets, seconds)
    return metrics.report()


def exposition(catalogue: Catalogue, reports: Iterable[Report]) -> bytes:
    """The reports of all workers merged, in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged(catalogue, list(reports)))
    return generate_latest(registry)


class _Merged(Collector):
    def __init__(self, catalogue: Catalogue, reports: list[Report]) -> None:
        self._catalogue = catalogue
        self._reports = reports

    def collect(self) -> Iterator[Metric]:
        for name, description in self._catalogue.items():
            if description.kind == "histogram":
                yield self._histogram(name, description)
            else:
                yield self._plain(name, description)

    def _plain(self, name: str, description: Description) -> Metric:
        family: CounterMetricFamily | GaugeMetricFamily
        if description.kind == "counter":
            family = CounterMetricFamily(name, description.help, labels=description.labels)
        else:
            family = GaugeMetricFamily(name, description.help, labels=description.labels)
        merged: dict[Labels, float] = {}
        for report in self._reports:
            for labels, value in report.values.get(name, {}).items():
                before = merged.get(labels, 0)
                merged[labels] = max(before, value) if description.merge == "max" else before + value
        for labels, value in sorted(merged.items()):
            family.add_metric(labels, value)
        return family

    def _histogram(self, name: str, description: Description) -> Metric:
        family = HistogramMetricFamily(name, description.help, labels=description.labels)
        merged: dict[Labels, tuple[list[int], float]] = {}
        for report in self._reports:
            for labels, (counts, total) in report.histograms.get(name, {}).items():
                before, total_before = merged.get(labels, ([0] * len(counts), 0.0))
                merged[labels] = ([a + b for a, b in zip(before, counts, strict=True)], total_before + total)
        bounds = [*(str(bound) for bound in BUCKETS_S), "+Inf"]
        for labels, (counts, total) in sorted(merged.items()):
            running, buckets = 0, []
            for bound, count in zip(bounds, counts, strict=True):
                running += count
                buckets.append((bound, running))
            family.add_metric(labels, buckets, total)
        return family
