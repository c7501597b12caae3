"""Results of `replay --against`: a log as it was, and simulated with other settings. Reads no file
and knows no router.
"""

from __future__ import annotations

from typing import Any

import msgspec


class ReplayedClient(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter's part of a run; the base model has its own name."""

    requests: int
    answered: int
    refused: int
    """By the router: too many, too late, unknown adapter."""
    aborted: int
    """By their clients, or by an operator."""
    ttft_ms_p50: float | None
    ttft_ms_p99: float | None
    wait_ms_p50: float | None
    """From arrival to the first admission."""
    wait_ms_p99: float | None
    output_tokens: int
    service: float
    """Weighted tokens until the last request came: prompt tokens once, output tokens twice."""


class ReplayedRun(ReplayedClient, frozen=True, kw_only=True):
    """A whole run."""

    seconds: float
    """From the first arrival to the last token."""
    tokens_s: float
    inter_token_ms_p50: float | None
    inter_token_ms_p99: float | None
    steps: int
    preemptions: int
    jain: float | None
    """Jain's index of the adapters' service: 1 if all got the same, 1/n if one got all."""
    counter_gap: float
    """Largest difference of two waiting adapters' service, weighted tokens."""
    adapters: dict[str, ReplayedClient]


class ModelError(msgspec.Struct, frozen=True, kw_only=True):
    """How far the simulation of the unchanged settings is from the log."""

    step_error: float
    """Median relative error of a step's estimated duration."""
    ttft_p50_error: float | None
    """Relative: 0.1 is 10 %. None if nothing was answered."""
    ttft_p99_error: float | None
    """Relative."""
    tokens_s_error: float
    """Relative."""
    step_prices_ms: dict[str, float]
    """Milliseconds of a step: its constant part, and a decoding row, a prompt token, an adapter,
    1 000 tokens of KV."""
    steps_measured: int
    failures: int
    """Failed steps in the log; they are not simulated."""


class WhatIfDocument(msgspec.Struct, frozen=True, kw_only=True):
    """`replay --against --json`."""

    file: str
    against: dict[str, Any]
    """The changed settings."""
    was: dict[str, Any]
    """The same settings in the log."""
    recorded: ReplayedRun
    unchanged: ReplayedRun
    """Simulated with the log's own settings: what the simulation adds of its own."""
    changed: ReplayedRun
    """Simulated with the changes."""
    model: ModelError
