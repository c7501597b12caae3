"""Everything that crosses a process boundary, in the order a request meets it.

All frames are msgpack, one tagged struct a frame; a frame of the wrong type is refused at the
socket. Rows inside a frame are positional arrays to keep a step's frame small. Times named `_at`
are unix seconds, durations carry their unit in the name, and counters only grow: rates are made
where they are shown.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TypeAlias

import msgspec

PROTOCOL = 2
"""Raised whenever a message changes its meaning, so that an old console says so."""


class Message(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Base of every frame: frozen, and tagged with its class name. A frozen struct of frozen values
    cannot be part of a cycle, so the garbage collector need not look for one: hundreds are made a
    step."""


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of records that repeat inside a frame: positional, so 64 of them stay near a
    kilobyte."""


# --- server -> router ---------------------------------------------------------------------------


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is chosen. Zero and one mean "off" where they are the identity.

    `seed` is always set before a request leaves the server: sampling is keyed by
    (seed, position), so a resumed stream goes on as it would have.
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

    @property
    def penalizes(self) -> bool:
        """Whether tokens seen before count."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )


class Request(Message, frozen=True, kw_only=True):
    """One prompt, tokenised and validated; `adapter` None means the base model exactly."""

    request_id: str
    adapter: str | None
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    arrived_at: float


class Abort(Message, frozen=True):
    """Stop a request: its client left, an operator said so, or its server is gone."""

    request_id: str
    reason: str


class Refused(Message, frozen=True):
    """router -> server: this request will not run (any further), and why, as an HTTP status."""

    request_id: str
    status: int
    reason: str


# --- console, server -> router: orders about adapters ---------------------------------------------


class LoadAdapter(Message, frozen=True, kw_only=True):
    """Read an adapter and serve it by `name`. Answered by an `AdapterReply` to inbox `reply_to`
    once every worker has checked it."""

    order: str
    reply_to: str
    name: str
    path: str
    pinned: bool = False
    """Never evicted, even while no request uses it."""


class ReloadAdapter(Message, frozen=True, kw_only=True):
    """Read an adapter's files again. Requests that run finish on the old weights; where the new
    ones are refused, nothing has changed."""

    order: str
    reply_to: str
    name: str


class UnloadAdapter(Message, frozen=True, kw_only=True):
    """Refuse new requests for an adapter at once, let those it has finish, give its pages back;
    answered when they are free."""

    order: str
    reply_to: str
    name: str


class PinAdapter(Message, frozen=True, kw_only=True):
    """Keep an adapter in its pages even while no request uses it, or no longer."""

    order: str
    reply_to: str
    name: str
    pinned: bool


class PlanAdapters(Message, frozen=True, kw_only=True):
    """Ask what it would cost to load these directories, one after the other; nothing is loaded.
    Answered with `AdapterReply.plans`."""

    order: str
    reply_to: str
    paths: tuple[str, ...]


class VerifyAdapter(Message, frozen=True, kw_only=True):
    """Compare what an adapter answers with its weights merged in float32. Answered with
    `AdapterReply.verification`; requests are served meanwhile."""

    order: str
    reply_to: str
    name: str


class MergeAdapter(Message, frozen=True, kw_only=True):
    """Keep a second copy of the weights with this adapter merged into it, for steps in which only
    it is wanted; "" gives that copy up."""

    order: str
    reply_to: str
    name: str


POLICIES: Mapping[str, str] = {
    "fcfs": "the oldest first",
    "lifo": "the newest first",
    "merged": "one adapter at a time, merged into the weights",
    "cluster": "those whose adapter is in the batch already",
    "abort": "who can still start within --slo-seconds; the others are ended",
    "pets": "prompts grouped by how long they take",
    "vtc_fair": "who was given least so far, by --fair-weight",
    "credit": "merged while one adapter fills the batch, else mixed",
}
"""Who is admitted first, in a line; more in pipeline/schedule."""
POLICY_ALIASES: dict[str, str] = {"slora": "fcfs", "peft": "merged"}
"""S-LoRA's names for two of them."""


