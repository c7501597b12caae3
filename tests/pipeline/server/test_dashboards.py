"""What docs/metrics.md says of /metrics, and every expression of a dashboard by a real Prometheus.

`VLLM_DASHBOARDS` names a directory with dashboards of vLLM, such as `examples/observability` of its
source distribution; without it they are not tried.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import prometheus
import pytest
from prometheus import Prometheus
from prometheus_client.parser import text_string_to_metric_families
from ring import BASE, Ring
from waiting import wait_for

pytestmark = pytest.mark.processes

DOCS = Path(__file__).parents[3] / "docs"
OWN = DOCS / "grafana.json"
OF_VLLM = os.environ.get("VLLM_DASHBOARDS")
ROW = re.compile(r"^\| `((?:vllm:|loraconsole_)\w+)` \| (\w+) \| (.*) \|$", re.M)
WITHOUT_MODEL = {"vllm:cache_config_info", "vllm:lora_requests_info", "vllm:lora_adapter_loaded"}
UNCERTAIN = "loraconsole_lora_tax_"
"""Of two medians; absent while they are too near to each other, as on a busy machine."""
needs_prometheus = pytest.mark.skipif(prometheus.BINARY is None, reason="prometheus not installed")


class Listed(NamedTuple):
    """A metric of the page."""

    name: str
    kind: str
    about: str


def listed() -> list[Listed]:
    return [Listed(*row) for row in ROW.findall((DOCS / "metrics.md").read_text())]


class Load:
    """Two clients, of the base model and of an adapter, until the end of the tests."""

    def __init__(self, url: str) -> None:
        self._ended = threading.Event()
        self._http = httpx.Client(base_url=url, timeout=60, trust_env=False)
        self._clients = [
            threading.Thread(target=self._ask_for, args=(model,)) for model in (BASE, "pirate")
        ]

    def _ask_for(self, model: str) -> None:
        body = {"model": model, "prompt": "Hello there", "max_tokens": 6, "ignore_eos": True}
        while not self._ended.is_set():
            assert self._http.post("/v1/completions", json=body).status_code == 200

    def __enter__(self) -> Load:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        for client in self._clients:
            client.join()
        self._http.close()


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    with Ring(tmp_path_factory.mktemp("dash") / "r") as ring:
        yield ring


@pytest.fixture(scope="module")
def scraped(ring: Ring, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    target = ring.url.removeprefix("http://")
    directory = tmp_path_factory.mktemp("prometheus")
    with Load(ring.url), Prometheus(directory, target) as server:
        yield server


def expose(ring: Ring) -> dict[str, Any]:
    """The families of a scrape, by their names on the page."""
    text = ring.http.get("/metrics").text
    return {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in text_string_to_metric_families(text)
        if family.samples
    }


def test_the_page_has_every_metric_and_no_other(ring: Ring) -> None:
    ring.answer("pirate", "Hello", max_tokens=4)
    pages = {row.name: row for row in listed()}
    assert len(pages) == len(listed())

    def missing() -> set[str]:
        found = expose(ring)
        assert not set(found) - set(pages), "not on the page"
        return {name for name in set(pages) - set(found) if "absent" not in pages[name].about}

    wait_for(lambda: not missing())  # the router lists an adapter's use every two seconds
    for name, family in expose(ring).items():
        row = pages[name]
        assert family.type == row.kind, name
        assert family.documentation
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        if name.startswith("vllm:") and name not in WITHOUT_MODEL:
            labels -= {"model_name", "engine"}
        if not name.startswith("loraconsole_adapter_"):
            assert {label for label in labels if f"`{label}`" not in row.about} == set(), name


def test_no_series_comes_twice(ring: Ring) -> None:
    ring.answer("sql", "Hello", max_tokens=4)
    series = [
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(ring.http.get("/metrics").text)
        for sample in family.samples
    ]
    assert len(series) == len(set(series))


def counts(ring: Ring) -> dict[str, float]:
    """The values of vLLM's counters and histograms, without labels; sums of what a third label
    divides."""
    found: dict[str, float] = {}
    for family in expose(ring).values():
        for sample in family.samples:
            if sample.name.startswith("vllm:") and not sample.name.endswith("_bucket"):
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_every_request_counts_once_with_its_tokens(ring: Ring) -> None:
    """As vLLM counts: of n choices each has a prompt, and all but the first token has a gap."""
    ring.wait_idle()
    before = counts(ring)
    body = {"prompt": [5, 6, 7], "max_tokens": 8, "ignore_eos": True, "temperature": 1, "n": 2}
    answers = 3
    for _ in range(answers):
        assert ring.http.post("/v1/completions", json=body).status_code == 200
    requests = 2 * answers
    expected = {
        "vllm:prompt_tokens_total": requests * 3,
        "vllm:generation_tokens_total": requests * 8,
        "vllm:request_success_total": requests,
        "vllm:time_to_first_token_seconds_count": requests,
        "vllm:inter_token_latency_seconds_count": requests * 7,
        "vllm:request_time_per_output_token_seconds_count": requests,
        "vllm:e2e_request_latency_seconds_count": requests,
        "vllm:request_queue_time_seconds_count": requests,
        "vllm:request_prefill_time_seconds_count": requests,
        "vllm:request_decode_time_seconds_count": requests,
        "vllm:request_inference_time_seconds_count": requests,
        "vllm:request_prompt_tokens_sum": requests * 3,
        "vllm:request_generation_tokens_sum": requests * 8,
        "vllm:request_params_max_tokens_sum": requests * 8,
        "vllm:request_params_n_count": answers,
        "vllm:request_params_n_sum": answers * 2,
        "vllm:request_max_num_generation_tokens_sum": answers * 8,
        "vllm:request_num_preemptions_count": requests,
        "vllm:request_num_preemptions_sum": 0,
        "vllm:iteration_tokens_total_sum": requests * (3 + 8),
    }

    def changed() -> dict[str, float]:
        after = counts(ring)
        return {name: after[name] - before[name] for name in expected}

    wait_for(lambda: changed()["vllm:iteration_tokens_total_sum"] == requests * 11)
    assert changed() == expected


def test_a_client_that_leaves_and_a_full_queue_are_counted(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    limits = ("--max-waiting", "1", "--max-running", "1")
    with Ring(tmp_path_factory.mktemp("full") / "r", *limits) as full:
        long = {"prompt": "Once", "max_tokens": 2000, "ignore_eos": True, "stream": True}
        short = {"prompt": "a", "max_tokens": 2}
        with (
            ThreadPoolExecutor(3) as pool,
            full.http.stream("POST", "/v1/completions", json=long) as answer,
        ):
            lines = answer.iter_lines()
            next(lines)  # it runs, one may wait
            asked = [pool.submit(full.http.post, "/v1/completions", json=short) for _ in range(3)]
            wait_for(lambda: sum(each.done() for each in asked) == 2)
        statuses = sorted(each.result().status_code for each in asked)
        assert statuses == [200, 429, 429]

        def has_left() -> bool:
            text = full.http.get("/metrics").text
            return bool(re.search(r'^vllm:request_success_total.*"abort".* 1\.0$', text, re.M))

        wait_for(has_left)
        found = counts(full)
        assert found["vllm:admission_rejections_total"] == 2
        assert found["vllm:request_success_total"] == 2, "refusals do not count"


@needs_prometheus
def test_promtool_finds_only_what_vllms_names_bring(ring: Ring) -> None:
    promtool = Path(prometheus.BINARY or "").with_name("promtool")
    text = ring.http.get("/metrics").content
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True)
    found = [
        line
        for line in (done.stdout + done.stderr).decode().splitlines()
        if "should not contain ':'" not in line
    ]
    assert found == [
        'vllm:iteration_tokens_total non-counter metrics should not have "_total" suffix'
    ]


def expressions(dashboard: Path) -> list[str]:
    """All expressions of a dashboard, with its variables filled in."""
    found: list[str] = []

    def search(part: Any) -> None:
        if isinstance(part, dict):
            if isinstance(expression := part.get("expr"), str):
                found.append(expression)
            part = list(part.values())
        for each in part if isinstance(part, list) else ():
            search(each)

    search(json.loads(dashboard.read_text()))
    periods = re.compile(r"\$__(rate_interval|interval|range)\b")
    models = re.compile(r"\$(model_name|Deployment_id)\b")
    return [
        models.sub(BASE, periods.sub("20s", expression)).replace("$instance", ".+")
        for expression in found
    ]


def without_data(server: Prometheus, wanted: list[str]) -> list[str]:
    return [expression for expression in wanted if not server.values(expression)]


@needs_prometheus
@pytest.mark.parametrize(
    "dashboard",
    [OWN, *sorted(Path(OF_VLLM).rglob("*.json"))] if OF_VLLM else [OWN],
    ids=lambda path: path.name,
)
def test_every_panel_of_a_dashboard_shows_data(scraped: Prometheus, dashboard: Path) -> None:
    wanted = [each for each in expressions(dashboard) if not each.startswith(UNCERTAIN)]
    assert wanted
    wait_for(lambda: not without_data(scraped, wanted))


@needs_prometheus
def test_dashboards_of_vllm_find_each_family_by_its_model(scraped: Prometheus) -> None:
    """What such a dashboard asks of a metric of its type."""
    model = f'{{model_name="{BASE}"}}'
    asked = {
        "counter": "sum by (model_name) (rate({name}{model}[20s]))",
        "gauge": "{name}{model}",
        "histogram": "histogram_quantile(0.9, sum by (le) (rate({name}_bucket{model}[20s])))",
    }
    wanted = [
        asked[row.kind].format(name=row.name, model=model)
        for row in listed()
        if row.name.startswith("vllm:") and row.name not in WITHOUT_MODEL
    ]
    wait_for(lambda: not without_data(scraped, wanted))
    for name in WITHOUT_MODEL:
        assert scraped.values(name)
    assert scraped.values(f"count by (model_name) ({{model_name='{BASE}'}})")
