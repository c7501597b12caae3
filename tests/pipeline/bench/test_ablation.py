"""`bench --ablate`: sets that say something, pools in which adapters make way, and differences."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from loraconsole.pipeline.bench import engine
from loraconsole.pipeline.bench.ablation import (
    BASE,
    COSTS,
    FULL,
    LOADED,
    OWN_MEMORY,
    PLAIN,
    RESIDENT,
    SETS,
    Flags,
    Loop,
    Run,
    adapter_tokens,
    command_line,
    differences,
    drive_loop,
    pipeline,
    pool_tokens,
    replicate,
    stand_ins,
)
from loraconsole.pipeline.config import Config, shipped_adapters
from loraconsole.pipeline.config_flags import add_config_flags, config_from_flags
from loraconsole.pipeline.errors import OperatorError, UsageError

LOOP = Loop(concurrency=4, requests=12, max_tokens=4)


def run(flags: Flags, round: int, token_ms: float) -> Run:
    return Run(
        flags=flags,
        round=round,
        seconds=token_ms / 10,
        output_tokens=100,
        ttft_ms_p50=1.0,
        errors=0,
    )


def test_every_set_is_a_pipeline_that_may_run_and_every_cost_is_between_two_of_them() -> None:
    for flags in SETS:
        Config(**dict.fromkeys(flags, True))
    assert {flags for cost in COSTS for flags in (cost.having, cost.lacking)} == set(SETS)


def test_a_cost_is_taken_within_rounds_so_a_slow_round_counts_for_both() -> None:
    runs = []
    for round, slow in enumerate((0.0, 100.0, 7.0)):
        runs += [
            run(FULL, round, 10 + slow),
            run(BASE, round, 6 + slow + round),
            run(RESIDENT, round, 9 + slow),
            run(OWN_MEMORY, round, 11 + slow),
        ]
    found = {difference.part: difference for difference in differences(runs)}
    assert set(found) == {"LoRA in all", "load (swap)", "paging"}  # of the others a set is missing
    whole = found["LoRA in all"]
    assert [whole.least, whole.ms, whole.most] == pytest.approx([2, 3, 4])
    assert whole.share == pytest.approx(3 / 17)
    assert found["load (swap)"].ms == pytest.approx(1)
    assert found["paging"].ms == pytest.approx(-2), "without kernels the resident set stands in"


def test_with_kernels_the_plain_sets_stand_for_themselves() -> None:
    assert stand_ins(())[PLAIN] == PLAIN and stand_ins(("no_kernel",))[PLAIN] == FULL
    runs = [run(flags, 0, 1.0 + number) for number, flags in enumerate(SETS)]
    assert {difference.part for difference in differences(runs)} == {cost.part for cost in COSTS}


def test_the_command_line_makes_the_same_settings_again() -> None:
    config = Config(
        adapter=("a=/x", "b=/y"), bmm=True, port=0, dtype="float32", device="cpu", model="/m"
    ).absolute()
    parser = argparse.ArgumentParser()
    add_config_flags(parser)
    assert config_from_flags(vars(parser.parse_args(command_line(config)))) == config


def test_adapters_are_replicated_in_turn_under_names_of_their_own() -> None:
    found = Config(adapter=replicate({"a": "/x", "b": "/y"}, 5)).adapters()
    assert found == {"a-0": "/x", "b-0": "/y", "a-1": "/x", "b-1": "/y", "a-2": "/x"}
    with pytest.raises(UsageError, match="no adapter to measure with"):
        replicate({}, 5)


@pytest.mark.processes
@pytest.mark.parametrize("flags", [LOADED, RESIDENT])
def test_adapters_make_way_for_each_other_but_where_none_may_be_evicted(flags: Flags) -> None:
    """A real pipeline of each kind: after all have answered, some are in pages, or all."""
    adapters = replicate(Config(adapter=shipped_adapters()).adapters(), 12)
    config = Config(adapter=adapters, device="cpu")
    tokens = pool_tokens(flags, adapter_tokens(config), LOOP)
    on: dict[str, Any] = dict.fromkeys(flags, True)
    with pipeline(msgspec.structs.replace(config, max_total_tokens=tokens, **on)) as url:
        result = drive_loop(url, config, LOOP)
        views = httpx.get(f"{url}/v1/adapters", trust_env=False).json()["adapters"]
    assert result.errors == 0 and result.output_tokens == 12 * LOOP.max_tokens
    resident = sum(view["state"] == "gpu" for view in views)
    assert resident == 12 if flags == RESIDENT else 4 <= resident < 12
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{url}/health", trust_env=False)


@pytest.mark.processes
def test_a_pipeline_that_does_not_start_says_why() -> None:
    with (
        pytest.raises(OperatorError, match=r"did not start: .*/nowhere"),
        pipeline(Config(model="/nowhere", device="cpu")),
    ):
        pass


@pytest.mark.slow
def test_the_engine_alone_is_ablated_with_dummy_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny = engine.LLAMA2_7B | {
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
    }
    monkeypatch.setitem(engine.SHAPES, "llama-2-7b", tiny)
    monkeypatch.setattr(engine, "OUT", [])
    out = tmp_path / "out.jsonl"
    flags = "--workload ablate --shape llama-2-7b --device cpu --batches 2 4 --prompt 5 --new 6"
    more = f"--max-model-len 64 --max-running 4 --out {out}"
    monkeypatch.setattr("sys.argv", ["offline", *flags.split(), *more.split()])
    engine.main()
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    found = {line["flags"]: line for line in lines if line["figures"] == "ablate"}
    assert set(found) == {"all parts", "--no-mem-pool", "--bmm", "--no-lora-compute", "--no-lora"}
    assert all(line["ms_at_2"] > 0 and line["ms_at_4"] > 0 for line in found.values())
    assert {name for name, line in found.items() if line["load_ms"] > 0} == set(found) - {
        "--no-lora"
    }
