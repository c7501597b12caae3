"""All messages between processes, in the order of a request's path.

All frames are msgpack, one tagged struct a frame; a frame of the wrong type is refused at the
socket. Rows inside a frame are positional arrays to keep a step's frame small. Times named `_at`
are unix seconds, durations carry their unit in the name. Counters only grow; readers compute rates.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

PROTOCOL = 4
"""Incremented when a message changes its meaning, so that an old console reports the mismatch."""


class Message(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Base of every frame: frozen, and tagged with its class name. A frozen struct of frozen values
    cannot be part of a cycle, so the garbage collector does not track it: a step makes hundreds."""


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of records that repeat inside a frame: positional, so 64 of them stay near a
    kilobyte."""


# --- server -> router ---------------------------------------------------------------------------


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is chosen. The value that changes nothing (0 or 1) means "off".

    `seed` is always set before a request leaves the server: sampling is keyed by
    (seed, position), so a resumed stream continues with the same tokens.
    """

    max_tokens: int = 128
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    """How many alternatives to report beside the chosen token; None reports nothing."""
    skip_special_tokens: bool = True
    """Special tokens are left out of the text."""
    include_stop_str_in_output: bool = False
    """The text ends with the stop string, or the stop token's text."""
    min_tokens: int = 0
    """Tokens before the first that may end the answer: until then the end tokens are not chosen,
    and stop strings are not looked for."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, what is added to its logit)."""
    allowed_token_ids: tuple[int, ...] | None = None
    """The only tokens that may be chosen; None allows all."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Token sequences that the output must not contain: the last token of one is not chosen after
    the others."""
    prompt_logprobs: int | None = None
    """How many alternatives to report beside each token of the prompt; None reports nothing."""
    logprob_token_ids: tuple[int, ...] = ()
    """The tokens that `logprobs` reports beside the chosen one, in place of the likeliest."""
    grammar: str = ""
    """The grammar of the answer, in llguidance's form; "" allows every text."""
    masked_logprobs: bool = False
    """Logprobs are those of the distribution that is sampled from, after the grammar, biases and
    penalties and before temperature and truncation; False: the model's own."""
    shown_special_ids: tuple[int, ...] = ()
    """Special tokens that are not left out of the text: marks of tool calls and reasoning."""

    pooling: str = ""
    """With `prompt_logprobs` set: in place of logprobs, the prompt's pooled state is reported, the
    "mean" of its tokens' states after the last norm, or that of the "last" one; "": it is not."""
    unit_state: bool = False
    """The pooled state is scaled to length 1."""

    @property
    def penalizes(self) -> bool:
        """Whether any penalty for earlier tokens is set."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )


class Request(Message, frozen=True, kw_only=True):
    """One prompt, tokenised and validated; `adapter` None is the base model."""

    request_id: str
    adapter: str | None
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    arrived_at: float

    @property
    def scored_at_end(self) -> int:
        """Tokens of the prompt that count as scored once all its logprobs are there, or its pooled
        state, which is that of the token after the last."""
        return len(self.prompt_ids) + bool(self.params.pooling)


class ResumeRequest(Message, frozen=True, kw_only=True):
    """server -> router: a request that was accepted and is not answered yet, with the tokens that
    the server has. Sent for each such request when one of the two has just started. The router
    ignores those it holds, and goes on with the others after `token_ids`."""

    request: Request
    token_ids: tuple[int, ...]
    logprobs: tuple[tuple[Logprob, ...], ...] = ()
    """Of each of these tokens, if the request asks for them."""
    first_token_at: float | None = None
    prompt_logprobs: tuple[PromptLogprobs, ...] = ()
    """Of the first tokens of the prompt, if the request asks for them."""

    @property
    def known_ids(self) -> tuple[int, ...]:
        """The tokens to go on after. Those that lack their logprobs, or those of the prompt, are
        computed again."""
        params = self.request.params
        lacks_logprobs = len(self.logprobs) != len(self.token_ids)
        if params.logprobs is not None and lacks_logprobs:
            return ()
        lacks_prompt = self.num_scored < self.request.scored_at_end
        return () if params.prompt_logprobs is not None and lacks_prompt else self.token_ids

    @property
    def num_scored(self) -> int:
        """Tokens of the prompt whose logprobs are known; the first one never has any."""
        return 1 + sum(piece.count for piece in self.prompt_logprobs)


class Abort(Message, frozen=True):
    """Stop a request: its client disconnected, an operator cancelled it, or its server died."""

    request_id: str
    reason: str


class Refused(Message, frozen=True):
    """router -> server: a request is refused or ended early: an HTTP status and the reason."""

    request_id: str
    status: int
    reason: str
    code: str = ""
    """OpenAI's word for it, if it has one."""


CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
"""OpenAI's code for a request that is too long, by which clients know that a shorter one may do."""


class AnswerTimes(Row, frozen=True):
    """How long a request that was answered spent in each phase, in seconds."""

    queued_s: float
    """Arrival to admission."""
    prefill_s: float
    """Admission to the first token."""
    decode_s: float
    """First token to the last."""
    preemptions: int = 0


class RequestsAnswered(Message, frozen=True):
    """router -> server: the times of requests that have just ended with an answer, for /metrics.
    Those that an earlier router had begun are left out: their times are not known here."""

    times: tuple[AnswerTimes, ...]


# --- console, server -> router: orders about adapters ---------------------------------------------


class LoadAdapter(Message, frozen=True, kw_only=True):
    """Read an adapter and serve it as `name`. Answered by an `AdapterReply` to inbox `reply_to`
    once every worker has checked it."""

    order: str
    reply_to: str
    name: str
    path: str
    pinned: bool = False
    """Never evicted, even while no request uses it."""
    replaces: bool = False
    """An adapter of this name may be served: it is then reloaded, from `path`."""


