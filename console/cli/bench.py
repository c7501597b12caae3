"""`loraconsole bench`: starts the benchmark with the address of the running pipeline."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

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
    elif not any(flag.partition("=")[0] in ("--url", "-h", "--help") for flag in flags):
        own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        own.add_argument("--run", default=default_run_directory())
        given, flags = own.parse_known_args(flags)
        address, key = asyncio.run(url(given.run))
        flags = [*flags, "--url", address]
        if key:
            # Not an argument: every user of the machine can read those.
            os.environ["LORACONSOLE_BENCH_API_KEY"] = key
    # Replaces this process, so that only the benchmark gets Ctrl-C.
    sys.stdout.flush()
    words = [sys.executable, "-P", "-m", f"loraconsole.pipeline.bench.{module}", *flags]
    os.execv(sys.executable, words)