class ClientWeight(Row, frozen=True):
    """The share of a client under `vtc_fair`: with 2 it gets twice the service of one with 1."""

    name: str
    """An adapter's; "" is the base model."""
    weight: float


class SchedulerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The policy of admission and its numbers; may change while requests run."""

    policy: str = "fcfs"
    weights: tuple[ClientWeight, ...] = ()
    """Weights of `vtc_fair`; a client that is not named weighs 1."""
    batch_num_adapters: int = 8
    """For `cluster`: adapters in a batch from which on those in it are preferred."""
    slo_seconds: float = 6.0
    """For `abort`: a request that could not have its first token by then is ended."""
    max_wait_tokens: int = 0
    """Decode steps between two tries to admit beside a running batch; S-LoRA's default is 10."""
    max_per_adapter: int = 0
    """Running requests that an adapter may have; 0: any number."""


class SetScheduler(Message, frozen=True, kw_only=True):
    """Decide by these settings from the next step on; nothing that runs or waits is lost. Fields
    that are None stay as they are; weights are given by the names that requests use."""

    order: str
    reply_to: str
    policy: str | None = None
    weights: tuple[ClientWeight, ...] | None = None
    batch_num_adapters: int | None = None
    slo_seconds: float | None = None
    max_wait_tokens: int | None = None
    max_per_adapter: int | None = None


class AdapterPlan(Row, frozen=True):
    """The cost of loading a directory, from its headers; `reason` set where it is refused."""

    path: str
    rank: int
    target_modules: tuple[str, ...]
    num_bytes: int
    pages: int
    kv_tokens: int
    """Tokens of KV that the pool would no longer hold."""
    free_pages: int
    """Free before it, after what is planned before it."""
    evicts: tuple[str, ...]
    """Adapters that would give their pages for it, in that order."""
    fits: bool
    """Whether there is room now; where not, it waits on the host until there is."""
    reason: str = ""
    warning: str = ""


class Comparison(Row, frozen=True):
    """One sequence as it was served, against the same weights merged in float32."""

    place: str
    """alone, or mixed: in one batch with the base and other adapters."""
    adapter: str | None
    tokens: int
    equal_tokens: int
    """Of the greedy tokens, those that the reference chooses as well."""
    largest_logit: float
    """The largest difference of any logit."""
    mean_logit: float
    """The mean difference."""
    range_logit: float
    """From the reference's smallest logit to its largest: what a difference is held against."""
    flaw: str = ""
    """Why the numbers above prove nothing: logits that are not finite, or all alike. They are those
    of the finite differences then, 0 where there is none."""


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
        """The verdict behind the adapter's name."""
        if self.is_right:
            return "answers as its merged weights do"
        flaw = next((row.flaw for row in self.comparisons if row.flaw), "")
        return f"does NOT answer right{flaw and f': {flaw}'}"


class AdapterReply(Message, frozen=True, kw_only=True):
    """The result of an order, as an HTTP status and a sentence, and the adapter of that name as it
    is now (none: it is gone), so that its sender sees no older one. An order that is about no
    adapter has the name ""."""

    order: str
    status: int
    text: str
    at: float
    name: str
    adapters: tuple[AdapterView, ...] = ()
    plans: tuple[AdapterPlan, ...] = ()
    verification: Verification | None = None
    scheduling: SchedulerSettings | None = None
    """What a `SetScheduler` made of the settings."""


# --- router -> every worker ---------------------------------------------------------------------


class Introduce(Message, frozen=True):
    """router -> all: I am new; forget what the router before me said and announce yourself."""


class Reset(Message, frozen=True):
    """router -> workers: drop every sequence; from now on only batches of `epoch` count."""

    epoch: int


class ReadAdapter(Message, frozen=True):
    """router -> workers: read an adapter to the host and check it. `key` is name@generation."""

    order: int
    """The number of this reading, unlike that of any other, also of a router or a worker before
    this one."""
    key: str
    path: str


