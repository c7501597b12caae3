"""`Metrics`: counters of the server, the router and each adapter, as Prometheus text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from ...messages import AdapterState, AdapterView
from ...runtime.step_statistics import DecodeStatistics
from ..answers.histogram import Histogram
from ..http.access import Access
from .gateway import Gateway
from .vllm_metrics import MILLISECONDS, VllmMetrics, buckets_of

ADAPTER_COUNTERS: Sequence[tuple[str, str, Callable[[AdapterView], float]]] = (
    ("prompt_tokens", "prompt tokens of its requests", lambda view: view.prompt_tokens),
    ("device_seconds", "its part of the steps' device time", lambda view: view.device_us / 1e6),
    ("placements", "copies of its weights into the pool", lambda view: view.placements),
    ("evictions", "times it lost its pages to others", lambda view: view.evictions),
)
"""Name, help and value."""
ADAPTER_QUANTILES: Sequence[
    tuple[str, str, Callable[[AdapterView], tuple[float | None, float | None]]]
] = (
    (
        "time_to_first_token",
        "arrival to first token at the router, last ten minutes",
        lambda view: (view.ttft_p50_ms, view.ttft_p99_ms),
    ),
    (
        "queue_wait",
        "arrival to admission, last ten minutes",
        lambda view: (view.wait_p50_ms, view.wait_p99_ms),
    ),
)
"""Name, help, and p50 and p99 in milliseconds."""


class Metrics:
    """The metrics, collected at each scrape; keeps no state of its own."""

    def __init__(self, gateway: Gateway, access: Access) -> None:
        self._gateway, self._access = gateway, access
        self._pipeline, self._counters = gateway.pipeline, gateway.counters
        self._vllm = VllmMetrics(gateway)
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> bytes:
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        return ()  # nothing is known before the first scrape

    def collect(self) -> Iterator[Metric]:
        counters = self._counters
        yield _gauge("up", "1 if a request would be answered now", not self._gateway.broken())
        yield _counter("requests", "requests accepted over HTTP", counters.requests)
        yield _counter("errors", "requests that ended with an error", counters.errors)
        about = "answers that a client took up again by their id"
        yield _counter("resumed_requests", about, counters.resumed)
        about = "requests given up after a restart of the server: no client came back"
        yield _counter("abandoned_requests", about, counters.abandoned)
        refused = self._access.num_refused
        yield _counter("key_refusals", "requests with a wrong or missing key", refused)
        yield _counter("failures", "answers with 500: a bug; the log has it", counters.failures)
        yield _labelled(
            "connection_refusals",
            "connections that were cut or refused",
            "reason",
            counters.connection_refusals,
        )
        yield _counter("prompt_tokens", "prompt tokens accepted", counters.prompt_tokens)
        yield _counter("output_tokens", "tokens streamed to clients", counters.output_tokens)
        yield _gauge("open_streams", "answers being streamed", len(self._gateway.answers.streams))
        yield _histogram("time_to_first_token", "arrival to first token", counters.ttft)
        yield _histogram("inter_token_latency", "between tokens of a stream", counters.inter_token)
        yield from self._router()
        yield from self._adapters()
        yield from self._memory()
        yield from self._vllm.collect()

    def _router(self) -> Iterator[Metric]:
        router = self._pipeline.router
        if router is None:
            return
        yield _gauge("requests_running", "requests in the batch", router.running)
        yield _gauge("requests_waiting", "requests in the queue", router.waiting)
        yield _counter("preemptions", "requests sent back to the queue", router.preemptions)
        yield _counter("steps", "steps posted to the workers", router.steps)
        pages = GaugeMetricFamily("loraconsole_pages", "pages of the pool by use", labels=["use"])
        free = router.pages_total - router.pages_kv - router.pages_adapters
        pages.add_metric(["kv"], router.pages_kv)
        pages.add_metric(["adapters"], router.pages_adapters)
        pages.add_metric(["free"], free)
        yield pages

    def _adapters(self) -> Iterator[Metric]:
        table = self._pipeline.adapters
        if table is None:
            return
        label = ["adapter"]
        requests = CounterMetricFamily(
            "loraconsole_adapter_requests", "requests that name an adapter", labels=label
        )
        output = CounterMetricFamily(
            "loraconsole_adapter_output_tokens", "tokens sampled with an adapter", labels=label
        )
        # Generations of an adapter share their counters; the current one is listed first.
        views = {view.name or "base": view for view in reversed((table.base, *table.adapters))}
        for name, adapter in reversed(views.items()):
            if adapter.state is AdapterState.FAILED and not adapter.requests:
                continue
            requests.add_metric([name], adapter.requests)
            output.add_metric([name], adapter.output_tokens)
        yield from (requests, output)
        yield from _costs({name: view for name, view in views.items() if view.requests})

    def _sync_points(self) -> Iterator[Metric]:
        """Number and duration of the host's full synchronizations with the device."""
        times = CounterMetricFamily(
            "loraconsole_sync_points", "waits for the device, by reason", labels=["name"]
        )
        waits = CounterMetricFamily(
            "loraconsole_sync_wait_seconds", "total time of these waits", labels=["name"]
        )
        for name, (count, seconds) in sorted(self._pipeline.sync_waits.items()):
            times.add_metric([name], count)
            waits.add_metric([name], seconds)
        yield from (times, waits)

    def _memory(self) -> Iterator[Metric]:
        """Reads of decode steps, their rate, and the cost of adapters; unknown values are left
        out."""
        copies = GaugeMetricFamily(
            "loraconsole_copy_bytes_per_second",
            "rate of a copy within a worker's memory, read and written bytes",
            labels=["rank"],
        )
        kernels = GaugeMetricFamily(
            "loraconsole_kernels_info", "kernels of each worker", labels=["rank", "kernels"]
        )
        for rank, worker in sorted(self._pipeline.workers.items()):
            kernels.add_metric([str(rank), worker.kernels], 1)
            if worker.copy_bytes_s:
                copies.add_metric([str(rank)], worker.copy_bytes_s)
        yield from (copies, kernels, *self._sync_points())
        steps = [step for step in self._pipeline.decode_steps if step.read_bytes]
        if not steps:
            return
        read = GaugeMetricFamily(
            "loraconsole_step_read_bytes", "bytes a decode step must read, mean", labels=["what"]
        )
        found = DecodeStatistics.of(steps, recent=len(steps))
        read.add_metric(["weights"], found.weights)
        read.add_metric(["adapters"], found.adapters)
        read.add_metric(["kv"], found.kv)
        yield read
        if found.bytes_s is not None:
            about = "achieved by decode steps, median"
            yield _gauge("step_read_bytes_per_second", about, found.bytes_s)
        tax = found.lora_tax
        yield _gauge("lora_tax_pairs", "decode steps behind the LoRA tax", tax.pairs)
        if tax.value is not None:
            about = "decode step with adapters / same step without - 1, median; absent if uncertain"
            yield _gauge("lora_tax_ratio", about, tax.value)
            yield _gauge("lora_tax_spread_ratio", "plus or minus on it", tax.spread)


