"""`Ask`: one request of the load, and the seeded catalog of them. Knows no connection."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

PROMPTS = (
    "The sea at night is",
    "List the customers who bought more than five books:",
    "What is the capital of Spain?",
    "Once upon a time, in a village of clockmakers,",
    "Name three animals that can fly, and say why.",
    "A recipe for bread: first",
    "Die Straße ist naß, und das Café",
    "1, 2, 3, 4, 5, 6,",
)
STOPS = (" the", "\n\n", "and")
TOP_K = 20
"""Of sampled requests. Among all tokens of the vocabulary, many have a probability of the size of
float32's rounding, and the one that is drawn may depend on the company in the batch."""
Kind = Literal["completions", "chat", "generate"]


@dataclass(frozen=True)
class Ask:
    """A request with a fixed answer: greedy, or sampled with its own seed."""

    kind: Kind
    model: str
    prompt: str
    max_tokens: int
    is_streamed: bool = False
    n: int = 1
    seed: int | None = None
    """None is greedy."""
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    ignore_eos: bool = True

    @property
    def content(self) -> Ask:
        """The part that decides the answer: whether it is streamed does not."""
        return replace(self, is_streamed=False)

    @property
    def path(self) -> str:
        if self.kind == "generate":
            return "/generate_stream" if self.is_streamed else "/generate"
        return "/v1/completions" if self.kind == "completions" else "/v1/chat/completions"

    def body(self, base: str) -> dict[str, Any]:
        """The JSON body; `base` is the served name of the base model."""
        if self.kind == "generate":
            return self._generate_body(base)
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "temperature": 0 if self.seed is None else 0.9,
            "stream": self.is_streamed,
            "ignore_eos": self.ignore_eos,
            "n": self.n,
        }
        if self.seed is not None:
            body |= {"seed": self.seed, "top_k": TOP_K}
        if self.stop:
            body["stop"] = list(self.stop)
        if self.is_streamed:
            body["stream_options"] = {"include_usage": True}
        if self.kind == "completions":
            body["prompt"] = self.prompt
            if self.logprobs is not None:
                body["logprobs"] = self.logprobs
        else:
            body["messages"] = [{"role": "user", "content": self.prompt}]
            if self.logprobs is not None:
                body |= {"logprobs": True, "top_logprobs": self.logprobs}
        return body

    def _generate_body(self, base: str) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "max_new_tokens": self.max_tokens,
            "ignore_eos": self.ignore_eos,
        }
        if self.seed is not None:
            parameters |= {"do_sample": True, "temperature": 0.9, "top_k": TOP_K, "seed": self.seed}
        if self.stop:
            parameters["stop_sequences"] = list(self.stop)
        adapter = {} if self.model == base else {"lora_dir": self.model}
        return {"inputs": self.prompt, "parameters": parameters} | adapter


def make_ask(rng: random.Random, models: Sequence[str], tokens: tuple[int, int]) -> Ask:
    """One seeded request for one of `models`; its length is between the two of `tokens`."""
    kind: Kind = rng.choice(("completions", "completions", "chat", "chat", "generate"))
    is_sampled = rng.random() < 0.4
    return Ask(
        kind=kind,
        model=rng.choice(models),
        prompt=rng.choice(PROMPTS),
        max_tokens=rng.randint(*tokens),
        n=rng.choice((1, 1, 1, 2)) if kind != "generate" else 1,
        seed=rng.randrange(1 << 31) if is_sampled else None,
        stop=(rng.choice(STOPS),) if rng.random() < 0.2 else (),
        logprobs=2 if kind != "generate" and rng.random() < 0.25 else None,
        ignore_eos=rng.random() < 0.8,
    )


def make_asks(
    seed: int, models: Sequence[str], count: int, tokens: tuple[int, int]
) -> tuple[Ask, ...]:
    """`count` different requests; every model occurs if there are as many."""
    rng = random.Random(f"asks {seed}")
    found: dict[Ask, None] = {}
    while len(found) < count:
        found[make_ask(rng, [models[len(found) % len(models)]], tokens)] = None
    return tuple(found)
