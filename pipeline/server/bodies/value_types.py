"""Types of the values in bodies, with their bounds."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from ...adapter_name import LONGEST_NAME

Unit: TypeAlias = Annotated[float, Meta(ge=0.0, le=1.0)]

Temperature: TypeAlias = Annotated[float, Meta(ge=0.0, le=100.0)]

TopP: TypeAlias = Annotated[float, Meta(gt=0.0, le=1.0)]

TopK: TypeAlias = Annotated[int, Meta(ge=-1, le=(1 << 31) - 1)]

Penalty: TypeAlias = Annotated[float, Meta(ge=-2.0, le=2.0)]

WidePenalty: TypeAlias = Annotated[float, Meta(ge=-100.0, le=100.0)]

Repetition: TypeAlias = Annotated[float, Meta(gt=0.0, le=10.0)]

Count: TypeAlias = Annotated[int, Meta(ge=1, le=(1 << 31) - 1)]

Whole: TypeAlias = Annotated[int, Meta(ge=-(1 << 31), le=(1 << 31) - 1)]

Seed: TypeAlias = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]

MOST_TOP_LOGPROBS = 20
TopLogprobs: TypeAlias = Annotated[int, Meta(ge=0, le=MOST_TOP_LOGPROBS)]

Name: TypeAlias = Annotated[str, Meta(max_length=4096)]

ShortName: TypeAlias = Annotated[str, Meta(max_length=LONGEST_NAME)]

TokenId: TypeAlias = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]

Source: TypeAlias = Literal["local", "hub"]
