"""`StepTimer`: the bytes that a step must read, and its estimated time without adapters.

Switched off by --no-step-times: steps then carry no device times and no byte counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from ..messages import Batch, Step
from ..model.adapter_store import AdapterStore
from ..model.batch_torch import StepRow
from .live_sequences import LiveSequence
from .lora_overhead import BaseTimes
from .step_bytes import StepBytes
from .warm_up_record import MeasuredSteps


class StepTimer:
    """Byte counts and base-model times of one rank's steps."""

    def __init__(self, copy_bytes_s: float, *, is_on: bool) -> None:
        """`copy_bytes_s`: rate of a copy within device memory, counting bytes read and written."""
        self.copy_bytes_s, self.is_on = copy_bytes_s, is_on
        self._base_times = BaseTimes(copy_bytes_s)

    def measured(self) -> MeasuredSteps:
        """All rates and step times recorded so far."""
        return self._base_times.measured()

    def restore(self, measured: MeasuredSteps) -> None:
        """Takes over the rates and step times that an earlier worker recorded."""
        self.copy_bytes_s, self._base_times = measured.copy_bytes_s, BaseTimes.of(measured)

    def forget(self) -> None:
        """Drops all recorded step times, because steps are computed differently from now on."""
        self._base_times = BaseTimes(self.copy_bytes_s)

    def learn_kv(self, count: int) -> None:
        """Learns KV's cost from the steps of `count` rows, half with little KV, half with much."""
        self._base_times.learn_kv(count)

    def count_bytes(
        self, step: Step, rows: Sequence[StepRow], num_bytes: StepBytes, store: AdapterStore
    ) -> Step:
        """The step with the bytes of weights, adapters and KV that it must read."""
        keys = {row.adapter for row in rows if row.adapter is not None}
        return msgspec.structs.replace(
            step,
            weight_bytes=num_bytes.weights(step.tokens) if rows else 0,
            adapter_bytes=sum(store[key].nbytes for key in keys),
            kv_bytes=num_bytes.kv(rows),
        )

    def compare(self, count: int, *, has_adapters: bool) -> Callable[[Step], Step]:
        """A function to call with the measured decode step of `count` rows. Without adapters it
        records the step and returns it; with adapters it returns the step with its estimated time
        without them, if that is known."""

        def take(step: Step) -> Step:
            base = self._base_times.take(
                count, step.busy_us, step.kv_bytes, step.at, has_adapters=has_adapters
            )
            if not base.steps:
                return step
            return msgspec.structs.replace(
                step,
                base_us=round(base.us),
                base_spread_us=round(base.spread_us),
                base_steps=base.steps,
                base_age_s=round(max(0.0, step.at - base.at), 1),
            )

        return take


def new_step(rank: int, batch: Batch, sequences: Sequence[LiveSequence]) -> Step:
    """A `Step` with the fields that are known before it runs."""
    admitted = [sequence.computed < sequence.admitted for sequence in sequences]
    names = {sequence.adapter for sequence in sequences if sequence.adapter}
    prompts = (row for row, has_prompt in zip(batch.rows, admitted, strict=True) if has_prompt)
    return Step(
        rank=rank,
        step=batch.step,
        at=0.0,
        phase="mixed" if len(set(admitted)) == 2 else "prefill" if any(admitted) else "decode",
        rows=len(sequences),
        tokens=sum(row.num_tokens for row in batch.rows),
        adapters=len(names),
        adapter_bytes=0,
        host_us=0,
        copy_us=0,
        launch_us=0,
        busy_us=0,
        sync_us=0,
        prompt_tokens=sum(row.num_tokens for row in prompts),
        limit=batch.limit,
    )