class MeasureAdapter(Message, frozen=True):
    """router -> worker 0: read an adapter's headers alone; answered by an `AdapterMeasured`."""

    order: str
    path: str


class PlaceAdapter(Message, frozen=True):
    """router -> workers: copy an adapter into these pages, behind the steps already posted."""

    epoch: int
    key: str
    pages: tuple[int, ...]


class EvictAdapter(Message, frozen=True):
    """router -> workers: the adapter's pages are no longer its own; no later step names it."""

    key: str


class DropAdapter(Message, frozen=True):
    """router -> workers: forget the adapter, on the host too."""

    key: str


class MergeWeights(Message, frozen=True):
    """router -> workers: make a copy of the weights with this adapter merged into it; "" gives it
    up. Answered by a `WeightsMerged`."""

    key: str


class UseMerged(Message, frozen=True):
    """router -> workers, when all ranks have made it: from the next step on, the merged copy
    computes the steps of this adapter alone. Ranks must take it into use between the same two
    steps."""

    key: str


class CheckAdapter(Message, frozen=True, kw_only=True):
    """router -> workers: generate with an adapter alone, then beside others, and compare with the
    merged weights. Answered by an `AdapterChecked` of rank 0. All these keys are placed and `pages`
    are reserved for it until then."""

    epoch: int
    order: str
    key: str
    others: tuple[str, ...]
    pages: tuple[int, ...]


class Admission(Row, frozen=True):
    """What a worker must know once about a sequence: its tokens so far, parameters, adapter.

    `num_prompt` tells prompt from output where a preempted sequence comes back, since penalties
    and the sampling position count output tokens.
    """

    sequence: int
    token_ids: tuple[int, ...]
    num_prompt: int
    params: SamplingParams
    adapter: str | None
    """The adapter's key, name@generation."""


class BatchRow(Row, frozen=True):
    """One sequence's part of a step: compute its next `num_tokens` tokens.

    A token is sampled exactly when that reaches the end of the tokens known, the last sampled
    token (which stays on the device) included. `new_pages` are appended to its page table first.
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


# --- worker -> router ---------------------------------------------------------------------------


class AdapterState(enum.Enum):
    """A stage in the life of an adapter. Changed by the router's registry and nowhere else."""

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
    """What a worker found in an adapter's files, or why it refused them (`reason` set)."""

    key: str
    path: str
    rank: int
    target_modules: tuple[str, ...]
    num_bytes: int
    """Size as laid out; of one rank's part, as its pages are."""
    pages: int
    """Pages of the pool that it takes."""
    digest: str
    reason: str = ""
    warning: str = ""
    """Served all the same, but the operator should know."""


class WorkerReady(Message, frozen=True, kw_only=True):
    """A worker has its weights: the pool it made, the model's limits. It holds no adapter."""

    rank: int
    incarnation: int
    device: str
    """cpu or cuda."""
    num_pages: int
    page_size: int
    max_model_len: int
    max_running: int
    """Requests in a batch: the setting, or where that is 0 the worker's choice by its device."""
    max_prefill_tokens: int
    """Prompt tokens in a step, resolved likewise."""
    chunk_tokens: int
    """Prompt tokens in a step in which others decode, resolved likewise."""
    vocab_size: int
    eos_token_ids: tuple[int, ...]


class AdapterRead(Message, frozen=True):
    """A worker's answer to `ReadAdapter`: it is on the host, or its `reason` says why not."""

    rank: int
    order: int
    info: AdapterInfo


class AdapterPlaced(Message, frozen=True):
    """A worker's answer to `PlaceAdapter`; with an `error` the pages are as they were."""

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
    """Rank 0's answer to `CheckAdapter`; with an `error` it could not be done."""

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
"""Stands for a token where nothing can be chosen: a logit is NaN, the largest is infinite, or all
are alike, which is what a norm makes of states that overflow."""


