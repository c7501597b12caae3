"""A router's core for the tests: made, given requests and answers, and read."""

from __future__ import annotations

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import (
    Batch,
    Message,
    Ready,
    Request,
    SampledToken,
    SamplingParams,
    Tokens,
    WorkerReady,
)
from loraconsole.pipeline.router.core import RouterCore
from loraconsole.pipeline.router.effects import Send

NOW = 1_000_000.0
"""Long before this test runs: what reads the machine's clock shows."""


def worker_ready(rank: int = 0, incarnation: int = 1, **limits: int) -> WorkerReady:
    usual = {"max_running": 8, "max_prefill_tokens": 64, "chunk_tokens": 32, "num_pages": 64}
    return WorkerReady(
        rank=rank,
        incarnation=incarnation,
        device="cpu",
        page_size=4,
        max_model_len=128,
        vocab_size=300,
        eos_token_ids=(),
        **(usual | limits),
    )


def make_core(*, tp: int = 1, adapter: tuple[str, ...] = ()) -> RouterCore:
    """A core whose workers, server and detokenizer are there."""
    core = RouterCore(Config(run="/nowhere", tp=tp, adapter=adapter), 7_000, NOW)
    for rank in range(tp):
        core.handle_message(worker_ready(rank), NOW)
    for name in ("server", "detokenizer"):
        core.handle_message(Ready(name, 1), NOW)
    core.effects.take_pending()
    return core


def ask(name: str, *, adapter: str | None = None, at: float = NOW, tokens: int = 9) -> Request:
    return Request(
        request_id=name,
        adapter=adapter,
        prompt_ids=(1, 2),
        params=SamplingParams(max_tokens=tokens),
        arrived_at=at,
    )


def sent(core: RouterCore, to: str = "") -> list[Message]:
    """Messages since the last call, to one process or to all."""
    effects = [e for e in core.effects.take_pending() if isinstance(e, Send)]
    return [e.message for e in effects if not to or e.to == to]


def answer(core: RouterCore, batch: Batch, token: int = 7, rank: int = 0) -> None:
    """A rank's tokens of a step; each row samples one."""
    tokens = tuple(SampledToken(row.sequence, token) for row in batch.rows)
    core.handle_message(Tokens(batch.epoch, batch.step, rank, tokens), NOW)
