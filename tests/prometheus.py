"""A real Prometheus for the tests, which scrapes a pipeline; Debian's package has the binary."""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx
from waiting import wait_for

BINARY = os.environ.get("PROMETHEUS") or shutil.which("prometheus")
"""None where it is not installed."""
CONFIG = """\
global: {{scrape_interval: 1s}}
scrape_configs:
- job_name: loraconsole
  static_configs: [{{targets: ["{target}"]}}]
"""


class Prometheus:
    """One server that scrapes `target`, HOST:PORT, every second; a context manager."""

    def __init__(self, directory: Path, target: str) -> None:
        self._directory, self._target = directory, target

    def __enter__(self) -> Prometheus:
        assert BINARY is not None
        config = self._directory / "prometheus.yml"
        config.write_text(CONFIG.format(target=self._target))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._log = (self._directory / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                BINARY,
                f"--config.file={config}",
                f"--storage.tsdb.path={self._directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False)
        wait_for(self._is_ready)
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.close()
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def _is_ready(self) -> bool:
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression at this moment. Raises `ValueError` if it is wrong."""
        reply = self._http.post("/api/v1/query", data={"query": expression}).json()
        if reply["status"] != "success":
            raise ValueError(f"{expression}: {reply['error']}")
        found: list[dict[str, Any]] = reply["data"]["result"]
        return found

    def values(self, expression: str) -> list[float]:
        """The values of an expression that are numbers: what a panel of it draws."""
        numbers = (float(series["value"][1]) for series in self.ask(expression))
        return [number for number in numbers if not math.isnan(number)]
