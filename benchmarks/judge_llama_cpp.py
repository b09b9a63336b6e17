"""llama.cpp as the judge of `minimax-m1 export`: its logits, tokens and answers beside ours, on the same weights.

    python benchmarks/judge_llama_cpp.py --python JUDGE/bin/python [--lengths 1 2 17 600 2000]

JUDGE is another environment with llama-cpp-python 0.3.36 or later (`pip install llama-cpp-python`, about 5 minutes to
build). Two models are written as f32: nano, and a random one of 29.8M parameters with a tokenizer of the published
split. For each, the logits after every token of prompts of several lengths are compared with ours in float32: the norm
of the difference must be below 1e-3 of the norm. Texts must become the same ids, and nano must answer additions put to
`create_chat_completion` in the same words.
Prints a table and a JSON object; the exit code is 1 where they disagree.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LIMIT = 1e-3
QUESTIONS = ("What is 478 + 256?", "12 + 30", "What is 999 + 1?", "What is 4070 + 6031?")
TEXTS = (
    "",
    "12 + 30 = 42, 3.14159 and 1234567890123; 0x1F, ²³ Ⅷ ١٢٣ 1e-9",
    "It's what they'll've said: don't, I'M, 'tis",
    " leading, trailing ",
    "two  three   four    \ttabs\t\t and\n\n\nnewlines\r\n  \n mixed \n\t\n ",
    "naïve café, Straße, ΑΒΓ αβγ, Привет мир, שלום, नमस्ते, 你好，世界。こんにちは 안녕하세요",  # noqa: RUF001
    "👩‍👩‍👧 e\u0301 \u00a0\u2003\u3000\u200b\ufeff\u0085\u2028 \x00\x01 ×÷ ©® A×B é×",  # noqa: RUF001
    "<begin_of_document><beginning_of_sentence>user name=user\nHi<end_of_sentence>\n<think>\nso\n</think><tool_calls>",
    "<think <|im_end|> </s> <end_of_sentence",
    "def f(x):\n    return x**2  # squares\n" * 20,
    "The quick brown fox jumps over the lazy dog. " * 50,
)


def write_random(folder: Path) -> None:
    """29.8M parameters from a seed: hidden 256, 8 layers, softmax last, 4 heads of 64, 8 experts of 512."""
    import torch
    from tokenizers import Tokenizer, decoders, models, trainers

    from minimax_m1 import MiniMaxM1Config, MiniMaxM1ForCausalLM, MiniMaxM1Tokenizer
    from minimax_m1.text.vocabulary import BOS, EOS, SMALL_SPECIALS, byte_symbols, published_pre_tokenizer

    config = MiniMaxM1Config(
        vocab_size=4096,
        hidden_size=256,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        attn_type_list=(0,) * 7 + (1,),
        intermediate_size=512,
        num_local_experts=8,
        num_experts_per_tok=2,
        rotary_dim=32,
        max_position_embeddings=16384,
        layernorm_full_attention_alpha=2.0,
        layernorm_linear_attention_alpha=2.0,
        layernorm_mlp_alpha=2.0,
    )
    model = MiniMaxM1ForCausalLM(config, init=False)
    random = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.05, generator=random)
    model.save_pretrained(folder)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = published_pre_tokenizer(), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        initial_alphabet=list(byte_symbols()),
        special_tokens=list(SMALL_SPECIALS),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 2, trainer)
    MiniMaxM1Tokenizer(backend, {"bos_token": BOS, "eos_token": EOS}).save_pretrained(folder)


def ours(name: str, model: Path | str, lengths: list[int], work: Path) -> dict[str, Any]:
    """Writes the GGUF, the prompts and our logits; gives what the judge is to be asked and our own answers."""
    import numpy as np
    import torch

    from minimax_m1 import LLM, MiniMaxM1ForCausalLM, MiniMaxM1Tokenizer, SamplingParams
    from minimax_m1.export.gguf import export_gguf

    export_gguf(model, work / f"{name}.gguf", type="f32")
    tokenizer = MiniMaxM1Tokenizer.from_pretrained(model)
    network = MiniMaxM1ForCausalLM.from_pretrained(model, progress=False)
    told: dict[str, Any] = {"name": name, "texts": [[text, tokenizer.encode(text)] for text in TEXTS], "prompts": []}
    for length in lengths:
        random = torch.Generator().manual_seed(length)
        prompt = torch.randint(0, network.config.vocab_size, (1, length), generator=random)
        with torch.inference_mode():
            np.save(work / f"{name}-{length}-ours.npy", network(prompt).logits[0].numpy())
        told["prompts"].append(prompt[0].tolist())
    told["chats"] = []
    if name == "nano":
        llm, settings = LLM(model), SamplingParams(temperature=0, max_tokens=200)
        for question in QUESTIONS:
            ids = tokenizer.apply_chat_template([{"role": "user", "content": question}])
            said = llm.generate([{"prompt_token_ids": ids}], settings)[0].outputs[0].token_ids
            told["chats"].append([question, tokenizer.decode(said, skip_special_tokens=True)])
    return told


def theirs(work: Path) -> None:
    """Runs in the judge's environment: its logits into files, its tokens and answers on stdout."""
    import llama_cpp
    import numpy as np

    out = []
    for told in json.loads((work / "told.json").read_text("utf-8")):
        name, longest = told["name"], max(map(len, told["prompts"]))
        float32 = llama_cpp.GGML_TYPE_F32
        llama = llama_cpp.Llama(
            str(work / f"{name}.gguf"),
            n_ctx=longest + 512,
            logits_all=True,
            type_k=float32,
            type_v=float32,
            verbose=False,
        )
        for prompt in told["prompts"]:
            llama.reset()
            llama.eval(prompt)
            np.save(work / f"{name}-{len(prompt)}-theirs.npy", llama.scores[: len(prompt)])
        ids = [llama.tokenize(text.encode(), add_bos=False, special=True) for text, _ in told["texts"]]
        chats = []
        for question, _ in told["chats"]:
            llama.reset()
            messages = [{"role": "user", "content": question}]
            reply = llama.create_chat_completion(messages, max_tokens=200, temperature=0)
            chats.append(reply["choices"][0]["message"]["content"])
        out.append({"name": name, "ids": ids, "chats": chats})
    print(json.dumps({"version": llama_cpp.__version__, "models": out}))


