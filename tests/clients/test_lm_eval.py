"""lm-eval: log-likelihoods equal to transformers' on the same weights, a task of each kind."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import BASE, PYTHON, QUESTION, Server
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

PAIRS = [
    (f"{QUESTION}\nAnswer:", " Madrid"),
    (f"{QUESTION}\nAnswer:", " Barcelona"),
    ("The sky is", " blue"),
    ("Water is made of hydrogen and", " oxygen, which is a gas."),
    ("1, 2, 3, 4,", " 5, 6, 7"),
    ("Größe: 😀", " ist schön"),
]
QUESTIONS = [
    {"q": "The capital of Spain is", "choices": [" Madrid", " Oslo", " a fish"], "gold": 0},
    {"q": "Two plus two is", "choices": [" four", " green", " Madrid"], "gold": 0},
    {"q": "The sun rises in the", "choices": [" sentence", " east", " oxygen"], "gold": 1},
]


def completions(server: Server, directory: Path, **options: Any) -> LocalCompletionsAPI:
    settings = {"tokenizer_backend": "huggingface", "tokenizer": str(directory)} | options
    return LocalCompletionsAPI(
        model=BASE, base_url=f"{server.v1}/completions", max_retries=1, **settings
    )


def loglikelihoods(lm: LocalCompletionsAPI, pairs: list[tuple[str, str]]) -> list[Any]:
    return lm.loglikelihood(
        [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    )


@pytest.fixture(scope="module")
def expected(model_directory: Path, server: Server) -> list[tuple[float, bool]]:
    """transformers' values for the pairs."""
    lm = completions(server, model_directory)
    ids = [lm._encode_pair(*pair) for pair in PAIRS]
    done = subprocess.run(
        [PYTHON, Path(__file__).with_name("loglikelihood_reference.py"), model_directory],
        input=json.dumps(ids),
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    return [(total, is_greedy) for total, is_greedy in json.loads(done.stdout.splitlines()[-1])]


@pytest.mark.parametrize("options", [{}, {"batch_size": 4}, {"tokenized_requests": False}])
def test_loglikelihoods_are_those_of_transformers(
    server: Server,
    model_directory: Path,
    expected: list[tuple[float, bool]],
    options: dict[str, Any],
) -> None:
    found = loglikelihoods(completions(server, model_directory, **options), PAIRS)
    for (score, is_greedy), (total, is_expected) in zip(found, expected, strict=True):
        assert score == pytest.approx(total, abs=2e-3)
        assert is_greedy == is_expected


def test_the_servers_own_tokenizer_serves_it(
    server: Server, model_directory: Path, expected: list[tuple[float, bool]]
) -> None:
    lm = completions(server, model_directory, tokenizer_backend="remote", tokenizer=None)
    assert [score for score, _ in loglikelihoods(lm, PAIRS[:3])] == pytest.approx(
        [total for total, _ in expected[:3]], abs=2e-3
    )


def test_tasks_of_each_kind(server: Server, model_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(entry) for entry in QUESTIONS))
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "data.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{q}}",
    }
    choice = shared | {
        "task": "choice",
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "target_delimiter": "",
    }
    perplexity = shared | {
        "task": "perplexity",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{q}} {{choices[gold]}}",
        "metric_list": [{"metric": "byte_perplexity"}],
    }
    generate = shared | {
        "task": "generate",
        "output_type": "generate_until",
        "doc_to_target": "{{choices[gold]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "temperature": 0},
        "metric_list": [{"metric": "exact_match"}],
    }
    made = simple_evaluate(
        completions(server, model_directory),
        tasks=[choice, perplexity, generate],
        bootstrap_iters=0,
    )
    assert made and made["results"]["choice"]["acc,none"] == 1.0
    assert 1 < made["results"]["perplexity"]["byte_perplexity,none"] < 10
    assert made["results"]["generate"]["exact_match,none"] is not None


def test_generation_by_chat(server: Server) -> None:
    lm = LocalChatCompletion(
        model=BASE, base_url=f"{server.v1}/chat/completions", tokenizer_backend=None, max_retries=1
    )
    messages = lm.apply_chat_template([{"role": "user", "content": QUESTION}])
    asked = (messages, {"max_gen_toks": 12, "until": ["@@"], "temperature": 0})
    assert lm.generate_until([Instance("generate_until", {}, asked, 0)]) == [server.chat(BASE)]
