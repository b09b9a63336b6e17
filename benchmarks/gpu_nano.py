"""nano from end to end on a GPU: training steps, replies alone and 256 side by side, a prompt of a million tokens.

In: a `Bench`. Out: its rows, in tokens a second. Everything runs as a user's would: `train_step` under autocast, and
the engine that serves, whose decode steps are CUDA graphs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from gpu_clock import Bench, unpoisoned

from minimax_m1.cli.bench import random_ids, together
from minimax_m1.engine.config import EngineConfig
from minimax_m1.engine.engine import ModelEngine
from minimax_m1.engine.request import Request, SamplingParams
from minimax_m1.kernels.ops import Ops
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import nano
from minimax_m1.train.document import Document
from minimax_m1.train.optimizer import adamw
from minimax_m1.train.pack import pack
from minimax_m1.train.step import train_step

RATE, BETAS, EPSILON, DECAY, CLIP = 1e-4, (0.9, 0.95), 1e-8, 0.1, 1.0


def end_to_end(bench: Bench) -> None:
    """The section."""
    with unpoisoned():
        with bench.part("same words"):
            same_words(bench)
        with bench.part("replies"):
            replies(bench)
        with bench.part("training"):
            training(bench)
        with bench.part("long prompt"):
            long_prompt(bench)


def loaded(bench: Bench, dtype: str, ops: Ops) -> MiniMaxM1ForCausalLM:
    """nano as it ships; where it is no measurement, two layers of it with random weights."""
    if bench.toy:
        shape = nano().replace(num_hidden_layers=2, attn_type_list=(0, 1), num_local_experts=4, intermediate_size=32)
        return MiniMaxM1ForCausalLM(shape, ops=ops).to(bench.device, getattr(torch, dtype))
    return MiniMaxM1ForCausalLM.from_pretrained("nano", dtype=dtype, device=bench.device, ops=ops, progress=False)


def said(bench: Bench, case: str, tokens: int, seconds: float, **more: Any) -> None:
    """Keeps a row that has no floor of its own."""
    row = {"section": bench.section, "case": case, "ms": 1e3 * seconds, "tokens_per_second": tokens / seconds, **more}
    bench.rows.append(row)
    bench.keep()
    print(f"[{bench.section}] {case}: {tokens / seconds:,.0f} tokens/s", flush=True)


def same_words(bench: Bench) -> None:
    """A graph that is replayed, over pages' and sizes' ends, says what its steps say launch by launch."""
    prompts = [random_ids(nano().vocab_size, length, length) for length in bench.pick((1, 300, 509, 1021), (1, 30))]
    model = loaded(bench, "bfloat16", Ops.triton())
    said: dict[bool, list[list[int]]] = {}
    for eager in (False, True):
        config = EngineConfig(max_num_seqs=4, prefill_tokens=8192, enforce_eager=eager, enable_prefix_caching=False)
        engine = ModelEngine(model, eos_ids=(), max_model_len=bench.pick(4096, 64), config=config)
        said[eager] = [[] for _ in prompts]
        for number, prompt in enumerate(prompts):
            params = SamplingParams(temperature=0, max_tokens=bench.pick(24, 3), ignore_eos=True)
            engine.submit(Request(id=str(number), prompt=prompt, params=params))
        while engine.busy:
            for event in engine.step():
                assert event.error is None, event.error
                if event.token_id is not None:
                    said[eager][int(event.request_id)].append(event.token_id)
    got, want = ({"ids": torch.tensor(said[eager])} for eager in (False, True))
    bench.check("nano, graphs beside launches", got, want, 1e-9)


def replies(bench: Bench) -> None:
    """Greedy replies behind prompts of 512 tokens."""
    past, steps = bench.pick(512, 9), bench.pick(64, 2)
    counts = bench.pick((1, 256), (1, 3))
    for eager in bench.pick((False, True), (False,)):
        model = loaded(bench, "bfloat16", Ops.triton())
        config = EngineConfig(
            max_num_seqs=max(counts),
            max_num_batched_tokens=8192,
            prefill_tokens=bench.pick(32_768, 64),
            enforce_eager=eager,
            enable_prefix_caching=False,
        )
        engine = ModelEngine(model, eos_ids=(), max_model_len=bench.pick(4096, 64), config=config)
        for count in counts:
            times = []
            for attempt in range(bench.pick(4, 1)):  # the first one compiles and records
                ids = [random_ids(model.config.vocab_size, past, attempt * count + n) for n in range(count)]
                times.append(together(engine, ids, steps).step)
            seconds = statistics.median(times[1:] or times)
            how = "launch by launch" if eager else "as graphs"
            said(bench, f"nano, {count} replies side by side, {how}", count, seconds)


def training(bench: Bench) -> None:
    """A step of 8 packed documents of 8,192 tokens in bf16's autocast, AdamW."""
    count, length = bench.pick(8, 2), bench.pick(8192, 12)
    for name, ops in {"triton": Ops.triton(), "torch": Ops.torch()}.items():
        with bench.part(f"training with {name}"):
            model = loaded(bench, "float32", ops)
            optimizer = adamw(model, rate=RATE, betas=BETAS, eps=EPSILON, decay=DECAY)
            data = pack([document(model.config.vocab_size, length, n) for n in range(count)], 1.0)

            def step() -> dict[str, float]:
                return train_step(
                    model,  # noqa: B023
                    optimizer,  # noqa: B023
                    data,  # noqa: B023
                    rate=RATE,
                    clip_norm=CLIP,
                    precision="bfloat16",
                    report=False,
                )

            step()
            with bench.peak() as peak:
                loss = step()["loss"]
            times = [seconds_of(step) for _ in range(bench.pick(8, 1))]
            seconds = statistics.median(times)
            case = f"nano, training, {count} documents of {length:,}, ops {name}"
            said(bench, case, count * length, seconds, loss=loss, peak_mb=peak[0] / 1e6)


def document(vocabulary: int, length: int, seed: int) -> Document:
    """A text that nobody wrote."""
    ids = random_ids(vocabulary, length, seed)
    return Document(ids=ids, said=[1] * length, positions=list(range(length)), place="")


def seconds_of(step: Any) -> float:
    """Of a call that ends with the host waiting for the card, as `train_step` does for its figures."""
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def long_prompt(bench: Bench) -> None:
    """A prompt of a million tokens until its first token."""
    length = bench.pick(2**20 - 64, 70)
    model = loaded(bench, "bfloat16", Ops.triton())
    config = EngineConfig(
        max_num_seqs=1, prefill_tokens=bench.pick(65_536, 32), enable_prefix_caching=False, max_num_batched_tokens=8192
    )
    engine = ModelEngine(model, eos_ids=(), max_model_len=bench.pick(2**20, 128), config=config)
    prompts: Sequence[int] = random_ids(model.config.vocab_size, length, 1)
    together(engine, [prompts[: bench.pick(70_000, 40)]], 0)
    seconds = together(engine, [prompts], 0).first
    said(bench, f"nano, a prompt of {length:,} tokens", length, seconds)
