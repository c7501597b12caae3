"""What the sampling fields of all routes have in common: defaults, seeds, stop strings."""

from __future__ import annotations

import random
from typing import Any

from ...messages import SamplingParams
from ...model_files.generation_config import GenerationDefaults
from ..http.bad_request import BadRequest

MOST_STOPS = 16

MOST_STOP_CHARACTERS = 4096
"""Most characters of all stop strings of a request: each token is compared with them."""

GREEDY_BELOW = 1e-5
"""Lower temperatures count as 0: logits divided by them are not finite in float32."""


def sampling_params(
    *,
    stop: tuple[str, ...],
    defaults: GenerationDefaults,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float | None,
    **more: Any,
) -> SamplingParams:
    """`SamplingParams`; a field that the request leaves out (None) comes from `defaults`."""
    if temperature is None:
        # A request with another sampling field wants random tokens, even if the default is greedy.
        others = (top_k, top_p, min_p)
        is_greedy = defaults.do_sample is False and all(other is None for other in others)
        temperature = 0.0 if is_greedy else defaults.temperature

    def given(value: float | None, default: float | None, off: float) -> float:
        return value if value is not None else default if default is not None else off

    temperature = given(temperature, None, 1.0)
    return SamplingParams(
        temperature=0.0 if temperature < GREEDY_BELOW else temperature,
        top_k=max(0, int(given(top_k, defaults.top_k, 0))),
        top_p=given(top_p, defaults.top_p, 1.0),
        min_p=given(min_p, defaults.min_p, 0.0),
        repetition_penalty=given(repetition_penalty, defaults.repetition_penalty, 1.0),
        stop=stop + tuple(one for one in defaults.stop if one not in stop),
        **more,
    )


def make_seed(seed: int | None, choice: int = 0) -> int:
    """The seed of choice i of n; a random one if `seed` is None or -1."""
    if seed is None or seed == -1:
        return random.getrandbits(63)
    return (seed + choice) % (1 << 63)


def stop_strings(given: str | list[str] | None, field: str) -> tuple[str, ...]:
    """`stop` as a tuple. Raises `BadRequest` if a string is empty, or if there are too many strings
    or characters."""
    stop = (given,) if isinstance(given, str) else tuple(given or ())
    if len(stop) > MOST_STOPS or not all(stop):
        raise BadRequest(
            f"{field} takes up to {MOST_STOPS} strings, none of them empty", param=field
        )
    if (length := sum(map(len, stop))) > MOST_STOP_CHARACTERS:
        raise BadRequest(
            f"{field} has {length} characters; at most {MOST_STOP_CHARACTERS} in all are allowed",
            param=field,
        )
    return stop
