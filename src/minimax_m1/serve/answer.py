"""Jobs become items: each is run through the engine and told piece by piece, and listed while it runs.

In: the `Job`s that `question.py` makes. Out: `Progress`, `Text`, `Thought`, `Call` and `CallDelta` as they come, at
last one `Outcome` a job.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from minimax_m1.engine.request import FinishReason, Request
from minimax_m1.serve.service import Service
from minimax_m1.serve.teller import Item, Job, Outcome, Progress, Teller, stop_rule
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.wire.errors import Fault


async def answer(
    service: Service, jobs: Sequence[Job], *, id: str, kind: str
) -> AsyncGenerator[tuple[int, Item], None]:
    """The items of all jobs as they come, each with the number of its job.

    `id` is the reply's, by which the request is listed and can be cancelled, `kind` the dialect's name.
    The first item is the first job's `Progress` 0, and it comes once the engine has taken every job;
    so a refusal is raised before anything has to be sent. Closing the generator cancels what runs.

    Raises:
        RequestError: the engine refused a job.
        Fault: the engine failed or gave a job up, or somebody cancelled the request (409).
    """
    tokenizer, registry, length = service.bridge.loaded.tokenizer, service.registry, len(jobs[0].prompt)
    tellers = [Teller(tokenizer, job) for job in jobs]
    async with service.bridge.follow([_request(tokenizer, job) for job in jobs]) as following:

        def stop() -> None:
            following.fail(Fault(409, f"the request {id} was cancelled", code="request_cancelled"))

        with registry.opened(
            id, kind, answers=len(jobs), prompt_tokens=length, stop=stop, context=jobs[0].context
        ) as entry:
            yield 0, Progress(processed=0, total=length)
            async for index, event in following:
                if event.finish is FinishReason.ABORT:
                    raise Fault(500, event.error or "the request was cancelled", code="generation_failed")
                registry.read(entry, event.prefilled_tokens, event.cached_tokens)
                if event.token_id is not None:
                    registry.wrote(entry)
                elif event.finish is None:
                    read, cached = event.prefilled_tokens, event.cached_tokens
                    yield index, Progress(processed=read, total=len(jobs[index].prompt), cached=cached)
                for piece in tellers[index].push(event):
                    yield index, piece
                if event.finish is not None:
                    end = tellers[index].outcome(event.finish, event.cached_tokens, event.routing)
                    registry.finished(entry, end.finish_reason, end.cached_tokens, end.reasoning_tokens, end.trace)
                    yield index, end


async def outcomes(items: AsyncGenerator[tuple[int, Item], None]) -> list[Outcome]:
    """Waits for the whole answers, in the order of their jobs."""
    async with aclosing(items):
        ends = {index: item async for index, item in items if isinstance(item, Outcome)}
    return [ends[index] for index in sorted(ends)]


def _request(tokenizer: MiniMaxM1Tokenizer, job: Job) -> Request:
    return Request(
        id=uuid.uuid4().hex,
        prompt=job.prompt,
        params=job.params,
        stop_rule=stop_rule(tokenizer, job.params.stop),
        guide=job.guide,
        past=job.past,
        priority=job.priority,
        routing=True,  # the metrics want it of everybody, and it costs next to nothing
        routed_experts=job.routed_experts,
    )
