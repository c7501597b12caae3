"""The one record of settings: `Config`. Flags are made from it, TOML is read into it.

Knows no process and no socket. Settings never change: child processes read `RUN/config.json`,
which the supervisor wrote once.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from .adapter_name import LONGEST_NAME, objection
from .api_keys import HIDDEN, KEY_VARIABLES
from .errors import OperatorError, UsageError
from .messages import POLICY_ALIASES, PROTOCOL, ClientWeight, EvictionRule, SchedulerSettings
from .private_files import write_private
from .run_directory import absolute_path, check_owner, default_run_directory, spell

DEFAULT_BATCH_ADAPTERS = 8
"""The best of 1 to 32 in S-LoRA's published figures."""
DEFAULT_MODEL = "SmolLM2-135M-Instruct"
SHIPPED = Path(__file__).parent / "adapters"
MEETING = "LORACONSOLE_MEETING"
"""Environment variable of workers: the rendezvous file of the ranks of `--tp`. Each start has a new
file, so that no rank connects to one of an earlier start."""
ANY_HOST = "*"
"""The value of --allow-host that allows every name."""


NO_ADAPTER = "no adapter is loaded"
CONTRADICTIONS: tuple[tuple[str, str, str], ...] = (
    ("no_lora", "no_lora_compute", f"{NO_ADAPTER}, so there are no products to skip"),
    ("no_lora", "no_lora_swap", f"{NO_ADAPTER}, so there is none to keep on the device"),
    ("no_lora", "no_mem_pool", f"{NO_ADAPTER}, so there is none to keep out of the pool"),
    ("no_lora", "bmm", f"{NO_ADAPTER}, so there is none to pad"),
    ("no_lora", "no_prefetch", f"{NO_ADAPTER}, so there is none to load late"),
    ("no_lora_compute", "bmm", "the products that would be padded are skipped"),
    (
        "no_mem_pool",
        "bmm",
        "they are two baselines, memory outside of the pool and padding; both together do not show "
        "the cost of each",
    ),
    ("no_lora_swap", "no_prefetch", "every adapter is on the device from the start"),
)
"""Pairs of settings that measure nothing together, and why. All others may be combined:
`--no-kernel` goes with `--bmm` and `--no-mem-pool`, which imply it."""


def flag_of(name: str) -> str:
    """A setting's flag: `--dummy`."""
    return "--" + name.replace("_", "-")