class ReloadAdapter(Message, frozen=True, kw_only=True):
    """Read an adapter's files again. Running requests finish on the old weights; if the new ones
    are refused, nothing changes."""

    order: str
    reply_to: str
    name: str


class UnloadAdapter(Message, frozen=True, kw_only=True):
    """Refuse new requests for an adapter at once, let its present ones finish, then free its pages.
    Answered after that."""

    order: str
    reply_to: str
    name: str


class PinAdapter(Message, frozen=True, kw_only=True):
    """Pin an adapter, so that it is not evicted while no request uses it, or unpin it."""

    order: str
    reply_to: str
    name: str
    pinned: bool


class PlanAdapters(Message, frozen=True, kw_only=True):
    """Ask for the cost of loading these directories one after the other; nothing is loaded.
    Answered with `AdapterReply.plans`."""

    order: str
    reply_to: str
    paths: tuple[str, ...]


class VerifyAdapter(Message, frozen=True, kw_only=True):
    """Compare an adapter's answers with those of its weights merged in float32. Answered with
    `AdapterReply.verification`; requests are served meanwhile."""

    order: str
    reply_to: str
    name: str


class MergeAdapter(Message, frozen=True, kw_only=True):
    """Keep a second copy of the weights with this adapter merged into it, for steps whose rows all
    use it; "" frees that copy."""

    order: str
    reply_to: str
    name: str


POLICIES: Mapping[str, str] = {
    "fcfs": "the oldest first",
    "lifo": "the newest first",
    "merged": "one adapter at a time, merged into the weights",
    "cluster": "requests whose adapter is already in the batch",
    "abort": "requests that can still start within --slo-seconds; others are ended",
    "pets": "prompts grouped by how long they take",
    "vtc_fair": "the client served least so far, by --fair-weight",
    "credit": "merged while one adapter fills the batch, else mixed",
}
"""What each policy admits first, in a line; more in pipeline/schedule."""
EvictionRule: TypeAlias = Literal["lru", "lfu", "largest"]
"""Which idle adapter loses its pages first: requested least recently, with the fewest requests, or
with the most pages."""
POLICY_ALIASES: dict[str, str] = {"slora": "fcfs", "peft": "merged"}
"""S-LoRA's names of two policies."""


class ClientWeight(Row, frozen=True):
    """The share of a client under `vtc_fair`: with 2 it gets twice the service of one with 1."""

    name: str
    """An adapter's name; "" is the base model."""
    weight: float
    """Relative; 1 is the default."""


class SchedulerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The admission policy and its parameters; may change while requests run."""

    policy: str = "fcfs"
    weights: tuple[ClientWeight, ...] = ()
    """Weights of `vtc_fair`; a client not listed has weight 1."""
    batch_num_adapters: int = 8
    """For `cluster`: once a batch has this many adapters, requests for them are preferred."""
    slo_seconds: float = 6.0
    """For `abort`: a request whose first token cannot come within this time is ended."""
    max_wait_tokens: int = 0
    """Decode steps between attempts to admit beside a running batch; S-LoRA's default is 10."""
    max_per_adapter: int = 0
    """Most running requests of an adapter; 0: no limit."""


class SetScheduler(Message, frozen=True, kw_only=True):
    """Schedule by these settings from the next step on; running and waiting requests are kept. None
    leaves a setting unchanged; weights are given by the names that requests use."""

    order: str
    reply_to: str
    policy: str | None = None
    weights: tuple[ClientWeight, ...] | None = None
    batch_num_adapters: int | None = None
    slo_seconds: float | None = None
    max_wait_tokens: int | None = None
    max_per_adapter: int | None = None


class AdapterPlan(Row, frozen=True):
    """The cost of loading a directory, from its headers; `reason` is set if it is refused."""

    path: str
    rank: int
    target_modules: tuple[str, ...]
    num_bytes: int
    pages: int
    kv_tokens: int
    """Tokens of KV that the pool would no longer hold."""
    free_pages: int
    """Free pages before it is loaded, with the plans before it counted as loaded."""
    evicts: tuple[str, ...]
    """Adapters that would be evicted for it, in that order."""
    fits: bool
    """Whether there is room now; if not, it waits on the host until there is."""
    reason: str = ""
    warning: str = ""


class Comparison(Row, frozen=True):
    """One served sequence, compared with the same weights merged in float32."""

    place: str
    """alone, or mixed: in one batch with the base and other adapters."""
    adapter: str | None
    tokens: int
    equal_tokens: int
    """Greedy tokens that the reference chooses too."""
    largest_logit: float
    """The largest difference of any logit."""
    mean_logit: float
    """The mean difference."""
    range_logit: float
    """The reference's largest logit less its smallest: the scale for the differences."""
    flaw: str = ""
    """Why the numbers above prove nothing: logits that are not finite, or all equal. They then
    cover the finite differences only, and are 0 if there is none."""
    mean_limit: float = 0.0
    """The largest mean difference with which it passes."""

    @property
    def passes(self) -> bool:
        """Whether the sequence is answered right."""
        return not self.flaw and self.mean_logit <= self.mean_limit


class Verification(Row, frozen=True):
    """The result of verifying an adapter."""

    key: str
    digest: str
    dtype: str
    comparisons: tuple[Comparison, ...]
    is_right: bool
    seconds: float

    @property
    def verdict(self) -> str:
        """The verdict, as a phrase to follow the adapter's name."""
        if self.is_right:
            return "matches its merged weights"
        flaw = next((row.flaw for row in self.comparisons if row.flaw), "")
        return f"does NOT match its merged weights{flaw and f': {flaw}'}"


