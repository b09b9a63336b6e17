"""A model's own sampling settings, and the shipped model behind the server."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from minimax_m1.errors import CheckpointError, RequestError
from minimax_m1.serve.app import create_app
from minimax_m1.serve.loading import defaults, load

NANO = Path(str(files("minimax_m1"))) / "assets" / "nano"
shipped = pytest.mark.skipif(not (NANO / "model.safetensors").is_file(), reason="nano's weights are not here yet")


def settings(folder: Path, **keys: Any) -> Any:
    (folder / "generation_config.json").write_text(json.dumps(keys))
    return defaults(folder, 1000)


def test_without_a_file_everything_is_vllm_s(tmp_path: Path) -> None:
    params = defaults(tmp_path, 1000)
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (1.0, 1.0, 0, 1000)


def test_the_file_s_settings(tmp_path: Path) -> None:
    params = settings(tmp_path, do_sample=True, temperature=0.7, top_p=0.95, top_k=40, eos_token_id=2)
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (0.7, 0.95, 40, 1000)
    params = settings(tmp_path, do_sample=False, temperature=0.7, max_new_tokens=64)
    assert (params.temperature, params.max_tokens) == (0.0, 64)
    assert settings(tmp_path, max_new_tokens=10**6).max_tokens == 1000


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"temperature": -1}', '{"temperature": "hot"}', '{"max_new_tokens": 0}', '{"top_p": 7}']
)
def test_a_file_that_describes_no_settings(tmp_path: Path, text: str) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        defaults(tmp_path, 1000)


@shipped
def test_an_unknown_device_is_one_sentence() -> None:
    with pytest.raises(RequestError, match="device 'abacus' cannot be used"):
        load(NANO, dtype="auto", device="abacus", max_model_len=None)


@shipped
def test_nano_adds_over_http(run_app: Any) -> None:
    app = create_app(lambda: load(NANO, dtype="auto", device="cpu", max_model_len=None), name="nano")
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
