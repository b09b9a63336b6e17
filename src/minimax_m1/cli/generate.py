"""`minimax-m1 generate`: one prompt, one answer."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated

import typer

from minimax_m1.cli.answer import tell
from minimax_m1.cli.options import (
    AsJson,
    Device,
    Dtype,
    MaxNewTokens,
    Model,
    Quantization,
    Seed,
    Temperature,
    Threshold,
    TopP,
    open_model,
    print_json,
)
from minimax_m1.errors import RequestError

app = typer.Typer()


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help='What to ask; "-" reads it from stdin.')],
    model: Model = "nano",
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it stands, no chat format.")] = False,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    expert_threshold: Threshold = 1.0,
    quantization: Quantization = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Answer one prompt."""
    from minimax_m1.text.reply import parse_reply

    text = sys.stdin.read() if prompt == "-" else prompt
    if not text:
        raise RequestError("the prompt is empty; it needs at least 1 character", param="prompt")
    llm, params = open_model(
        model, max_new_tokens, temperature, top_p, seed, expert_threshold, quantization, dtype, device
    )
    ids = llm.get_tokenizer().encode(text) if raw else llm.chat_ids([{"role": "user", "content": text}])
    if not as_json:
        tell(llm, ids, params, plain=raw)
        return
    [output] = llm.generate([ids], params, routing=True)
    [made] = output.outputs
    reply = {"text": made.text} if raw else dataclasses.asdict(parse_reply(made.text))
    usage = {"input_tokens": len(ids), "output_tokens": len(made.token_ids)}
    routing = None if made.routing is None else made.routing.report()
    print_json({"model": model, **reply, "finish_reason": made.finish_reason, "usage": usage, "routing": routing})
