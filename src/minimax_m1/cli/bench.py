"""`minimax-m1 bench`: what this machine does with one model, and how far that is from what the machine can do.

In: a model, prompt lengths and batch sizes. Out: tables, or one JSON object: prompts read, tokens written and the time
to the first token on the engine that serves, beside the rates at which this machine reads memory and multiplies
matrices. Prompts are random ids and decoding is greedy; nothing here judges what a model says.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minimax_m1.cli.options import AsJson, Device, Dtype, Quantization, print_json
from minimax_m1.errors import RequestError

if TYPE_CHECKING:
    from minimax_m1.engine.engine import ModelEngine
    from minimax_m1.model.transformer import MiniMaxM1ForCausalLM

app = typer.Typer()

_STEPS = 32  # decode steps that one figure is taken from
_MOST = 65_536  # tokens of past, all sequences together; on a CPU a larger cell of the table would take minutes
_MOST_ON_DEVICE = 2**22
_PAGE = 256  # tokens; what a sequence may need beyond its own
_QUESTION = 32  # new tokens behind a prefix that is cached


@app.command()
def bench(
    name: Annotated[str, typer.Argument(metavar="MODEL", help='"nano", a folder, or a hub id.')] = "nano",
    prompt_lengths: Annotated[str, typer.Option(help="Tokens of the prompts, with commas.")] = "512,2048,8192",
    batch: Annotated[str, typer.Option(help="Replies written side by side, with commas.")] = "1,8,32",
    dtype: Dtype = "auto",
    device: Device = "cpu",
    quantization: Quantization = None,
    repeats: Annotated[int, typer.Option(min=1, help="Each figure is the median of so many.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Measure how fast this machine runs a model, and the machine beside it."""
    from rich.console import Console
    from rich.progress import Progress

    lengths, batches = _numbers("prompt-lengths", prompt_lengths), _numbers("batch", batch)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("loading", total=3 + len(lengths) * (1 + len(batches)))

        def tell(what: str) -> None:
            bar.update(task, advance=1, description=what)

        report = measure(name, dtype, device, quantization, lengths, batches, repeats, tell)
    if as_json:
        print_json(report)
    else:
        _show(report)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds until every reply had its first token, and of a later step in which each of them got another."""

    first: float
    step: float


def together(engine: ModelEngine, prompts: Sequence[Sequence[int]], steps: int) -> Times:
    """Answers prompts side by side, greedily, and stops after `steps` steps that gave every one of them a token.

    Raises:
        RequestError: the engine has no room for all of them at once, or gave one up.
    """
    from minimax_m1.engine.request import Request, SamplingParams

    tokens = [len(prompt) + 1 + steps for prompt in prompts]
    if max(tokens) > engine.max_model_len or not fits(engine, tokens):
        raise RequestError(
            f"{len(tokens)} x {max(tokens)} tokens of prompt and reply are more than this engine has room for: at most "
            f"{engine.max_model_len} each, {engine.holdings.pages * _PAGE} together"
        )
    params = SamplingParams(temperature=0, max_tokens=engine.max_model_len, ignore_eos=True)
    began = time.perf_counter()
    for number, prompt in enumerate(prompts):
        engine.submit(Request(id=str(number), prompt=prompt, params=params))
    begun: set[str] = set()
    first, spent, done = 0.0, 0.0, 0
    while len(begun) < len(prompts) or done < steps:
        writing, at = len(begun) == len(prompts), time.perf_counter()
        events = engine.step()
        now = time.perf_counter()
        for event in events:
            if event.finish is not None:
                raise RequestError(event.error or f"a reply ended too early: {event.finish}")
        begun |= {event.request_id for event in events if event.token_id is not None}
        if writing:
            spent, done = spent + now - at, done + 1
        else:
            first = now - began
    for number in range(len(prompts)):
        engine.cancel(str(number))
    while engine.busy:
        engine.step()
    return Times(first, spent / max(done, 1))


def fits(engine: ModelEngine, tokens: Sequence[int]) -> bool:
    """Whether the engine holds sequences of so many tokens at once, so that none of them is parked."""
    return sum(-(-each // _PAGE) for each in tokens) <= engine.holdings.pages


def random_ids(vocabulary: int, length: int, seed: int) -> list[int]:
    """A prompt that nobody wrote."""
    import numpy as np

    ids: list[int] = np.random.default_rng((seed, length)).integers(0, vocabulary, length).tolist()
    return ids


def measure(
    name: str,
    dtype: str,
    device: str,
    quantization: str | None,
    lengths: Sequence[int],
    batches: Sequence[int],
    repeats: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """The whole report, ready for JSON; `tell` hears what comes next.

    Raises:
        ModelNotFound, CheckpointError, ConfigError: the model cannot be loaded.
        RequestError: a length does not fit the model, or there is no such device.
    """
    import torch

    from minimax_m1.engine.config import EngineConfig
    from minimax_m1.engine.device import usable
    from minimax_m1.engine.engine import ModelEngine
    from minimax_m1.kernels.ops import Ops
    from minimax_m1.location import locate
    from minimax_m1.model.inspect import inspect_model
    from minimax_m1.model.transformer import MiniMaxM1ForCausalLM

    where = usable(device)
    folder, ops = locate(name), Ops.fastest(where)
    known = inspect_model(folder)
    model = MiniMaxM1ForCausalLM.from_pretrained(
        folder, dtype=dtype, device=where, quantization=quantization, ops=ops, progress=False
    )
    config = EngineConfig.on(where.type, max_num_seqs=max(batches), page_size=_PAGE)
    engine, vocabulary = ModelEngine(model, eos_ids=(), config=config), model.config.vocab_size
    unmeasured = 0 if where.type == "cpu" else 1  # on a GPU each new shape compiles kernels or records a graph

    def timed(length: int, count: int, steps: int) -> list[Times]:
        """Each time with other prompts, and nothing kept of the ones before."""
        times = []
        for seed in range(unmeasured + repeats):
            engine.forget()
            prompts = [random_ids(vocabulary, length, seed * count + number) for number in range(count)]
            times.append(together(engine, prompts, steps))
        return times[unmeasured:]

    timed(8, 1, 2)  # kernels compile, or come from numba's cache, at the first call
    tell("measuring the machine")
    most, sizes = (_MOST, (2**28, 2048)) if where.type == "cpu" else (_MOST_ON_DEVICE, (2**32, 8192))
    machine = rates(*sizes, repeats, device)
    prefill = []
    for length in lengths:
        tell(f"reading {length:,} tokens")
        first = statistics.median(times.first for times in timed(length, 1, 0))
        prefill.append(
            {
                "tokens": length,
                "tokens_per_second": round(length / first, 1),
                "gflops": round(2 * known.active * length / first / 1e9, 1),
                "seconds_to_first_token": round(first, 5),
            }
        )
    decode = []
    for length in lengths:
        for count in batches:
            tell(f"writing {count} replies after {length:,} tokens")
            if length * count > most or not fits(engine, [length + 1 + _STEPS] * count):
                continue
            step = statistics.median(times.step for times in timed(length, count, _STEPS))
            decode.append(
                {
                    "past": length,
                    "batch": count,
                    "tokens_per_second": round(count / step, 1),
                    "ms_a_step": round(1000 * step, 3),
                    "gb_per_second": round(step_bytes(model, length, count) / step / 1e9, 2),
                }
            )
    tell("asking behind a cached prefix")
    prefix = random_ids(vocabulary, max(lengths), repeats)
    together(engine, [prefix], 0)
    asked = [prefix + random_ids(vocabulary, _QUESTION, seed) for seed in range(repeats)]
    cached = statistics.median(together(engine, [prompt], 0).first for prompt in asked)
    return {
        "model": name,
        "parameters": known.parameters,
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": model.config.quantization,
        "device": where.type,
        "kernels": engine.kernels,
        "torch": torch.__version__,
        "repeats": repeats,
        "machine": machine,
        "prefill": prefill,
        "decode": decode,
        "cached_prefix": {
            "tokens": len(prefix),
            "new_tokens": _QUESTION,
            "seconds_to_first_token": round(cached, 5),
        },
    }


def rates(size: int, side: int, repeats: int, device: str = "cpu") -> dict[str, Any]:
    """GB/s of reading `size` bytes, GFLOP/s of products of square matrices of `side`: the best of `repeats` each."""
    import torch

    where = torch.device(device)

    def waited() -> None:
        if where.type != "cpu":
            torch.accelerator.synchronize(where)

    def best(action: Callable[[], object]) -> float:
        seconds = []
        for _ in range(1 + repeats):  # the first one warms up
            waited()
            began = time.perf_counter()
            action()
            waited()
            seconds.append(time.perf_counter() - began)
        return min(seconds[1:])

    report: dict[str, Any] = {"threads": torch.get_num_threads()}
    if where.type == "cuda":
        report["gpu"] = torch.cuda.get_device_name(where)
    report["memory_gb_per_second"] = round(size / best(torch.rand(size // 4, device=where).sum) / 1e9, 1)
    for dtype in ("float32", "bfloat16"):
        # Not ones: a GPU multiplies what is always the same faster than anything that is real.
        square = torch.randn(side, side, device=where, dtype=getattr(torch, dtype))
        report[f"{dtype}_gflops"] = round(2 * side**3 / best(partial(torch.mm, square, square)) / 1e9, 1)
    return report


def step_bytes(model: MiniMaxM1ForCausalLM, past: int, count: int) -> float:
    """Bytes that a decode step must move: weights, of the experts as many as are met on average, and the sequences'.

    Lightning states are read and written, keys and values read; of the embedding a few rows are, which are left out.
    """
    from minimax_m1.model.checkpoint import published_views

    config, state = model.config, model.empty_state(1)
    met = 1 - (1 - config.num_experts_per_tok / config.num_local_experts) ** count
    weights = 0.0
    for name, tensor in published_views(model).items():
        if "embed_tokens" not in name or config.tie_word_embeddings:
            weights += tensor.nbytes * (met if ".experts." in name else 1)
    kept = 2 * sum(each.nbytes for each in state.lightning)
    width = 2 * config.num_key_value_heads * config.head_dim * model.lm_head.weight.element_size()
    return weights + count * (kept + past * width * len(state.softmax))


def _numbers(name: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise RequestError(f"--{name} takes numbers of at least 1 with commas between, got {text!r}", param=name)
    return numbers


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    machine, weights = report["machine"], report["quantization"] or report["dtype"]
    roof = machine["memory_gb_per_second"]
    products = machine["bfloat16_gflops" if report["dtype"] == "bfloat16" else "float32_gflops"]
    cached, cold = report["cached_prefix"], report["prefill"]

    def table(title: str, *columns: str) -> Table:
        made = Table(title=title, title_justify="left", title_style="")
        for column in columns:
            made.add_column(column, justify="right")
        return made

    reading = table("reading a prompt", "tokens", "tokens/s", "first token", "of the products' rate")
    for row in cold:
        share = row["gflops"] / products
        first = f"{row['seconds_to_first_token']:.3f} s"
        reading.add_row(f"{row['tokens']:,}", f"{row['tokens_per_second']:,.0f}", first, f"{share:.0%}")
    writing = table("writing replies", "after", "replies", "tokens/s", "a step", "of the memory's rate")
    for row in report["decode"]:
        share = row["gb_per_second"] / roof
        step = f"{row['ms_a_step']:.2f} ms"
        writing.add_row(f"{row['past']:,}", f"{row['batch']}", f"{row['tokens_per_second']:,.0f}", step, f"{share:.0%}")
    console = Console()
    parts = machine.get("gpu") or f"{machine['threads']} threads"
    console.print(
        f"{report['model']}: {report['parameters'] / 1e6:,.1f}M parameters, {weights}, kernels: {report['kernels']}\n"
        f"this machine: {parts}, reads {roof:,.1f} GB/s, multiplies matrices at "
        f"{machine['float32_gflops']:,.0f} GFLOP/s in float32 and {machine['bfloat16_gflops']:,.0f} in bfloat16",
        highlight=False,
    )
    console.print(reading, writing)
    console.print(
        f"behind a cached prefix of {cached['tokens']:,} tokens, {cached['new_tokens']} new ones get their first token "
        f"in {1000 * cached['seconds_to_first_token']:.1f} ms",
        highlight=False,
    )
