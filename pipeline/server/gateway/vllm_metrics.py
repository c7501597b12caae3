"""`VllmMetrics`: what is measured here too of vLLM's metrics, by vLLM's names and labels, for its
dashboards, for autoscalers and for load balancers.

Histograms have our buckets. Families about what this server does not have (a prefix cache,
multimodal input, sleep) are absent: docs/metrics.md lists those that are here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from ...messages import AdapterState, AdapterTable, RouterStats
from ..answers.histogram import Histogram
from .gateway import Gateway

MODEL_LABELS = ("model_name", "engine")
ENGINE = "0"
"""vLLM counts its engines; a pipeline here is one."""
MILLISECONDS = 1e-3
QUEUE_FULL = "max_num_queued_reqs"
"""vLLM's reason for a request that the queue has no room for."""


class VllmMetrics:
    """Families whose names begin with `vllm:`; keeps no state of its own."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._pipeline, self._counters = gateway.pipeline, gateway.counters
        self._labels = (gateway.config.model_name, ENGINE)

    def collect(self) -> Iterator[Metric]:
        """All families, with the present values."""
        yield from self._counted()
        yield from self._latencies()
        yield from self._sizes()
        router, table = self._pipeline.router, self._pipeline.adapters
        if router is not None:
            yield from self._scheduling(router)
            yield from self._cache(router)
        if table is not None:
            yield from self._adapters(table)
        if table is not None and router is not None:
            yield from self._waiting(router, table)
            yield from _adapter_requests(router, table)

    def _counted(self) -> Iterator[Metric]:
        counters, ended = self._counters, self._counters.ended
        about = "prompt tokens computed"
        yield self._counter("prompt_tokens", about, ended.prompts_computed)
        yield self._counter("generation_tokens", "tokens of answers", counters.output_tokens)
        about = "requests that ended, by the reason"
        yield self._counters_by("request_success", about, "finished_reason", ended.reasons)
        rejected = CounterMetricFamily(
            "vllm:admission_rejections",
            "requests refused because the queue was full",
            labels=("model_name", "reason"),
        )
        rejected.add_metric((self._labels[0], QUEUE_FULL), counters.queue_refusals)
        yield rejected

    def _latencies(self) -> Iterator[Metric]:
        counters, ended = self._counters, self._counters.ended
        for name, about, histogram in (
            ("time_to_first_token", "arrival to first token", counters.ttft),
            ("inter_token_latency", "between tokens of an answer", counters.inter_token),
            ("request_time_per_output_token", "the same, mean of a request", ended.time_per_token),
            ("e2e_request_latency", "arrival to the end of the answer", ended.latency),
            ("request_queue_time", "arrival to admission", ended.queued),
            ("request_prefill_time", "admission to first token", ended.prefill),
            ("request_decode_time", "first token to last", ended.decode),
            ("request_inference_time", "admission to last token", ended.inference),
        ):
            yield self._histogram(f"{name}_seconds", about, histogram, MILLISECONDS)

    def _sizes(self) -> Iterator[Metric]:
        ended = self._counters.ended
        for name, about, histogram in (
            ("request_prompt_tokens", "prompt tokens of a request", ended.prompt_tokens),
            ("request_generation_tokens", "output tokens of a request", ended.output_tokens),
            ("request_params_max_tokens", "max_tokens of a request", ended.max_tokens),
            ("request_params_n", "choices of a prompt", ended.choices),
            (
                "request_max_num_generation_tokens",
                "output tokens of a prompt's longest choice",
                ended.longest_choice,
            ),
            ("request_num_preemptions", "preemptions of a request", ended.preemptions),
            (
                "iteration_tokens_total",
                "tokens of a step, computed of prompts and sampled",
                self._pipeline.step_tokens,
            ),
        ):
            yield self._histogram(name, about, histogram)

    def _scheduling(self, router: RouterStats) -> Iterator[Metric]:
        yield self._gauge("num_requests_running", "requests in the batch", router.running)
        yield self._gauge("num_requests_waiting", "requests in the queue", router.waiting)
        about = "requests sent back to the queue"
        yield self._counter("num_preemptions", about, router.preemptions)

    def _cache(self, router: RouterStats) -> Iterator[Metric]:
        usage = router.pages_kv / router.pages_total if router.pages_total else 0.0
        about = "part of the pool's pages that hold KV, 0 to 1"
        yield self._gauge("kv_cache_usage_perc", about, usage)
        longest = self._gateway.max_model_len
        if not (router.pages_total and longest):
            return
        num_tokens = router.pages_total * router.page_size
        facts = {
            "engine": ENGINE,
            "block_size": str(router.page_size),
            "num_gpu_blocks": str(router.pages_total),
            "kv_cache_size_tokens": str(num_tokens),
            "kv_cache_max_concurrency": f"{num_tokens / longest:.2f}",
            "enable_prefix_caching": "False",
        }
        info = GaugeMetricFamily("vllm:cache_config_info", "the pool", labels=list(facts))
        info.add_metric(list(facts.values()), 1)
        yield info

    def _waiting(self, router: RouterStats, table: AdapterTable) -> Iterator[Metric]:
        """Of a table that is older than the statistics, no more counts than wait now."""
        absent = (view for view in table.adapters if view.state is not AdapterState.GPU)
        deferred = min(router.waiting, sum(view.waiting for view in absent))
        reasons = {"capacity": router.waiting - deferred, "deferred": deferred}
        family = GaugeMetricFamily(
            "vllm:num_requests_waiting_by_reason",
            "deferred: the adapter is not in the pool; capacity: all others",
            labels=(*MODEL_LABELS, "reason"),
        )
        for reason, count in reasons.items():
            family.add_metric((*self._labels, reason), count)
        yield family

    def _adapters(self, table: AdapterTable) -> Iterator[Metric]:
        loaded = GaugeMetricFamily(
            "vllm:lora_adapter_loaded", "1 if it is in the pool", labels=("adapter_name", "level")
        )
        in_pool: dict[str, bool] = {}
        for view in table.adapters:  # of any generation
            if view.state is AdapterState.FAILED:
                continue
            in_pool[view.name] = in_pool.get(view.name, False) or view.state is AdapterState.GPU
        for name, is_loaded in in_pool.items():
            loaded.add_metric((name, "gpu"), is_loaded)
        yield loaded

    # -- families of one model

    def _counter(self, name: str, about: str, value: float) -> Metric:
        family = CounterMetricFamily(f"vllm:{name}", about, labels=MODEL_LABELS)
        family.add_metric(self._labels, value)
        return family

    def _counters_by(self, name: str, about: str, label: str, values: Mapping[str, int]) -> Metric:
        family = CounterMetricFamily(f"vllm:{name}", about, labels=(*MODEL_LABELS, label))
        for key, value in values.items():
            family.add_metric((*self._labels, key), value)
        return family

    def _gauge(self, name: str, about: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"vllm:{name}", about, labels=MODEL_LABELS)
        family.add_metric(self._labels, value)
        return family

    def _histogram(self, name: str, about: str, histogram: Histogram, unit: float = 1.0) -> Metric:
        family = HistogramMetricFamily(f"vllm:{name}", about, labels=MODEL_LABELS)
        family.add_metric(self._labels, buckets_of(histogram, unit), round(histogram.sum * unit, 9))
        return family


def buckets_of(histogram: Histogram, unit: float = 1.0) -> Sequence[tuple[str, float]]:
    """A histogram's buckets as Prometheus has them: cumulative, by their bounds times `unit`."""
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*histogram.bounds, None), histogram.counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound is None else str(round(bound * unit, 9)), total))
    return buckets


def _adapter_requests(router: RouterStats, table: AdapterTable) -> Iterator[Metric]:
    """What gateways choose a server by: the adapters in use, and how many can be at once."""
    if not router.max_adapters:
        return
    info = GaugeMetricFamily(
        "vllm:lora_requests_info",
        "adapters with running and with waiting requests; the value is the time",
        labels=("max_lora", "running_lora_adapters", "waiting_lora_adapters"),
    )
    running = ",".join(dict.fromkeys(view.name for view in table.adapters if view.running))
    waiting = ",".join(dict.fromkeys(view.name for view in table.adapters if view.waiting))
    info.add_metric((str(router.max_adapters), running, waiting), time.time())
    yield info
