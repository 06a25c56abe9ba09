"""The metrics of all processes, in the format of Prometheus.

The numbers are read from shared memory when they are asked for: no worker has to answer, so a scrape takes as long when
the server is overloaded as when it is idle.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from rusmes._core.counters import Histogram, Metrics
from rusmes.metrics import Aggregate, Definition, definitions

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class Process(Struct, frozen=True):
    """One process of the server: its name ("supervisor", "worker 0"), its column and process id (0 = not running)."""

    name: str
    column: int
    pid: int


Processes = Callable[[], Sequence[Process]]


class Exporter:
    """Renders everything that is defined in `rusmes.metrics`, and what the kernel knows of each process."""

    def __init__(self, metrics: Metrics, processes: Processes) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_SharedMetrics(metrics, processes))
        self._registry.register(_ProcessMetrics(processes))

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The text and its content type, in the format that `accept` (a header field's value) asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _SharedMetrics(Collector):
    def __init__(self, metrics: Metrics, processes: Processes) -> None:
        self._metrics = metrics
        self._processes = processes

    def collect(self) -> Iterator[Family]:
        alive = [process.column for process in self._processes() if process.pid]
        for definition in definitions():
            yield self._family(definition, alive)

    def _family(self, definition: Definition, alive: Sequence[int]) -> Family:
        names = [definition.label] if definition.label else []
        if definition.kind == "counter":
            counter = CounterMetricFamily(definition.name, definition.help, labels=names)
            for value, slot in definition.slots.items():
                counter.add_metric([value] if names else [], self._metrics.count(_slot(slot)))
            return counter
        if definition.kind == "gauge":
            gauge = GaugeMetricFamily(definition.name, definition.help, labels=names)
            for value, slot in definition.slots.items():
                gauge.add_metric([value] if names else [], self._level(definition, _slot(slot), alive))
            return gauge
        histogram = HistogramMetricFamily(definition.name, definition.help, labels=names)
        for value, shape in definition.slots.items():
            assert isinstance(shape, Histogram)
            counts, total = self._metrics.sample(shape)
            histogram.add_metric([value] if names else [], list(_cumulated(shape.bounds, counts)), total)
        return histogram

    def _level(self, definition: Definition, slot: int, alive: Sequence[int]) -> float:
        """A gauge over the processes that live; `min` and `max` only over those, since a dead one says nothing."""
        levels = [self._metrics.level(slot, column) for column in alive]
        if not levels:
            return 0.0
        return _AGGREGATES[definition.aggregate](levels)


_AGGREGATES: Final[Mapping[Aggregate, Callable[[list[float]], float]]] = {"sum": sum, "max": max, "min": min}


def _slot(slot: int | Histogram) -> int:
    assert isinstance(slot, int)
    return slot


def _cumulated(bounds: Sequence[float], counts: Sequence[int]) -> Iterator[tuple[str, float]]:
    total = 0
    for bound, count in zip([*map(_bound, bounds), "+Inf"], counts, strict=True):
        total += count
        yield bound, total


def _bound(value: float) -> str:
    return f"{value:g}" if value < 1e6 else f"{value:.1f}"


_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class _ProcessMetrics(Collector):
    """/proc/<pid> of the supervisor and the workers."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def collect(self) -> Iterable[Family]:
        memory = GaugeMetricFamily("rusmes_process_resident_memory_bytes", "Resident memory.", labels=["process"])
        cpu = CounterMetricFamily("rusmes_process_cpu_seconds_total", "CPU time used.", labels=["process"])
        files = GaugeMetricFamily("rusmes_process_open_fds", "Open descriptors.", labels=["process"])
        for process in self._processes():
            found = _of_process(process.pid) if process.pid else None
            if found is not None:
                name = [process.name]
                memory.add_metric(name, found["memory"])
                cpu.add_metric(name, found["cpu"])
                files.add_metric(name, found["files"])
        return [memory, cpu, files]


def _of_process(pid: int) -> dict[str, Any] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rsplit(b")", 1)[1].split()
        return {
            "cpu": (int(fields[11]) + int(fields[12])) / _TICKS,
            "memory": int(fields[21]) * _PAGE,
            "files": len(os.listdir(f"/proc/{pid}/fd")),
        }
    except (OSError, IndexError):
        return None  # it ended meanwhile, or there is no /proc
