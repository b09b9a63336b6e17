"""What a batch of rollouts is told as: a line on the screen, and a few of its answers for samples.jsonl.

In: figures, or groups of graded answers. Out: text, or records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.rl.collector import Group

_SHOWN = 4  # groups of which an answer is written down
_PROMPT = 500  # characters of its end that are written


def line(batch: int, figures: Mapping[str, float]) -> str:
    """A batch and the first update on it in one line."""
    if "reward" not in figures:
        return f"batch {batch}: no answer got a reward, nothing was learned"
    parts = [f"{name[7:]} {value:.3f}" for name, value in figures.items() if name.startswith("reward/")]
    learned = "" if "grad_norm" in figures else ", nothing to learn"
    agreement = f", agreement {figures['agreement']:.6f}" if "agreement" in figures else ""
    return (
        f"batch {batch}: reward {figures['reward']:.3f} ({', '.join(parts)}), "
        f"passed {figures['pass_rate']:.0%}, {figures['length']:.0f} tokens, "
        f"{figures['groups_kept']:.0f} of {figures['groups']:.0f} groups teach{learned}{agreement}"
    )


def samples(groups: Sequence[Group], tokenizer: MiniMaxM1Tokenizer) -> Iterator[dict[str, Any]]:
    """One answer of each of the first groups."""
    for group in groups[:_SHOWN]:
        for answer, reward in list(zip(group.answers, group.rewards, strict=True))[:1]:
            yield {
                "place": answer.prompt.place,
                "prompt": str(tokenizer.decode(answer.prompt.ids))[-_PROMPT:],
                "answer": str(tokenizer.decode(answer.ids[len(answer.prompt.ids) :])),
                "finish": answer.finish.value,
                "reward": reward,
            }
