"""`loraconsole bench`: starts the benchmark with the address of the running pipeline."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import NoReturn

from ...pipeline.api_keys import key_pipe, read_key
from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ...pipeline.run_directory import default_run_directory
from ..client.ask import server_url, undone_by
from ..client.remote import Remote, none_runs
from ..commands.pipeline import BenchCommand
from ..supervisor.lock import is_running


def bench(command: BenchCommand) -> int:
    """Replaces this process by `pipeline/bench/bench.py`, which measures the server at --url, by
    default the pipeline in `--run`. --offline runs `engine.py` instead (the engine alone), --ablate
    `ablation.py`, which starts its own pipelines. `bench compare` runs in this process."""

    flags = list(command.flags)

    async def url(run: str) -> tuple[str, str]:
        if not is_running(Path(run)):
            raise none_runs(run)
        config = Config.load(run)
        async with Remote(config) as remote:
            table = (await remote.snapshot()).processes
            if hint := undone_by(table, run):
                raise OperatorError(f"the pipeline in {run} refuses new requests", hint)
            return await server_url(remote), config.api_key

    if flags[:1] == ["compare"]:
        from . import bench_compare

        return bench_compare.main(flags[1:])
    module = "bench"
    if "--offline" in flags:
        module = "engine"
        flags = [flag for flag in flags if flag != "--offline"]
    elif "--ablate" in flags:
        module = "ablation"
        flags = [flag for flag in flags if flag != "--ablate"]
    key = ""
    if module == "bench":
        own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        own.add_argument("--api-key", default="")
        has_server = any(flag.partition("=")[0] in ("--url", "-h", "--help") for flag in flags)
        if not has_server:
            own.add_argument("--run", default=default_run_directory())
        given, flags = own.parse_known_args(flags)
        key = read_key(given.api_key, "--api-key")
        if not has_server:
            address, own_key = asyncio.run(url(given.run))
            flags, key = [*flags, "--url", address], key or own_key
    _replace(module, flags, key)


def _replace(module: str, flags: list[str], key: str) -> NoReturn:
    """Replaces this process by the benchmark, so that it alone gets Ctrl-C. It reads `key` from a
    pipe; "" is none."""
    sys.stdout.flush()
    words = [sys.executable, "-P", "-m", f"loraconsole.pipeline.bench.{module}", *flags]
    with key_pipe(key) as (more, descriptors):
        for descriptor in descriptors:
            os.set_inheritable(descriptor, True)
        os.execv(sys.executable, [*words, *more])
