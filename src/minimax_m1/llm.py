"""`LLM`: tokenizer, model and engine in one object, for scripts, rollouts and evaluation.

In: prompts as text, ids or chat messages. Out: `RequestOutput`s with vLLM's names and shapes, so that a
script moves over by changing its import; `reasoning`, `routing` and `cached_tokens` sit beside them.
Many prompts run together on one engine. One thread uses an LLM.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import torch
from rich.console import Console
from rich.progress import Progress

from minimax_m1.engine.engine import ModelEngine
from minimax_m1.engine.request import Request, SamplingParams, TokenEvent
from minimax_m1.engine.routing import RoutingTrace
from minimax_m1.errors import RequestError
from minimax_m1.kernels.ops import Ops
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.text.chat import encode_chat
from minimax_m1.text.decoding import TextStream
from minimax_m1.text.reply import ToolCall, parse_reply
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

Message = Mapping[str, Any]
Prompt = str | Sequence[int] | Mapping[str, Any]  # {"prompt": str} or {"prompt_token_ids": [...]} as in vLLM


@dataclass(frozen=True, slots=True, kw_only=True)
class Logprob:
    """Log-probability of a token under the model's unchanged logits."""

    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionOutput:
    """One reply. `text` is all of it as written, up to a stop string.

    Beside it the same text taken apart: `reasoning`, what stood in `<think>`; `content`, the answer;
    `tool_calls`. `token_ids` holds every id made, the one that ended the reply too, and `logprobs` one
    {id: Logprob} for each. `finish_reason` is "stop" or "length"; `stop_reason` the stop string or the
    asked-for stop id that ended it, else None. `routing` is None unless asked for.
    """

    index: int = 0
    text: str
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]]
    cumulative_logprob: float
    finish_reason: str
    stop_reason: str | int | None
    reasoning: str
    content: str
    tool_calls: tuple[ToolCall, ...]
    routing: RoutingTrace | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutput:
    """One prompt and its replies; `prompt` is None where ids came in."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = True
    cached_tokens: int = 0


@dataclass(slots=True, kw_only=True)
class _Job:
    """A prompt under way: the engine's events as they come, each with the text that it makes safe to show."""

    prompt: str | None
    ids: list[int]
    params: SamplingParams
    text: TextStream
    log: list[tuple[str, TokenEvent]] = field(default_factory=list)
    piece: str = ""  # what the newest token said, between the stop rule and its event

    def stop_rule(self, token: int) -> bool:
        self.piece = self.text.push(token)
        return self.text.stopped

    def take(self, event: TokenEvent) -> None:
        piece = self.piece if event.token_id is not None else ""
        if event.finish is not None:
            piece += self.text.finish()
        self.log.append((piece, event))

    @property
    def ended(self) -> bool:
        return bool(self.log) and self.log[-1][1].finish is not None

    def output(self) -> RequestOutput:
        """The whole result; raises RequestError where the engine gave the request up."""
        last = self.log[-1][1]
        assert last.finish is not None
        if last.error is not None:
            raise RequestError(last.error)
        made = [(event.token_id, event.logprob) for _, event in self.log if event.token_id is not None]
        text = "".join(piece for piece, _ in self.log)
        parsed = parse_reply(text)
        asked = last.token_id if last.token_id in self.params.stop_token_ids else None
        reply = CompletionOutput(
            text=text,
            token_ids=[token for token, _ in made],
            logprobs=[{token: Logprob(logprob=logprob)} for token, logprob in made],
            cumulative_logprob=sum(logprob for _, logprob in made),
            finish_reason=last.finish.value,
            stop_reason=asked if self.text.stop_string is None else self.text.stop_string,
            reasoning=parsed.reasoning,
            content=parsed.content,
            tool_calls=parsed.tool_calls,
            routing=last.routing,
        )
        return RequestOutput(
            request_id=last.request_id,
            prompt=self.prompt,
            prompt_token_ids=self.ids,
            outputs=[reply],
            cached_tokens=last.cached_tokens,
        )