class AdapterReply(Message, frozen=True, kw_only=True):
    """The result of an order: an HTTP status, a sentence, and the adapter's present state (empty if
    it is gone), so that the sender does not show an older one. `name` is "" for an order about no
    adapter."""

    order: str
    status: int
    text: str
    at: float
    name: str
    adapters: tuple[AdapterView, ...] = ()
    plans: tuple[AdapterPlan, ...] = ()
    verification: Verification | None = None
    scheduling: SchedulerSettings | None = None
    """The settings after a `SetScheduler`."""


# --- router -> every worker ---------------------------------------------------------------------


class RouterMessage(Message, frozen=True, kw_only=True):
    """What one router says may arrive after the first messages of the next one: it is recognised
    and dropped. Tokens and batches need no mark: they have an index or an epoch."""

    router: int = 0
    """The router's incarnation; 0: unknown."""


class Introduce(RouterMessage, frozen=True):
    """router -> all: a new router has started: announce yourself. Workers keep their adapters, and
    the server sends the open requests and orders again."""


class Reset(RouterMessage, frozen=True):
    """router -> workers: drop every sequence; from now on accept only batches of `epoch`."""

    epoch: int


class ReadAdapter(RouterMessage, frozen=True):
    """router -> workers: read an adapter into host memory and check it. `key` is
    name@generation."""

    order: int
    """The number of this read, unique across restarts of the router and the workers."""
    key: str
    path: str


class MeasureAdapter(RouterMessage, frozen=True):
    """router -> worker 0: read only an adapter's headers; answered by an `AdapterMeasured`."""

    order: str
    path: str


class PlaceAdapter(Message, frozen=True):
    """router -> workers: copy an adapter into these pages, after the steps already sent."""

    epoch: int
    key: str
    pages: tuple[int, ...]


class EvictAdapter(RouterMessage, frozen=True):
    """router -> workers: the adapter loses its pages; no later step uses it."""

    key: str


class DropAdapter(RouterMessage, frozen=True):
    """router -> workers: forget the adapter, on the host too."""

    key: str


class MergeWeights(RouterMessage, frozen=True):
    """router -> workers: make a copy of the weights with this adapter merged into it; "" frees it.
    Answered by a `WeightsMerged`."""

    key: str


class UseMerged(RouterMessage, frozen=True):
    """router -> workers, once all ranks have the merged copy: from the next step on, it computes
    the steps of this adapter alone. All ranks must switch between the same two steps."""

    key: str


class CheckAdapter(Message, frozen=True, kw_only=True):
    """router -> workers: generate with an adapter alone, then beside others, and compare with the
    merged weights. Answered by an `AdapterChecked` of rank 0. Until then all these keys stay placed
    and `pages` stay reserved."""

    epoch: int
    order: str
    key: str
    others: tuple[str, ...]
    pages: tuple[int, ...]


class Admission(Row, frozen=True):
    """A sequence new to the workers: its tokens so far, parameters, adapter.

    `num_prompt` separates prompt from output when a preempted sequence comes back, since penalties
    and the sampling position count output tokens.
    """

    sequence: int
    token_ids: tuple[int, ...]
    num_prompt: int
    params: SamplingParams
    adapter: str | None
    """The adapter's key, name@generation."""
    computed: int = 0
    """First tokens that its pages already hold: the KV was kept over a restart of the workers or of
    the router."""
    request_id: str = ""
    arrived_at: float = 0.0
    """Of its request; with the id, they name what a `KeptSequence` is of."""
    scored: int = 1
    """First tokens of the prompt that need no logprobs any more, if the request asks for them."""


class StepLimit(enum.Enum):
    """What kept the waiting requests out of a step; one value a step, of the request that blocked
    the queue or, if none did, of the first that was passed over."""

    NOTHING = "nothing"
    """No request is waiting."""
    KV_PAGES = "kv"
    """The worst case of all running requests and this one exceeds the pool."""
    ROWS = "rows"
    """`max_running` requests run."""
    PROMPT_TOKENS = "prompt"
    """The step's prompt tokens are spent: `max_prefill_tokens`, or `chunk_tokens` while others
    decode."""
    ADAPTER = "adapter"
    """Its adapter is being read or copied, or finds no pages."""
    POLICY = "policy"
    """The policy, its `max_per_adapter` or its `max_wait_tokens` holds it back."""


class BatchRow(Row, frozen=True):
    """One sequence's part of a step: compute its next `num_tokens` tokens.

    A token is sampled if and only if they reach the end of the known tokens, which include the last
    sampled one (it stays on the device). `new_pages` are appended to its page table first.
    """

    sequence: int
    num_tokens: int
    new_pages: tuple[int, ...] = ()


class Batch(Message, frozen=True):
    """One step, the same bytes to every rank. `release` names sequences to forget first."""

    epoch: int
    step: int
    release: tuple[int, ...]
    admit: tuple[Admission, ...]
    rows: tuple[BatchRow, ...]
    limit: StepLimit = StepLimit.NOTHING
    """Returned in the step's `Step`."""


# --- worker -> router ---------------------------------------------------------------------------


class AdapterState(enum.Enum):
    """The state of an adapter. Changed only by the router's registry."""

    REGISTERED = "registered"
    FETCHING = "fetching"
    VALIDATING = "validating"
    HOST = "host"
    LOADING = "loading"
    GPU = "gpu"
    DRAINING = "draining"
    GONE = "gone"
    FAILED = "failed"


UNREAD = frozenset({AdapterState.REGISTERED, AdapterState.FETCHING, AdapterState.VALIDATING})
"""States of an adapter whose files have not been read."""


class AdapterInfo(Row, frozen=True):
    """An adapter's properties as a worker read them, or the `reason` why it refused the files."""

    key: str
    path: str
    rank: int
    target_modules: tuple[str, ...]
    num_bytes: int
    """Size as laid out in pages; like `pages`, of one rank's part."""
    pages: int
    """Pages of the pool that it takes."""
    digest: str
    reason: str = ""
    warning: str = ""
    """Something the operator should know; the adapter is served."""
    merged_bytes: int = 0
    """Memory of the copy of the weights that a merge of it makes."""


