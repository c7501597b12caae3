"""The one record of settings: `Config`. Flags are made from it, TOML is read into it.

Knows no process and no socket. Nothing is set after birth: a child reads `RUN/config.json`,
which the supervisor wrote once.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from .adapter_name import objection
from .messages import POLICY_ALIASES, ClientWeight, SchedulerSettings

DEFAULT_BATCH_ADAPTERS = 8
"""The best of 1 to 32 in S-LoRA's own figures."""
DEFAULT_MODEL = "SmolLM2-135M-Instruct"
LONGEST_SOCKET_NAME = "console-4194304.inbox"
SHIPPED = Path(__file__).parent / "adapters"
MEETING = "LORACONSOLE_MEETING"
"""Environment variable of workers: the file through which the ranks of `--tp` find each other. New
whenever they start, so that nobody finds those who are gone."""
MAX_SOCKET_PATH = 107  # bytes in sockaddr_un, less the closing zero


class OperatorError(Exception):
    """Something the operator can mend: what is wrong, and what to do about it."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}. {self.hint}" if self.hint else self.what


class UsageError(OperatorError):
    """A flag or a setting is wrong: exit status 2, as for any bad usage."""


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
        "they are two baselines, memory outside of the pool and padding; what each costs cannot "
        "be told from both",
    ),
    ("no_lora_swap", "no_prefetch", "every adapter is on the device from the start"),
)
"""Settings that say nothing together, and why. All others may be combined: `--no-kernel` goes with
`--bmm` and `--no-mem-pool`, which imply it."""


def flag_of(name: str) -> str:
    """A setting's name as the command line has it."""
    return "--" + name.replace("_", "-")


def default_run_directory() -> str:
    """`$LORACONSOLE_RUN`, else `$XDG_RUNTIME_DIR/loraconsole`, else `/tmp/loraconsole-UID`."""
    if run := os.environ.get("LORACONSOLE_RUN"):
        return run
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return os.path.join(runtime, "loraconsole")
    return f"/tmp/loraconsole-{os.getuid()}"