class LLM:
    """A model ready to answer.

    Args:
        model: "nano", a folder, or a hub id.
        tokenizer: the same, where it lies elsewhere.
        dtype: of the weights, such as "bfloat16"; "auto" keeps the checkpoint's.
        device: such as "cuda".
        max_model_len: most tokens of input and output together; None is the model's own limit.
        max_num_seqs: most requests that run at once; more wait.

    Raises:
        ModelNotFound, CheckpointError, TokenizerError: the model cannot be loaded.
        RequestError: max_model_len is beyond the model's limit.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        tokenizer: str | Path | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "cpu",
        max_model_len: int | None = None,
        max_num_seqs: int = 32,
    ) -> None:
        words = MiniMaxM1Tokenizer.from_pretrained(model if tokenizer is None else tokenizer)
        ops = Ops.fastest(torch.device(device))
        weights = MiniMaxM1ForCausalLM.from_pretrained(model, dtype=dtype, device=device, ops=ops)
        self._set_up(weights, words, max_model_len, max_num_seqs)

    @classmethod
    def of(
        cls,
        model: MiniMaxM1ForCausalLM,
        tokenizer: MiniMaxM1Tokenizer,
        *,
        max_model_len: int | None = None,
        max_num_seqs: int = 32,
    ) -> Self:
        """An LLM over a model and a tokenizer that are already in memory."""
        llm = cls.__new__(cls)
        llm._set_up(model, tokenizer, max_model_len, max_num_seqs)
        return llm

    def _set_up(
        self,
        model: MiniMaxM1ForCausalLM,
        tokenizer: MiniMaxM1Tokenizer,
        max_model_len: int | None,
        max_num_seqs: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._engine = ModelEngine(
            model,
            eos_ids={token for token in (tokenizer.eos_token_id, model.config.eos_token_id) if token is not None},
            max_model_len=model.config.max_position_embeddings if max_model_len is None else max_model_len,
            max_running=max_num_seqs,
        )
        self._jobs: dict[str, _Job] = {}
        self._count = 0

    def get_tokenizer(self) -> MiniMaxM1Tokenizer:
        """The tokenizer."""
        return self._tokenizer

    @property
    def max_model_len(self) -> int:
        """Most tokens, input and output together, that one request may use."""
        return self._engine.max_model_len

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = False,
        routing: bool = False,
        routed_experts: bool = False,
    ) -> list[RequestOutput]:
        """Continues each prompt; the results come in the order of the prompts.

        A prompt is text, a list of ids, or a mapping with `prompt` or `prompt_token_ids`. `sampling_params` is
        one for all or one for each; None is `SamplingParams()`, as in vLLM: temperature 1, 16 tokens.

        Raises:
            RequestError: a prompt cannot be served; those with it are given up too.
        """
        read = [self._read(prompt) for prompt in _listed(prompts)]
        return self._run(read, sampling_params, use_tqdm=use_tqdm, routing=routing, routed_experts=routed_experts)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        use_tqdm: bool = False,
        routing: bool = False,
        routed_experts: bool = False,
    ) -> list[RequestOutput]:
        """Answers one conversation or several, through the chat template; otherwise as `generate`."""
        one = not messages or isinstance(messages[0], Mapping)
        talks = cast("Sequence[Sequence[Message]]", [messages] if one else messages)
        ids = [self.chat_ids(talk, tools) for talk in talks]
        read = [(str(self._tokenizer.decode(each)), each) for each in ids]
        return self._run(read, sampling_params, use_tqdm=use_tqdm, routing=routing, routed_experts=routed_experts)

    def chat_ids(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> list[int]:
        """A conversation as ids, up to where the reply begins; `stream` and `generate` take them."""
        return encode_chat(self._tokenizer, messages, tools, add_generation_prompt=True)

    def stream(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        routing: bool = False,
        routed_experts: bool = False,
    ) -> Iterator[tuple[str, TokenEvent]]:
        """Continues one prompt, event by event, each with the text that it makes safe to show.

        Events with neither a token nor a finish tell how far the prompt has been read. Closing the iterator
        cancels the request. Raises RequestError as `generate` does.
        """
        [(job, request)] = self._prepare([self._read(prompt)], sampling_params, routing, routed_experts)
        told = 0
        try:
            self._submit(job, request)
            while not job.ended:
                self._step()
                for piece, event in job.log[told:]:
                    told += 1
                    if event.error is not None:
                        raise RequestError(event.error)
                    yield piece, event
        finally:
            self._forget([request])

    def _run(
        self,
        read: Sequence[tuple[str | None, list[int]]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        *,
        use_tqdm: bool,
        routing: bool,
        routed_experts: bool,
    ) -> list[RequestOutput]:
        pairs = self._prepare(read, sampling_params, routing, routed_experts)
        waiting = deque(pairs)
        with Progress(console=Console(stderr=True), disable=not use_tqdm) as progress:
            bar = progress.add_task("prompts", total=len(pairs))
            try:
                while not all(job.ended for job, _ in pairs):
                    while waiting and self._engine.capacity:
                        self._submit(*waiting.popleft())
                    self._step()
                    progress.update(bar, completed=sum(job.ended for job, _ in pairs))
            finally:
                self._forget([request for _, request in pairs])
        return [job.output() for job, _ in pairs]

    def _prepare(
        self,
        read: Sequence[tuple[str | None, list[int]]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        routing: bool,
        routed_experts: bool,
    ) -> list[tuple[_Job, Request]]:
        pairs = []
        for (prompt, ids), params in zip(read, _each(sampling_params, len(read)), strict=True):
            job = _Job(prompt=prompt, ids=ids, params=params, text=TextStream(self._tokenizer, stop=params.stop))
            request = Request(
                id=str(self._count),
                prompt=ids,
                params=params,
                stop_rule=job.stop_rule,
                routing=routing,
                routed_experts=routed_experts,
            )
            self._count += 1
            pairs.append((job, request))
        return pairs

    def _submit(self, job: _Job, request: Request) -> None:
        self._engine.submit(request)
        self._jobs[request.id] = job

    def _step(self) -> None:
        """One step of the engine; every job hears its own, so that streams may take turns."""
        for event in self._engine.step():
            if job := self._jobs.get(event.request_id):
                job.take(event)

    def _forget(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._engine.cancel(request.id)  # without effect on those that have ended
            self._jobs.pop(request.id, None)

    def _read(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        """A prompt's text, where it came as text, and its ids."""
        if isinstance(prompt, Mapping):
            if "prompt_token_ids" in prompt:
                return prompt.get("prompt"), list(prompt["prompt_token_ids"])
            if "prompt" not in prompt:
                found = sorted(map(str, prompt))
                raise RequestError(
                    f'a prompt mapping needs "prompt" or "prompt_token_ids", got {found}', param="prompt"
                )
            prompt = str(prompt["prompt"])
        if isinstance(prompt, str):
            return prompt, self._tokenizer.encode(prompt)
        return None, list(prompt)


def _listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """Prompts as a list, where one may stand alone; a list of numbers is one prompt."""
    if isinstance(prompts, str | Mapping) or (
        len(prompts) > 0 and not isinstance(prompts[0], str | Mapping | Sequence)
    ):
        return [cast(Prompt, prompts)]
    return list(cast("Sequence[Prompt]", prompts))


def _each(params: SamplingParams | Sequence[SamplingParams] | None, count: int) -> Sequence[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        raise RequestError(f"{len(params)} sampling params were given for {count} prompts", param="sampling_params")
    return params
