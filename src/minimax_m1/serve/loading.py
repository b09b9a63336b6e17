"""A folder becomes a model that can answer: weights, tokenizer and the model's own sampling settings.

In: the folder of a checkpoint. Out: `Loaded`. The only file of the server that touches torch.
"""

from __future__ import annotations

from pathlib import Path

from minimax_m1.engine.config import EngineConfig
from minimax_m1.engine.defaults import defaults
from minimax_m1.engine.device import usable
from minimax_m1.engine.engine import ModelEngine
from minimax_m1.engine.request import Request, SamplingParams
from minimax_m1.kernels.ops import Ops
from minimax_m1.model.fingerprint import fingerprint
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.serve.bridge import Loaded
from minimax_m1.text.guide import GuideMaker
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer


def load(
    folder: Path,
    *,
    dtype: str,
    device: str,
    max_model_len: int | None,
    quantization: str | None = None,
    config: EngineConfig | None = None,
) -> Loaded:
    """Loads the model in `folder` and has it say a word, so that the first request finds it warm.

    dtype "auto" is the checkpoint's, quantization "int8" rounds the weights to a byte each; max_model_len None is the
    model's own limit, or what the memory for keys and values holds.

    Raises:
        ModelNotFound, CheckpointError, ConfigError, TokenizerError: it cannot be loaded.
        RequestError: max_model_len is beyond the model's limit, or there is no such device.
    """
    where = usable(device)
    tokenizer = MiniMaxM1Tokenizer.from_pretrained(folder)
    ops = Ops.fastest(where)
    model = MiniMaxM1ForCausalLM.from_pretrained(folder, dtype=dtype, device=where, quantization=quantization, ops=ops)
    config = config or EngineConfig.on(model.device.type)
    engine = ModelEngine(
        model,
        eos_ids={token for token in (tokenizer.eos_token_id, model.config.eos_token_id) if token is not None},
        max_model_len=max_model_len,
        config=config,
    )
    guides = GuideMaker(tokenizer, model.config.vocab_size)
    _warm_up(engine, guides, 1 if model.device.type == "cpu" else config.max_num_seqs)
    return Loaded(
        engine=engine,
        tokenizer=tokenizer,
        guides=guides,
        defaults=defaults(folder, engine.max_model_len),
        kernels=engine.kernels,
        fingerprint=fingerprint(folder),
        dtype="+".join(filter(None, (str(model.dtype).removeprefix("torch."), model.config.quantization))),
    )


def _warm_up(engine: ModelEngine, guides: GuideMaker, most: int) -> None:
    """Kernels load at their first call, and the first grammar reads the vocabulary; nothing is kept of this one.

    A GPU compiles kernels and records a graph for each number of replies side by side, so these are gone through, up to
    `most`. Prompts have two tokens at least: one alone is a step, and steps have kernels of their own.
    """
    guides.guide(json_object=True)
    params = SamplingParams(max_tokens=2, temperature=0, ignore_eos=True)
    counts = sorted({min(1 << bit, most) for bit in range(most.bit_length() + 1)})
    for count in counts:
        for number in range(count):  # different prompts, so that none waits for what another has read
            prompt = [number >> bit & 1 for bit in range(1 + most.bit_length())]
            engine.submit(Request(id=f"warm-up {number}", prompt=prompt, params=params))
        while engine.busy:
            engine.step()
    engine.forget()
