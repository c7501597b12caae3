"""`Answer`: what a client has received of one request, folded event by event, with each break of
order that it sees. Knows no connection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .asks import Ask


@dataclass
class Choice:
    """One choice's text, and its tokens where logprobs were asked for."""

    text: str = ""
    finish: str | None = None
    tokens: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    @property
    def content(self) -> tuple[str, str | None, tuple[str, ...], tuple[int, ...]]:
        return self.text, self.finish, tuple(self.tokens), tuple(self.offsets)


@dataclass
class Answer:
    """The choices so far. `faults` are sentences about what no answer may do."""

    ask: Ask
    choices: dict[int, Choice] = field(default_factory=dict)
    heads: set[tuple[Any, ...]] = field(default_factory=set)
    """Id, creation time and model of every event: one for a whole answer, also over a break."""
    completion_tokens: int | None = None
    is_done: bool = False
    error: str = ""
    """The message of an error event; the stream has ended with it."""
    faults: list[str] = field(default_factory=list)

    @property
    def content(self) -> tuple[object, ...]:
        """What is compared with the undisturbed answer."""
        return tuple(choice.content for _, choice in sorted(self.choices.items()))

    @property
    def is_complete(self) -> bool:
        finished = [choice for choice in self.choices.values() if choice.finish]
        return self.is_done and not self.error and len(finished) == self.ask.n

    def fold_done(self) -> None:
        """[DONE] was read."""
        if self.is_done:
            self.faults.append("[DONE] twice")
        self.is_done = True
        if not self.error and not all(choice.finish for choice in self.choices.values()):
            self.faults.append("[DONE] before every choice had ended")

    def fold_event(self, event: dict[str, Any]) -> None:
        """One event of a stream."""
        if "error" in event:
            self.error = event["error"]["message"]
            return
        if self.is_done:
            self.faults.append("an event after the end")
        if self.ask.kind == "generate":
            self._fold_generate(event)
            return
        self.heads.add((event["id"], event["created"], event["model"]))
        if event.get("usage"):
            self._fold_usage(event["usage"])
        for choice in event["choices"]:
            self._fold_choice(choice, choice.get("delta"))

    def fold_whole(self, body: dict[str, Any]) -> None:
        """An unstreamed answer."""
        self.is_done = True
        if self.ask.kind == "generate":
            self.choices[0] = Choice(body["generated_text"][0], "end")
            self.completion_tokens = body["count_output_tokens"]
            return
        self.heads.add((body["id"], body["created"], body["model"]))
        self._fold_usage(body["usage"])
        for choice in body["choices"]:
            self._fold_choice(choice, choice.get("message"))

    def _fold_usage(self, usage: dict[str, Any]) -> None:
        if self.completion_tokens is not None:
            self.faults.append("the usage twice")
        self.completion_tokens = usage["completion_tokens"]

    def _fold_choice(self, event: dict[str, Any], said: dict[str, Any] | None) -> None:
        index = event["index"]
        if not 0 <= index < self.ask.n:
            self.faults.append(f"choice {index} of {self.ask.n}")
        choice = self.choices.setdefault(index, Choice())
        if choice.finish:
            self.faults.append(f"choice {index} goes on after its end")
        choice.text += (
            (said or {}).get("content") or "" if self.ask.kind == "chat" else event["text"]
        )
        choice.finish = event["finish_reason"] or choice.finish
        logprobs = event.get("logprobs")
        if logprobs and self.ask.kind == "chat":
            choice.tokens += [token["token"] for token in logprobs["content"]]
        elif logprobs:
            choice.tokens += logprobs["tokens"]
            choice.offsets += logprobs["text_offset"]
        if choice.offsets and choice.offsets != sorted(choice.offsets):
            self.faults.append(f"choice {index}: text_offset goes back")

    def _fold_generate(self, event: dict[str, Any]) -> None:
        choice = self.choices.setdefault(0, Choice())
        if choice.finish:
            self.faults.append("the answer goes on after its end")
        choice.text += event["token"]["text"]
        if event["finished"]:
            choice.finish = "end"

    def end_of_events(self) -> None:
        """The connection ended as HTTP says it should. S-LoRA's stream has no [DONE]."""
        if self.ask.kind == "generate" and 0 in self.choices and self.choices[0].finish:
            self.is_done = True
        if len(self.heads) > 1:
            self.faults.append(f"{len(self.heads)} ids, times or models in one answer")
