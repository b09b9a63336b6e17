"""The peer of bench_rl.py: TRL's GRPOTrainer over transformers' MiniMaxForCausalLM, in an environment without ours.

In: a file with a job as JSON, the only argument. Out: one line of JSON, the last of what it prints. The job "check"
tells what the model says to a few prompts, "learn" trains and keeps the times of each batch: its rollout (answers,
rewards, and the log-probs of before, which TRL works out anew) and its updates. `reward` is the reward of both sides.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def reward(prompts: list[Any], completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """1 where what follows the thought is the answer, else 0."""
    said = [str(completion[-1]["content"] or "") for completion in completions]
    pairs = zip(said, answer, strict=True)
    return [float(text.rpartition("</think>")[2].strip() == right) for text, right in pairs]


def alternate(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """0 and 1 in turn, so that every group has something to learn and both sides learn every answer."""
    return [float(number % 2) for number in range(len(completions))]


def peak_memory() -> int:
    """Bytes; getrusage's would begin with what the process had that started this one."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


REWARDS = {"reward": reward, "alternate": alternate}


def load(job: dict[str, Any]) -> tuple[Any, Any]:
    """Model and tokenizer; ends everything where its tokenizer gives a prompt other ids than ours."""
    import transformers

    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["folder"])
    model = transformers.MiniMaxForCausalLM.from_pretrained(
        job["folder"], dtype="float32", attn_implementation=job["attention"]
    )
    model.set_experts_implementation(job["experts"])
    for row in job["rows"]:
        ids = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
        if ids != row["ids"]:
            raise SystemExit(f"the prompt {row['prompt']} is {ids} here and {row['ids']} with ours")
    return model, tokenizer


def check(job: dict[str, Any]) -> dict[str, Any]:
    """Greedy answers, read and written as one padded batch, and the log-probs of the given answers."""
    import torch

    model, tokenizer = load(job)
    model.eval()
    prompts, said = _padded([row["ids"] for row in job["rows"]], tokenizer.pad_token_id, left=True)
    with torch.inference_mode():
        out = model.generate(
            prompts,
            attention_mask=said,
            do_sample=False,
            max_new_tokens=job["tokens"],
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        answers = [_to_end(row, tokenizer.eos_token_id) for row in out[:, prompts.shape[1] :].tolist()]
        given, real = _padded(job["answers"], tokenizer.pad_token_id, left=False)
        logits = model(torch.cat((prompts, given), 1), attention_mask=torch.cat((said, real), 1)).logits
    rows = logits[:, prompts.shape[1] - 1 : -1].float().log_softmax(-1)
    chosen = rows.gather(-1, given[:, :, None])[:, :, 0]
    return {
        "answers": answers,
        "logprobs": [row[mask.bool()].tolist() for row, mask in zip(chosen, real, strict=True)],
    }


def _padded(texts: list[list[int]], pad: int, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    width = max(map(len, texts))
    ids, mask = torch.full((len(texts), width), pad), torch.zeros(len(texts), width, dtype=torch.int64)
    for row, text in enumerate(texts):
        place = slice(width - len(text), width) if left else slice(len(text))
        ids[row, place], mask[row, place] = torch.tensor(text), 1
    return ids, mask


def _to_end(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


def learn(job: dict[str, Any]) -> dict[str, Any]:
    """Batches of `updates` optimizer steps until one of `job`'s limits."""
    import datasets
    import torch
    import transformers
    import trl

    transformers.set_seed(job["seed"])
    model, tokenizer = load(job)
    batches: list[dict[str, float]] = []

    class Timed(trl.GRPOTrainer):
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            began = time.perf_counter()
            out = super()._generate_and_score_completions(inputs)
            lengths = out["completion_mask"].sum(1).float()
            self.told = {
                "rollout": time.perf_counter() - began,
                "tokens": lengths.mean().item(),
                "samples": len(lengths),
            }
            return out

    class Watch(transformers.TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            self.began = self.last = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if state.global_step % job["updates"] == 0:
                now = time.perf_counter()
                told = {"seconds": now - self.last, **trainer.told, "reward": sum(scores[-1]) / len(scores[-1])}
                batches.append({**told, "update": told["seconds"] - told["rollout"]})
                self.last = now
                print(json.dumps({"batch": len(batches), **batches[-1]}), file=sys.stderr, flush=True)
                recent = [each["reward"] for each in batches[-job["window"] :]]
                done = len(recent) == job["window"] and sum(recent) / len(recent) >= job["goal"]
                late = now - self.began > job["most_seconds"]
                control.should_training_stop = done or late or len(batches) == job["batches"]

    scores: list[list[float]] = []

    def graded(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        scores.append(REWARDS[job["reward"]](prompts, completions, **columns))
        return scores[-1]

    config = trl.GRPOConfig(
        output_dir=job["scratch"],
        loss_type="cispo",
        epsilon_high=5.0,
        beta=0.0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=job["prompts"] * job["group"] // job["updates"] // job.get("accumulate", 1),
        gradient_accumulation_steps=job.get("accumulate", 1),
        steps_per_generation=job["updates"] * job.get("accumulate", 1),
        num_generations=job["group"],
        max_completion_length=job["tokens"],
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        use_transformers_continuous_batching=job.get("continuous", False),
        torch_compile=job.get("compile", False),
        learning_rate=job["rate"],
        lr_scheduler_type="constant",
        adam_beta1=0.9,
        adam_beta2=0.95,
        adam_epsilon=1e-15,
        weight_decay=0.0,
        max_grad_norm=1.0,
        router_aux_loss_coef=0.0,
        max_steps=job["updates"] * job["batches"],
        logging_steps=job["updates"],
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=job["seed"],
    )
    rows = [{"prompt": row["prompt"], "answer": row["answer"]} for row in job["rows"]]
    trainer = Timed(
        model=model,
        reward_funcs=graded,
        args=config,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[Watch()],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    torch.set_num_threads(job["threads"])
    trainer.train()
    return {"batches": batches, "peak_mb": round(peak_memory() / 2**20, 1)}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    import torch

    torch.set_num_threads(job["threads"])
    told = {"check": check, "learn": learn}[job["kind"]](job)
    versions = {name: version(name) for name in ("trl", "transformers", "torch", "accelerate")}
    print(json.dumps({**told, "versions": versions}))


if __name__ == "__main__":
    main()