MERGING = ("merged", "peft", "credit")
"""Policies that merge adapters into a copy of the weights."""
DECISIVE = (
    "scheduler",
    "fair_weight",
    "batch_num_adapters",
    "slo_seconds",
    "max_wait_tokens",
    "max_per_adapter",
    "max_total_tokens",
    "max_running",
    "max_prefill_tokens",
    "chunk_tokens",
    "max_waiting",
    "no_prefetch",
    "evict",
)
"""Settings by which the router decides about requests and pages."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that shapes a pipeline. A field's description is its flag's help."""

    run: Annotated[
        str,
        Meta(description="directory of this pipeline's sockets, logs and lock (mode 0700)"),
    ] = msgspec.field(default_factory=default_run_directory)
    model: Annotated[
        str,
        Meta(description="a Hugging Face directory, a .gguf file, a hub id, or the default's name"),
    ] = DEFAULT_MODEL
    served_model_name: Annotated[
        tuple[str, ...],
        Meta(
            description="names of the base model in requests, in place of --model; answers, lists "
            "and metrics have the first"
        ),
    ] = ()
    adapter: Annotated[
        tuple[str, ...],
        Meta(description="NAME=PATH of a PEFT directory or hub id; repeat for more"),
    ] = ()
    ignore_failed_adapters: Annotated[
        bool,
        Meta(
            description="start without adapters that cannot be loaded. Without this flag `up` "
            "names them, stops the pipeline and exits 1; the console goes on and shows an alert"
        ),
    ] = False
    dummy: Annotated[
        bool, Meta(description="random weights from the model's config.json alone")
    ] = False
    ignore_key: Annotated[
        tuple[str, ...],
        Meta(
            description="ignore this key, or TABLE.KEY, of the model's config.json: for one that "
            "is unknown here and changes nothing; repeat for more"
        ),
    ] = ()
    device: Annotated[Literal["auto", "cpu", "cuda"], Meta(description="where to compute")] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int4"],
        Meta(
            description="weights' type; auto is bfloat16 on cuda and, on cpu, "
            "4-bit weights for few rows and bfloat16 or float32 for many"
        ),
    ] = "auto"
    deterministic: Annotated[
        bool | None,
        Meta(
            description="answers do not depend on what else is served: one weight format, and sums "
            "in one order for every batch; by default where that costs little (a CPU, but not "
            "4-bit weights with --dtype auto)"
        ),
    ] = None
    tp: Annotated[
        int,
        Meta(
            description="ranks that share the model's weights, adapters and KV (tensor "
            "parallelism): one process each and, with --device cuda, one GPU each",
            ge=1,
        ),
    ] = 1
    threads: Annotated[
        int, Meta(description="cpu threads of a worker; 0 chooses by the machine's cores", ge=0)
    ] = 0
    host: Annotated[str, Meta(description="address the HTTP server binds")] = "127.0.0.1"
    port: Annotated[
        int, Meta(description="port of the HTTP server; 0 takes a free one", ge=0, le=65535)
    ] = 8000
    api_key: Annotated[
        str,
        Meta(
            description="clients must send it as a bearer token; @FILE reads it from a file (also "
            "$LORACONSOLE_API_KEY)"
        ),
    ] = ""
    admin_key: Annotated[
        str,
        Meta(
            description="bearer token of operators' routes, such as loading an adapter; @FILE "
            "reads it from a file (also $LORACONSOLE_ADMIN_KEY); without it they are open if "
            "--api-key is not set and --host is on loopback, else closed"
        ),
    ] = ""
    allow_host: Annotated[
        tuple[str, ...],
        Meta(
            description="a name, such as a proxy's, that requests may ask for in Host beside the "
            "server's addresses, localhost and --host; * allows any; repeat for more"
        ),
    ] = ()
    allow_origin: Annotated[
        tuple[str, ...],
        Meta(
            description="the origin of a page, such as https://chat.example.com, that may use the "
            "server from a browser: users' routes, and with --admin-key operators'; repeat for more"
        ),
    ] = ()
    scheduler: Annotated[
        Literal[
            "fcfs",
            "slora",
            "lifo",
            "merged",
            "peft",
            "cluster",
            "abort",
            "pets",
            "vtc_fair",
            "credit",
        ],
        Meta(
            description="order of admission: the oldest (fcfs, S-LoRA's slora), the newest "
            "(lifo), one adapter at a time, merged (merged, S-LoRA's peft), few adapters at once "
            "(cluster), requests that can still meet --slo-seconds (abort), prompts grouped by "
            "their latencies (pets), the client that was served least (vtc_fair), or merged while "
            "one adapter fills the batch (credit)"
        ),
    ] = "fcfs"
    fair_weight: Annotated[
        tuple[str, ...],
        Meta(
            description="NAME=W, the share of an adapter, or of the base model by its name, under "
            "vtc_fair; 1 by default; repeat for more"
        ),
    ] = ()
    batch_num_adapters: Annotated[
        int,
        Meta(
            description="once a batch has this many adapters, cluster prefers requests for them; "
            "0 means 8. Given alone, it chooses cluster, as in S-LoRA",
            ge=0,
        ),
    ] = 0
    enable_abort: Annotated[bool, Meta(description="S-LoRA's way to choose the policy abort")] = (
        False
    )
    slo_seconds: Annotated[
        float,
        Meta(
            description="under abort, requests whose first token would come later are ended", gt=0
        ),
    ] = 6.0
    max_wait_tokens: Annotated[
        int,
        Meta(
            description="decode steps between attempts to admit beside a running batch; "
            "0 tries every step, S-LoRA's default is 10",
            ge=0,
        ),
    ] = 0
    max_per_adapter: Annotated[
        int,
        Meta(description="most running requests of one adapter; 0: no limit", ge=0),
    ] = 0
    evict: Annotated[
        EvictionRule,
        Meta(
            description="the idle adapter that loses its pages first: the one requested least "
            "recently (lru), with the fewest requests (lfu), or with the most pages (largest)"
        ),
    ] = "lru"
    profile_table: Annotated[
        str,
        Meta(description="JSON file of prefill latencies for pets; empty: a linear estimate"),
    ] = ""
    event_log: Annotated[
        bool,
        Meta(
            description="write every admission decision with its inputs to RUN/events/*.jsonl for "
            "loraconsole replay; no prompts, no answers. Off by default: RUN is often in memory"
        ),
    ] = False
    max_total_tokens: Annotated[
        int, Meta(description="tokens of KV in the pool; 0 sizes it from free memory", ge=0)
    ] = 0
    max_model_len: Annotated[
        int, Meta(description="longest prompt + output; 0 takes the model's own", ge=0)
    ] = 0
    generation_config: Annotated[
        Literal["auto", "none"],
        Meta(
            description="auto takes temperature, top_k, top_p, min_p, penalties and stop strings "
            "from the model's generation_config.json if a request names none; none does not"
        ),
    ] = "auto"
    tool_format: Annotated[
        Literal[
            "auto",
            "deepseek_v3",
            "deepseek_v31",
            "hermes",
            "llama3",
            "mistral",
            "mistral_args",
            "pythonic",
            "qwen_xml",
        ],
        Meta(
            description="how the model writes tool calls; auto finds it in the chat template, of "
            "an adapter in its own"
        ),
    ] = "auto"
    reasoning_format: Annotated[
        Literal["auto", "none", "deepseek_r1", "mistral", "think"],
        Meta(
            description="how the model marks its reasoning, which answers then have in a field of "
            "its own; auto finds it in the chat template, none leaves it in the text; deepseek_r1 "
            "is think where every answer begins with reasoning and no mark"
        ),
    ] = "auto"
    trust_request_chat_template: Annotated[
        bool,
        Meta(
            description="take chat_template of a request: a Jinja template, which runs in a "
            "sandbox with bounds of its loops, time and text"
        ),
    ] = False
    max_running: Annotated[
        int, Meta(description="most requests in a batch; 0 chooses by the device", ge=0)
    ] = 0
    max_prefill_tokens: Annotated[
        int,
        Meta(description="most prompt tokens in a step; 0 chooses by the device", ge=0),
    ] = 0
    chunk_tokens: Annotated[
        int,
        Meta(
            description="most prompt tokens in a step in which others stream: fewer keep those "
            "streams fluent, more start new answers sooner; 0 chooses by the device",
            ge=0,
        ),
    ] = 0
    max_waiting: Annotated[
        int, Meta(description="requests that may wait; one more gets 429", ge=1)
    ] = 4096
    max_choices: Annotated[
        int,
        Meta(description="most requests of one body: its prompts times n; more get 400", ge=1),
    ] = 256
    pooling: Annotated[
        Literal["last", "mean"],
        Meta(
            description="the vector of /v1/embeddings, unless a request says: the state of the "
            "last token, or the mean of all"
        ),
    ] = "last"
    response_store_mib: Annotated[
        int,
        Meta(
            description="memory for finished answers of /v1/responses, from which a request may go "
            "on, MiB; 0: none is kept",
            ge=0,
            le=65536,
        ),
    ] = 64
    max_body_mib: Annotated[
        int, Meta(description="longest body of an HTTP request, MiB; more gets 413", ge=1, le=1024)
    ] = 16
    max_connections: Annotated[
        int,
        Meta(
            description="most open HTTP connections; with more, the one that has waited longest "
            "for its client is closed",
            ge=1,
        ),
    ] = 1024
    max_connections_per_client: Annotated[
        int,
        Meta(
            description="the same for one client's address; a proxy in front of this server is one "
            "client",
            ge=1,
        ),
    ] = 512
    adapter_root: Annotated[
        str,
        Meta(
            description="directory that adapters must be in, links followed; empty: anywhere "
            "(those that come with the default model are always allowed)"
        ),
    ] = ""
    no_lora: Annotated[
        bool, Meta(description="ablation: load no adapter, answer as the base model")
    ] = False
    no_lora_compute: Annotated[
        bool, Meta(description="ablation: load adapters but skip their matrix products")
    ] = False
    no_lora_swap: Annotated[
        bool,
        Meta(description="ablation: every adapter stays on the device; none is evicted"),
    ] = False
    no_kernel: Annotated[
        bool, Meta(description="ablation: plain torch on a GPU too, no own kernels, no CUDA graphs")
    ] = False
    no_mem_pool: Annotated[
        bool, Meta(description="ablation: adapters in memory of their own, not in the page pool")
    ] = False
    bmm: Annotated[
        bool,
        Meta(description="ablation: adapters padded to the largest rank, one torch.bmm for all"),
    ] = False
    no_prefetch: Annotated[
        bool,
        Meta(
            description="ablation: an adapter is loaded when its request could be admitted, not "
            "when the request arrives"
        ),
    ] = False
    no_step_times: Annotated[
        bool,
        Meta(description="ablation: measure no times on the device, count no bytes of a step"),
    ] = False
    profile: Annotated[
        bool,
        Meta(
            description="record named time spans from the start, to RUN/spans/, and as NVTX ranges "
            "where a profiler listens"
        ),
    ] = False
    profile_layers: Annotated[
        bool,
        Meta(
            description="like --profile, with the layers of every step; steps are then not "
            "replayed from CUDA graphs"
        ),
    ] = False
    sync_points: Annotated[
        bool,
        Meta(
            description="wait for the device before each step that admits a new request, as S-LoRA "
            "does, and publish how long"
        ),
    ] = False

    def __post_init__(self) -> None:
        """Raises `UsageError` if two settings contradict each other, with the reason."""
        for one, other, reason in CONTRADICTIONS:
            if getattr(self, one) and getattr(self, other):
                raise UsageError(
                    f"{flag_of(one)} and {flag_of(other)} contradict each other: {reason}",
                    "leave one of them out",
                )
        for name in self.served_model_name:
            if not name or len(name) > LONGEST_NAME or not name.isprintable():
                raise UsageError(
                    f"--served-model-name {name[:LONGEST_NAME]!r} cannot name a model",
                    f"1 to {LONGEST_NAME} printable characters",
                )
        if self.deterministic and self.scheduler in MERGING:
            raise UsageError(
                f"--deterministic and --scheduler {self.scheduler} contradict each other: an "
                "adapter's answers would depend on whether a step has it alone",
                "leave one of them out",
            )
        for origin in self.allow_origin:
            if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin, re.IGNORECASE):
                raise UsageError(
                    f"--allow-origin {origin!r} is not the origin of a page",
                    "scheme, name and port as the browser sends them: https://chat.example.com",
                )

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Its fields without keys: a traceback on a terminal shows local variables."""
        values = msgspec.structs.asdict(self)
        hidden = {name: HIDDEN for name in KEY_VARIABLES if values[name]}
        return list((values | hidden).items())

    def __repr__(self) -> str:
        return f"Config({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names of the base model in requests, that of answers and metrics first."""
        return self.served_model_name or (self.model,)

    @property
    def model_name(self) -> str:
        """The base model's name in answers, lists and metrics."""
        return self.model_names[0]

    @property
    def short_model_names(self) -> tuple[str, ...]:
        """The last part of a directory, a file or a hub id as --model: requests may use it, unless
        an adapter has that name."""
        if self.served_model_name:
            return ()
        last = self.model.rstrip("/").rpartition("/")[2]
        return tuple(dict.fromkeys((last, last.removesuffix(".gguf"))))

    @property
    def run_path(self) -> Path:
        return Path(self.run)

    def adapters(self) -> dict[str, str]:
        """Name to path of `--adapter`, in order. Raises `OperatorError` on a bad entry."""
        found: dict[str, str] = {}
        for entry in self.adapter:
            name, equals, path = entry.partition("=")
            if not equals or not name or not path:
                raise UsageError(f"--adapter {entry!r} is not NAME=PATH", "e.g. sql=./my-sql")
            if reason := objection(name, self.model_names):
                raise UsageError(f"--adapter {entry!r}: {reason}")
            if name in found:
                raise UsageError(f"adapter {name!r} is given twice", "names must differ")
            found[name] = path
        return found

    def scheduling(self) -> SchedulerSettings:
        """The admission policy and its parameters. Raises `UsageError` on a bad weight. Reads no
        file: `absolute` has made the base model's name in a weight what `model` is."""
        policy = POLICY_ALIASES.get(self.scheduler, self.scheduler)
        if policy == "fcfs" and self.batch_num_adapters:
            policy = "cluster"
        elif policy == "fcfs" and self.enable_abort:
            policy = "abort"
        return SchedulerSettings(
            policy=policy,
            weights=tuple(self._client_weight(entry) for entry in self.fair_weight),
            batch_num_adapters=self.batch_num_adapters or DEFAULT_BATCH_ADAPTERS,
            slo_seconds=self.slo_seconds,
            max_wait_tokens=self.max_wait_tokens,
            max_per_adapter=self.max_per_adapter,
        )

    def _client_weight(self, entry: str) -> ClientWeight:
        name, weight = parse_weight(entry)
        return ClientWeight("" if name in (self.model, *self.model_names) else name, weight)

    def process_names(self) -> tuple[str, ...]:
        """The ring's processes in start order; they are stopped in reverse."""
        workers = tuple(f"worker-{rank}" for rank in range(self.tp))
        return (*workers, "detokenizer", "router", "server")

    def absolute(self) -> Config:
        """This record with absolute paths, so that children may run in another directory."""
        adapter = tuple(f"{name}={absolute_path(path)}" for name, path in self.adapters().items())
        root = os.path.abspath(os.path.expanduser(self.adapter_root)) if self.adapter_root else ""
        model = self.model
        if os.path.exists(os.path.expanduser(model)):
            model = os.path.abspath(os.path.expanduser(model))
        run = os.path.abspath(os.path.expanduser(self.run))
        table = self.profile_table and os.path.abspath(os.path.expanduser(self.profile_table))
        base = absolute_path(self.model)
        fair_weight = []
        for entry in self.fair_weight:
            name, weight = parse_weight(entry)  # raises for a bad one now
            fair_weight.append(f"{model}={weight!r}" if absolute_path(name) == base else entry)
        if table and not os.path.isfile(table):
            raise UsageError(f"--profile-table {table} is not a file")
        return msgspec.structs.replace(
            self,
            adapter=adapter,
            adapter_root=root,
            model=model,
            run=run,
            profile_table=table,
            fair_weight=tuple(fair_weight),
        )

    def adapter_roots(self) -> tuple[str, ...]:
        """Directories that adapters may be in; none: anywhere."""
        return (self.adapter_root, str(SHIPPED)) if self.adapter_root else ()

    def save(self) -> None:
        """Writes `RUN/config.json`, readable by its owner alone (it may hold an API key), with the
        pipeline's protocol."""
        saved = {"protocol": PROTOCOL} | msgspec.to_builtins(self)
        content = msgspec.json.format(msgspec.json.encode(saved))
        write_private(self.run_path / "config.json", content)

    @classmethod
    def load(cls, run: str | Path) -> Config:
        """The settings of the pipeline in `run`. Raises `OperatorError` if there are none, or if it
        speaks another protocol."""
        check_owner(run)
        check_protocol(run)
        path = Path(run) / "config.json"
        try:
            values = msgspec.json.decode(path.read_bytes(), type=dict[str, object])
            values.pop("protocol")
            return msgspec.convert(values, cls)
        except FileNotFoundError:
            raise OperatorError(
                f"no pipeline has run in {run}", f"start one with: {spell('up', run)}"
            ) from None
        except msgspec.DecodeError as error:
            raise OperatorError(f"{path} is not readable: {error}", "remove it") from error


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach a server that listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class SavedProtocol(msgspec.Struct, frozen=True):
    """The field of `RUN/config.json` that is checked before the others are read."""

    protocol: int = 1
    """The first versions did not write it."""