def judge(python: str, lengths: list[int]) -> dict[str, Any]:
    """Both sides, and where they differ."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_random(work / "random")
        told = [ours("nano", "nano", lengths, work), ours("random", work / "random", lengths, work)]
        (work / "told.json").write_text(json.dumps(told), "utf-8")
        done = subprocess.run([python, __file__, "--theirs", folder], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"the judge failed:\n{done.stderr}")
        said = json.loads(done.stdout.splitlines()[-1])
        gaps: dict[str, dict[int, float]] = {}
        differ: list[list[str]] = []
        for model, answer in zip(told, said["models"], strict=True):
            ids = zip(model["texts"], answer["ids"], strict=True)
            differ += [[model["name"], text] for (text, mine), other in ids if mine != other]
            for length in lengths:
                mine, other = (np.load(work / f"{model['name']}-{length}-{side}.npy") for side in ("ours", "theirs"))
                gap = float(np.linalg.norm(mine - other) / np.linalg.norm(mine))
                gaps.setdefault(model["name"], {})[length] = gap
    return {
        "benchmark": "llama.cpp agrees with the export",
        "gaps": gaps,
        "texts": len(TEXTS) * len(told),
        "texts that differ": differ,
        "chats": [[*c, other] for c, other in zip(told[0]["chats"], said["models"][0]["chats"], strict=True)],
        "llama-cpp-python": said["version"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--python", help="the interpreter of an environment with llama-cpp-python")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1, 2, 17, 600, 2000])
    parser.add_argument("--theirs", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.theirs:
        theirs(options.theirs)
        return
    if not options.python:
        parser.error("--python is needed")
    row = judge(options.python, options.lengths)
    print(
        f"{'tokens':>8}" + "".join(f"{name:>12}" for name in row["gaps"]) + "   gap of the logits, share of their norm"
    )
    for length in options.lengths:
        print(f"{length:>8}" + "".join(f"{gaps[length]:>12.1e}" for gaps in row["gaps"].values()))
    same = sum(mine == other for _, mine, other in row["chats"])
    print(f"texts: {row['texts'] - len(row['texts that differ'])} of {row['texts']} alike")
    print(f"chats: {same} of {len(row['chats'])} alike")
    print(json.dumps(row, ensure_ascii=False))
    close = all(gap < LIMIT for gaps in row["gaps"].values() for gap in gaps.values())
    sys.exit(0 if close and not row["texts that differ"] and same == len(row["chats"]) else 1)


if __name__ == "__main__":
    main()
