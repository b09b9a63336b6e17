"""`LLM`: vLLM's names over our engine, with a small random model and a small real tokenizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from minimax_m1.engine.request import SamplingParams
from minimax_m1.engine.scripted import ScriptedEngine
from minimax_m1.errors import ContextLengthExceeded, ModelNotFound, RequestError
from minimax_m1.llm import LLM
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny
from minimax_m1.text.chat import encode_chat
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=12)
TALK = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def llm() -> LLM:
    tokenizer = MiniMaxM1Tokenizer.train(["the old farmer walked to the river " * 3], vocab_size=300)
    torch.manual_seed(11)
    model = MiniMaxM1ForCausalLM(tiny().replace(vocab_size=tokenizer.vocab_size)).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # sharper choices, so that float noise cannot flip one
    return LLM.of(model, tokenizer, max_model_len=1024, max_num_seqs=3)


def test_one_prompt_has_vllms_shape(llm: LLM) -> None:
    [result] = llm.generate("the river", GREEDY)
    tokenizer = llm.get_tokenizer()
    assert result.prompt == "the river"
    assert result.prompt_token_ids == tokenizer.encode("the river")
    assert result.finished
    [reply] = result.outputs
    assert (reply.index, reply.finish_reason) == (0, "length")
    assert len(reply.token_ids) == len(reply.logprobs) == 12
    assert reply.text == tokenizer.decode(reply.token_ids, skip_special_tokens=True)
    listed = [each[token].logprob for each, token in zip(reply.logprobs, reply.token_ids, strict=True)]
    assert reply.cumulative_logprob == pytest.approx(sum(listed))
    assert reply.routing is None


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
    assert len(llm._engine._open) == 2
    texts = ["".join(piece for piece, _ in stream) for stream in (one, other)]
    for prompt, text in zip(("the", "river"), texts, strict=True):
        assert llm.generate(prompt, GREEDY)[0].outputs[0].text.endswith(text)
    assert not llm._jobs


def test_chat_renders_the_template_and_takes_one_talk_or_many(llm: LLM) -> None:
    ids = encode_chat(llm.get_tokenizer(), TALK, None, add_generation_prompt=True)
    [result] = llm.chat(TALK, GREEDY)
    assert result.prompt_token_ids == llm.chat_ids(TALK) == ids
    assert result.prompt is not None and "Hello" in result.prompt
    several = llm.chat([TALK, TALK], GREEDY)
    assert [each.outputs[0].token_ids for each in several] == [result.outputs[0].token_ids] * 2
    tool = {"name": "add_two", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}
    assert "add_two" in str(llm.chat(TALK, GREEDY, tools=[tool])[0].prompt)
    with pytest.raises(RequestError):
        llm.chat([], GREEDY)


def test_thought_answer_and_calls_are_told_apart(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    words = llm.get_tokenizer()
    said = words.encode('<think>\nhm\n</think>\n\nYes.<tool_calls>\n{"name": "f", "arguments": {}}\n</tool_calls>')
    engine = ScriptedEngine(lambda prompt: [*said, words.eos_token_id], vocab_size=words.vocab_size)
    monkeypatch.setattr(llm, "_engine", engine)
    [reply] = llm.generate("the", SamplingParams(max_tokens=1000))[0].outputs
    assert (reply.reasoning, reply.content) == ("hm", "Yes.")
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("f", "{}")]


def test_text_held_back_for_a_stop_string_comes_at_the_end(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    words = llm.get_tokenizer()
    engine = ScriptedEngine(lambda prompt: words.encode("old river"), vocab_size=words.vocab_size)
    monkeypatch.setattr(llm, "_engine", engine)
    [reply] = llm.generate("the", SamplingParams(max_tokens=1000, stop="river!"))[0].outputs
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
    assert not llm._jobs
    assert len(llm.generate("the", GREEDY)[0].outputs[0].token_ids) == 12


def test_a_model_that_fails_is_told(llm: LLM) -> None:
    model = MiniMaxM1ForCausalLM(tiny().replace(vocab_size=llm.get_tokenizer().vocab_size))
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    broken = LLM.of(model, llm.get_tokenizer())
    assert broken.max_model_len == 4096
    with pytest.raises(RequestError, match="not finite"):
        broken.generate(["the", "old"], GREEDY)
    with pytest.raises(RequestError, match="not finite"):
        list(broken.stream("the", GREEDY))


def test_a_folder_loads_and_an_unknown_name_is_one_sentence(llm: LLM, tmp_path: Any) -> None:
    torch.manual_seed(11)
    MiniMaxM1ForCausalLM(tiny().replace(vocab_size=llm.get_tokenizer().vocab_size)).save_pretrained(tmp_path)
    llm.get_tokenizer().save_pretrained(tmp_path)
    loaded = LLM(str(tmp_path), dtype="float32", max_model_len=64)
    assert loaded.max_model_len == 64
    assert len(loaded.generate("the", GREEDY)[0].outputs[0].token_ids) == 12
    with pytest.raises(ModelNotFound):
        LLM("no-such-model-here")
