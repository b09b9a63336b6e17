"""A soak: mixed requests on one engine for minutes, each answer compared with the same request run alone.

    python benchmarks/soak.py [--minutes 10] [--requests 240] [--at-once 24] [--seed 0] [--record]

Short and long prompts, seeded and greedy ones, shared prefixes, n, stop strings, penalties, log-probabilities, forms,
tools, thinking budgets, expert thresholds, questions to a context on disk; one in eight is left halfway, one in ten is
invalid. The engine has room for a fraction of what is asked of it, so sequences are parked and cached prefixes thrown
away all the time. Ends with 1 unless every answer is equal, nothing is held and memory is flat.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from minimax_m1.engine.request import RepetitionStop, SamplingParams, StructuredOutputsParams
from minimax_m1.errors import RequestError
from minimax_m1.llm import LLM
from minimax_m1.llm import context as on_disk
from minimax_m1.tasks import addition, recall, talk, tools
from minimax_m1.tasks.example import Example, prompt_of

GREEDY = SamplingParams(temperature=0, max_tokens=96)
FORMS = (
    StructuredOutputsParams(regex=r"[0-9]{1,6}"),
    StructuredOutputsParams(choice=["yes", "no", "perhaps"]),
    StructuredOutputsParams(
        json={
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 12}, "count": {"type": "integer", "maximum": 99}},
            "required": ["name", "count"],
            "additionalProperties": False,
        }
    ),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request, and what it must answer; `error` is a part of the sentence that refuses an invalid one."""

    kind: str
    prompt: Any
    params: SamplingParams = GREEDY
    options: dict[str, Any] = field(default_factory=dict)
    tools: dict[str, Any] | None = None
    messages: list[Any] | None = None
    error: str | None = None


def cases(llm: LLM, rng: random.Random, count: int, context: Any) -> list[Case]:
    """Requests of every kind, in random order."""
    shared = [
        {"role": "system", "content": "Keep to the facts. " + "The sky is blue and the grass is green. " * 90},
        *_first(recall.sample(rng, 7)),
    ]
    makers: list[Callable[[], Case]] = [
        lambda: _case(llm, "short", _first(addition.sample(rng, 8))),
        lambda: _case(llm, "talk", _first(talk.sample(rng, 5))),
        lambda: _case(llm, "tools", _first(example := tools.sample(rng, 6)), tools=list(example.tools)),
        lambda: _case(llm, "long", _first(recall.needle(rng, rng.randint(4_000, 40_000), rng.random()))),
        lambda: _case(llm, "shared", [*shared[:-1], {"role": "user", "content": f"{rng.randint(10, 99)} + 12"}]),
        lambda: _case(
            llm, "shared", [shared[0], {"role": "user", "content": rng.choice(["Hello", "Thanks", "7 + 8"])}]
        ),
        lambda: _case(llm, "seeded", _first(talk.sample(rng, 9)), temperature=1.2, seed=rng.randrange(2**32)),
        lambda: _case(
            llm,
            "sampled",
            _first(addition.sample(rng, 9)),
            temperature=0.9,
            top_p=0.9,
            top_k=40,
            min_p=0.01,
            seed=rng.randrange(2**32),
            n=3,
        ),
        lambda: _case(
            llm,
            "penalised",
            _first(talk.sample(rng, 6)),
            repetition_penalty=1.1,
            presence_penalty=0.5,
            frequency_penalty=0.2,
            logit_bias={rng.randrange(500): -5.0},
        ),
        lambda: _case(llm, "stopped", _first(addition.sample(rng, 8)), stop=["=", "</think>"]),
        lambda: _case(llm, "logprobs", _first(addition.sample(rng, 5)), logprobs=5, prompt_logprobs=2),
        lambda: _case(llm, "budget", _first(addition.sample(rng, 9)), thinking_budget=rng.randint(0, 12)),
        lambda: _case(llm, "form", _first(talk.sample(rng, 3)), structured_outputs=rng.choice(FORMS)),
        lambda: _case(llm, "thin", _first(recall.sample(rng, 6)), expert_threshold=rng.choice([0.5, 0.8])),
        lambda: _case(
            llm,
            "loop",
            _first(talk.sample(rng, 3)),
            ignore_eos=True,
            repetition_stop=RepetitionStop(window=64, max_period=16),
        ),
        lambda: Case(
            kind="context", prompt=on_disk.question(llm, context, f"{rng.randint(1, 9)} + {rng.randint(1, 9)}")
        ),
        lambda: rng.choice(
            [
                Case(kind="invalid", prompt=[], error="empty"),
                Case(kind="invalid", prompt=[1, 2, 10**6], error="outside"),
                Case(kind="invalid", prompt=[1] * (llm.max_model_len + 1), error="context window"),
                Case(kind="invalid", prompt=[1], params=replace(GREEDY, logit_bias={999: 1.0}), error="logit_bias"),
                Case(
                    kind="invalid",
                    prompt=[1],
                    params=replace(GREEDY, structured_outputs=StructuredOutputsParams(regex="(")),
                    error="",
                ),
            ]
        ),
    ]
    made = [makers[number % len(makers)]() for number in range(count)]
    rng.shuffle(made)
    return made


