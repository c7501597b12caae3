"""Tensor parallelism: several ranks say what one says. Over gloo, or over NCCL where
$LORACONSOLE_TEST_DEVICE is cuda and there are GPUs enough."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from driver import save_adapter, save_model, start_runner
from ranks import RankProcesses, Said, come_and_go, converse, merge, score, verify

from loraconsole.pipeline.config import MEETING, Config
from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.model.compute_queue import ComputeQueue, choose_queue
from loraconsole.pipeline.model.loader import ModelLoader, Precision
from loraconsole.pipeline.model.open_checkpoint import open_checkpoint
from loraconsole.pipeline.model.parallel import GatheredHead, Ranks
from loraconsole.pipeline.model.shard import Shard, check_divides
from loraconsole.pipeline.model_files.model_config import read_model_config

ON_GPU = os.environ.get("LORACONSOLE_TEST_DEVICE") == "cuda"
MOST = min(4, torch.cuda.device_count()) if ON_GPU else 4
TOLERANCE = 1e-3 if ON_GPU else 1e-4

SHAPES: dict[str, Any] = {
    "vocab_size": 163,  # divides by nothing
    "hidden_size": 80,
    "intermediate_size": 192,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {},
    "mistral": {"sliding_window": 21},
}
ADAPTERS: dict[str, dict[str, Any]] = {
    "all": {"r": 12},
    "some": {"r": 5, "target_modules": ["q_proj", "o_proj", "up_proj", "down_proj"]},
    "patterned": {"r": 3, "rank_pattern": {"down_proj": 33, "k_proj": 7}, "use_rslora": True},
}
NAMES = [None, "all", "some", "patterned", "all"]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankProcesses]:
    if MOST < 2:
        pytest.skip("needs two GPUs")
    processes = RankProcesses(MOST, tmp_path_factory.mktemp("ranks"))
    yield processes
    processes.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for family, changes in FAMILIES.items():
        save_model(root / family, family, **(SHAPES | changes))
        for seed, (name, config) in enumerate(ADAPTERS.items()):
            save_adapter(root / f"{family}-{name}", root / family, seed, **config)
    return {family: root / family for family in FAMILIES}


def entries(model: Path) -> tuple[str, ...]:
    return tuple(f"{name}={model}-{name}" for name in ADAPTERS)


def assert_same(found: Said, expected: Said) -> None:
    assert found.tokens == expected.tokens
    for ours, theirs in zip(found.logits, expected.logits, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)


def assert_one_voice(said: list[Said]) -> None:
    """All ranks chose from the very same logits."""
    for other in said[1:]:
        assert other.tokens == said[0].tokens
        assert all(torch.equal(a, b) for a, b in zip(other.logits, said[0].logits, strict=True))


@pytest.mark.processes
@pytest.mark.parametrize("family", FAMILIES)
def test_ranks_say_what_one_says(
    family: str, models: dict[str, Path], ranks: RankProcesses
) -> None:
    """Base and adapters of mixed ranks in one batch, prompts in chunks, one row sampled."""
    model = models[family]
    [(expected, infos)] = ranks.play(1, converse, model, NAMES, adapter=entries(model))
    assert len({tuple(tokens) for tokens in expected.tokens}) > 3, "nobody would tell them apart"
    for tp in [tp for tp in (2, 4) if tp <= MOST]:
        answers = ranks.play(tp, converse, model, NAMES, adapter=entries(model))
        assert_one_voice([said for said, _ in answers])
        assert_same(answers[0][0], expected)
        for _, found in answers:
            digests, pages, reasons = zip(*found, strict=True)
            assert digests == tuple(info[0] for info in infos) and not any(reasons)
            assert pages == tuple(pages for _, pages, _ in answers[0][1])


@pytest.mark.processes
def test_ranks_score_prompts_as_one_does(ranks: RankProcesses, models: dict[str, Path]) -> None:
    model = models["llama"]
    [one] = ranks.play(1, score, model, NAMES, adapter=entries(model))
    for found in ranks.play(2, score, model, NAMES, adapter=entries(model)):
        for expected, own in zip(one, found, strict=True):
            for before, after in zip(expected, own, strict=True):
                torch.testing.assert_close(after, before, rtol=0, atol=TOLERANCE)


@pytest.mark.processes
@pytest.mark.parametrize("flags", [{"no_mem_pool": True}, {"bmm": True}, {"dtype": "bfloat16"}])
def test_ranks_agree_under_every_flag(
    flags: dict[str, Any], models: dict[str, Path], ranks: RankProcesses
) -> None:
    model = models["llama"]
    settings = {"adapter": entries(model)} | flags
    answers = [said for said, _ in ranks.play(2, converse, model, NAMES, **settings)]
    assert_one_voice(answers)
    if "dtype" not in flags:
        [(expected, _)] = ranks.play(1, converse, model, NAMES, **settings)
        assert_same(answers[0], expected)


@pytest.mark.processes
def test_adapters_come_and_go_while_ranks_run(
    models: dict[str, Path], ranks: RankProcesses
) -> None:
    paths = [f"{models['qwen2']}-{name}" for name in ("all", "some")]
    [expected] = ranks.play(1, come_and_go, models["qwen2"], *paths)
    found = ranks.play(2, come_and_go, models["qwen2"], *paths)
    assert_one_voice(found)
    assert_same(found[0], expected)


@pytest.mark.processes
def test_a_merged_adapter_of_ranks_is_the_unmerged_one(
    models: dict[str, Path], ranks: RankProcesses
) -> None:
    model = models["qwen3"]
    [expected] = ranks.play(1, merge, model, "all", adapter=entries(model))
    found = ranks.play(2, merge, model, "all", adapter=entries(model))
    assert_one_voice(found)
    assert_same(found[0], expected)


@pytest.mark.processes
def test_ranks_are_verified_against_the_whole_weights(
    models: dict[str, Path], ranks: RankProcesses
) -> None:
    model = models["llama"]
    others = ("some", "patterned")
    (comparisons, is_right), nothing = ranks.play(
        2, verify, model, "all", others, adapter=entries(model)
    )
    assert is_right and nothing is None
    assert all(c.equal_tokens == c.tokens == 16 for c in comparisons)


# --- parts --------------------------------------------------------------------------------------


class Alone:
    """A group whose sum is what this rank has: the test adds."""

    def all_reduce(self, partial: torch.Tensor) -> None:
        pass


@pytest.mark.parametrize("int4_rows", [0, None])
def test_parts_of_a_quantised_layer_are_the_layer(
    model_directory: str, int4_rows: int | None
) -> None:
    """The default model in 4 bits, cut in three: products side by side, or summed."""
    model_config, queue = read_model_config(model_directory), ComputeQueue(torch.device("cpu"), 1)
    checkpoint = open_checkpoint(Path(model_directory), dummy=False)
    precision = Precision(torch.float32, torch.float32, int4_rows)

    def layer(ranks: Ranks) -> Any:
        return ModelLoader(model_config, checkpoint, precision, queue, lambda: None, ranks).layer(3)

    whole, parts = layer(Ranks()), [layer(Ranks(Shard(r, 3), Alone())) for r in range(3)]
    x = torch.randn(4, model_config.hidden_size)
    attended = torch.randn(4, model_config.num_heads * model_config.head_dim)
    queries, keys = (
        model_config.num_heads * model_config.head_dim,
        model_config.num_kv_heads * model_config.head_dim,
    )
    by_rank = [part.attention.qkv(x, None).y for part in parts]
    sizes = [queries // 3, keys // 3, keys // 3]
    by_module = zip(*(y.split(sizes, dim=1) for y in by_rank), strict=True)
    found = torch.cat([torch.cat(pieces, dim=1) for pieces in by_module], dim=1)
    torch.testing.assert_close(found, whole.attention.qkv(x, None).y, rtol=1e-4, atol=1e-4)
    pieces = attended.chunk(3, dim=1)
    found = sum(
        part.attention.output(piece, None).y for part, piece in zip(parts, pieces, strict=True)
    )
    torch.testing.assert_close(
        found, whole.attention.output(attended, None).y, rtol=2e-2, atol=2e-2
    )


def test_a_weight_whose_groups_would_be_cut_is_not_kept_in_4_bits(model_directory: str) -> None:
    model_config, queue = read_model_config(model_directory), ComputeQueue(torch.device("cpu"), 1)
    checkpoint = open_checkpoint(Path(model_directory), dummy=False)
    precision = Precision(torch.float32, torch.float32, None)
    ranks = Ranks(Shard(1, 32), Alone())  # 1536 columns, 48 a rank: one group and a half
    loader = ModelLoader(model_config, checkpoint, precision, queue, lambda: None, ranks)
    assert loader._blocks(0, "down") is None
    assert loader._weight(0, "down").shape == (model_config.hidden_size, 48)


@pytest.mark.parametrize(("vocab", "size"), [(10, 2), (10, 4), (5, 4), (3, 4)])
def test_the_heads_rows_are_divided_and_all_alike(vocab: int, size: int) -> None:
    table = torch.randn(vocab, 6)
    parts = [GatheredHead.rows(table, Shard(rank, size)) for rank in range(size)]
    assert len({part.shape for part in parts}) == 1
    assert torch.equal(torch.cat(parts)[:vocab], table)
    assert not torch.cat(parts)[vocab:].any()


# --- refusals -----------------------------------------------------------------------------------


def test_a_model_that_cannot_be_cut_is_refused_with_what_fits(
    model_directory: str, tmp_path: Path
) -> None:
    with pytest.raises(OperatorError) as refusal:
        start_runner(model_directory, tp=2, device="cpu")
    assert "--tp 2 does not divide this model's 9 heads, 3 KV heads" in str(refusal.value)
    assert "--tp 1, 3 fit" in str(refusal.value)
    save_model(tmp_path, "llama", num_key_value_heads=1)
    with pytest.raises(OperatorError, match="one rank only"):
        check_divides(read_model_config(tmp_path), 2)


def test_a_rank_that_knows_no_meeting_says_so(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(MEETING, raising=False)
    with pytest.raises(OperatorError, match=MEETING):
        start_runner(models["llama"], tp=2, device="cpu")


def test_ranks_of_a_cpu_share_its_cores() -> None:
    alone = choose_queue(Config(device="cpu"), 0).threads
    assert choose_queue(Config(device="cpu", tp=2), 1).threads == max(1, alone // 2)
    assert choose_queue(Config(device="cpu", tp=64), 1).threads == 1
