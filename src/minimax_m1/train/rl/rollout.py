"""`RolloutBatch`: answers as the loss reads them; what crosses from the engine to the trainer.

In: sequences of ids, which of them the model wrote, the sampler's log-probs, groups and advantages. Out: the same,
split into the batches of optimizer steps and of passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutBatch:
    """N sequences packed into T tokens, each a prompt and all that followed it.

    ids [T] int64; own [T] bool: what the model wrote, the end of its turn too; logprobs [T] float32: the sampler's, in
    nats, 0 where the token is not the model's own; lengths [N] int64, the tokens of each sequence; groups [N] int64,
    which prompt it answers; advantages [N] float32. A sequence begins with its prompt and has a token of the
    model's own.
    """

    ids: Tensor
    own: Tensor
    logprobs: Tensor
    lengths: Tensor
    groups: Tensor
    advantages: Tensor

    def __post_init__(self) -> None:
        tokens, sequences = int(self.lengths.sum()), len(self.lengths)
        assert len(self.ids) == len(self.own) == len(self.logprobs) == tokens
        assert len(self.groups) == len(self.advantages) == sequences
        assert all(own.any() and not own[0] for own in self.own.split(self.lengths.tolist()))

    def __len__(self) -> int:
        return len(self.lengths)

    def at(self, sequences: Sequence[int]) -> Self:
        """These sequences, in this order."""
        per_token = [tensor.split(self.lengths.tolist()) for tensor in (self.ids, self.own, self.logprobs)]
        chosen = torch.tensor(sequences, dtype=torch.int64)
        ids, own, logprobs = (torch.cat([parts[n] for n in sequences]) for parts in per_token)
        return type(self)(
            ids=ids,
            own=own,
            logprobs=logprobs,
            lengths=self.lengths[chosen],
            groups=self.groups[chosen],
            advantages=self.advantages[chosen],
        )

    def updates(self, count: int) -> list[Self]:
        """One batch for each of `count` optimizer steps, or fewer where there are fewer groups, which stay whole."""
        groups = list(dict.fromkeys(self.groups.tolist()))
        members: dict[int, list[int]] = {group: [] for group in groups}
        for sequence, group in enumerate(self.groups.tolist()):
            members[group].append(sequence)
        shares = [groups[first::count] for first in range(min(count, len(groups)))]
        return [self.at([sequence for group in share for sequence in members[group]]) for share in shares]

    def passes(self, most: int) -> Iterator[Self]:
        """Parts of at most `most` tokens, or of one longer sequence, for one forward and backward pass each."""
        part: list[int] = []
        tokens = 0
        for sequence, length in enumerate(self.lengths.tolist()):
            if part and tokens + length > most:
                yield self.at(part)
                part, tokens = [], 0
            part.append(sequence)
            tokens += length
        yield self.at(part)

    def prompts(self) -> list[int]:
        """For each sequence the tokens before the first of the model's own."""
        return [int(own.int().argmax()) for own in self.own.split(self.lengths.tolist())]

    def state(self) -> dict[str, Tensor]:
        """Its tensors by name, to be saved."""
        return {f.name: getattr(self, f.name) for f in fields(self)}