def check_protocol(run: str | Path) -> None:
    """Raises `OperatorError` if the pipeline in `run` speaks another protocol than this
    loraconsole. `Config.load` reports a missing or damaged file."""
    try:
        saved = msgspec.json.decode((Path(run) / "config.json").read_bytes(), type=SavedProtocol)
    except (FileNotFoundError, msgspec.DecodeError):
        return
    if saved.protocol != PROTOCOL:
        raise OperatorError(
            f"the pipeline in {run} speaks protocol {saved.protocol}, this loraconsole {PROTOCOL}",
            f"stop it with: {spell('down', run)}; then start it again with: {spell('up', run)}",
        )


def parse_weight(entry: str) -> tuple[str, float]:
    """NAME=W of `--fair-weight`. Raises `UsageError`."""
    name, equals, number = entry.rpartition("=")
    try:
        weight = float(number)
    except ValueError:
        weight = 0.0
    if not equals or not name or not 0 < weight < float("inf"):
        raise UsageError(
            f"--fair-weight {entry!r} is not NAME=W with a W above 0", "e.g. sql=2 or sql=0.5"
        )
    return name, weight


def shipped_adapters() -> tuple[str, ...]:
    """NAME=PATH of the adapters that come with the default model."""
    return tuple(
        f"{config.parent.name}={config.parent}"
        for config in sorted(SHIPPED.glob("*/adapter_config.json"))
    )