class KeptSequence(Row, frozen=True):
    """What the pages of a worker hold of a request of an earlier router."""

    request_id: str
    arrived_at: float
    adapter: str | None
    """The key of the adapter that computed it."""
    computed: int
    """Tokens whose KV the pages hold."""
    pages: tuple[int, ...]


class WorkerReady(Message, frozen=True, kw_only=True):
    """A worker has loaded its weights, or has met a new router: its pool, the model's limits, and
    the adapters that it keeps in host memory."""

    rank: int
    incarnation: int
    device: str
    """cpu or cuda."""
    num_pages: int
    page_size: int
    max_model_len: int
    max_running: int
    """Most requests in a batch: the setting, or if that is 0 the worker's choice by its device."""
    max_prefill_tokens: int
    """Most prompt tokens in a step, resolved likewise."""
    chunk_tokens: int
    """Most prompt tokens in a step in which others decode, resolved likewise."""
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    adapters: tuple[AdapterInfo, ...] = ()
    merged: str = ""
    """Key of the adapter of which it has a merged copy of the weights."""
    pid: int = 0
    pool_fd: int = -1
    """The file descriptor, in process `pid`, of the memory of its pages; -1: on a GPU."""
    has_kept_kv: bool = False
    """Whether its pages hold what the worker before it had computed."""
    kept: tuple[KeptSequence, ...] = ()
    """What its pages hold of the requests of an earlier router."""


class AdapterRead(Message, frozen=True):
    """A worker's answer to `ReadAdapter`: it is in host memory, unless `info.reason` is set."""

    rank: int
    order: int
    info: AdapterInfo


class AdapterPlaced(Message, frozen=True):
    """A worker's answer to `PlaceAdapter`; with an `error` the adapter was not placed."""

    rank: int
    epoch: int
    key: str
    error: str = ""


class AdapterMeasured(Message, frozen=True):
    """A worker's answer to `MeasureAdapter`."""

    order: str
    info: AdapterInfo


class WeightsMerged(Message, frozen=True):
    """A worker's answer to `MergeWeights`; with an `error` nothing has changed."""

    rank: int
    key: str
    error: str = ""


class AdapterChecked(Message, frozen=True):
    """Rank 0's answer to `CheckAdapter`; with an `error` the comparison failed."""

    epoch: int
    order: str
    comparisons: tuple[Comparison, ...]
    dtype: str
    is_right: bool = False
    error: str = ""


class Logprob(Row, frozen=True):
    """log p of one token, natural log."""

    token_id: int
    logprob: float


NO_TOKEN = -1
"""Replaces a token if none can be chosen: a logit is NaN, the largest is infinite, or all are equal
(the result of a norm over states that overflow)."""
END_OF_ANSWER = -2
"""Replaces a token where a grammar is complete and no token of the model ends the answer."""


class SampledToken(Row, frozen=True):
    """The token chosen for a sequence, `NO_TOKEN` or `END_OF_ANSWER`. `logprobs`: the chosen token
    first, then the likeliest in order."""

    sequence: int
    token_id: int
    logprobs: tuple[Logprob, ...] = ()
    error: str = ""
    """With `NO_TOKEN`: why the request's own settings allow no token."""


class PromptLogprobs(Row, frozen=True):
    """log p of consecutive tokens of a prompt, each after the tokens before it, and of the
    likeliest tokens in their places. Packed numbers, little-endian: a step may have ten thousand
    tokens with 20 alternatives each."""

    start: int
    """Index of the first of them in the prompt; the prompt's first token has no logprob."""
    logprobs: bytes
    """float32 [count, 1 + most]: the token's own first, then the likeliest in order."""
    likeliest: bytes
    """int32 [count, most], ids of the likeliest tokens."""
    ranks: bytes
    """int32 [count]: 1 if no token is likelier than the prompt's own."""
    state: bytes = b""
    """float32 [hidden_size]: the prompt's pooled state, in place of the logprobs."""
    num_pooled: int = 0
    """Tokens that are pooled in `state`: the whole prompt."""

    @property
    def count(self) -> int:
        return self.num_pooled or len(self.ranks) // 4

    @property
    def most(self) -> int:
        """Likeliest tokens in each place."""
        return len(self.likeliest) // (len(self.ranks) or 4)

    def after(self, skipped: int) -> PromptLogprobs:
        """Without the first `skipped` tokens. Nothing is left of a pooled state that is known."""
        if self.num_pooled:
            end = self.start + self.num_pooled
            return self if skipped <= 0 else PromptLogprobs(end, b"", b"", b"")
        skipped = min(max(0, skipped), self.count)
        return PromptLogprobs(
            self.start + skipped,
            self.logprobs[4 * skipped * (1 + self.most) :],
            self.likeliest[4 * skipped * self.most :],
            self.ranks[4 * skipped :],
        )


class SequenceLogprobs(Row, frozen=True):
    """A piece of a prompt that a step has scored."""

    sequence: int
    piece: PromptLogprobs


class Tokens(Message, frozen=True):
    """A worker's answer to a `Batch`: one token a sampling row, the same from every rank."""

    epoch: int
    step: int
    rank: int
    tokens: tuple[SampledToken, ...]
    error: str = ""
    """Set when the step failed; the worker then expects a `Reset`. One of several ranks then exits
    too, because the others may wait for it in the middle of the step."""
    busy_us: int = 0
    """Device time of the step (see `Step`); 0 with --no-step-times."""
    prompt_logprobs: tuple[SequenceLogprobs, ...] = ()
    """Of the requests that ask for them; from rank 0 alone."""