def spell(words: str, run: str | Path) -> str:
    """`loraconsole WORDS` as a shell of this environment takes it for the pipeline in `run`."""
    is_default = absolute_path(str(run)) == absolute_path(default_run_directory())
    return f"loraconsole {words}{'' if is_default else f' --run {shlex.quote(str(run))}'}"


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
    adapter: Annotated[
        tuple[str, ...],
        Meta(description="NAME=PATH of a PEFT directory or hub id; repeat for more"),
    ] = ()
    ignore_failed_adapters: Annotated[
        bool,
        Meta(
            description="start without adapters that cannot be loaded. Else `up` names them, stops "
            "the pipeline again and exits 1; the console goes on and shows an alert"
        ),
    ] = False
    dummy: Annotated[
        bool, Meta(description="random weights from the model's config.json alone")
    ] = False
    ignore_key: Annotated[
        tuple[str, ...],
        Meta(
            description="read the model's config.json as if it did not have this key, or this "
            "TABLE.KEY: for one that is unknown here and changes nothing; repeat for more"
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
    tp: Annotated[
        int,
        Meta(
            description="ranks that share the model's weights, adapters and KV (tensor "
            "parallelism): a process and, with --device cuda, a GPU each",
            ge=1,
        ),
    ] = 1
    threads: Annotated[
        int, Meta(description="cpu threads of a worker; 0 chooses by the machine", ge=0)
    ] = 0
    host: Annotated[str, Meta(description="address the HTTP server binds")] = "127.0.0.1"
    port: Annotated[
        int, Meta(description="port of the HTTP server; 0 takes a free one", ge=0, le=65535)
    ] = 8000
    api_key: Annotated[
        str,
        Meta(description="clients must send it as a bearer token (also $LORACONSOLE_API_KEY)"),
    ] = ""
    admin_key: Annotated[
        str,
        Meta(
            description="bearer token of the routes that load and unload adapters (also "
            "$LORACONSOLE_ADMIN_KEY); without it they are open where neither --api-key is set nor "
            "--host is off loopback, else closed"
        ),
    ] = ""
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
            description="who is admitted first: the oldest (fcfs, S-LoRA's slora), the newest "
            "(lifo), one adapter at a time, merged (merged, S-LoRA's peft), few adapters at once "
            "(cluster), who can still meet --slo-seconds (abort), prompts grouped by their "
            "latencies (pets), who was given least (vtc_fair), or merged while one adapter fills "
            "the batch (credit)"
        ),
    ] = "fcfs"
    fair_weight: Annotated[
        tuple[str, ...],
        Meta(
            description="NAME=W, the share of an adapter, or of the base model by its name, under "
            "vtc_fair; 1 where not given; repeat for more"
        ),
    ] = ()
    batch_num_adapters: Annotated[
        int,
        Meta(
            description="adapters in a batch from which on cluster prefers those in it; 0 is 8. "
            "Given alone, it chooses cluster, as in S-LoRA",
            ge=0,
        ),
    ] = 0
    enable_abort: Annotated[bool, Meta(description="S-LoRA's way to choose the policy abort")] = (
        False
    )
    slo_seconds: Annotated[
        float,
        Meta(description="under abort, who would get its first token later is ended", gt=0),
    ] = 6.0
    max_wait_tokens: Annotated[
        int,
        Meta(
            description="decode steps between two tries to admit beside a running batch; "
            "0 tries every step, S-LoRA's is 10",
            ge=0,
        ),
    ] = 0
    max_per_adapter: Annotated[
        int,
        Meta(description="most running requests of one adapter; 0: any number", ge=0),
    ] = 0
    profile_table: Annotated[
        str,
        Meta(description="JSON file of prefill latencies for pets; empty: a linear estimate"),
    ] = ""
    event_log: Annotated[
        bool,
        Meta(
            description="write every decision of admission, and what it depended on, to "
            "RUN/events/*.jsonl for loraconsole replay; no prompts, no answers. Off unless "
            "wanted: RUN often lies in memory"
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
            "of the model's generation_config.json where a request names none; none does not"
        ),
    ] = "auto"
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
            description="most prompt tokens in a step in which others stream: fewer keep their "
            "tokens coming, more start new answers sooner; 0 chooses by the device",
            ge=0,
        ),
    ] = 0
    max_waiting: Annotated[
        int, Meta(description="requests that may wait; one more gets 429", ge=1)
    ] = 4096
    adapter_root: Annotated[
        str,
        Meta(
            description="directory that adapters must lie in, links followed; empty: anywhere "
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
        bool, Meta(description="ablation: plain torch on a GPU too, no kernels or graphs of ours")
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
            "when that arrives"
        ),
    ] = False
    no_step_times: Annotated[
        bool,
        Meta(description="ablation: take no times on the device and count no bytes of a step"),
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
            description="as --profile, with the layers of every step; steps are then not replayed "
            "from CUDA graphs"
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
        """Raises `UsageError` where two settings contradict each other, with the reason."""
        for one, other, reason in CONTRADICTIONS:
            if getattr(self, one) and getattr(self, other):
                raise UsageError(
                    f"{flag_of(one)} and {flag_of(other)} contradict each other: {reason}",
                    "leave one of them out",
                )

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
            if reason := objection(name, self.model):
                raise UsageError(f"--adapter {entry!r}: {reason}")
            if name in found:
                raise UsageError(f"adapter {name!r} is given twice", "names must differ")
            found[name] = path
        return found

    def scheduling(self) -> SchedulerSettings:
        """The policy of admission and its numbers. Raises `UsageError` on a bad weight."""
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
        return ClientWeight(
            "" if absolute_path(name) == absolute_path(self.model) else name, weight
        )

    def process_names(self) -> tuple[str, ...]:
        """The ring's processes in start order; stopping goes the other way."""
        workers = tuple(f"worker-{rank}" for rank in range(self.tp))
        return (*workers, "detokenizer", "router", "server")

    def absolute(self) -> Config:
        """Paths as they are meant here, so that children may stand in another directory."""
        adapter = tuple(f"{name}={absolute_path(path)}" for name, path in self.adapters().items())
        root = os.path.abspath(os.path.expanduser(self.adapter_root)) if self.adapter_root else ""
        model = self.model
        if os.path.exists(os.path.expanduser(model)):
            model = os.path.abspath(os.path.expanduser(model))
        run = os.path.abspath(os.path.expanduser(self.run))
        table = self.profile_table and os.path.abspath(os.path.expanduser(self.profile_table))
        self.scheduling()  # a bad weight is told now
        if table and not os.path.isfile(table):
            raise UsageError(f"--profile-table {table} is no file")
        return msgspec.structs.replace(
            self, adapter=adapter, adapter_root=root, model=model, run=run, profile_table=table
        )

    def adapter_roots(self) -> tuple[str, ...]:
        """Directories that adapters may lie in; none: anywhere."""
        return (self.adapter_root, str(SHIPPED)) if self.adapter_root else ()

    def save(self) -> None:
        """Writes `RUN/config.json`, readable by its owner alone (it may hold an API key)."""
        path = self.run_path / "config.json"
        temporary = path.with_suffix(".new")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(self)))
        temporary.replace(path)

    @classmethod
    def load(cls, run: str | Path) -> Config:
        """The settings of the pipeline that lives in `run`."""
        path = Path(run) / "config.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            raise OperatorError(
                f"no pipeline has run in {run}", f"start one with: {spell('up', run)}"
            ) from None
        except msgspec.DecodeError as error:
            raise OperatorError(f"{path} is not readable: {error}", "remove it") from error


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


