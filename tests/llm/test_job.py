"""Events become text and outputs, in whatever portions the engine makes them."""

from __future__ import annotations

import pytest

from minimax_m1.engine.request import FinishReason, Request, SamplingParams, TokenEvent, TokenLogprob
from minimax_m1.llm.job import Job, request_output
from minimax_m1.llm.output import Logprob
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer


def event(token: int | None = None, finish: FinishReason | None = None, **more: object) -> TokenEvent:
    return TokenEvent(request_id="7", token_id=token, finish=finish, **more)  # type: ignore[arg-type]


def run(job: Job, *events: TokenEvent, at_once: bool = False) -> None:
    """As an engine does: the stop rule hears an id before its event comes; `at_once` all of them."""
    rule = job.request.stop_rule
    assert rule is not None
    if at_once:
        for each in events:
            if each.token_id is not None:
                rule(each.token_id)
    for each in events:
        if each.token_id is not None and not at_once:
            rule(each.token_id)
        job.log.append((job.take(each), each))


@pytest.mark.parametrize("at_once", [False, True])
def test_text_follows_its_tokens(words: MiniMaxM1Tokenizer, at_once: bool) -> None:
    job = Job(Request(id="7", prompt=[1, 2]), words, prompt="the", index=2)
    ids = words.encode("old ❄ river")
    run(job, event(), *map(event, ids[:-1]), event(ids[-1], FinishReason.LENGTH), at_once=at_once)
    reply = job.output()
    assert (reply.text, reply.token_ids, reply.index) == ("old ❄ river", ids, 2)
    assert (reply.finish_reason, reply.stop_reason, reply.error) == ("length", None, None)
    assert len(job.log) == len(ids) + 1 and job.log[1][0] == "old"


def test_nothing_is_said_of_logprobs_unless_asked(words: MiniMaxM1Tokenizer) -> None:
    job = Job(Request(id="7", prompt=[1]), words)
    run(job, event(5, FinishReason.STOP, logprob=-1.0))
    reply = job.output()
    assert reply.logprobs is None and reply.cumulative_logprob is None
    assert request_output([job]).prompt_logprobs is None


def test_logprobs_hold_the_chosen_id_first_with_rank_and_text(words: MiniMaxM1Tokenizer) -> None:
    [river, snow] = words.encode("r")[0], 10**6  # the second stands for an id of a padded vocabulary
    top = (TokenLogprob(token_id=river, logprob=-2.0, rank=9), TokenLogprob(token_id=snow, logprob=-0.5, rank=1))
    job = Job(Request(id="7", prompt=[1, 2], params=SamplingParams(logprobs=1, prompt_logprobs=0)), words)
    seen = [(), (TokenLogprob(token_id=2, logprob=-3.0, rank=4),)]
    first = event(river, logprob=-2.0, top_logprobs=top, prompt_logprobs=seen)
    run(job, event(), first, event(4), event(river, FinishReason.REPETITION, logprob=-1.0, top_logprobs=top[:1]))
    reply = job.output()
    assert reply.logprobs is not None
    assert list(reply.logprobs[0].items()) == [
        (river, Logprob(logprob=-2.0, rank=9, decoded_token="r")),
        (snow, Logprob(logprob=-0.5, rank=1, decoded_token="\ufffd")),
    ]
    assert reply.logprobs[1][4].logprob == 0.0 and reply.logprobs[1][4].rank is None  # a guide forced it
    assert reply.cumulative_logprob == -3.0
    assert reply.finish_reason == "repetition"
    told = request_output([job]).prompt_logprobs
    assert told is not None and told[0] is None
    assert told[1] is not None and (told[1][2].logprob, told[1][2].rank) == (-3.0, 4)


def test_what_the_engine_gave_up_says_why_and_keeps_what_it_had(words: MiniMaxM1Tokenizer) -> None:
    job = Job(Request(id="7", prompt=[1], params=SamplingParams(stop="river!")), words)
    ids = words.encode("old river")
    run(job, *map(event, ids), event(finish=FinishReason.ABORT, error="the logits are not finite"))
    reply = job.output()
    assert (reply.text, reply.token_ids) == ("old river", ids)  # and what was held back for the stop string
    assert (reply.finish_reason, reply.error) == ("abort", "the logits are not finite")


def test_the_first_of_several_replies_speaks_for_the_prompt(words: MiniMaxM1Tokenizer) -> None:
    jobs = [Job(Request(id=f"7.{n}", prompt=[1, 2, 3]), words, prompt="the", index=n) for n in range(2)]
    for job, cached in zip(jobs, (0, 2), strict=True):
        run(job, event(5, FinishReason.LENGTH, cached_tokens=cached))
    whole = request_output(jobs)
    assert (whole.request_id, whole.prompt, whole.prompt_token_ids) == ("7.0", "the", [1, 2, 3])
    assert (whole.cached_tokens, whole.finished) == (0, True)
    assert [reply.index for reply in whole.outputs] == [0, 1]
