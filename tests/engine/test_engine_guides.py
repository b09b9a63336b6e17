"""Guides in the engine: a reply keeps to its form, forced ids cost no run, and a guide that breaks harms nobody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from minimax_m1.engine.request import FinishReason, RepetitionStop
from minimax_m1.errors import RequestError

VOCAB = 50
FORM: list[set[int]] = [{3, 9, 30}, {7}, {8}, {1}, set(range(10, 20)), {11}, {12}, {2, 4}, {5}]

Reply = Callable[..., list[int]]


class Form:
    """One set of ids a place; the last place ends the reply."""

    def __init__(self, form: Sequence[set[int]] = FORM, fail_at: int = -1) -> None:
        self.form = list(form)
        self.fail_at = fail_at
        self.taken: list[int] = []

    def forced(self) -> list[int]:
        self._check()
        ids: list[int] = []
        for allowed in self.form[len(self.taken) :]:
            if len(allowed) != 1:
                break
            ids += allowed
        return ids

    def mask(self) -> NDArray[np.bool_] | None:
        self._check()
        mask = np.zeros(VOCAB, np.bool_)
        mask[list(self.form[len(self.taken)])] = True
        return mask

    def accept(self, token_id: int) -> bool:
        if token_id not in self.form[len(self.taken)]:
            raise RequestError(f"{token_id} may not come here")
        self.taken.append(token_id)
        return len(self.taken) == len(self.form)

    def _check(self) -> None:
        if len(self.taken) == self.fail_at:
            raise RuntimeError("the guide is lost")


def test_a_reply_keeps_to_its_form_and_forced_ids_cost_no_run(bench: Any) -> None:
    said, runs = {}, {}
    for id, changes in {"skips": {}, "asks": {"logprobs": 0}}.items():
        desk = bench()
        desk.ask(id, range(9), 50, guide=Form(), **changes)
        desk.ask("other", range(30, 35), 12)
        events = desk.drain()[id]
        said[id] = desk.ids(id)
        assert all(token in allowed for token, allowed in zip(said[id], FORM, strict=True))
        assert desk.end(id).finish is FinishReason.STOP
        known = [event.logprob is not None for event in events if event.token_id is not None]
        assert known == ([True, False, False, False, True, False, False, True, False] if id == "skips" else [True] * 9)
        runs[id] = sum(len(run) for run in desk.model.runs)
        desk.at_rest()
    assert said["skips"] == said["asks"]
    assert runs["asks"] - runs["skips"] == 6  # one a forced id


def test_forced_ids_are_told_at_once_and_take_new_pages_together(bench: Any, reply: Reply) -> None:
    desk = bench(page_size=2)
    form = [{4}, *({5} for _ in range(20)), set(range(48)), set(range(48))]
    desk.ask("a", [1, 2], 50, guide=Form(form))
    assert [event.token_id for event in desk.step()] == [4] + [5] * 20
    desk.drain()
    said = [1, 2, 4, *[5] * 20]
    assert desk.ids("a")[21:] == reply(said, 2)
    assert desk.model.runs == [[2], [21], [1]]
    desk.ask("next", [*said, 9])  # what was forced was read, and what was read is kept
    desk.drain()
    assert desk.ids("next") == reply([*said, 9], 5)
    desk.at_rest()


def test_forced_ids_wait_for_room_like_any_others(bench: Any, reply: Reply) -> None:
    desk = bench(kv_cache_bytes=10 * 32, max_model_len=None, enable_prefix_caching=False)  # 40 tokens
    desk.ask("first", range(10), 16)
    desk.ask("forced", [1, 2], 30, guide=Form([{4}, *({5} for _ in range(20)), set(range(48)), set(range(48))]))
    desk.drain()
    assert desk.ids("first") == reply(range(10), 16)
    assert desk.ids("forced")[21:] == reply([1, 2, 4, *[5] * 20], 2)
    desk.at_rest()


def test_limits_stop_rules_and_loops_end_a_reply_amid_forced_ids(bench: Any) -> None:
    for tokens, changes, count, finish in (
        (3, {}, 3, FinishReason.LENGTH),
        (50, {"stop_rule": lambda token: token == 8}, 3, FinishReason.STOP),
        (50, {"stop_token_ids": [7]}, 2, FinishReason.STOP),
    ):
        desk = bench()
        desk.ask("a", range(9), tokens, guide=Form(), **changes)
        desk.drain()
        assert (len(desk.ids("a")), desk.end("a").finish) == (count, finish)
        desk.at_rest()
    desk = bench()
    rule = RepetitionStop(window=6, probability=0.0, max_period=1)
    desk.ask("a", [1], 50, guide=Form([{5}] * 30), repetition_stop=rule)
    desk.drain()
    assert (len(desk.ids("a")), desk.end("a").finish) == (6, FinishReason.REPETITION)


class Unruly(Form):
    """Its mask is what it is given."""

    def __init__(self, given: NDArray[np.bool_]) -> None:
        super().__init__()
        self.given = given

    def mask(self) -> NDArray[np.bool_] | None:
        return self.given


@pytest.mark.parametrize(
    ("guide", "words"),
    [
        (Form(fail_at=0), "the guide is lost"),
        (Form(fail_at=1), "the guide is lost"),
        (Form(fail_at=4), "the guide is lost"),
        (Form([{3}, set()]), "allows no next token"),
        (Unruly(np.ones(VOCAB, np.bool_)), "may not come here"),
        (Unruly(np.ones(VOCAB + 1, np.bool_)), "AssertionError"),
    ],
)
def test_a_guide_that_breaks_ends_its_request_alone(bench: Any, reply: Reply, guide: Form, words: str) -> None:
    desk = bench()
    desk.ask("good", [1], 10)
    desk.ask("bad", range(9), 50, guide=guide)
    desk.drain()
    assert desk.end("bad").finish is FinishReason.ABORT
    assert words in str(desk.end("bad").error)
    assert desk.ids("good") == reply([1], 10)
    desk.at_rest()


def test_a_guide_that_does_not_care_changes_nothing(bench: Any, reply: Reply) -> None:
    class Free(Form):
        def mask(self) -> NDArray[np.bool_] | None:
            return None

    desk = bench()
    desk.ask("a", range(9), 9, guide=Free([set(range(VOCAB))] * 20))
    desk.drain()
    assert desk.ids("a") == reply(range(9), 9)