class SampledToken(Row, frozen=True):
    """The token chosen for a sequence, or `NO_TOKEN`; with logprobs, itself first, then the best
    in order."""

    sequence: int
    token_id: int
    logprobs: tuple[Logprob, ...] = ()


class Tokens(Message, frozen=True):
    """A worker's answer to a `Batch`: one token a sampling row, the same from every rank."""

    epoch: int
    step: int
    rank: int
    tokens: tuple[SampledToken, ...]
    error: str = ""
    """Set when the step failed; the worker then expects a `Reset`. One of several ranks ends
    instead, because the others may wait for it in the middle of the step."""


# --- router -> detokenizer ----------------------------------------------------------------------


class OpenStream(Message, frozen=True, kw_only=True):
    """A request's tokens will come: what the detokenizer needs to turn them into text."""

    request_id: str
    stop: tuple[str, ...]
    logprobs: bool
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False


class StreamToken(Row, frozen=True):
    """One accepted token. `index` counts output tokens from 0, so a replay is recognised."""

    request_id: str
    index: int
    token_id: int
    logprobs: tuple[Logprob, ...] = ()
    finish_reason: str | None = None


class StreamTokens(Message, frozen=True):
    """The accepted tokens of one step."""

    tokens: tuple[StreamToken, ...]


class CloseStream(Message, frozen=True):
    """The request was aborted or refused: forget its stream."""

    request_id: str


class StopFound(Message, frozen=True):
    """detokenizer -> router: a stop string ended this request; its text is complete."""

    request_id: str


class AnswerHeard(Message, frozen=True):
    """server -> router: all text of this request is here and need not be sent again."""

    request_id: str


class ChatWarning(Message, frozen=True):
    """server -> router: chat files of an adapter that are broken or not used. It becomes part of
    the adapter's warning."""

    name: str
    generation: int
    text: str


# --- detokenizer -> server ----------------------------------------------------------------------


class TokenText(Row, frozen=True):
    """A token that was chosen or might have been, with its logprob."""

    token_id: int
    token: str
    """Bytes that are no whole character show as U+FFFD."""
    data: bytes
    """What it adds to the bytes of the answer: nothing where it is left out of the text."""
    logprob: float


class TokenLogprob(Row, frozen=True):
    """A token of an answer, and the likeliest at its place in order, often itself among them."""

    chosen: TokenText
    top: tuple[TokenText, ...]
    offset: int
    """Characters of the answer before it; of a character's later tokens, before the character. A
    stop string may end the text before."""


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


class TextDeltas(Message, frozen=True):
    """All the text that one step brought."""

    deltas: tuple[TextDelta, ...]


class Ready(Message, frozen=True):
    """server or detokenizer -> router: I am (again) here, with nothing in memory."""

    name: str
    incarnation: int


# --- telemetry: every process publishes, any number subscribe -------------------------------------


class ProcessState(enum.Enum):
    """A process as the supervisor sees it; STARTING to STOPPING are what it says of itself."""

    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"
    STOPPED = "stopped"
    DONE = "done"
    """A one-shot (fetch) that ended well."""


class SocketStats(Row, frozen=True):
    """Traffic of one socket since start. `peer` is the inbox written to, or our own name."""

    peer: str
    frames: int
    num_bytes: int
    refused: int = 0


class Heartbeat(Message, frozen=True, kw_only=True):
    """Twice a second from every process: alive, what it is doing, what it costs."""

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


LATENCY_BUCKETS_MS: tuple[float, ...] = tuple(
    round(base * 10.0**power, 3) for power in range(0, 5) for base in (1.0, 1.6, 2.5, 4.0, 6.3)
)
"""Upper bounds of the latency histograms, 1 ms to 63 s, five a decade; one bucket more is open."""


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
    """The settings by which it decides now."""