# --- router -> detokenizer ----------------------------------------------------------------------


class OpenStream(RouterMessage, frozen=True, kw_only=True):
    """Announces a request, with the parameters that turn its tokens into text."""

    request_id: str
    stop: tuple[str, ...]
    logprobs: bool
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    min_tokens: int = 0
    """Tokens within which no stop string ends the answer."""
    shown_special_ids: tuple[int, ...] = ()
    """Special tokens that are not left out."""


class StreamToken(Row, frozen=True):
    """One accepted token. `index` counts output tokens from 0, so that repeats are recognised. An
    answer that no token ends has a last one with `NO_TOKEN`."""

    request_id: str
    index: int
    token_id: int
    logprobs: tuple[Logprob, ...] = ()
    finish_reason: str | None = None


class StreamTokens(Message, frozen=True):
    """The accepted tokens of one step."""

    tokens: tuple[StreamToken, ...]


class PromptScored(Message, frozen=True):
    """router -> detokenizer -> server: logprobs of a piece of a request's prompt. All pieces come
    before the first token, and again after a restart."""

    request_id: str
    piece: PromptLogprobs


class CloseStream(RouterMessage, frozen=True):
    """The request was aborted or refused: forget its stream."""

    request_id: str


class StopFound(Message, frozen=True):
    """detokenizer -> router: a stop string ended this request; its text is complete."""

    request_id: str


class AnswerHeard(Message, frozen=True):
    """server -> router: all text of this request has arrived and need not be sent again."""

    request_id: str


class ChatWarning(Message, frozen=True):
    """server -> router: an adapter's chat files are broken or not used. `text` becomes part of the
    adapter's warning."""

    name: str
    generation: int
    text: str


# --- detokenizer -> server ----------------------------------------------------------------------


class TokenText(Row, frozen=True):
    """A chosen or an alternative token, with its logprob."""

    token_id: int
    token: str
    """Bytes that are not a whole character are shown as U+FFFD."""
    data: bytes
    """The bytes that it adds to the answer; empty if it is left out of the text."""
    logprob: float


class TokenLogprob(Row, frozen=True):
    """A token of an answer, and the likeliest tokens at its position, in order."""

    chosen: TokenText
    top: tuple[TokenText, ...]
    offset: int
    """Characters of the answer before this token; for the later tokens of one character, before
    that character. A stop string may end the text before this offset."""


class TextDelta(Row, frozen=True):
    """New text of a request. `offset` is the number of characters sent before it."""

    request_id: str
    offset: int
    text: str
    num_tokens: int
    """Output tokens so far, these included."""
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None
    stopped_by: str | int | None = None
    """The stop string, or the id of the token, with which finish reason "stop" came."""


class TextDeltas(Message, frozen=True):
    """All new text of one step."""

    deltas: tuple[TextDelta, ...]


class Ready(Message, frozen=True):
    """server or detokenizer -> router: the process has started (again), with no state."""

    name: str
    incarnation: int


# --- telemetry: every process publishes, any number subscribe -------------------------------------


class ProcessState(enum.Enum):
    """The state of a process, by the supervisor; the process itself reports STARTING to
    STOPPING."""

    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"
    STOPPED = "stopped"
    DONE = "done"
    """A one-shot process (fetch) that succeeded."""


class SocketStats(Row, frozen=True):
    """Traffic of one socket since start. `peer` is the inbox written to, or the process's own."""

    peer: str
    frames: int
    num_bytes: int
    refused: int = 0


class Heartbeat(Message, frozen=True, kw_only=True):
    """Twice a second from every process: its state, CPU, memory and traffic."""

    name: str
    pid: int
    incarnation: int
    at: float
    state: ProcessState
    reason: str
    cpu_seconds: float
    rss_bytes: int
    loop_lag_ms: float
    hops: tuple[SocketStats, ...]
    protocol: int = PROTOCOL
    is_recording: bool = False
    """Whether it records spans."""


LATENCY_BUCKETS_MS: tuple[float, ...] = (
    *(round(base * 10.0**power, 3) for power in range(0, 6) for base in (1.0, 1.6, 2.5, 4.0, 6.3)),
    1e6,
)
"""Upper bounds of the latency histograms, 1 ms to 1000 s, five a decade; one more is unbounded."""


class ServerStats(Message, frozen=True, kw_only=True):
    """Counters of the HTTP side. Histograms are counts per bucket of `LATENCY_BUCKETS_MS`."""

    at: float
    url: str
    open_streams: int
    requests: int
    errors: int
    prompt_tokens: int
    output_tokens: int
    ttft: tuple[int, ...]
    inter_token: tuple[int, ...]
    resumed: int = 0
    """Answers that a client took up again."""
    abandoned: int = 0
    """Answers of an earlier server that no client came back for."""


class RouterStats(Message, frozen=True, kw_only=True):
    """The scheduler's gauges and counters. Pages obey free + kv + adapters == total."""

    at: float
    waiting: int
    running: int
    pages_total: int
    pages_kv: int
    pages_adapters: int
    page_size: int
    steps: int
    prefill_tokens: int
    decode_tokens: int
    preemptions: int
    aborts: int
    schedule_us: int
    """Host time spent in the scheduler since start."""
    scheduling: SchedulerSettings = SchedulerSettings()
    """The present settings."""
    max_adapters: int = 0
    """Adapters that can be used in a step at once: as many as half of the pool holds, each as large
    as the present ones on average, but not more than a step has rows. 0: not known yet."""


