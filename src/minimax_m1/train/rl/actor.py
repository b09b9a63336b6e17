"""`Actor`: the engine that answers for the trainer, with weights of its own.

In: the trainer's weights, prompts, how many answers to each. Out: `Answer`s: every id, which of them the model wrote,
the log-probability that each had when it was drawn. Drawn at temperature 1 from the whole vocabulary, so that these
are the log-probabilities of the policy that answered.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from minimax_m1.config import MiniMaxM1Config
from minimax_m1.engine.config import EngineConfig
from minimax_m1.engine.engine import ModelEngine
from minimax_m1.engine.request import FinishReason, RepetitionStop, Request, SamplingParams
from minimax_m1.errors import DataError, RequestError
from minimax_m1.kernels.ops import Ops
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.text.reply import parse_reply
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.rl.environment import Environment, EnvironmentFault, Environments
from minimax_m1.train.rl.prompt import Prompt
from minimax_m1.train.rl.reward import Text
from minimax_m1.train.rl.turns import follow_up

_PERIOD = 64  # most tokens of what repeats, for the repetition stop; MiniMax-M1's own rule has no such condition
_STEP_TOKENS = 4096  # of one step of the engine: nobody waits for a stream here


@dataclass(slots=True, eq=False, kw_only=True)
class Answer:
    """One answer to a prompt, of one turn or several.

    ids: the prompt and all that followed; own: which of them the model wrote; logprobs: theirs in nats, 0 elsewhere.
    finish: why the last turn ended. added: the messages after the prompt's, for rewards; `text` where the prompt is
    plain text. fault: why it cannot be used, in one sentence. reward: what its environment says at the end.
    """

    prompt: Prompt
    group: int
    ids: list[int]
    own: list[bool]
    logprobs: list[float]
    finish: FinishReason = FinishReason.STOP
    added: list[dict[str, Any]] = field(default_factory=list)
    text: str = ""
    fault: str | None = None
    environment: Environment | None = None
    reward: float | None = None

    @property
    def completion(self) -> Text:
        """What rewards read."""
        return self.text if isinstance(self.prompt.asked, str) else self.added

    @property
    def length(self) -> int:
        """Tokens that the model wrote."""
        return sum(self.own)


class Actor:
    """Holds a copy of the weights in `precision`, float32 or bfloat16, and the engine over it."""

    def __init__(
        self,
        config: MiniMaxM1Config,
        tokenizer: MiniMaxM1Tokenizer,
        *,
        precision: torch.dtype,
        device: torch.device,
        context: int,
        max_num_seqs: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._model = MiniMaxM1ForCausalLM(config, ops=Ops.fastest(device), init=False).to(device, precision)
        self._model.eval().requires_grad_(False)
        eos_ids = {token for token in (tokenizer.eos_token_id, config.eos_token_id) if token is not None}
        self._eos_ids, self._context = eos_ids, context
        limits = EngineConfig(
            max_num_seqs=max_num_seqs,
            max_queue=2**62,
            max_num_batched_tokens=_STEP_TOKENS,
            prefill_tokens=_STEP_TOKENS,
        )
        self._engine = ModelEngine(self._model, eos_ids=eos_ids, max_model_len=context, config=limits)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Takes weights over, by their published names; what was read with older ones is forgotten."""
        self._model.load_state_dict(weights)
        self._engine.forget()

    def play(
        self,
        prompts: Sequence[Prompt],
        group: int,
        *,
        seed: str,
        max_tokens: int,
        repetition_window: int = 0,
        environments: Environments | None = None,
        turns: int = 1,
    ) -> list[Answer]:
        """`group` answers to each prompt, those of one prompt together; the same for the same seed and weights.

        `max_tokens`: most that the model writes in one answer, all turns together. An environment that fails costs its
        own conversation. Raises DataError where a prompt leaves no room for an answer.
        """
        self._engine.forget()
        for prompt in prompts:
            if len(prompt.ids) >= self._context:
                raise DataError(f"{prompt.place}: the prompt is {len(prompt.ids)} tokens, the context {self._context}")
        answers = [_begun(prompt, n, environments) for n, prompt in enumerate(prompts) for _ in range(group)]
        stop = None
        if repetition_window:
            stop = RepetitionStop(window=repetition_window, max_period=min(_PERIOD, repetition_window // 2))
        talking = {at: answer for at, answer in enumerate(answers) if answer.fault is None}
        for turn in range(turns):
            self._answer(talking, f"{seed}/{turn}", max_tokens, stop)
            last = turn + 1 == turns
            talking = {at: each for at, each in talking.items() if self._goes_on(each, max_tokens, last)}
        for answer in answers:
            _judged(answer)
        return answers

    def _answer(self, talking: Mapping[int, Answer], seed: str, max_tokens: int, stop: RepetitionStop | None) -> None:
        """One more reply in each conversation."""
        starts = {at: len(answer.ids) for at, answer in talking.items()}
        for at, answer in talking.items():
            params = SamplingParams(
                max_tokens=max_tokens - answer.length,
                seed=random.Random(f"{seed}/{at}").getrandbits(63),
                repetition_stop=stop,
            )
            self._engine.submit(Request(id=str(at), prompt=answer.ids[:], params=params))
        while self._engine.busy:
            for event in self._engine.step():
                answer = talking[int(event.request_id)]
                if event.token_id is not None:
                    assert event.logprob is not None
                    answer.ids.append(event.token_id)
                    answer.own.append(True)
                    answer.logprobs.append(event.logprob)
                if event.finish is not None:
                    answer.finish, answer.fault = event.finish, event.error
        for at, answer in talking.items():
            text = str(self._tokenizer.decode(answer.ids[starts[at] :], skip_special_tokens=True))
            answer.text += text
            if not isinstance(answer.prompt.asked, str):
                answer.added.append(_message(text))

    def _goes_on(self, answer: Answer, max_tokens: int, last: bool) -> bool:
        """Lets the environment respond, to the last reply too; whether the model is to reply once more.

        What it responds where there is no turn or no room for another reply is not added.
        """
        if answer.environment is None or answer.fault or answer.finish is not FinishReason.STOP:
            return False
        asked = answer.prompt.asked
        assert not isinstance(asked, str)
        messages = [*map(dict, asked), *answer.added]
        try:
            added = answer.environment.respond(messages)
        except EnvironmentFault as error:
            answer.fault = str(error)
            return False
        if not added or last:
            return False
        ended = answer.ids[-1] == self._tokenizer.eos_token_id
        try:
            more = follow_up(self._tokenizer, messages, added, answer.prompt.tools or None, ended=ended)
        except RequestError as error:
            answer.fault = str(error)
            return False
        if len(answer.ids) + len(more) >= self._context or answer.length >= max_tokens:
            answer.finish = FinishReason.LENGTH
            return False
        answer.added += [dict(message) for message in added]
        answer.ids += more
        answer.own += [False] * len(more)
        answer.logprobs += [0.0] * len(more)
        return True


def _begun(prompt: Prompt, group: int, environments: Environments | None) -> Answer:
    """An answer in which nothing is said yet."""
    known = len(prompt.ids)
    answer = Answer(prompt=prompt, group=group, ids=list(prompt.ids), own=[False] * known, logprobs=[0.0] * known)
    if environments is not None:
        try:
            answer.environment = environments.start(prompt.columns)
        except EnvironmentFault as error:
            answer.fault = str(error)
    return answer


def _judged(answer: Answer) -> None:
    """What its environment says of it, which then is over."""
    if answer.environment is not None:
        try:
            answer.reward = answer.environment.reward()
        except EnvironmentFault as error:
            answer.fault = answer.fault or str(error)


def _message(text: str) -> dict[str, Any]:
    """A reply as rewards read it, in OpenAI's shape; the arguments of calls as JSON text."""
    reply = parse_reply(text)
    message: dict[str, Any] = {"role": "assistant", "content": reply.content}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        message["tool_calls"] = [
            {
                "id": f"call_{number}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(reply.tool_calls, 1)
        ]
    return message
