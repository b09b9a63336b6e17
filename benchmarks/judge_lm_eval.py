"""lm-eval as the judge of `minimax-m1 serve`: what it measures over HTTP beside the same scores computed in process.

    python benchmarks/judge_lm_eval.py --python JUDGE/bin/python [--cases 40]

JUDGE is another environment: `python -m venv JUDGE && JUDGE/bin/pip install 'lm-eval[api]==0.4.13' transformers`; it
needs no torch. Its `local-completions` asks nano, offline, for made-up tasks from JSONL: sums of four choices by
log-likelihood, prose by rolling log-likelihood, additions by greedy answers and by thoughts that a stop string ends.
Prompts go as ids and as texts, alone, several in a request, many at once, and without a tokenizer.
Scores and texts must be equal, log-likelihoods to 1e-3; prints a table and a JSON object, exits with 1 where not.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minimax_m1 import LLM

LIMIT = 1e-3  # nats
GREEDY = {"do_sample": False, "temperature": 0, "max_gen_toks": 200}
TASKS: dict[str, dict[str, Any]] = {
    "sums": {
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "prose": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}],
    },
    "answers": {"generation_kwargs": {**GREEDY, "until": ["<end_of_sentence>"]}},
    "thoughts": {"generation_kwargs": {**GREEDY, "until": ["</think>"]}},
}
FREE: dict[str, Any] = {
    "output_type": "generate_until",
    "doc_to_text": "question",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "exact_match"}],
    "filter_list": [
        {
            "name": "last number",
            "filter": [
                {"function": "regex", "regex_pattern": "([0-9]+)", "group_select": -1},
                {"function": "take_first"},
            ],
        }
    ],
}
WAYS: dict[str, dict[str, Any]] = {  # as `--model_args` has them
    "ids": {"tokenized_requests": True},
    "texts": {"tokenized_requests": False},
    "ids, 8 in a request": {"tokenized_requests": True, "batch_size": 8},
    "texts, 8 at once": {"tokenized_requests": False, "num_concurrent": 8},
    "no tokenizer": {"tokenizer_backend": "None"},
}


def write_tasks(folder: Path, cases: int) -> dict[str, list[dict[str, Any]]]:
    """The documents of each task, in files and by name, from easy to more digits than nano can add."""
    from minimax_m1 import MiniMaxM1Tokenizer
    from minimax_m1.tasks.addition import exchange, operand
    from minimax_m1.tasks.prose import sentence
    from minimax_m1.text.chat import encode_chat

    rng = random.Random("judge/lm-eval")
    tokenizer = MiniMaxM1Tokenizer.from_pretrained("nano")
    docs: dict[str, list[dict[str, Any]]] = {name: [] for name in TASKS}
    for case in range(cases):
        left, right = (operand(rng, 1 + case % 4) for _ in range(2))
        sums = [left + right, left + right + 1, left + right + 10]
        choices = rng.sample([*(f" {value}" for value in sums), " \u2744 naïve"], 4)  # the last in bytes, not words
        gold = choices.index(f" {left + right}")
        docs["sums"].append({"question": f"{left} + {right} =", "choices": choices, "gold": gold})
        docs["prose"].append({"text": " ".join(sentence(rng) for _ in range(rng.randint(1, 8)))})
        question, answer = exchange(operand(rng, 1 + case % 9), operand(rng, 1 + case % 9), rng)
        asked = tokenizer.decode(encode_chat(tokenizer, [question]), skip_special_tokens=False)
        for name in ("answers", "thoughts"):
            docs[name].append({"question": asked, "answer": answer["content"]})
    for name, some in docs.items():
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(doc)}\n" for doc in some), "utf-8")
    return docs


@contextmanager
def server(home: Path) -> Iterator[str]:
    """`minimax-m1 serve` on a free port; gives its address."""
    command = [sys.executable, "-m", "minimax_m1", "serve", "--port", "0", "--home", str(home), "--log-level", "error"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            told = re.search(r"http://\S+", process.stdout.readline())
            if told is None:
                raise SystemExit("the server did not start")
            yield told[0]
        finally:
            process.terminate()


def theirs(folder: Path, url: str, tokenizer: str) -> None:
    """Runs in the judge's environment: lm-eval's scores and every reply it got, way by way, into a file."""
    from importlib.metadata import version

    import lm_eval  # type: ignore[import-not-found, unused-ignore]

    out: dict[str, Any] = {"version": version("lm-eval"), "ways": {}}
    for way, options in WAYS.items():
        arguments = {"model": "nano", "base_url": f"{url}/v1/completions", "max_retries": 1, **options}
        if "tokenizer_backend" not in options:
            arguments["tokenizer"] = tokenizer
        tasks = []
        for name, task in TASKS.items():
            free = "generation_kwargs" in task
            if free or "tokenizer" in arguments:  # without one lm-eval cannot tell a choice from its question
                files = {"test": str(folder / f"{name}.jsonl")}
                data = {"dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test"}
                tasks.append({"task": name, **data, **(FREE if free else {}), **task})
        done = lm_eval.simple_evaluate("local-completions", model_args=arguments, tasks=tasks, bootstrap_iters=0)
        out["ways"][way] = {
            name: {
                "scores": {key.partition(",")[0]: value for key, value in scores.items() if "," in key},
                "replies": [
                    [reply[0] for reply in each["resps"]]
                    for each in sorted(done["samples"][name], key=lambda each: each["doc_id"])
                ],
            }
            for name, scores in done["results"].items()
        }
    (folder / "theirs.json").write_text(json.dumps(out, default=str), "utf-8")


def likelihoods(llm: LLM, asked: Sequence[tuple[list[int], int]]) -> list[tuple[float, bool]]:
    """For ids and where what counts begins in them: the sum of log p of those, and whether each is the likeliest."""
    from minimax_m1 import SamplingParams

    found = []
    prompts: list[Any] = [{"prompt_token_ids": ids} for ids, _ in asked]
    outputs = llm.generate(prompts, SamplingParams(max_tokens=0, prompt_logprobs=0), use_tqdm=False)
    for (ids, start), output in zip(asked, outputs, strict=True):
        own = [known[id] for id, known in zip(ids, output.prompt_logprobs or (), strict=True) if known is not None]
        counted = own[start - 1 :]  # the first id has no figure
        found.append((sum(each.logprob for each in counted), all(each.rank == 1 for each in counted)))
    return found


def ours(llm: LLM, name: str, docs: Sequence[dict[str, Any]]) -> tuple[dict[str, float], list[list[Any]]]:
    """The scores of one task and, document by document, what the model says to each request."""
    from minimax_m1 import SamplingParams

    tokenizer = llm.get_tokenizer()
    if name == "sums":
        pairs = [(doc["question"], choice) for doc in docs for choice in doc["choices"]]
        flat = likelihoods(llm, [(tokenizer.encode(q + c), len(tokenizer.encode(q))) for q, c in pairs])
        told: list[list[Any]] = [flat[at : at + 4] for at in range(0, len(flat), 4)]
        right = lengths = 0
        for doc, likely in zip(docs, told, strict=True):
            totals = [total for total, _ in likely]
            shares = [total / len(choice) for total, choice in zip(totals, doc["choices"], strict=True)]
            right += totals.index(max(totals)) == doc["gold"]
            lengths += shares.index(max(shares)) == doc["gold"]
        return {"acc": right / len(docs), "acc_norm": lengths / len(docs)}, told
    if name == "prose":
        assert tokenizer.bos_token_id is not None
        rolled = likelihoods(llm, [([tokenizer.bos_token_id, *tokenizer.encode(doc["text"])], 1) for doc in docs])
        total = sum(each for each, _ in rolled)
        words = sum(len(doc["text"].split()) for doc in docs)
        size = sum(len(doc["text"].encode()) for doc in docs)
        perplexity = {"word_perplexity": math.exp(-total / words), "byte_perplexity": math.exp(-total / size)}
        return perplexity, [[each] for each, _ in rolled]
    stop = TASKS[name]["generation_kwargs"]["until"]
    settings = SamplingParams(temperature=0, max_tokens=GREEDY["max_gen_toks"], stop=stop)
    outputs = llm.generate([doc["question"] for doc in docs], settings, use_tqdm=False)
    texts = [output.outputs[0].text for output in outputs]
    numbers = [re.findall("[0-9]+", text) for text in texts]
    exact = sum(found[-1:] == [doc["answer"]] for doc, found in zip(docs, numbers, strict=True))
    return {"exact_match": exact / len(docs)}, [[text] for text in texts]


def compare(mine: Any, other: Any) -> tuple[float, bool]:
    """How far two replies to one request are apart in nats, and whether they say otherwise: by text or as likeliest."""
    if isinstance(mine, str):
        return 0.0, mine != other
    if isinstance(mine, float):
        return abs(mine - float(other)), False
    return abs(mine[0] - other[0]), mine[1] != other[1]


def judge(python: str, cases: int) -> dict[str, Any]:
    """Both sides of every task in every way."""
    from minimax_m1 import LLM
    from minimax_m1.location import locate

    offline = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        docs = write_tasks(work, cases)
        with server(work / "home") as url:
            command = [python, __file__, "--theirs", str(work), "--url", url, "--tokenizer", str(locate("nano"))]
            environment = {**os.environ, **offline, "HF_HOME": str(work / "cache")}
            environment.pop("PYTHONPATH", None)
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"the judge failed:\n{done.stderr}")
        said = json.loads((work / "theirs.json").read_text("utf-8"))
    llm, rows = LLM("nano"), []
    known: dict[str, tuple[dict[str, float], list[list[Any]]]] = {}
    for way, tasks in said["ways"].items():
        for name, task in tasks.items():
            if name not in known:
                known[name] = ours(llm, name, docs[name])
            scores, told = known[name]
            pairs = [
                compare(mine, other)
                for own, replies in zip(told, task["replies"], strict=True)
                for mine, other in zip(own, replies, strict=True)
            ]
            gap, differ = max(gap for gap, _ in pairs), sum(otherwise for _, otherwise in pairs)
            for metric, score in scores.items():
                other = task["scores"][metric]
                close = math.isclose(score, other, rel_tol=LIMIT if name == "prose" else 1e-12)
                row = {"prompts": way, "task": name, "metric": metric, "ours": score, "lm-eval": other}
                row |= {"requests": len(pairs), "differ": differ, "gap": gap}
                rows.append({**row, "same": close and gap < LIMIT and not differ})
    return {"benchmark": "lm-eval scores the server as we do in process", "lm-eval": said["version"], "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--python", help="the interpreter of an environment with lm-eval")
    parser.add_argument("--cases", type=int, default=40, help="documents of each task")
    parser.add_argument("--theirs", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--tokenizer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.theirs:
        theirs(options.theirs, options.url, options.tokenizer)
        return
    if not options.python:
        parser.error("--python is needed")
    row = judge(options.python, options.cases)
    print(
        f"{'prompts':<20} {'task':<9} {'metric':<16} {'ours':>8} {'lm-eval':>8}"
        f" {'requests':>9} {'differ':>7} {'nats':>8}"
    )
    for each in row["rows"]:
        print(
            f"{each['prompts']:<20} {each['task']:<9} {each['metric']:<16} {each['ours']:>8.4f} {each['lm-eval']:>8.4f}"
            f" {each['requests']:>9} {each['differ']:>7} {each['gap']:>8.1e}{'' if each['same'] else '  WRONG'}"
        )
    print(json.dumps(row))
    sys.exit(0 if all(each["same"] for each in row["rows"]) else 1)


if __name__ == "__main__":
    main()
