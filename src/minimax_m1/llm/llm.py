"""`LLM`: tokenizer, model and engine in one object, for scripts, rollouts and evaluation.

In: prompts as text, ids or chat messages. Out: `RequestOutput`s with vLLM's names and shapes, so that a script moves
over by changing its import. Many prompts run together on one engine, and many callers too: threads and coroutines may
share an LLM.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

import torch

from minimax_m1.engine.config import EngineConfig
from minimax_m1.engine.context import Context
from minimax_m1.engine.defaults import defaults
from minimax_m1.engine.device import usable
from minimax_m1.engine.engine import ModelEngine
from minimax_m1.engine.request import Guide, Request, SamplingParams, TokenEvent
from minimax_m1.engine.snapshot import Snapshot
from minimax_m1.errors import RequestError
from minimax_m1.kernels.ops import Ops
from minimax_m1.llm import context as on_disk
from minimax_m1.llm.driver import Driver
from minimax_m1.llm.job import Job, request_output
from minimax_m1.llm.output import RequestOutput
from minimax_m1.llm.progress import Bar
from minimax_m1.llm.prompt import Message, Prompt, ReadPrompt, listed, one_each, read_prompt, talks
from minimax_m1.location import locate
from minimax_m1.model.fingerprint import fingerprint
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.text.chat import encode_chat
from minimax_m1.text.guide import GuideMaker
from minimax_m1.text.streaming import TextSource
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

Params = SamplingParams | Sequence[SamplingParams] | None
Tools = Sequence[Mapping[str, Any]] | None
_ANY_NUMBER = 2**62  # of waiting requests: whoever calls an LLM waits anyway


class Limits(TypedDict, total=False):
    """The fields of `EngineConfig`; `max_queue` has no limit here unless given."""

    max_num_seqs: int
    max_queue: int
    max_num_batched_tokens: int
    prefill_tokens: int
    kv_cache_bytes: int
    page_size: int
    enable_prefix_caching: bool
    checkpoint_bytes: int
    checkpoint_every: int
    enforce_eager: bool


class Options(TypedDict, total=False):
    """What every call takes beside prompts and params, as in `Request`: lower `priority` goes first."""

    priority: int
    routing: bool
    routed_experts: bool


class LLM:
    """A model ready to answer.

    Args:
        model: "nano", a folder, or a hub id.
        tokenizer: the same, where it lies elsewhere.
        dtype: of the weights, such as "bfloat16"; "auto" keeps the checkpoint's.
        device: such as "cuda" or "cuda:1"; kernels are `Ops.fastest` there.
        quantization: "int8" rounds the weights to a byte each as they are loaded; None keeps the checkpoint's.
        max_model_len: most tokens of input and output together; None is the model's own limit, or what the memory
            for keys and values holds.
        limits: fields of `EngineConfig`: max_num_seqs, max_num_batched_tokens, enable_prefix_caching, kv_cache_bytes...

    Raises:
        ModelNotFound, CheckpointError, TokenizerError: the model cannot be loaded.
        RequestError: a limit is out of its range, max_model_len beyond the model's, or there is no such device.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        tokenizer: str | Path | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "cpu",
        quantization: str | None = None,
        max_model_len: int | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        where = usable(device)
        config = _config(limits, where)
        folder = locate(model)
        vocabulary = folder if tokenizer is None else locate(tokenizer, weights=False)
        words = MiniMaxM1Tokenizer.from_pretrained(vocabulary)
        weights = MiniMaxM1ForCausalLM.from_pretrained(
            folder, dtype=dtype, device=where, quantization=quantization, ops=Ops.fastest(where)
        )
        self._set_up(weights, words, folder, vocabulary, max_model_len, config)

    @classmethod
    def of(
        cls,
        model: MiniMaxM1ForCausalLM,
        tokenizer: MiniMaxM1Tokenizer,
        *,
        folder: Path | None = None,
        max_model_len: int | None = None,
        **limits: Unpack[Limits],
    ) -> Self:
        """An LLM over a model and a tokenizer that are already in memory; `folder` says where they came from."""
        llm = cls.__new__(cls)
        llm._set_up(model, tokenizer, folder, folder, max_model_len, _config(limits, model.device))
        return llm

    def _set_up(
        self,
        model: MiniMaxM1ForCausalLM,
        tokenizer: MiniMaxM1Tokenizer,
        folder: Path | None,
        vocabulary: Path | None,
        max_model_len: int | None,
        config: EngineConfig,
    ) -> None:
        self._tokenizer = tokenizer
        self._folder, self._vocabulary = folder, vocabulary
        self._vocab_size = model.config.vocab_size
        names = (str(model.dtype).removeprefix("torch."), model.config.quantization)
        self._dtype = "+".join(name for name in names if name is not None)
        eos_ids = {token for token in (tokenizer.eos_token_id, model.config.eos_token_id) if token is not None}
        self._driver = Driver(ModelEngine(model, eos_ids=eos_ids, max_model_len=max_model_len, config=config))
        self._numbers = itertools.count()

    def get_tokenizer(self) -> MiniMaxM1Tokenizer:
        """The tokenizer."""
        return self._tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """The model's own sampling settings; vLLM's defaults for a model in memory. See `engine.defaults`."""
        return SamplingParams() if self._folder is None else defaults(self._folder, self.max_model_len)

    @property
    def max_model_len(self) -> int:
        """Most tokens, input and output together, that one request may use."""
        return self._driver.engine.max_model_len

    @property
    def dtype(self) -> str:
        """What the weights are in, by torch's name, such as "bfloat16", or "bfloat16+int8" where most are rounded."""
        return self._dtype

    @cached_property
    def fingerprint(self) -> str:
        """Which model this is, as hex; raises RequestError for a model in memory whose folder is unknown."""
        if self._folder is None:
            raise RequestError("a model in memory has no fingerprint; give LLM.of the folder that it came from")
        return fingerprint(self._folder, self._vocabulary)

    @cached_property
    def _guides(self) -> GuideMaker:
        return GuideMaker(self._tokenizer, self._vocab_size)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: Params = None,
        *,
        use_tqdm: bool = True,
        **options: Unpack[Options],
    ) -> list[RequestOutput]:
        """Continues each prompt; the results come in the order of the prompts.

        A prompt is text, a list of ids, or a mapping with `prompt` or `prompt_token_ids`, and perhaps a `past`.
        `sampling_params` is one for all or one for each; None is `SamplingParams()`, as in vLLM: temperature 1, 16
        tokens. `use_tqdm` shows a progress bar on a terminal, where there are more than a few prompts.
        A reply that the engine gives up has the finish reason "abort"; the others are whole.

        Raises:
            RequestError: a prompt or its params cannot be served; nothing has run then.
        """
        return self._run(self._jobs(self._read(prompts), sampling_params, options), use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: Params = None,
        *,
        tools: Tools = None,
        tool_choice: str | Mapping[str, Any] = "auto",
        use_tqdm: bool = True,
        **options: Unpack[Options],
    ) -> list[RequestOutput]:
        """Answers one conversation or several, through the chat template; otherwise as `generate`.

        `tool_choice` is "auto", "none", "required", the name of a tool or OpenAI's mapping with it.
        """
        return self._run(self._chat_jobs(messages, sampling_params, tools, tool_choice, options), use_tqdm)

    def chat_ids(self, messages: Sequence[Message], tools: Tools = None) -> list[int]:
        """A conversation as ids, up to where the reply begins; `stream` and `generate` take them."""
        return encode_chat(self._tokenizer, messages, tools, add_generation_prompt=True)

    def create_context(self, folder: str | Path, texts: Mapping[str, TextSource]) -> Context:
        """Reads texts, by name, into a context on disk, or goes on with one that was cut short; see `llm.context`."""
        for _ in on_disk.create(self, Path(folder), texts, created=time.time()):
            pass
        return on_disk.open_context(self, Path(folder))

    def ask(
        self, context: Context | str | Path, questions: str | Sequence[str], params: Params = None
    ) -> list[RequestOutput]:
        """Answers questions, each for itself, about a context on disk, which is not read again; as `generate`."""
        held = context if isinstance(context, Context) else on_disk.open_context(self, Path(context))
        asked = [questions] if isinstance(questions, str) else questions
        return self.generate([on_disk.question(self, held, text) for text in asked], params)

    def stream(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        save: Callable[[Snapshot], None] | None = None,
        save_every: int = 16_384,
        **options: Unpack[Options],
    ) -> Generator[tuple[str, TokenEvent]]:
        """Continues one prompt, event by event, each with the text that it makes safe to show.

        Events with neither a token nor a finish tell how far the prompt has been read. `save` and `save_every` are
        those of `Request`. Closing the iterator cancels the request.

        Raises:
            RequestError: as `generate` does, and where the engine gives the reply up.
        """
        jobs = self._one_job(prompt, sampling_params, save, save_every, options)
        with closing(self._driver.follow(jobs)) as told:
            for _, piece, event in told:
                yield piece, _whole(event)

    async def agenerate(
        self, prompts: Prompt | Sequence[Prompt], sampling_params: Params = None, **options: Unpack[Options]
    ) -> list[RequestOutput]:
        """`generate` for a coroutine; a cancelled one frees its requests at once."""
        jobs = await asyncio.to_thread(lambda: self._jobs(self._read(prompts), sampling_params, options))
        return await self._run_async(jobs)

    async def achat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: Params = None,
        *,
        tools: Tools = None,
        tool_choice: str | Mapping[str, Any] = "auto",
        **options: Unpack[Options],
    ) -> list[RequestOutput]:
        """`chat` for a coroutine."""
        jobs = await asyncio.to_thread(self._chat_jobs, messages, sampling_params, tools, tool_choice, options)
        return await self._run_async(jobs)

    async def astream(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        save: Callable[[Snapshot], None] | None = None,
        save_every: int = 16_384,
        **options: Unpack[Options],
    ) -> AsyncGenerator[tuple[str, TokenEvent]]:
        """`stream` for a coroutine; `save` is called in the engine's thread."""
        jobs = await asyncio.to_thread(self._one_job, prompt, sampling_params, save, save_every, options)
        async with aclosing(self._driver.follow_async(jobs)) as told:
            async for _, piece, event in told:
                yield piece, _whole(event)

    def _run(self, groups: Sequence[Sequence[Job]], use_tqdm: bool) -> list[RequestOutput]:
        with Bar(groups, shown=use_tqdm) as bar, closing(self._driver.follow(_flat(groups))) as told:
            for job, piece, event in told:
                job.log.append((piece, event))
                bar.hear(job, event)
        return [request_output(group) for group in groups]

    async def _run_async(self, groups: Sequence[Sequence[Job]]) -> list[RequestOutput]:
        async with aclosing(self._driver.follow_async(_flat(groups))) as told:
            async for job, piece, event in told:
                job.log.append((piece, event))
        return [request_output(group) for group in groups]

    def _read(self, prompts: Prompt | Sequence[Prompt]) -> list[ReadPrompt]:
        return [read_prompt(prompt, self._tokenizer) for prompt in listed(prompts)]

    def _chat_jobs(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: Params,
        tools: Tools,
        tool_choice: str | Mapping[str, Any],
        options: Options,
    ) -> list[list[Job]]:
        shown = None if tool_choice == "none" else tools
        ids = [self.chat_ids(talk, shown) for talk in talks(messages)]
        read = [ReadPrompt(text=str(self._tokenizer.decode(each)), ids=each) for each in ids]
        return self._jobs(read, params, options, tools=shown, tool_choice=_named_tool(tool_choice))

    def _one_job(
        self,
        prompt: Prompt,
        params: SamplingParams | None,
        save: Callable[[Snapshot], None] | None,
        save_every: int,
        options: Options,
    ) -> list[Job]:
        if params is not None and params.n > 1:
            raise RequestError(f"a stream is one reply, so n must be 1, got {params.n}", param="n")
        [jobs] = self._jobs([read_prompt(prompt, self._tokenizer)], params, options, save=save, save_every=save_every)
        return jobs

    def _jobs(
        self,
        prompts: Sequence[ReadPrompt],
        params: Params,
        options: Options,
        *,
        tools: Tools = None,
        tool_choice: str = "auto",
        save: Callable[[Snapshot], None] | None = None,
        save_every: int = 16_384,
    ) -> list[list[Job]]:
        """The `n` jobs of each prompt."""
        groups = []
        for prompt, own in zip(
            prompts, one_each(params, SamplingParams(), len(prompts), "sampling_params"), strict=True
        ):
            number = next(self._numbers)
            group = []
            for index in range(own.n):
                request = Request(
                    id=f"{number}.{index}" if index else f"{number}",
                    prompt=prompt.ids,
                    params=_nth(own, index),
                    guide=self._guide(own, tools, tool_choice),
                    past=prompt.past,
                    save=save,
                    save_every=save_every,
                    **options,
                )
                group.append(Job(request, self._tokenizer, prompt=prompt.text, index=index))
            groups.append(group)
        return groups

    def _guide(self, params: SamplingParams, tools: Tools, tool_choice: str) -> Guide | None:
        form = params.structured_outputs
        if form is None and params.thinking_budget is None and tool_choice in ("auto", "none"):
            return None
        asked: dict[str, Any] = {} if form is None else {each.name: getattr(form, each.name) for each in fields(form)}
        return self._guides.guide(**asked, tools=tools, tool_choice=tool_choice, thinking_budget=params.thinking_budget)


def _config(limits: Limits, device: torch.device) -> EngineConfig:
    whole: Limits = {"max_queue": _ANY_NUMBER, **limits}
    return EngineConfig.on(device.type, **whole)


def _nth(params: SamplingParams, index: int) -> SamplingParams:
    """The params of the reply `index`: seeds count up from the given one, and the prompt's figures are told once."""
    if index == 0:
        return params
    seed = None if params.seed is None else (params.seed + index) % 2**63
    return replace(params, seed=seed, prompt_logprobs=None)


def _named_tool(choice: str | Mapping[str, Any]) -> str:
    if isinstance(choice, str):
        return choice
    try:
        return str(choice["function"]["name"])
    except (KeyError, TypeError):
        raise RequestError(f"tool_choice names no function, got {dict(choice)!r}", param="tool_choice") from None


def _flat(groups: Iterable[Sequence[Job]]) -> list[Job]:
    return [job for group in groups for job in group]


def _whole(event: TokenEvent) -> TokenEvent:
    """The event; raises where the engine gave the reply up."""
    if event.error is not None:
        raise RequestError(event.error)
    return event
