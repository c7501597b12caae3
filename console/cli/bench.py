"""`loraconsole bench`: hands over to the pipeline's benchmark, with the address of what runs."""

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
    """Replaces this process by `pipeline/bench/bench.py`, which drives any server; without --url
    the one of the pipeline in `--run`. With --offline by `engine.py`, the engine alone; with
    --ablate by `ablation.py`, which starts pipelines of its own. `bench compare` is done here."""

    flags = list(command.flags)

    async def url(run: str) -> tuple[str, str]:
        if not is_running(Path(run)):
            raise none_runs(run)
        config = Config.load(run)
        async with Remote(config) as remote:
            table = (await remote.snapshot()).processes
            if hint := undone_by(table, run):
                raise OperatorError(f"the pipeline in {run} admits nothing now", hint)
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
            os.environ["LORACONSOLE_BENCH_API_KEY"] = key  # not an argument, which all may read
    # It replaces this process, so that Ctrl-C reaches it alone.
    sys.stdout.flush()
    words = [sys.executable, "-P", "-m", f"loraconsole.pipeline.bench.{module}", *flags]
    os.execv(sys.executable, words)
