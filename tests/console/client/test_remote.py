"""`Remote`: which pipelines the command line talks to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from loraconsole.console.client.remote import NotRunning, Remote
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.handover.run_lock import Lock
from loraconsole.pipeline.messages import PROTOCOL


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = Config(run=str(tmp_path))
    config.save()
    return config


@pytest.fixture
def running(config: Config) -> Iterator[None]:
    """A supervisor holds the run directory's lock."""
    lock = Lock.take(config.run_path)
    assert lock is not None
    yield
    lock.release()


def speak(config: Config, protocol: int) -> None:
    """As a loraconsole of that protocol had started the pipeline."""
    path = config.run_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"protocol": protocol}))


def test_no_pipeline_is_refused_whatever_ran_there(config: Config) -> None:
    speak(config, PROTOCOL - 1)
    with pytest.raises(NotRunning):
        Remote(config)


def test_a_pipeline_of_this_protocol_is_talked_to(config: Config, running: None) -> None:
    assert Remote(config).config == config


@pytest.mark.parametrize("protocol", [PROTOCOL - 1, PROTOCOL + 1])
def test_a_pipeline_of_another_protocol_is_refused_but_can_be_stopped(
    protocol: int, config: Config, running: None
) -> None:
    speak(config, protocol)
    with pytest.raises(OperatorError, match=f"speaks protocol {protocol}, this") as refused:
        Remote(config)
    assert "stop it with: loraconsole down" in refused.value.hint
    Remote(config, any_protocol=True)
