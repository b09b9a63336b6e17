"""What was read is not read again, whoever asks and wherever it lies: cached, parked, saved or loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minimax_m1.engine.request import FinishReason
from minimax_m1.engine.snapshot import Snapshot
from minimax_m1.errors import CheckpointError, RequestError

BROKEN, NOT_A_NUMBER = 48, 49  # see conftest.py
SYSTEM = [n % 47 for n in range(100)]

Reply = Callable[..., list[int]]


def test_an_identical_prompt_is_answered_from_where_the_first_ended(bench: Any, reply: Reply) -> None:
    desk = bench()
    desk.ask("first", range(21))
    desk.drain()
    runs = len(desk.model.runs)
    desk.ask("again", range(21), seed=3)
    told = desk.step()
    assert [(event.token_id, event.cached_tokens) for event in told] == [(reply(range(21), 1)[0], 21)]
    assert len(desk.model.runs) == runs  # its first token came without a run
    desk.drain()
    assert desk.ids("again") == desk.ids("first") == reply(range(21), 5)
    assert desk.end("first").cached_tokens == 0
    desk.at_rest()


def test_a_longer_prompt_reads_only_what_is_new(bench: Any, reply: Reply) -> None:
    desk = bench()
    desk.ask("first", range(21), 6)
    desk.drain()
    chat = [*range(21), *reply(range(21), 6), 40, 41]
    before = desk.read()
    desk.ask("next", chat)
    desk.drain()
    assert desk.ids("next") == reply(chat, 5)
    assert desk.end("next").cached_tokens == 26  # all but the last token of the reply, which was never run
    assert desk.read() - before == len(chat) - 26 + 4
    desk.at_rest()


def test_where_two_prompts_part_is_kept_for_the_third(bench: Any, reply: Reply) -> None:
    desk = bench()
    prompts = {id: [*SYSTEM, *tail] for id, tail in {"a": [1, 2, 3], "b": [4, 5], "c": [6], "d": [1, 2, 9]}.items()}
    for id, prompt in prompts.items():
        desk.ask(id, prompt)
        desk.drain()
        assert desk.ids(id) == reply(prompt, 5)
    assert [desk.end(id).cached_tokens for id in "abcd"] == [0, 0, 100, 100]
    desk.at_rest()


def test_a_checkpoint_is_kept_every_so_many_tokens(bench: Any, reply: Reply) -> None:
    desk = bench(checkpoint_every=16)
    desk.ask("a", SYSTEM[:60])
    desk.drain()
    desk.ask("b", [*SYSTEM[:40], 7, 7])
    desk.drain()
    assert desk.end("b").cached_tokens == 32
    assert desk.ids("b") == reply([*SYSTEM[:40], 7, 7], 5)


def test_eight_identical_prompts_at_once_are_read_once(bench: Any, reply: Reply) -> None:
    desk = bench(max_num_seqs=8)
    hot = {"temperature": 30.0, "logit_bias": {BROKEN: -100.0, NOT_A_NUMBER: -100.0}}
    for number in range(8):
        desk.ask(str(number), SYSTEM, 6, seed=number, **hot)
    desk.drain()
    assert [desk.end(str(number)).cached_tokens for number in range(8)] == [0] + [100] * 7
    assert desk.read() == 100 + 8 * 5
    assert len({tuple(desk.ids(str(number))) for number in range(8)}) == 8
    alone = bench()
    alone.ask("3", SYSTEM, 6, seed=3, **hot)
    alone.drain()
    assert alone.ids("3") == desk.ids("3")
    desk.at_rest()


def test_prompts_that_part_late_wait_for_what_they_share(bench: Any, reply: Reply) -> None:
    desk = bench(max_model_len=1000, prefill_tokens=64, max_num_batched_tokens=64)
    system = (SYSTEM * 5)[:450]
    prompts = {id: [*system, *[token] * 30] for id, token in {"a": 1, "b": 2, "c": 3}.items()}
    for id, prompt in prompts.items():
        desk.ask(id, prompt)
    desk.drain()
    for id, prompt in prompts.items():
        assert desk.ids(id) == reply(prompt, 5)
        assert desk.end(id).cached_tokens == (0 if id == "a" else 450)
    desk.at_rest()


@pytest.mark.parametrize("steps", [1, 5, 12, 13, 14])
def test_a_leader_that_is_cancelled_strands_nobody(bench: Any, reply: Reply, steps: int) -> None:
    desk = bench(max_num_seqs=8)
    for number in range(5):
        desk.ask(str(number), SYSTEM)
    for _ in range(steps):
        desk.step()
    desk.engine.cancel("0")
    desk.drain()
    for number in range(1, 5):
        assert desk.ids(str(number)) == reply(SYSTEM, 5)
    assert sum(desk.end(str(number)).cached_tokens for number in range(1, 5)) >= 3 * 100
    desk.at_rest()


def test_a_leader_that_fails_strands_nobody(bench: Any, reply: Reply) -> None:
    desk = bench(max_model_len=1000)
    prompt = [*(SYSTEM * 4), BROKEN]
    good = [*(SYSTEM * 4), 1, 1]
    desk.ask("leader", prompt)
    desk.ask("same", prompt)
    desk.ask("good", good)
    desk.drain()
    assert {id: desk.end(id).finish for id in ("leader", "same")} == dict.fromkeys(("leader", "same"), "abort")
    assert (desk.ids("good"), desk.end("good").cached_tokens) == (reply(good, 5), 400)
    desk.at_rest()


def test_what_was_read_with_other_experts_is_another_past(bench: Any, reply: Reply) -> None:
    desk = bench()
    for id, threshold in {"full": 1.0, "thin": 0.5, "thin again": 0.5, "full again": 1.0}.items():
        desk.ask(id, SYSTEM, expert_threshold=threshold)
        desk.drain()
        assert desk.ids(id) == reply(SYSTEM, 5, few_experts=threshold < 1)
        assert desk.end(id).cached_tokens == (100 if "again" in id else 0)


def test_whoever_is_told_about_every_token_reads_every_token(bench: Any) -> None:
    desk = bench()
    asked: dict[str, dict[str, Any]] = {"a": {}, "b": {"prompt_logprobs": 1}, "c": {"routed_experts": True}}
    for id, changes in asked.items():
        desk.ask(id, SYSTEM, **changes)
        desk.drain()
        assert desk.end(id).cached_tokens == 0
    told = [event.prompt_logprobs for event in desk.events["b"] if event.prompt_logprobs is not None]
    assert [len(each) for each in told] == [100]
    assert desk.end("c").routing.tokens == 104


def test_nothing_is_kept_where_nothing_may_be(bench: Any, reply: Reply) -> None:
    desk = bench(max_num_seqs=2, enable_prefix_caching=False)
    for id in "abcd":
        desk.ask(id, SYSTEM)
    desk.drain()
    for id in "abcd":
        assert (desk.ids(id), desk.end(id).cached_tokens) == (reply(SYSTEM, 5), 0)
    assert max(map(len, desk.model.runs)) == 2  # nor does anybody wait for what will not be there
    assert desk.engine.holdings.pages_free == desk.engine.holdings.pages


@pytest.mark.parametrize("budget", [1, 4, 204, 300, 1000])
def test_checkpoints_stay_within_their_budget(bench: Any, reply: Reply, budget: int) -> None:
    desk = bench(checkpoint_bytes=budget, checkpoint_every=16)
    for number in range(12):
        prompt = [*SYSTEM[:60], number // 2]
        desk.ask(str(number), prompt)
        for _ in range(500):
            assert desk.engine.holdings.checkpoint_bytes <= budget
            desk.step()
            if not desk.engine.busy:
                break
        assert desk.ids(str(number)) == reply(prompt, 5)
    desk.at_rest()


def test_a_pool_too_small_for_all_gives_the_same_answers(bench: Any, reply: Reply) -> None:
    desk = bench(kv_cache_bytes=14 * 32, max_model_len=None, max_num_seqs=4)  # 14 pages of 4 tokens
    prompts = {str(n): [n * 3 + 1] * (9 + n) for n in range(6)}
    for id, prompt in prompts.items():
        desk.ask(id, prompt, 20)
    parked = 0
    while desk.engine.busy:
        desk.step()
        parked = max(parked, sum(job.parked is not None for job in desk.engine._open.values()))
    assert parked > 1
    for id, prompt in prompts.items():
        assert desk.ids(id) == reply(prompt, 20)
        assert desk.end(id).cached_tokens == 0
    assert desk.read() == sum(map(len, prompts.values())) + 6 * 19  # nothing was lost
    desk.at_rest()


def test_the_urgent_overtakes_and_parks_and_nobody_is_harmed(bench: Any, reply: Reply) -> None:
    desk = bench(max_num_seqs=1)
    desk.ask("slow", range(30), 8, priority=1)
    desk.ask("later", [9], 2, priority=1)
    for _ in range(5):
        desk.step()
    desk.ask("urgent", [5, 5], 3)
    assert [event.request_id for event in desk.step()] == ["urgent"]
    ends = []
    while desk.engine.busy:
        ends += [event.request_id for event in desk.step() if event.finish]
    assert ends == ["urgent", "slow", "later"]
    assert desk.ids("slow") == reply(range(30), 8)
    assert desk.ids("urgent") == reply([5, 5], 3)
    assert desk.ids("later") == reply([9], 2)
    desk.at_rest()


def test_a_past_is_not_read_and_the_second_question_does_not_load_it_either(bench: Any, reply: Reply) -> None:
    desk = bench()
    past = desk.past(SYSTEM)
    for id in ("a", "b", "c"):
        desk.ask(id, [*SYSTEM, ord(id) % 40, 2], past=past)
    desk.drain()
    for id in ("a", "b", "c"):
        assert desk.ids(id) == reply([*SYSTEM, ord(id) % 40, 2], 5)
        assert desk.end(id).cached_tokens == 100
    assert past.loads == 1
    assert desk.read() == 3 * (2 + 4)
    desk.engine.forget()
    desk.ask("d", [*SYSTEM, 7], past=past)
    desk.drain()
    assert (desk.ids("d"), past.loads) == (reply([*SYSTEM, 7], 5), 2)
    desk.at_rest()


def test_a_past_with_fewer_experts_after_it_does_not_depend_on_what_is_cached(bench: Any) -> None:
    said = []
    for read_before in (False, True):
        desk = bench()
        if read_before:
            desk.ask("before", SYSTEM, expert_threshold=0.5)
            desk.drain()
        for id in ("a", "b"):
            desk.ask(id, [*SYSTEM, 2], past=desk.past(SYSTEM), expert_threshold=0.5)
            desk.drain()
            assert desk.end(id).cached_tokens == 100
            said.append(desk.ids(id))
    assert said[0] == said[1] == said[2] == said[3]


@pytest.mark.parametrize("error", [CheckpointError("part 2 was altered"), ZeroDivisionError("broken")])
def test_a_past_that_cannot_be_loaded_ends_its_request_alone(bench: Any, reply: Reply, error: Exception) -> None:
    desk = bench()
    past = desk.past(SYSTEM)
    past.error = error
    desk.ask("bad", [*SYSTEM, 1], past=past)
    desk.ask("good", [4, 4])
    desk.drain()
    said = str(desk.end("bad").error)
    assert said == "part 2 was altered" if isinstance(error, CheckpointError) else "ZeroDivisionError" in said
    assert desk.ids("good") == reply([4, 4], 5)
    desk.at_rest()


def test_a_past_must_begin_the_prompt_and_leave_something_to_say(bench: Any) -> None:
    desk = bench()
    past = desk.past(SYSTEM)
    for prompt in ([*SYSTEM[:99], 46, 1], SYSTEM[:50]):
        with pytest.raises(RequestError, match="does not begin with the 100 tokens"):
            desk.ask("a", prompt, past=past)
    with pytest.raises(RequestError, match="adds nothing to the 100 tokens"):
        desk.ask("a", SYSTEM, past=past)
    for changes in ({"prompt_logprobs": 0}, {"routed_experts": True}):
        with pytest.raises(RequestError, match="read whole; 100 tokens"):
            desk.ask("a", [*SYSTEM, 1], past=past, **changes)
    assert not desk.engine.busy
    desk.ask("nothing to do", SYSTEM, 0, past=past)
    desk.drain()
    assert desk.end("nothing to do").finish is FinishReason.LENGTH
    assert desk.end("nothing to do").cached_tokens == 100
    desk.at_rest()


def test_what_is_saved_while_reading_goes_on_elsewhere(bench: Any, reply: Reply) -> None:
    desk, snapshots = bench(), list[Snapshot]()
    desk.ask("before", SYSTEM)
    desk.drain()
    desk.ask("save", SYSTEM, 4, save=snapshots.append, save_every=30)
    desk.drain()
    assert desk.end("save").cached_tokens == 0  # what goes to disk was read for it
    assert [(each.start, each.stop) for each in snapshots] == [(0, 30), (30, 60), (60, 90), (90, 100)]
    assert desk.ids("save") == reply(SYSTEM, 4)
    for stop in range(1, 4):  # a reader that was killed goes on from any of them
        other, more = bench(), list[Snapshot]()
        past = other.past(SYSTEM)
        past.ids, past.snapshots = past.ids[: 30 * stop], snapshots[:stop]
        other.ask("rest", [*SYSTEM, 5], past=past, save=more.append, save_every=30)
        other.drain()
        assert other.ids("rest") == reply([*SYSTEM, 5], 5)
        assert more[0].start == 30 * stop and more[-1].stop == 101
        assert torch.equal(more[-1].lightning[0], end_of(bench, [*SYSTEM, 5]).lightning[0])
        other.at_rest()


def end_of(bench: Any, ids: Sequence[int]) -> Snapshot:
    last: Snapshot = bench().past(ids).snapshots[-1]
    return last


def test_two_extensions_of_one_past_each_save_their_own(bench: Any, reply: Reply) -> None:
    desk = bench()
    past = desk.past(SYSTEM)
    desk.ask("before", [*SYSTEM, *[ord("a") % 40] * 50])  # what it read is no part of what was saved
    desk.drain()
    saved: dict[str, list[Snapshot]] = {"a": [], "b": []}
    for id, snapshots in saved.items():
        desk.ask(id, [*SYSTEM, *[ord(id) % 40] * 50], 0, past=past, save=snapshots.append, save_every=40)
    desk.drain()
    for id, snapshots in saved.items():
        assert [(each.start, each.stop) for each in snapshots] == [(100, 120), (120, 150)]
        branch = desk.past(SYSTEM)
        prompt = [*SYSTEM, *[ord(id) % 40] * 50]
        other = bench()
        branch.ids, branch.snapshots = torch.tensor(prompt).numpy(), [*past.snapshots, *snapshots]
        other.ask("q", [*prompt, 3], past=branch)
        other.drain()
        assert other.ids("q") == reply([*prompt, 3], 5)


def test_a_save_that_raises_ends_its_request_alone(bench: Any, reply: Reply) -> None:
    def full(snapshot: Snapshot) -> None:
        raise OSError("no space left on device")

    desk = bench()
    desk.ask("bad", SYSTEM, save=full, save_every=10)
    desk.ask("good", [4, 4])
    desk.drain()
    assert "no space left" in str(desk.end("bad").error)
    assert desk.end("bad").prefilled_tokens == 10
    assert desk.ids("good") == reply([4, 4], 5)
    desk.at_rest()


Plan = list[tuple[int, int, int, int, int, int, bool, int]]


@settings(max_examples=120)
@given(
    plan=st.lists(
        st.tuples(
            st.integers(0, 30),  # arrives at this step
            st.integers(1, 60),  # prompt length
            st.integers(0, 2),  # what it begins with, and so with whom it shares
            st.integers(0, 12),  # tokens wanted
            st.integers(0, 60),  # cancelled so many steps after it came (later than its end: never)
            st.integers(0, 2),  # priority
            st.booleans(),  # with a low expert threshold
            st.integers(0, 9),  # breaks in its prompt, saves, has a past, has one that fails, reads all: else plain
        ),
        max_size=12,
    ),
    size=st.integers(1, 8),
    room=st.integers(0, 20),
    running=st.integers(1, 5),
    chunk=st.integers(1, 40),
    every=st.integers(1, 40),
    budget=st.sampled_from([0, 10, 250, 2000, 10**6]),
)
def test_whatever_comes_everyone_ends_once_rightly_and_nothing_is_left(
    bench: Any, reply: Reply, plan: Plan, size: int, room: int, running: int, chunk: int, every: int, budget: int
) -> None:
    pages = -(-75 // size) + room
    desk = bench(
        max_model_len=None,
        kv_cache_bytes=pages * size * 8,
        page_size=size,
        prefill_tokens=chunk,
        max_num_batched_tokens=-(-chunk // 2),
        max_num_seqs=running,
        checkpoint_every=every,
        checkpoint_bytes=budget,
    )
    pasts = {start: desk.past([start] * 20) for start in range(3)}
    prompts: dict[str, list[int]] = {}
    saved: dict[str, list[Snapshot]] = {}
    for number, (_, length, start, _, _, _, _, kind) in enumerate(plan):
        stem = [start] * max(20 if kind in (2, 3) else 0, length // 2)
        prompts[str(number)] = [*stem, *range(20, 20 + length // 3), number, *[BROKEN] * (kind == 0)]
    for step in range(3000):
        for number, (arrival, _, start, tokens, patience, priority, thin, kind) in enumerate(plan):
            id = str(number)
            if step == arrival:
                changes: dict[str, Any] = {"priority": priority, "expert_threshold": 0.5 if thin else 1.0}
                if kind == 1:
                    changes |= {"save": saved.setdefault(id, []).append, "save_every": 13}
                if kind in (2, 3):
                    past = pasts[start]
                    changes |= {"past": desk.past([start] * 20)} if kind == 2 else {"past": broken(past)}
                if kind == 4:
                    changes |= {"prompt_logprobs": 0}
                desk.ask(id, prompts[id], tokens, routing=True, **changes)
            if step == arrival + patience:
                desk.engine.cancel(id)
        if step > 100 and not desk.engine.busy:
            break
        desk.step()
    else:
        raise AssertionError("somebody starves")
    assert sorted(desk.events, key=int) == [str(n) for n in range(len(plan))]
    for number, (_, _, _, tokens, _, _, thin, kind) in enumerate(plan):
        id, prompt, end = str(number), prompts[str(number)], desk.end(str(number))
        if not (thin and kind == 2):  # whose past was read with all experts
            assert desk.ids(id) == reply(prompt, tokens, thin)[: len(desk.ids(id))]
        if end.finish is FinishReason.LENGTH:
            assert kind != 0 and len(desk.ids(id)) == tokens
            assert end.routing.tokens == len(prompt) + max(tokens - 1, 0) - end.cached_tokens
            assert end.cached_tokens == 0 or kind not in (1, 4)
            if id in saved:
                assert saved[id][-1].stop == len(prompt)
                assert sum(each.stop - each.start for each in saved[id]) == len(prompt)
        else:
            assert end.finish is FinishReason.ABORT
            assert end.error is None or kind in (0, 3)
        read = [event.prefilled_tokens for event in desk.events[id]]
        assert read == sorted(read)
    desk.at_rest()


def broken(past: Any) -> Any:
    past.error = CheckpointError("gone")
    return past
