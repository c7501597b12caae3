"""`METRICS`: the figures by which benchmark results are compared, in the order of tables."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A figure of a `Result`, and whether more of it is better; None if neither is."""

    field: str
    label: str
    more_is_better: bool | None


METRICS = (
    Metric("throughput", "requests/s", True),
    Metric("strip_throughput", "requests/s, stripped", True),
    Metric("tokens_s", "tokens/s", True),
    Metric("decode_tokens_s", "decode tokens/s", True),
    Metric("latency_s", "latency s", False),
    Metric("per_token_latency_s", "latency s a token", False),
    Metric("per_output_token_latency_s", "latency s an output token", False),
    Metric("ttft_ms", "TTFT ms", False),
    Metric("ttft_ms_p50", "TTFT ms p50", False),
    Metric("ttft_ms_p90", "TTFT ms p90", False),
    Metric("ttft_ms_p99", "TTFT ms p99", False),
    Metric("inter_token_ms_p50", "inter-token ms p50", False),
    Metric("inter_token_ms_p99", "inter-token ms p99", False),
    Metric("slo_attainment", "SLO attainment", True),
    Metric("satisfaction", "satisfaction", True),
    Metric("satisfaction_p10", "satisfaction p10", True),
    Metric("satisfaction_p50", "satisfaction p50", True),
    Metric("jain", "Jain index", True),
    Metric("counter_gap", "VTC counter gap", False),
    Metric("aborted", "aborted", False),
    Metric("errors", "errors", False),
    Metric("late_ms_max", "client late ms", False),
    Metric("requests", "requests", None),
)
FIELDS = tuple(metric.field for metric in METRICS)
