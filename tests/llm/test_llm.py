"""`LLM`: vLLM's names over our engine, with a small random model and a small real tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minimax_m1.engine.config import EngineConfig
from minimax_m1.engine.request import FinishReason, Request, SamplingParams, StructuredOutputsParams
from minimax_m1.engine.scripted import ScriptedEngine
from minimax_m1.engine.snapshot import Snapshot
from minimax_m1.errors import CheckpointError, ContextLengthExceeded, ModelNotFound, RequestError, ServerBusy
from minimax_m1.llm import LLM
from minimax_m1.llm.llm import Limits
from minimax_m1.model.fingerprint import fingerprint
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny
from minimax_m1.text.chat import encode_chat
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=12)
TALK = [{"role": "user", "content": "Hello"}]
TWO = {"type": "object", "properties": {"a": {"enum": [2]}}, "required": ["a"], "additionalProperties": False}
TOOL = {"name": "add_two", "description": "Adds.", "parameters": TWO}


def tiny_model(words: MiniMaxM1Tokenizer) -> MiniMaxM1ForCausalLM:
    torch.manual_seed(11)
    return MiniMaxM1ForCausalLM(tiny().replace(vocab_size=words.vocab_size)).eval()


def test_one_prompt_has_vllms_shape(llm: LLM) -> None:
    [result] = llm.generate("the river", GREEDY)
    tokenizer = llm.get_tokenizer()
    assert result.prompt == "the river"
    assert result.prompt_token_ids == tokenizer.encode("the river")
    assert result.finished
    [reply] = result.outputs
    assert (reply.index, reply.finish_reason) == (0, "length")
    assert len(reply.token_ids) == 12
    assert reply.text == tokenizer.decode(reply.token_ids, skip_special_tokens=True)
    assert reply.routing is reply.logprobs is reply.cumulative_logprob is result.prompt_logprobs is None


def test_every_kind_of_prompt_gives_the_same_reply(llm: LLM) -> None:
    ids = llm.get_tokenizer().encode("the river")
    kinds: list[Any] = ["the river", ["the river"], ids, [ids], {"prompt": "the river"}, [{"prompt_token_ids": ids}]]
    replies = [llm.generate(kind, GREEDY)[0].outputs[0].token_ids for kind in kinds]
    assert all(reply == replies[0] for reply in replies)
    assert llm.generate([], GREEDY) == []


def test_many_prompts_come_back_in_order_each_with_its_params(llm: LLM) -> None:
    prompts = ["the", "old farmer", "river river river", "to", "a", "b", "c", "walked"]
    params = [SamplingParams(temperature=0, max_tokens=8 - n) for n in range(8)]
    together = llm.generate(prompts, params)
    assert [result.prompt for result in together] == prompts
    for prompt, own, result in zip(prompts, params, together, strict=True):
        assert result.outputs[0].token_ids == llm.generate(prompt, own)[0].outputs[0].token_ids
        assert len(result.outputs[0].token_ids) == own.max_tokens
    with pytest.raises(RequestError, match="2 sampling params were given for 1 prompts"):
        llm.generate("the", params[:2])


def test_no_params_means_vllms_defaults(llm: LLM) -> None:
    assert len(llm.generate("the")[0].outputs[0].token_ids) <= 16


def test_a_stop_string_ends_the_text_before_it(llm: LLM) -> None:
    whole = llm.generate("the river", SamplingParams(temperature=0, max_tokens=40))[0].outputs[0].text
    stop = next(whole[n : n + 2] for n in range(4, len(whole)) if "\ufffd" not in whole[n : n + 2])
    [reply] = llm.generate("the river", SamplingParams(temperature=0, max_tokens=40, stop=stop))[0].outputs
    assert reply.text == whole[: whole.index(stop)]
    assert (reply.finish_reason, reply.stop_reason) == ("stop", stop)
    third = reply.token_ids[2]
    [reply] = llm.generate("the river", SamplingParams(temperature=0, stop_token_ids=[third]))[0].outputs
    assert (reply.finish_reason, reply.stop_reason, reply.token_ids[-1]) == ("stop", third, third)


def test_the_stream_is_the_reply_in_pieces(llm: LLM) -> None:
    [reply] = llm.generate("the river", GREEDY)[0].outputs
    heard = list(llm.stream("the river", GREEDY, routing=True))
    assert "".join(piece for piece, _ in heard) == reply.text
    assert [event.token_id for _, event in heard if event.token_id is not None] == reply.token_ids
    assert [event.finish is not None for _, event in heard] == [False] * (len(heard) - 1) + [True]
    assert heard[-1][1].routing is not None


def test_streams_may_take_turns_and_be_left(llm: LLM) -> None:
    one, other = llm.stream("the", GREEDY), llm.stream("river", GREEDY)
    left = llm.stream("old", GREEDY)
    next(one), next(left), next(other)
    left.close()
    assert len(llm._driver._open) == 2
    texts = ["".join(piece for piece, _ in stream) for stream in (one, other)]
    for prompt, text in zip(("the", "river"), texts, strict=True):
        assert llm.generate(prompt, GREEDY)[0].outputs[0].text.endswith(text)
    assert not llm._driver._open


def test_chat_renders_the_template_and_takes_one_talk_or_many(llm: LLM) -> None:
    ids = encode_chat(llm.get_tokenizer(), TALK, None, add_generation_prompt=True)
    [result] = llm.chat(TALK, GREEDY)
    assert result.prompt_token_ids == llm.chat_ids(TALK) == ids
    assert result.prompt is not None and "Hello" in result.prompt
    several = llm.chat([TALK, TALK], GREEDY)
    assert [each.outputs[0].token_ids for each in several] == [result.outputs[0].token_ids] * 2
    assert "add_two" in str(llm.chat(TALK, GREEDY, tools=[TOOL])[0].prompt)
    with pytest.raises(RequestError):
        llm.chat([], GREEDY)


def test_thought_answer_and_calls_are_told_apart(script: Any) -> None:
    llm = script('<think>\nhm\n</think>\n\nYes.<tool_calls>\n{"name": "f", "arguments": {}}\n</tool_calls>')
    [reply] = llm.generate("the", SamplingParams(max_tokens=1000))[0].outputs
    assert (reply.reasoning, reply.content) == ("hm", "Yes.")
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("f", "{}")]


def test_text_held_back_for_a_stop_string_comes_at_the_end(script: Any) -> None:
    [reply] = script("old river").generate("the", SamplingParams(max_tokens=1000, stop="river!"))[0].outputs
    assert reply.text == "old river"


def test_routing_comes_when_asked(llm: LLM) -> None:
    [result] = llm.generate("the river", GREEDY, routing=True, routed_experts=True)
    trace = result.outputs[0].routing
    assert trace is not None
    assert trace.report()["tokens"] == len(result.prompt_token_ids) + 12 - 1
    assert trace.routed_experts()


@pytest.mark.parametrize(
    ("prompt", "error"),
    [("", RequestError), ([10**6], RequestError), ([1] * 1024, ContextLengthExceeded), ({"text": "the"}, RequestError)],
)
def test_a_bad_prompt_is_told_and_harms_nothing(llm: LLM, prompt: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        llm.generate(["the", prompt], GREEDY)
    with pytest.raises(error):
        list(llm.stream(prompt, GREEDY))
    assert not llm._driver._open
    assert len(llm.generate("the", GREEDY)[0].outputs[0].token_ids) == 12


def test_a_model_that_fails_is_told(llm: LLM) -> None:
    model = tiny_model(llm.get_tokenizer())
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    broken = LLM.of(model, llm.get_tokenizer())
    assert broken.max_model_len == 4096
    for result in broken.generate(["the", "old"], GREEDY):
        assert result.outputs[0].finish_reason == "abort" and "not finite" in str(result.outputs[0].error)
    with pytest.raises(RequestError, match="not finite"):
        list(broken.stream("the", GREEDY))


def test_a_folder_loads_and_an_unknown_name_is_one_sentence(llm: LLM, tmp_path: Any) -> None:
    tiny_model(llm.get_tokenizer()).save_pretrained(tmp_path)
    llm.get_tokenizer().save_pretrained(tmp_path)
    loaded = LLM(str(tmp_path), dtype="float32", max_model_len=64)
    assert loaded.max_model_len == 64
    assert len(loaded.generate("the", GREEDY)[0].outputs[0].token_ids) == 12
    with pytest.raises(ModelNotFound):
        LLM("no-such-model-here")


def test_logprobs_come_when_asked(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=4, logprobs=2, prompt_logprobs=0)
    [result] = llm.generate("the river", params)
    [reply] = result.outputs
    assert reply.logprobs is not None and len(reply.logprobs) == 4
    for each, token in zip(reply.logprobs, reply.token_ids, strict=True):
        assert next(iter(each)) == token and each[token].rank == 1 and len(each) == 2
        assert each[token].decoded_token == llm.get_tokenizer().token_bytes(token).decode("utf-8", "replace")
    total = sum(each[token].logprob for each, token in zip(reply.logprobs, reply.token_ids, strict=True))
    assert reply.cumulative_logprob == pytest.approx(total)
    assert result.prompt_logprobs is not None and result.prompt_logprobs[0] is None
    told = [next(iter(each)) for each in result.prompt_logprobs[1:] if each is not None]
    assert told == result.prompt_token_ids[1:]


def test_several_replies_to_one_prompt_are_those_of_the_seeds(llm: LLM) -> None:
    params = SamplingParams(n=3, seed=7, temperature=2.0, max_tokens=12, prompt_logprobs=0)
    first, second = llm.generate(["the river", "old"], params)
    assert [reply.index for reply in first.outputs] == [reply.index for reply in second.outputs] == [0, 1, 2]
    assert len({tuple(reply.token_ids) for reply in first.outputs}) == 3
    assert first.prompt_logprobs is not None and len(first.prompt_logprobs) == len(first.prompt_token_ids)
    for index, reply in enumerate(first.outputs):
        alone = SamplingParams(seed=7 + index, temperature=2.0, max_tokens=12)
        assert llm.generate("the river", alone)[0].outputs[0].token_ids == reply.token_ids
    with pytest.raises(RequestError, match="a stream is one reply, so n must be 1, got 3"):
        next(llm.stream("the river", params))


def test_what_a_call_asks_reaches_the_engine(script: Any, words: MiniMaxM1Tokenizer) -> None:
    asked: list[Request] = []

    class Listening(ScriptedEngine):
        def submit(self, request: Request) -> None:
            super().submit(request)
            asked.append(request)

    llm: LLM = script(Listening(lambda prompt: [5], vocab_size=words.vocab_size))
    llm.generate("the", SamplingParams(n=3, seed=2**63 - 2, prompt_logprobs=1), priority=-2, routing=True)
    assert [each.params.seed for each in asked] == [2**63 - 2, 2**63 - 1, 0]
    assert [each.params.prompt_logprobs for each in asked] == [1, None, None]  # the prompt's figures are told once
    assert {(each.priority, each.routing, each.routed_experts) for each in asked} == {(-2, True, False)}
    assert len({each.id for each in asked}) == 3
    save: Any = object()
    list(llm.stream("the", SamplingParams(), save=save, save_every=9, priority=4))
    assert (asked[-1].save, asked[-1].save_every, asked[-1].priority) == (save, 9, 4)


def test_a_form_and_a_budget_become_a_guide(llm: LLM) -> None:
    form = StructuredOutputsParams(regex="[ab]{3}")
    brief = SamplingParams(temperature=0, max_tokens=99, structured_outputs=form, thinking_budget=3)
    [result] = llm.generate("the river", brief)
    assert set(result.outputs[0].content) <= {"a", "b"} and len(result.outputs[0].content) == 3
    assert result.outputs[0].finish_reason == "stop"
    asked: list[dict[str, Any]] = []

    class Maker:
        def guide(self, **keys: Any) -> None:
            asked.append(keys)

    llm = copy(llm)
    llm.__dict__["_guides"] = Maker()
    llm.generate("the", SamplingParams(max_tokens=1, thinking_budget=9))
    assert asked.pop() == {"tools": None, "tool_choice": "auto", "thinking_budget": 9}
    llm.generate("the", SamplingParams(max_tokens=1, n=2, structured_outputs=form))
    assert [keys["regex"] for keys in asked] == ["[ab]{3}"] * 2  # a guide serves one reply
    asked.clear()
    llm.chat(TALK, GREEDY, tools=[TOOL])
    assert not asked
    llm.chat(TALK, GREEDY, tools=[TOOL], tool_choice={"type": "function", "function": {"name": "add_two"}})
    assert (asked[0]["tool_choice"], asked[0]["tools"]) == ("add_two", [TOOL])


def test_a_tool_that_must_be_called_is_called(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=300, thinking_budget=3)
    [result] = llm.chat(TALK, params, tools=[TOOL], tool_choice="required")
    assert {(call.name, call.arguments) for call in result.outputs[0].tool_calls} == {("add_two", '{"a": 2}')}
    assert "add_two" not in str(llm.chat(TALK, GREEDY, tools=[TOOL], tool_choice="none")[0].prompt)
    for choice in ({"type": "function"}, {"function": "add_two"}, "multiply"):
        with pytest.raises(RequestError) as refused:
            llm.chat(TALK, GREEDY, tools=[TOOL], tool_choice=choice)
        assert refused.value.param == "tool_choice"
    with pytest.raises(RequestError):
        llm.chat(TALK, GREEDY, tool_choice="required")


def test_only_reading_a_prompt_ends_with_its_length(llm: LLM) -> None:
    saved: list[Snapshot] = []
    heard = list(llm.stream([5] * 700, SamplingParams(max_tokens=0), save=saved.append, save_every=256))
    assert heard[-1][1].finish is FinishReason.LENGTH
    assert not any(text or event.token_id is not None for text, event in heard)
    read = [event.prefilled_tokens for _, event in heard]
    assert read == sorted(read) and read[-1] == 700
    assert saved[0].start == 0 and saved[-1].stop == 700
    assert [one.stop for one in saved[:-1]] == [other.start for other in saved[1:]]
    assert llm.generate([5] * 700, SamplingParams(max_tokens=0))[0].outputs[0].finish_reason == "length"


def test_a_past_that_was_saved_is_not_read_again(words: MiniMaxM1Tokenizer) -> None:
    llm = LLM.of(tiny_model(words), words, enable_prefix_caching=False)
    ids = [5, 9] * 300
    saved: list[Snapshot] = []
    list(llm.stream(ids, SamplingParams(max_tokens=0), save=saved.append, save_every=200))

    class Kept:
        ids = np.array([5, 9] * 300, np.int32)

        def load(self, put: Any) -> Any:
            for each in saved:
                put(each.start, each.keys_values)
            return saved[-1].lightning

    [fresh] = llm.generate([*ids, 7, 8], GREEDY)
    [again] = llm.generate({"prompt_token_ids": [*ids, 7, 8], "past": Kept()}, GREEDY)
    assert again.outputs[0].token_ids == fresh.outputs[0].token_ids
    assert again.cached_tokens == 600


def test_a_request_that_is_given_up_leaves_the_others_whole(script: Any, words: MiniMaxM1Tokenizer) -> None:
    said = words.encode("old river")

    def reply(prompt: Sequence[int]) -> list[int]:
        if prompt[0] == 3:
            raise ZeroDivisionError("three")
        return said

    llm = script(ScriptedEngine(reply, vocab_size=words.vocab_size))
    good, bad, also = llm.generate([[1], [3], [2]], SamplingParams(max_tokens=99))
    assert [good.outputs[0].text, also.outputs[0].text] == ["old river"] * 2
    assert (bad.outputs[0].finish_reason, bad.outputs[0].error) == ("abort", "the script failed: three")
    assert bad.outputs[0].text == "" and good.outputs[0].error is None
    with pytest.raises(RequestError, match="the script failed: three"):
        list(llm.stream([3]))


def test_more_prompts_than_an_engine_s_queue_holds(script: Any, words: MiniMaxM1Tokenizer, llm: LLM) -> None:
    few = LLM.of(tiny_model(words), words, max_num_seqs=2, max_queue=3)
    with pytest.raises(ServerBusy):
        few.generate(["the"] * 6, GREEDY)
    many = LLM.of(tiny_model(words), words, max_num_seqs=2)
    assert len(many.generate(["the"] * 1500, SamplingParams(max_tokens=1))) == 1500


def test_the_limits_are_the_engine_s(words: MiniMaxM1Tokenizer) -> None:
    assert Limits.__annotations__.keys() == {each.name for each in fields(EngineConfig)}
    with pytest.raises(RequestError, match="max_num_seqs must be at least 1, got 0"):
        LLM("no-such-model-here", max_num_seqs=0)
    with pytest.raises(TypeError, match="max_seqs"):
        LLM("no-such-model-here", max_seqs=2)  # type: ignore[call-arg]


def test_a_device_that_is_not_there_is_said_before_anything_is_loaded() -> None:
    for device in ("abacus", "meta"):
        with pytest.raises(RequestError, match=f"device '{device}' cannot be used: "):
            LLM("no-such-model-here", device=device)


def test_int8_weights_and_floating_point_do_not_share_a_context(llm: LLM, tmp_path: Path) -> None:
    tiny_model(llm.get_tokenizer()).save_pretrained(tmp_path / "model")
    llm.get_tokenizer().save_pretrained(tmp_path / "model")
    exact, small = LLM(tmp_path / "model"), LLM(tmp_path / "model", quantization="int8")
    assert (exact.dtype, small.dtype) == ("float32", "float32+int8")
    assert small.generate(["the old"], SamplingParams(max_tokens=3))[0].outputs[0].finish_reason == "length"
    for name, mine, other in (("exact", exact, small), ("small", small, exact)):
        mine.create_context(tmp_path / name, {"text": "the farmer"})
        assert mine.ask(tmp_path / name, "walked?", SamplingParams(max_tokens=1))
        with pytest.raises(CheckpointError, match=f"was written in {re.escape(mine.dtype)}; this model runs in"):
            other.ask(tmp_path / name, "walked?")


def test_a_folder_has_a_fingerprint_and_settings_of_its_own(llm: LLM, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="a model in memory has no fingerprint"):
        _ = llm.fingerprint
    assert llm.get_default_sampling_params() == SamplingParams()
    tiny_model(llm.get_tokenizer()).save_pretrained(tmp_path)
    llm.get_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"do_sample": false, "thinking_budget": 5}')
    loaded = LLM(tmp_path)
    assert loaded.fingerprint == fingerprint(tmp_path) == LLM(str(tmp_path), tokenizer=tmp_path).fingerprint
    own = loaded.get_default_sampling_params()
    assert (own.temperature, own.thinking_budget, own.max_tokens) == (0.0, 5, loaded.max_model_len)
