"""A reward: one short sentence about what was asked."""

import re


def reward(prompts, completions, subject, **columns):
    scores = []
    for completion, wanted in zip(completions, subject, strict=True):
        text = completion[-1]["content"]
        words = re.findall(r"[a-z]+", text.lower())
        scores.append(0.5 * (wanted in words) + 0.5 * (text.endswith(".") and 4 <= len(words) <= 6))
    return scores