def _first(example: Example) -> list[Any]:
    """The conversation up to the first reply that is asked for."""
    return list(prompt_of(example, example.turns[0]))


def _case(llm: LLM, kind: str, messages: Any, *, tools: Any = None, **changes: Any) -> Case:
    return Case(
        kind=kind, prompt={"prompt_token_ids": llm.chat_ids(list(messages), tools)}, params=replace(GREEDY, **changes)
    )


def answer(llm: LLM, case: Case) -> list[Any]:
    """What a request gets alone."""
    [output] = llm.generate([case.prompt], case.params, use_tqdm=False)
    return [(reply.finish_reason, reply.token_ids, reply.text) for reply in output.outputs]


async def soak(llm: LLM, made: list[Case], alone: list[Any], args: argparse.Namespace) -> dict[str, Any]:
    """Runs cases for the given time, so many at once; counts what happened."""
    rng, end = random.Random(args.seed + 1), time.monotonic() + 60 * args.minutes
    counts: Counter[str] = Counter()
    wrong: list[dict[str, Any]] = []
    order: list[int] = []
    tokens = [0, 0, 0]  # read, of them cached, made

    async def one(number: int) -> None:
        case = made[number]
        if case.error is not None:
            try:
                await llm.agenerate([case.prompt], case.params)
                wrong.append({"kind": case.kind, "said": "nothing"})
            except RequestError as error:
                counts["refused"] += 1
                if case.error not in str(error):
                    wrong.append({"kind": case.kind, "said": str(error)})
            return
        if rng.random() < 0.125 and case.params.n == 1:
            left = rng.randint(0, 40)
            async for _ in llm.astream(case.prompt, case.params):
                left -= 1
                if left < 0:
                    break
            counts["left halfway"] += 1
            return
        [output] = await llm.agenerate([case.prompt], case.params, priority=rng.choice([0, 0, 0, 1]))
        got = [(reply.finish_reason, reply.token_ids, reply.text) for reply in output.outputs]
        counts[case.kind] += 1
        tokens[0] += len(output.prompt_token_ids)
        tokens[1] += output.cached_tokens
        tokens[2] += sum(len(ids) for _, ids, _ in got)
        if got != alone[number]:
            place = next(
                (n for n, (a, b) in enumerate(zip(got[0][1], alone[number][0][1], strict=False)) if a != b), -1
            )
            wrong.append(
                {"kind": case.kind, "case": number, "place": place, "got": got[0][2], "alone": alone[number][0][2]}
            )

    async def worker() -> None:
        while time.monotonic() < end or order:
            if not order:
                order.extend(rng.sample(range(len(made)), len(made)))
            if time.monotonic() >= end:
                return
            await one(order.pop())

    memory: list[float] = []

    async def watch() -> None:
        while True:
            memory.append(_resident())
            await asyncio.sleep(max(1.0, args.minutes))

    watcher = asyncio.create_task(watch())
    await asyncio.gather(*(worker() for _ in range(args.at_once)))
    watcher.cancel()
    return {"counts": dict(counts), "wrong": wrong, "tokens": tokens, "memory_mb": memory}


def _resident() -> float:
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--requests", type=int, default=240, help="different ones; they come again until time is up")
    parser.add_argument("--at-once", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="append to results.jsonl")
    args = parser.parse_args()

    quiet = LLM("nano", max_num_seqs=1, enable_prefix_caching=False, max_model_len=65_536)
    # Room for 98,304 tokens of keys and values and some 140 checkpoints, with up to 24 requests of up to 40,000 tokens.
    llm = LLM("nano", max_num_seqs=12, max_model_len=65_536, kv_cache_bytes=48 * 2**20, checkpoint_bytes=32 * 2**20)
    with tempfile.TemporaryDirectory() as folder:
        book = "The old farmer walked to the river. The code of zorvin is 4821. " + "The sky is blue. " * 3000
        for _ in on_disk.create(quiet, Path(folder) / "book.ctx", {"book": book}, created=time.time()):
            pass
        context = on_disk.open_context(llm, Path(folder) / "book.ctx")
        made = cases(quiet, random.Random(args.seed), args.requests, context)
        began = time.monotonic()
        alone = [None if case.error is not None else answer(quiet, case) for case in made]
        print(f"{len(made)} requests alone: {time.monotonic() - began:.0f} s", flush=True)
        result = asyncio.run(soak(llm, made, alone, args))
    engine: Any = llm._driver.engine
    held = engine.holdings
    engine.forget()
    after = engine.holdings
    third = len(result["memory_mb"]) // 3
    flat = not third or max(result["memory_mb"][-third:]) <= 1.03 * max(result["memory_mb"][third : 2 * third])
    clean = (after.running, after.waiting, after.checkpoints, after.pages_free) == (0, 0, 0, after.pages)
    report = {
        "benchmark": "soak",
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "minutes": args.minutes,
        "requests": sum(result["counts"].values()),
        **result,
        "held_at_the_end": repr(held),
        "nothing_held_after_forget": clean,
        "memory_is_flat": flat,
    }
    print(json.dumps(report, indent=2, ensure_ascii=False))
    if args.record:
        with (Path(__file__).parent / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(report) + "\n")
    sys.exit(0 if clean and flat and not result["wrong"] else 1)


if __name__ == "__main__":
    main()
