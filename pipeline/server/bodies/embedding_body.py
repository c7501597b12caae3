"""The body of OpenAI's /v1/embeddings."""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

from ...messages import SamplingParams
from ..http.bad_request import BadRequest
from . import embedding_fields
from .field_table import Table
from .model_body import ModelBody
from .openai_bodies import several_prompts
from .value_types import Count, TokenId

Pooling: TypeAlias = Literal["last", "mean"]


class EmbeddingBody(ModelBody, frozen=True, kw_only=True):
    """POST /v1/embeddings"""

    table: ClassVar[Table] = embedding_fields.EMBEDDINGS

    input: str | list[str | TokenId | list[TokenId]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Count | None = None
    pooling: Pooling | None = None
    normalize: bool | None = None
    use_activation: bool | None = None
    truncate_prompt_tokens: Count | None = None
    add_special_tokens: bool | None = None

    def check(self, hidden_size: int) -> None:
        """Raises `BadRequest` for a vector that the model does not make."""
        if self.dimensions not in (None, hidden_size):
            raise BadRequest(
                f"dimensions: this model's vectors have {hidden_size}, and their first numbers "
                "alone say little: it was not trained for that",
                param="dimensions",
            )

    def inputs(self) -> list[str] | list[list[int]]:
        """The inputs, as texts or as token ids. Raises `BadRequest` on none or a mixture."""
        return several_prompts(self.input, "input")

    def params(self, pooling: Pooling) -> SamplingParams:
        """The parameters; `pooling` is the operator's default. No token is sampled."""
        is_unit = self.normalize if self.use_activation is None else self.use_activation
        return SamplingParams(
            max_tokens=0,
            temperature=0.0,
            prompt_logprobs=0,
            pooling=self.pooling or pooling,
            unit_state=is_unit is not False,
        )