class WorkerStats(Message, frozen=True, kw_only=True):
    """What a worker runs on and how much memory it took there."""

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
    """What computes attention, norms and adapters, and why where it is not the fastest."""
    copy_bytes_s: float = 0.0
    """Rate of a copy within the device's memory, read and written bytes: the measure of a step's
    reads."""
    times_steps: bool = True
    """False with --no-step-times: a step's copy_us, busy_us, bytes and base_us are then 0."""


class Step(Message, frozen=True, kw_only=True):
    """The times of one step, microseconds, measured where they are spent.

    host: building the step's tensors. launch: issuing the work. busy: the device computing (on
    a GPU between two events, on a CPU the computation itself). sync: the host blocked until the
    sampled tokens were there. copy: host-to-device copies of the step's inputs.

    The bytes are those that it must read at least: every weight once (of the embedding only what
    serves as the head), each adapter once, K and V of all that its rows look at.
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
    """What a decode step with adapters would have kept the device busy without them, as learnt
    from steps that have none; 0 where it is not known, and where there is nothing to know."""

    @property
    def read_bytes(self) -> int:
        return self.weight_bytes + self.adapter_bytes + self.kv_bytes

    @property
    def read_bytes_s(self) -> float | None:
        """Achieved. None for steps with prompts, which arithmetic bounds, not memory; and where
        nothing was measured."""
        if self.phase != "decode" or not self.busy_us or not self.read_bytes:
            return None
        return self.read_bytes / self.busy_us * 1e6

    @property
    def lora_overhead(self) -> float | None:
        """How much longer the device was busy than without adapters: 0.4 is two fifths."""
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
    """Time at which its adapter was in the pool; None where it was there already, or is not yet."""
    admitted_at: float | None = None
    """Time at which it left the queue first."""


class BatchView(Message, frozen=True):
    """The live batch and the queue behind it, at most ten times a second."""

    at: float
    requests: tuple[RequestView, ...]


class AdapterView(Row, frozen=True):
    """One adapter: its truth and what it has done since the router started."""

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
    """A copy of the weights with it merged is kept for steps of its own."""
    warning: str = ""
    hits: int = 0
    """Requests that found it in the pool when they came."""
    placements: int = 0
    """How often it was copied into the pool."""
    service: float | None = None
    """Under `vtc_fair`, its counter: weighted tokens, what it was given by its weight."""
    directory: str = ""
    """Directory of its files: for a hub id, the hub's cached copy."""


class AdapterTable(Message, frozen=True):
    """Every adapter the router knows; on change, and every two seconds."""

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
    """Who has each page of the pool, once a second while that changes.

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
    total: float | None
    unit: str
    elapsed_s: float
    done: bool = False
    failed: bool = False


class Event(Message, frozen=True):
    """Something changed that an operator wants to know. `level` as in logging."""

    at: float
    level: str
    source: str
    text: str


class ProcessView(Row, frozen=True):
    """One process as the supervisor sees it, with how it ended last time."""

    name: str
    state: ProcessState
    pid: int
    restarts: int
    since: float
    reason: str
    exit_code: int | None = None
    retry_at: float | None = None
    held: bool = False
    """Stopped by an operator: it is not started again until an operator says so."""
    started_at: float | None = None
    """Start of the process that is there, or was last; `since` is of its state."""
    falls: int = 0
    """Ends that no operator had asked for; `restarts` counts the others too."""
    fell_at: float | None = None
    """Time of its last fall."""


class ProcessTable(Message, frozen=True):
    """The supervisor's list, in start order; on change and twice a second."""

    at: float
    state: ProcessState
    """READY when every process is; STOPPED while an operator keeps one of them so."""
    processes: tuple[ProcessView, ...]


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
    """The text of a request. One that the server does not know (any more) has ended."""

    request_id: str
    prompt: str = ""
    """The prompt with the chat template's marks, as the model reads it; empty unless asked for."""
    offset: int = 0
    text: str = ""
    ended: bool = False


class Moment(Row, frozen=True, gc=False):
    """One second of the pipeline, for plots of what was before a console came. Means over its
    steps (rank 0's) in milliseconds; None where there was none."""

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
    """The longest wait of the second: what a mean would hide."""
    read_bytes_s: float | None = None
    lora_overhead: float | None = None


