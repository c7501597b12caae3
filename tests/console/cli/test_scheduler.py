"""`loraconsole scheduler`: the settings, a line each, and what is changed."""

from __future__ import annotations

import json

import pytest

from loraconsole.console.cli.scheduler import scheduler
from loraconsole.console.commands.pipeline import SchedulerCommand
from loraconsole.console.mock.server import mock_pipeline


@pytest.mark.processes
def test_the_settings_are_shown_a_line_each_and_changed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with mock_pipeline(5, boots=False) as config:
        assert scheduler(config, SchedulerCommand(run=config.run)) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "policy fcfs" and "  slo_seconds 6" in lines
        change = SchedulerCommand(run=config.run, json=True, policy="vtc_fair")
        assert scheduler(config, change) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["policy"] == "vtc_fair"
