"""What workers keep of the requests of a router that has died, and what of it is of use."""

from __future__ import annotations

import msgspec
from router_core import NOW, ask, worker_ready

from loraconsole.pipeline.messages import KeptSequence, WorkerReady
from loraconsole.pipeline.schedule.kept_kv import KeptKv

PAGE_SIZE = 4


def kept(
    name: str, *pages: int, computed: int | None = None, adapter: str | None = None, at: float = NOW
) -> KeptSequence:
    tokens = len(pages) * PAGE_SIZE if computed is None else computed
    return KeptSequence(name, at, adapter, tokens, pages)


def worker(rank: int, *sequences: KeptSequence) -> WorkerReady:
    return msgspec.structs.replace(worker_ready(rank), kept=sequences)


def found(*ranks: tuple[KeptSequence, ...], num_pages: int = 64) -> KeptKv:
    return KeptKv.of_workers([worker(rank, *given) for rank, given in enumerate(ranks)], num_pages)


def test_a_request_claims_what_its_generation_of_the_adapter_has_computed() -> None:
    kv = found((kept("a", 3, 5, computed=7), kept("b", 9, adapter="sql@2")))
    assert sorted(kv.pages) == [3, 5, 9]
    assert kv.claim(ask("a"), None) == kept("a", 3, 5, computed=7)
    assert kv.claim(ask("a"), None) is None, "it has claimed it"
    assert kv.claim(ask("b"), "sql@1") is None and kv.claim(ask("b"), None) is None
    assert kv.claim(ask("b", at=NOW + 1), "sql@2") is None, "another request of the same id"
    assert kv.release() == [9] and not kv.pages
    assert kv.claim(ask("b"), "sql@2") is None


def test_of_several_ranks_counts_what_all_have() -> None:
    """A router that dies may have sent a step to one rank and not to another."""
    one_more = (kept("a", 3, 5, 6, computed=9), kept("b", 1, computed=3))
    kv = found(one_more, (kept("a", 3, 5, computed=8),))
    assert kv.claim(ask("a"), None) == kept("a", 3, 5, computed=8)
    assert not kv.pages, "b is known to one rank alone"
    preempted = found((kept("a", 7, 8, computed=8),), (kept("a", 3, 8, computed=8),))
    assert not preempted.pages, "it has come back in other pages on one rank"
    partly = found((kept("a", 3, 8, computed=8),), (kept("a", 3, 9, computed=8),))
    assert partly.claim(ask("a"), None) == kept("a", 3, computed=4)


def test_no_page_has_two_owners_and_none_lies_beyond_the_pool() -> None:
    assert found((kept("a", 3, 5), kept("b", 5, 6))).pages == [3, 5]
    assert found((kept("a", 3, 5), kept("b", 6))).pages == [3, 5, 6]
    assert found((kept("a", 3, 5), kept("b", 1)), num_pages=5).pages == [1]
    assert not found((kept("a", computed=0),)).pages