class AskSnapshot(Message, frozen=True):
    """Send me a `Snapshot`, to inbox `reply_to`, with at most `log_lines` lines of log, the
    moments of the last `history_s` seconds and the last `steps` steps."""

    reply_to: str
    log_lines: int = 500
    history_s: float = 0.0
    steps: int = 0


class Snapshot(Message, frozen=True, kw_only=True):
    """Everything that still holds, for a console that comes late. Absent parts are None."""

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
    """The same server's counters a minute ago: percentiles of the last minute are of the
    difference. None before its second `ServerStats`."""
    steps: tuple[Step, ...] = ()
    """Steps of rank 0, oldest first; as many as were asked for and are known."""


class RestartProcess(Message, frozen=True):
    """Stop one process politely, or kill it at once where `hard`, then start it again."""

    name: str
    hard: bool = False


class StopProcess(Message, frozen=True):
    """Stop one process politely and keep it stopped, a worker with all its ranks."""

    name: str


class StartProcess(Message, frozen=True):
    """Start a process that was stopped, was given up, or waits to be tried again."""

    name: str


class SignalProcess(Message, frozen=True):
    """Send one process a signal, by its name without SIG."""

    name: str
    signal: str


class StopPipeline(Message, frozen=True):
    """Stop everything: let requests finish for `drain_s` seconds, then end in ring order."""

    drain_s: float


class Gpu(Row, frozen=True):
    """One GPU as torch sees it."""

    name: str
    capability: str
    """9.0 is a Hopper."""


class DeviceReport(msgspec.Struct, frozen=True, kw_only=True):
    """pipeline.model.device_report -> doctor, as JSON: what torch finds and what would compute."""

    device: str
    """cpu or cuda: where a worker would compute."""
    cuda: str
    """The version that torch is built for; "" where it is built without."""
    gpus: tuple[Gpu, ...]
    nccl: str
    """Version of NCCL; "" where there is none."""
    kernels: str
    is_fastest: bool
    off: tuple[str, ...] = ()
    """What is left out, since the installed torch or Triton lacks what it needs."""


class Drain(Message, frozen=True):
    """supervisor -> router: admit nothing new, finish what runs."""


class Resume(Message, frozen=True):
    """supervisor -> router: admit again."""


# --- console, server -> every process of the ring: spans ------------------------------------------


class StartSpans(Message, frozen=True, kw_only=True):
    """Record named time spans to RUN/spans/`recording`/NAME.jsonl. A process that records already
    goes on where it does. Answered by a `SpansReply`."""

    order: str
    reply_to: str
    recording: str
    layers: bool = False
    """Each layer of the model too; steps are then not replayed from graphs."""
    nvtx: bool = False
    """NVTX ranges as well, which a profiler that started the process gets anyhow."""


class StopSpans(Message, frozen=True, kw_only=True):
    """End the recording. Answered by a `SpansReply`."""

    order: str
    reply_to: str


class SpansReply(Message, frozen=True, kw_only=True):
    """The recording of a process, present or last: its file, and the number of spans."""

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
    """Why it does not record."""


class AskSpanEnds(Message, frozen=True):
    """console -> supervisor: the newest spans of the last recording, from the ends of its files.
    Answered by a `SpanEnds` to inbox `reply_to`, unless that is the one of `stamp`."""

    reply_to: str
    stamp: str = ""


class SpanFile(Row, frozen=True):
    """The end of one process's file of spans: whole lines."""

    process: str
    lines: bytes


class SpanEnds(Message, frozen=True):
    """What the files of the last recording end with; without any, `recording` is ""."""

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
ToDetokenizer: TypeAlias = SpansOrder | Introduce | OpenStream | StreamTokens | CloseStream
ToServer: TypeAlias = (
    SpansOrder | SpansReply | Introduce | TextDeltas | Refused | AdapterReply | AskText
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
