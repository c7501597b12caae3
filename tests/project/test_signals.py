"""No test can end the run of all tests."""

from __future__ import annotations

import os

import pytest


@pytest.mark.parametrize("pid", [0, 1, -1])
def test_a_signal_to_more_than_one_process_is_refused(pid: int) -> None:
    """A row of a process that has not started has the pid 0, which is the group of the tests."""
    with pytest.raises(RuntimeError, match="no process of a ring"):
        os.kill(pid, 0)
    with pytest.raises(RuntimeError, match="no process of a ring"):
        os.killpg(os.getpgrp(), 0)
