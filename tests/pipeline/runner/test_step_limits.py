"""What 0 means for the limits of a step is resolved in one place, and the worker reports it."""

from __future__ import annotations

from pathlib import Path

import pytest
from driver import save_model

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.runner import step_limits
from loraconsole.pipeline.runner.runner import ModelRunner
from loraconsole.pipeline.runner.step_limits import (
    CHUNK_TOKENS,
    MAX_PREFILL_TOKENS,
    MAX_RUNNING,
    StepLimits,
    choose_step_limits,
)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_zero_is_chosen_by_the_device_and_any_other_number_is_taken(device: str) -> None:
    chosen = StepLimits(MAX_RUNNING[device], MAX_PREFILL_TOKENS[device], CHUNK_TOKENS)
    assert choose_step_limits(Config(), device) == chosen
    config = Config(max_running=3, max_prefill_tokens=5, chunk_tokens=7)
    assert choose_step_limits(config, device) == StepLimits(3, 5, 7)


def test_a_worker_reports_what_it_has_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised in this one place, the router fills larger batches and the runner is made for them:
    `tests/pipeline/router/test_core.py` has the router's half."""
    monkeypatch.setitem(step_limits.MAX_RUNNING, "cpu", 99)
    monkeypatch.setitem(step_limits.MAX_PREFILL_TOKENS, "cpu", 77)
    save_model(tmp_path, "qwen3", num_hidden_layers=1)
    config = Config(
        device="cpu", dtype="float32", threads=1, max_total_tokens=256, max_model_len=64
    )
    ready = ModelRunner(config, tmp_path, 0, lambda message: None).load()
    assert (ready.max_running, ready.max_prefill_tokens) == (99, 77)
    assert ready.chunk_tokens == CHUNK_TOKENS