class WorkerStats(Message, frozen=True, kw_only=True):
    """A worker's device, types and memory."""

    at: float
    rank: int
    device: str
    dtype: str
    model: str
    threads: int
    weights_bytes: int
    pool_bytes: int
    adapter_bytes: int
    kernels: str = ""
    """The code that computes attention, norms and adapters; if not the fastest, the reason."""
    copy_bytes_s: float = 0.0
    """Rate of a copy within the device's memory, read and written bytes: the reference for a
    step's reads."""
    times_steps: bool = True
    """False with --no-step-times: a step's copy_us, busy_us, bytes and base_us are then 0."""
    fingerprint: str = ""
    """Equal for two pipelines only if the base model gives the same answers in both; its end says
    whether they depend on what else is served (docs/determinism.md)."""


class Step(Message, frozen=True, kw_only=True):
    """The times of one step, microseconds.

    host: building the step's tensors. launch: issuing the work. busy: the device computing (on
    a GPU between two events, on a CPU the computation itself). sync: the host blocked until the
    sampled tokens were there. copy: host-to-device copies of the step's inputs.

    Bytes are the least that it must read: every weight once (of the embedding only the part used as
    the head), each adapter once, K and V of every token that its rows attend to.
    """

    rank: int
    step: int
    at: float
    phase: str
    """prefill, decode or mixed."""
    rows: int
    tokens: int
    adapters: int
    adapter_bytes: int
    host_us: int
    copy_us: int
    launch_us: int
    busy_us: int
    sync_us: int
    weight_bytes: int = 0
    kv_bytes: int = 0
    base_us: int = 0
    """Device time that a decode step with adapters would have taken without them, learnt from steps
    that have none; 0 if unknown, and for all other steps."""
    prompt_tokens: int = 0
    """Of `tokens`, those of prompts; the others are decoded, one a row."""
    limit: StepLimit = StepLimit.NOTHING
    """What kept the waiting requests out of it."""
    base_spread_us: int = 0
    """How far the steps behind `base_us` lie from their median; see `half_spread`."""
    base_steps: int = 0
    """Number of the steps behind `base_us`."""
    base_age_s: float = 0.0
    """Seconds since the newest of them."""
    sampled: int = 0
    """Rows of which a token was sampled: all that decode, and prompts that are complete."""

    @property
    def read_bytes(self) -> int:
        return self.weight_bytes + self.adapter_bytes + self.kv_bytes

    @property
    def read_bytes_s(self) -> float | None:
        """Achieved rate. None for steps with prompts, which are bound by arithmetic, and if nothing
        was measured."""
        if self.phase != "decode" or not self.busy_us or not self.read_bytes:
            return None
        return self.read_bytes / self.busy_us * 1e6

    @property
    def lora_overhead(self) -> float | None:
        """Device time added by adapters, as a share of the time without them: 0.4 is 40 % more."""
        return self.busy_us / self.base_us - 1 if self.base_us else None


class SyncPoint(Message, frozen=True):
    """An explicit synchronize (warm-up, merge, prefill, capture) and how long it blocked."""

    rank: int
    name: str
    at: float
    wait_us: int


class RequestView(Row, frozen=True):
    """One live request as the router holds it."""

    request_id: str
    adapter: str | None
    phase: str
    """waiting, prefill or decode."""
    reason: str
    """Why it waits, empty when it runs."""
    arrived_at: float
    first_token_at: float | None
    num_prompt: int
    num_computed: int
    num_output: int
    max_tokens: int
    pages: int
    adapter_at: float | None = None
    """Time at which its adapter was in the pool; None if it already was on arrival, or is not
    yet."""
    admitted_at: float | None = None
    """Time at which it first left the queue."""
    place: int = 0
    """Its place in the queue, 1 is next; 0 if it runs, or if the policy's order is not one of
    age."""


class BatchView(Message, frozen=True):
    """The live batch and the queue behind it, at most ten times a second."""

    at: float
    requests: tuple[RequestView, ...]


COST_SECONDS = 60.0
"""The recent past in an adapter's costs."""
WAITS_SECONDS = 600.0
WAITS_KEPT = 256
"""Percentiles of an adapter are over the requests of the last `WAITS_SECONDS` seconds, of those at
most the last `WAITS_KEPT`."""


class AdapterView(Row, frozen=True):
    """One adapter: its state, and its counters since the router started."""

    name: str
    path: str
    state: AdapterState
    reason: str
    since: float
    generation: int
    digest: str
    rank: int
    target_modules: tuple[str, ...]
    num_bytes: int
    pages: int
    running: int
    waiting: int
    requests: int
    prompt_tokens: int
    output_tokens: int
    pinned: bool = False
    merged: bool = False
    """A copy of the weights with it merged is kept for steps that it has alone."""
    warning: str = ""
    hits: int = 0
    """Requests that found it in the pool when they arrived."""
    placements: int = 0
    """How often it was copied into the pool."""
    service: float | None = None
    """Under `vtc_fair`, its counter: weighted tokens divided by its weight."""
    directory: str = ""
    """Directory of its files: for a hub id, the hub's cached copy."""
    kv_pages: int = 0
    """Pages of KV that its running requests hold; `pages` are those of its weights."""
    device_us: int = 0
    """Its part of the steps' device time, each step divided by tokens; 0 with --no-step-times."""
    recent_device_us: int = 0
    """That of the last `COST_SECONDS` seconds."""
    recent_tokens: int = 0
    """Prompt and output tokens of the last `COST_SECONDS` seconds."""
    ttft_p50_ms: float | None = None
    """Arrival to first token at the router; None without a recent request."""
    ttft_p99_ms: float | None = None
    wait_p50_ms: float | None = None
    """Arrival to admission."""
    wait_p99_ms: float | None = None
    evictions: int = 0
    """How often it lost its pages to others."""
    merged_bytes: int = 0
    """Memory of the copy of the weights that a merge of it makes, on each device."""

    @property
    def is_served(self) -> bool:
        """Whether it answers requests: at once, or as soon as it is placed."""
        return self.state in (AdapterState.HOST, AdapterState.LOADING, AdapterState.GPU)