def _costs(views: Mapping[str, AdapterView]) -> Iterator[Metric]:
    """What adapters with requests cost; the shares are made of the seconds by the reader."""
    for name, help, value in ADAPTER_COUNTERS:
        counter = CounterMetricFamily(f"loraconsole_adapter_{name}", help, labels=["adapter"])
        for adapter, view in views.items():
            counter.add_metric([adapter], value(view))
        yield counter
    pages = GaugeMetricFamily(
        "loraconsole_adapter_pages", "pages of the pool held, by use", labels=["adapter", "use"]
    )
    for adapter, view in views.items():
        pages.add_metric([adapter, "kv"], view.kv_pages)
        pages.add_metric([adapter, "weights"], view.pages)
    yield pages
    for name, help, values in ADAPTER_QUANTILES:
        family = Metric(f"loraconsole_adapter_{name}_seconds", help, "summary")
        for adapter, view in views.items():
            for quantile, ms in zip(("0.5", "0.99"), values(view), strict=True):
                if ms is not None:
                    labels = {"adapter": adapter, "quantile": quantile}
                    family.add_sample(family.name, labels, ms / 1e3)
        yield family


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(f"loraconsole_{name}", help, value=value)


def _counter(name: str, help: str, value: float) -> Metric:
    return CounterMetricFamily(f"loraconsole_{name}", help, value=value)


def _labelled(name: str, help: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"loraconsole_{name}", help, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _histogram(name: str, help: str, histogram: Histogram) -> Metric:
    """Of milliseconds; Prometheus has seconds."""
    return HistogramMetricFamily(
        f"loraconsole_{name}_seconds",
        help,
        buckets=buckets_of(histogram, MILLISECONDS),
        sum_value=round(histogram.sum * MILLISECONDS, 9),
    )
