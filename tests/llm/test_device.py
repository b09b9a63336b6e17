"""Answers on a device that is not the host: the same ones, and contexts on disk serve both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from minimax_m1.llm import LLM

Pretending = Callable[..., None]

ANSWER = """\
import sys
from pretend_gpu import register
waits = register()
from minimax_m1 import LLM, MiniMaxM1ForCausalLM, MiniMaxM1Tokenizer, SamplingParams
folder, place = sys.argv[1:]
there, here = (LLM(place, device=device, kv_cache_bytes=2**20) for device in ("gpu", "cpu"))
prompts = ["the river", "the old man and the sea", "a"]
for params in (
    SamplingParams(temperature=0, max_tokens=6, logprobs=1, prompt_logprobs=0),
    SamplingParams(seed=5, max_tokens=6, top_p=0.9, top_k=20, repetition_penalty=1.2, min_tokens=6),
):
    mine, theirs = (llm.generate(prompts, params, routing=True) for llm in (there, here))
    for one, two in zip(mine, theirs, strict=True):
        assert one.outputs[0].token_ids == two.outputs[0].token_ids, (one, two)
        assert one.outputs[0].error is None
text = {"book": "the river runs by the old house " * 30}
made, read = there.create_context(folder + "/there", text), here.create_context(folder + "/here", text)
for held in (made, read):
    answers = [llm.ask(held, "what runs?", SamplingParams(temperature=0, max_tokens=4))[0] for llm in (there, here)]
    assert answers[0].outputs[0].token_ids == answers[1].outputs[0].token_ids
    assert answers[0].cached_tokens == answers[1].cached_tokens > 100
model, tokenizer = MiniMaxM1ForCausalLM.from_pretrained(place, device="gpu"), MiniMaxM1Tokenizer.from_pretrained(place)
told = model.generate(**tokenizer("the river", return_tensors="pt"), max_new_tokens=3)
assert told.device.type == "cpu" and told.shape[1] > 3
"""


def test_a_device_answers_as_the_host_does(llm: LLM, tmp_path: Path, pretending: Pretending) -> None:
    place = tmp_path / "model"
    llm._driver.engine._model.save_pretrained(place)  # type: ignore[attr-defined]
    llm.get_tokenizer().save_pretrained(place)
    pretending(ANSWER, tmp_path, place)