class AdapterTable(Message, frozen=True):
    """Every adapter that the router knows; on change and every two seconds."""

    at: float
    base_model: str
    adapters: tuple[AdapterView, ...]
    base: AdapterView
    """The base model's own row: requests and tokens without any adapter."""


class PageOwner(Row, frozen=True):
    """The owner of some pages."""

    kind: str
    """kv, adapter, or check: scratch of a verification."""
    name: str
    """A request's id, or an adapter's key."""
    adapter: str | None
    """The adapter's name; None is the base."""


class PoolMap(Message, frozen=True):
    """The owner of each page of the pool, once a second while that changes.

    `pages` holds an unsigned 16-bit little-endian number a page: 0 is free, n is `owners[n - 1]`.
    """

    at: float
    page_size: int
    owners: tuple[PageOwner, ...]
    pages: bytes


class Progress(Message, frozen=True, kw_only=True):
    """One progress bar. `total` None: length unknown. Finished when `done` is True."""

    source: str
    stage: str
    """fetch, weights, warm-up, adapters, …"""
    label: str
    current: float
    """In `unit`."""
    total: float | None
    """In `unit`; None: unknown."""
    unit: str
    elapsed_s: float
    done: bool = False
    failed: bool = False


class Event(Message, frozen=True):
    """A change that matters to an operator. `level` as in logging."""

    at: float
    level: str
    source: str
    text: str


class ProcessView(Row, frozen=True):
    """One process as the supervisor sees it, and its last exit."""

    name: str
    state: ProcessState
    pid: int
    restarts: int
    since: float
    reason: str
    exit_code: int | None = None
    retry_at: float | None = None
    held: bool = False
    """Stopped by an operator: it is not started again until an operator starts it."""
    started_at: float | None = None
    """Start of the present or last process; `since` is the start of its state."""
    falls: int = 0
    """Exits that no operator asked for; `restarts` includes those asked for."""
    fell_at: float | None = None
    """Time of its last fall."""
    fall_reason: str = ""
    """Why it last fell; `reason` is that of its present state."""
    is_recovering: bool = False
    """It fell, and the pipeline has not been READY since."""


class ProcessTable(Message, frozen=True):
    """The supervisor's list, in start order; on change and twice a second."""

    at: float
    state: ProcessState
    """READY if every process is; STOPPED while an operator keeps one stopped."""
    processes: tuple[ProcessView, ...]
    down_since: float | None = None
    """When the pipeline was last READY; None while it is, and before it was for the first time."""
    started_at: float = 0.0
    """When the pipeline was started; a supervisor that adopts it keeps this. 0: not known."""
    supervisor_restarts: int = 0
    """Supervisors of this pipeline before the present one, which have died."""


class LogLine(Row, frozen=True):
    """One line of a process's log; `number` counts all lines of the run, so gaps show."""

    number: int
    at: float
    source: str
    level: str
    text: str


class LogLines(Message, frozen=True):
    """New log lines of all processes, in order, from the supervisor, which reads their files."""

    lines: tuple[LogLine, ...]


# --- console <-> supervisor ---------------------------------------------------------------------


class AskText(Message, frozen=True, kw_only=True):
    """console -> server: send the prompt of a request, and its answer from character `offset` on.
    Answered by a `RequestText` to inbox `reply_to`."""

    request_id: str
    reply_to: str
    offset: int = 0
    with_prompt: bool = True


class RequestText(Message, frozen=True, kw_only=True):
    """The text of a request. `ended` is also set if the server does not know it (any more)."""

    request_id: str
    prompt: str = ""
    """The prompt with the chat template's marks, as the model reads it; empty unless asked for."""
    offset: int = 0
    text: str = ""
    ended: bool = False


class Moment(Row, frozen=True, gc=False):
    """One second of the pipeline, for plots of the time before a console attached. Means are over
    rank 0's steps, in milliseconds; None if there were none."""

    at: float
    running: int
    waiting: int
    decode_tokens_s: float
    prefill_tokens_s: float
    requests_s: float
    pages_kv: int
    pages_adapters: int
    steps: int
    host_ms: float | None = None
    copy_ms: float | None = None
    launch_ms: float | None = None
    busy_ms: float | None = None
    sync_ms: float | None = None
    most_sync_ms: float | None = None
    """The longest wait of the second, which a mean would hide."""
    read_bytes_s: float | None = None
    lora_overhead: float | None = None
    """Device time added by adapters, as a share of the time without them."""
    limits: tuple[int, ...] = ()
    """Steps of each `StepLimit`, in its order; empty without steps."""
    ttft_p50_ms: float | None = None
    """Percentiles of the first tokens and of the gaps between tokens of this second."""
    ttft_p99_ms: float | None = None
    inter_token_p50_ms: float | None = None
    inter_token_p99_ms: float | None = None


class AskSnapshot(Message, frozen=True):
    """Send me a `Snapshot`, to inbox `reply_to`, with at most `log_lines` lines of log, the
    moments of the last `history_s` seconds and the last `steps` steps."""

    reply_to: str
    log_lines: int = 500
    history_s: float = 0.0
    steps: int = 0


class Snapshot(Message, frozen=True, kw_only=True):
    """The latest telemetry, for a console that attaches. Absent parts are None."""

    at: float
    protocol: int
    version: str
    started_at: float
    processes: ProcessTable
    beats: tuple[Heartbeat, ...]
    server: ServerStats | None
    router: RouterStats | None
    workers: tuple[WorkerStats, ...]
    batch: BatchView | None
    adapters: AdapterTable | None
    pool: PoolMap | None
    progress: tuple[Progress, ...]
    events: tuple[Event, ...]
    logs: tuple[LogLine, ...]
    moments: tuple[Moment, ...] = ()
    """A second each, oldest first; as many as were asked for."""
    server_before: ServerStats | None = None
    """The same server's counters a minute ago: the difference gives the last minute's percentiles.
    None before its second `ServerStats`."""
    steps: tuple[Step, ...] = ()
    """Steps of rank 0, oldest first; as many as were asked for and are known."""


