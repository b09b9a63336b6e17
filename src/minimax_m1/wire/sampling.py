"""How to choose tokens: the fields that every dialect shares, under vLLM's names.

In: a request model that inherits `Sampling`. Out: `chosen()`, those that the client set, as fields of the engine's
`SamplingParams`. A field left out takes the model's own default; the ranges are checked where the engine's are.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from minimax_m1.errors import RequestError
from minimax_m1.wire.body import Integer, Stop


class Sampling(BaseModel):
    """Sampling fields. `logit_bias` maps ids, as strings or numbers, to what is added to their logits.

    `thinking_budget` is the most tokens of a thought, which is then closed so that the answer follows.
    `expert_threshold` in (0, 1]: per token keep the fewest experts whose renormalised gate weights sum to at least it;
    1.0 is the published top-k, lower is faster. Of requests that wait, one with a lower `priority` goes first.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: Integer | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: Integer | None = None
    stop: Stop | None = None
    stop_token_ids: list[Integer] | None = None
    ignore_eos: bool | None = None
    min_tokens: Integer | None = None
    thinking_budget: Integer | None = None
    expert_threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    priority: Annotated[Integer, Field(ge=-(2**31), lt=2**31)] = 0

    def chosen(self) -> dict[str, Any]:
        """The fields that were set, null not counting, but for `priority`, which is the request's.

        Raises:
            RequestError: a key of `logit_bias` is no id.
        """
        values: dict[str, Any] = {
            name: value
            for name in Sampling.model_fields
            if name not in ("priority", "logit_bias") and (value := getattr(self, name)) is not None
        }
        if self.logit_bias is not None:
            values["logit_bias"] = {_id(key): bias for key, bias in self.logit_bias.items()}
        return values


def _id(key: str) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) < 20):
        raise RequestError(f"logit_bias maps token ids to numbers, and {key!r} is no id", param="logit_bias")
    return int(key)
