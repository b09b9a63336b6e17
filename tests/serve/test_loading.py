"""The shipped model behind the server."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import httpx2
import openai
import pytest

from minimax_m1.engine.config import EngineConfig
from minimax_m1.engine.engine import ModelEngine
from minimax_m1.engine.request import Request
from minimax_m1.errors import RequestError
from minimax_m1.serve.app import create_app
from minimax_m1.serve.loading import _warm_up, load

NANO = Path(str(files("minimax_m1"))) / "assets" / "nano"
shipped = pytest.mark.skipif(not (NANO / "model.safetensors").is_file(), reason="nano's weights are not here yet")


@shipped
def test_an_unknown_device_is_one_sentence() -> None:
    with pytest.raises(RequestError, match="device 'abacus' cannot be used"):
        load(NANO, dtype="auto", device="abacus", max_model_len=None)


@shipped
def test_the_engine_has_the_limits_that_were_asked_for() -> None:
    limits = EngineConfig(max_num_seqs=2, max_queue=3)
    loaded = load(NANO, dtype="auto", device="cpu", max_model_len=500, quantization="int8", config=limits)
    assert (loaded.engine.max_model_len, loaded.defaults.max_tokens) == (500, 500)
    assert isinstance(loaded.engine, ModelEngine) and loaded.engine.capacity == 5
    assert loaded.guides.guide(thinking_budget=5) is not None


def test_a_gpu_does_more_at_once_unless_told_otherwise() -> None:
    assert EngineConfig.on("cpu") == EngineConfig()
    assert EngineConfig.on("cuda").max_num_seqs == 64 and EngineConfig.on("cuda").max_num_batched_tokens == 4096
    assert EngineConfig.on("cuda", max_num_seqs=2).max_num_seqs == 2


@pytest.mark.parametrize(("most", "counts"), [(1, [1]), (5, [1, 2, 4, 5]), (64, [1, 2, 4, 8, 16, 32, 64])])
def test_every_number_of_replies_is_warmed_up(most: int, counts: list[int]) -> None:
    class Engine:
        def __init__(self) -> None:
            self.waiting: list[Request] = []
            self.rounds: list[list[Request]] = []
            self.forgotten = False

        @property
        def busy(self) -> bool:
            return bool(self.waiting)

        def submit(self, request: Request) -> None:
            self.waiting.append(request)

        def step(self) -> None:
            self.rounds.append(list(self.waiting))
            self.waiting.clear()

        def forget(self) -> None:
            self.forgotten = True

    engine: Any = Engine()
    _warm_up(engine, MagicMock(), most)
    assert [len(asked) for asked in engine.rounds] == counts and engine.forgotten
    for asked in engine.rounds:
        prompts = {tuple(request.prompt) for request in asked}
        assert len(prompts) == len(asked) and all(len(prompt) > 1 for prompt in prompts)


@shipped
def test_nano_adds_over_http(run_app: Any, tmp_path: Any) -> None:
    app = create_app(lambda: load(NANO, dtype="auto", device="cpu", max_model_len=None), name="nano", home=tmp_path)
    published = {
        "input": "Analyze the following 500K token legal document and summarize the key obligations:",
        "max_output_tokens": 1024,
        "context_window": 500000,
        "expert_threshold": 0.6,
    }
    with run_app(app) as url, httpx2.Client(base_url=url, timeout=60) as client:
        while client.get("/health").status_code != 200:
            pass
        reply = client.post("/v1/minimax-m1/generate", json={"input": "What is 17 + 25?"}).json()
        assert reply["text"] == "42"
        assert reply["usage"]["reasoning_tokens"] > 0 and reply["routing"]["layers"]
        assert client.post("/v1/minimax-m1/generate", json=published).json()["finish_reason"] in ("stop", "length")
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as official:
            answer = official.chat.completions.create(model="nano", messages=[{"role": "user", "content": "17 + 25"}])
        assert answer.choices[0].message.content == "42"