class RestartProcess(Message, frozen=True):
    """Stop one process politely, or kill it at once if `hard`, then start it again."""

    name: str
    hard: bool = False


class StopProcess(Message, frozen=True):
    """Stop one process politely and keep it stopped; a worker stops with all ranks."""

    name: str


class StartProcess(Message, frozen=True):
    """Start a process that is stopped, has failed, or waits for its next try."""

    name: str


class SignalProcess(Message, frozen=True):
    """Send one process a signal, by its name without SIG."""

    name: str
    signal: str


class StopPipeline(Message, frozen=True):
    """Stop everything: let requests finish for `drain_s` seconds, then stop processes in reverse
    start order."""

    drain_s: float


class Gpu(Row, frozen=True):
    """One GPU as torch sees it."""

    name: str
    capability: str
    """9.0 is a Hopper."""


class DeviceReport(msgspec.Struct, frozen=True, kw_only=True):
    """pipeline.model.device_report -> doctor, as JSON: devices that torch finds, kernels to use."""

    device: str
    """The device of a worker: cpu or cuda."""
    cuda: str
    """The CUDA version that torch is built for; "" if it is built without."""
    gpus: tuple[Gpu, ...]
    nccl: str
    """Version of NCCL; "" if there is none."""
    kernels: str
    is_fastest: bool
    off: tuple[str, ...] = ()
    """Stages left out because the installed torch or Triton lacks a name they need."""


class Drain(Message, frozen=True):
    """supervisor -> router: admit nothing new, finish what runs."""


class Resume(Message, frozen=True):
    """supervisor -> router: admit again."""


# --- console, server -> every process of the ring: spans ------------------------------------------


class StartSpans(Message, frozen=True, kw_only=True):
    """Record named time spans to RUN/spans/`recording`/NAME.jsonl. A process that already records
    keeps its file. Answered by a `SpansReply`."""

    order: str
    reply_to: str
    recording: str
    layers: bool = False
    """Each layer of the model too; steps are then not replayed from graphs."""
    nvtx: bool = False
    """NVTX ranges too; a profiler that started the process gets them in any case."""


class StopSpans(Message, frozen=True, kw_only=True):
    """End the recording. Answered by a `SpansReply`."""

    order: str
    reply_to: str


class SpansReply(Message, frozen=True, kw_only=True):
    """A process's present or last recording: its file and its number of spans."""

    order: str
    name: str
    is_on: bool
    path: str = ""
    spans: int = 0
    dropped: int = 0
    """Spans beyond what a file may hold."""
    layers: bool = False
    nvtx: bool = False
    error: str = ""
    """The reason why the process does not record."""


class AskSpanEnds(Message, frozen=True):
    """console -> supervisor: send the newest spans of the last recording, the ends of its files.
    Answered by a `SpanEnds` to inbox `reply_to`, unless its stamp is still `stamp`."""

    reply_to: str
    stamp: str = ""


class SpanFile(Row, frozen=True):
    """The last whole lines of one process's file of spans."""

    process: str
    lines: bytes


class SpanEnds(Message, frozen=True):
    """The ends of the last recording's files; `recording` is "" if there is none."""

    stamp: str
    """Changes when a file has grown."""
    recording: str
    files: tuple[SpanFile, ...]


# --- what each inbox accepts --------------------------------------------------------------------

AdapterOrder: TypeAlias = (
    LoadAdapter
    | ReloadAdapter
    | UnloadAdapter
    | PinAdapter
    | PlanAdapters
    | VerifyAdapter
    | MergeAdapter
)
Order: TypeAlias = AdapterOrder | SetScheduler
"""Orders that are answered once each, by an `AdapterReply`."""
SpansOrder: TypeAlias = StartSpans | StopSpans
ToRouter: TypeAlias = (
    SpansOrder
    | Request
    | ResumeRequest
    | Abort
    | WorkerReady
    | AdapterRead
    | AdapterPlaced
    | AdapterMeasured
    | AdapterChecked
    | WeightsMerged
    | Order
    | Tokens
    | StopFound
    | AnswerHeard
    | ChatWarning
    | Ready
    | Drain
    | Resume
)
ToWorker: TypeAlias = (
    SpansOrder
    | Introduce
    | Reset
    | ReadAdapter
    | MeasureAdapter
    | PlaceAdapter
    | EvictAdapter
    | DropAdapter
    | MergeWeights
    | UseMerged
    | CheckAdapter
    | Batch
)
ToDetokenizer: TypeAlias = (
    SpansOrder | Introduce | OpenStream | StreamTokens | PromptScored | CloseStream
)
ToServer: TypeAlias = (
    SpansOrder
    | SpansReply
    | Introduce
    | TextDeltas
    | PromptScored
    | Refused
    | RequestsAnswered
    | AdapterReply
    | AskText
)
ProcessOrder: TypeAlias = RestartProcess | StopProcess | StartProcess | SignalProcess
ToSupervisor: TypeAlias = AskSnapshot | AskSpanEnds | ProcessOrder | StopPipeline
ToConsole: TypeAlias = Snapshot | AdapterReply | SpansReply | RequestText | SpanEnds
Telemetry: TypeAlias = (
    Heartbeat
    | ServerStats
    | RouterStats
    | WorkerStats
    | Step
    | SyncPoint
    | BatchView
    | AdapterTable
    | PoolMap
    | Progress
    | Event
    | ProcessTable
    | LogLines
)