def is_hub_id(model: str) -> bool:
    """Whether it is written as a hub's `org/name` or `org/name@revision`."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?", model) is not None


def absolute_path(path: str) -> str:
    """A path as it is meant here; a hub id that is no path here stays what it is."""
    expanded = os.path.expanduser(path)
    if not os.path.exists(expanded) and is_hub_id(path):
        return path
    return os.path.abspath(expanded)


def make_run_directory(run: str | Path) -> Path:
    """Creates RUN with mode 0700, or raises `OperatorError` where it would be unsafe."""
    path = Path(run)
    socket_path = os.fsencode(path / LONGEST_SOCKET_NAME)
    if len(socket_path) > MAX_SOCKET_PATH:
        raise OperatorError(
            f"run directory {path} is too long: its unix sockets would need {len(socket_path)} "
            f"bytes of {MAX_SOCKET_PATH}",
            "choose a shorter --run",
        )
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OperatorError(
            f"cannot make run directory {path}: {error.strerror}", "choose another --run"
        ) from error
    status = path.stat()
    if status.st_uid != os.getuid():
        raise OperatorError(f"run directory {path} belongs to another user", "choose --run")
    path.chmod(0o700)
    (path / "logs").mkdir(mode=0o700, exist_ok=True)
    return path


def shipped_adapters() -> tuple[str, ...]:
    """NAME=PATH of the adapters that come with the default model."""
    return tuple(
        f"{config.parent.name}={config.parent}"
        for config in sorted(SHIPPED.glob("*/adapter_config.json"))
    )


# --- flags and files ----------------------------------------------------------------------------


ABLATION = "ablation: "
USUAL = (
    *("run", "model", "adapter", "dummy", "device", "dtype", "tp", "host", "port"),
    *("scheduler", "max_total_tokens"),
)


class Field(msgspec.Struct, frozen=True):
    """A `Config` field as the command line sees it."""

    name: str
    kind: Any
    help: str

    @property
    def flag(self) -> str:
        return flag_of(self.name)

    @property
    def metavar(self) -> str:
        """What stands for its value in a help."""
        if get_origin(self.kind) is tuple:
            return {"fair_weight": "NAME=W", "ignore_key": "KEY"}.get(self.name, "NAME=PATH")
        if get_origin(self.kind) is Literal:
            return "NAME"
        return {int: "N", float: "S"}.get(self.kind, self.name.upper())

    @property
    def short(self) -> str:
        """The help up to its first explanation."""
        return re.split(r"[;:(]", self.help)[0].strip()


def fields() -> Iterator[Field]:
    """Every setting, in order of declaration."""
    for name, annotation in get_type_hints(Config, include_extras=True).items():
        kind, *extras = get_args(annotation)
        yield Field(name, kind, next(e.description for e in extras if isinstance(e, Meta)) or "")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds one flag a field. A flag not given leaves no trace, so that TOML can speak."""
    group = parser.add_argument_group("run options")
    group.add_argument(
        "--config", metavar="FILE", help="TOML file of these settings; flags win over it"
    )
    ablations = parser.add_argument_group("ablations", "what the parts cost, by leaving them out")
    for field in fields():
        _add_flag(ablations if field.help.startswith(ABLATION) else group, field)


def add_usual_flags(parser: argparse.ArgumentParser) -> None:
    """Those that are used most, a line each: for an overview, where nothing is parsed."""
    group = parser.add_argument_group("run options", "the usual ones; all: loraconsole up --help")
    for field in fields():
        if field.name in USUAL:
            _add_flag(group, field, metavar=None if field.kind is bool else field.metavar)


def _add_flag(group: argparse._ArgumentGroup, field: Field, metavar: str | None = None) -> None:
    help = field.short if metavar else field.help.removeprefix(ABLATION)
    options: dict[str, Any] = {"help": help, "default": argparse.SUPPRESS}
    if field.kind is bool:
        options["action"] = "store_true"
    elif get_origin(field.kind) is Literal:
        options |= {"choices": get_args(field.kind), "metavar": metavar}
    else:
        options["metavar"] = field.metavar
    if get_origin(field.kind) is tuple:
        options["action"] = "append"
    elif field.kind in (int, float):
        options["type"] = field.kind
    group.add_argument(field.flag, **options)


def from_flags(given: argparse.Namespace) -> Config:
    """Defaults, then the TOML file, then the environment, then flags; each checked once."""
    values: dict[str, Any] = {}
    if file := getattr(given, "config", None):
        values |= _read_toml(Path(file))
    for name in ("api_key", "admin_key"):
        if key := os.environ.get(f"LORACONSOLE_{name.upper()}"):
            values.setdefault(name, key)
    values |= {f.name: getattr(given, f.name) for f in fields() if hasattr(given, f.name)}
    if "adapter" not in values and values.get("model", DEFAULT_MODEL) == DEFAULT_MODEL:
        values["adapter"] = shipped_adapters()
    try:
        return msgspec.convert(values, Config).absolute()
    except msgspec.ValidationError as error:
        reason, _, at = str(error).partition(" - at ")
        field = at.strip("`$.").replace("_", "-")
        raise UsageError(f"--{field}: {reason.lower()}", "see loraconsole up --help") from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise UsageError(f"{path} is not TOML: {error}") from error
    known = {f.name for f in fields()}
    values = {name.replace("-", "_"): value for name, value in values.items()}
    if unknown := sorted(set(values) - known):
        raise UsageError(
            f"{path} has unknown settings: {', '.join(unknown)}",
            f"known are {', '.join(sorted(known))}",
        )
    return values
