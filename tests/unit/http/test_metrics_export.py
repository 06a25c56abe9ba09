"""The exposition: complete, aggregated over processes, with labels no peer can add to."""

from __future__ import annotations

import os
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rusmes import metrics as m
from rusmes.http.metrics import Exporter, Process
from rusmes.metrics import Metrics, definitions


def samples(exporter: Exporter) -> dict[tuple[str, str], float]:
    text, content_type = exporter.render()
    assert content_type.startswith("text/plain")
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(3)


@pytest.fixture
def exporter(metrics: Metrics) -> Exporter:
    processes = [Process("worker 0", 0, os.getpid()), Process("worker 1", 1, os.getpid()), Process("worker 2", 2, 0)]
    return Exporter(metrics, lambda: processes)


def test_counters_are_summed_over_all_processes_even_dead_ones(metrics: Metrics, exporter: Exporter) -> None:
    for column in range(3):
        metrics.use_column(column)
        metrics.inc(m.SMTP_CONNECTIONS, 10)
        metrics.inc(m.SMTP_REPLIES["4xx"])
    found = samples(exporter)
    assert found["rusmes_smtp_connections_total", ""] == 30
    assert found["rusmes_smtp_replies_total", "4xx"] == 3
    assert found["rusmes_smtp_replies_total", "2xx"] == 0


def test_gauges_count_only_processes_that_live(metrics: Metrics, exporter: Exporter) -> None:
    for column, (active, oldest, writable) in enumerate([(3, 5.0, 1), (4, 2.0, 0), (100, 99.0, 0)]):
        metrics.use_column(column)
        metrics.set(m.ACTIVE_CONNECTIONS["smtp"], active)
        metrics.set(m.QUEUE_OLDEST, oldest)
        metrics.set(m.STORE_WRITABLE, writable)
    found = samples(exporter)
    assert found["rusmes_active_connections", "smtp"] == 7
    assert found["rusmes_queue_oldest_seconds", ""] == 5.0
    assert found["rusmes_store_writable", ""] == 0


def test_histograms_cumulate(metrics: Metrics, exporter: Exporter) -> None:
    for value in (0.0002, 0.002, 500.0):
        metrics.observe(m.COMMIT_SECONDS, value)
    found = samples(exporter)
    assert found["rusmes_store_commit_seconds_bucket", "0.0001"] == 0
    assert found["rusmes_store_commit_seconds_bucket", "0.0003"] == 1
    assert found["rusmes_store_commit_seconds_bucket", "30"] == 2
    assert found["rusmes_store_commit_seconds_bucket", "+Inf"] == 3
    assert found["rusmes_store_commit_seconds_count", ""] == 3
    assert found["rusmes_store_commit_seconds_sum", ""] == pytest.approx(500.0022)


def test_a_label_value_nobody_named_counts_as_other(metrics: Metrics, exporter: Exporter) -> None:
    before = len(samples(exporter))
    for number in range(100):
        metrics.inc(m.SMTP_COMMANDS[f"X-EVIL{number}"])
    found = samples(exporter)
    assert found["rusmes_smtp_commands_total", "other"] == 100
    assert len(found) == before


def test_no_two_definitions_share_a_slot_and_names_follow_the_rules() -> None:
    taken: set[int] = set()
    for definition in definitions():
        assert definition.name.startswith("rusmes_")
        assert definition.help.endswith(".")
        assert (definition.kind == "counter") == definition.name.endswith("_total")
        for shape in definition.slots.values():
            first, count = (shape, 1) if isinstance(shape, int) else (shape.slot, len(shape.bounds) + 2)
            slots = set(range(first, first + count))
            assert not slots & taken
            taken |= slots
    with pytest.raises(ValueError, match="defined twice"):
        m.counter("rusmes_smtp_connections_total", "Again.")


def test_openmetrics_when_asked_for(exporter: Exporter) -> None:
    text, content_type = exporter.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


def test_processes_show_memory_and_cpu(exporter: Exporter) -> None:
    found = samples(exporter)
    assert found["rusmes_process_resident_memory_bytes", "worker 0"] > 1_000_000
    assert found["rusmes_process_open_fds", "worker 1"] > 2
    assert ("rusmes_process_open_fds", "worker 2") not in found


def test_a_scrape_is_quick(exporter: Exporter) -> None:
    begin = time.process_time()
    exporter.render()
    assert time.process_time() - begin < 0.5
