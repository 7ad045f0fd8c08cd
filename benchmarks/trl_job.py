"""One job in TRL, timed: the other side of `make bench`. Has an environment of its own and imports nothing of ours.

Reads rows that our side wrote (texts, already rendered, so that both train on the same tokens); prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import threading
import time
from pathlib import Path

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

TRAINERS = {
    "dpo": (DPOTrainer, DPOConfig),
    "kto": (KTOTrainer, KTOConfig),
    "orpo": (ORPOTrainer, ORPOConfig),
    "sft": (SFTTrainer, SFTConfig),
    "reward": (RewardTrainer, RewardConfig),
}


class Clock(TrainerCallback):
    """When each optimizer step ended; memory is watched from a thread."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_begin(self, *_args, **_kwargs) -> None:
        self.ends.append(time.perf_counter())

    def on_step_end(self, *_args, **_kwargs) -> None:
        self.ends.append(time.perf_counter())


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Watch(threading.Thread):
    """Peak resident memory, sampled every 20 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, resident())
            time.sleep(0.02)


def rows_for(job: str, rows: list[dict]) -> Dataset:
    if job in ("dpo", "orpo", "reward"):
        keep = [{k: r[k] for k in ("prompt", "chosen", "rejected")} for r in rows]
    elif job == "sft":
        keep = [{"prompt": r["prompt"], "completion": r["chosen"]} for r in rows]
    else:
        keep = [
            {"prompt": r["prompt"], "completion": r["chosen" if i % 2 == 0 else "rejected"], "label": i % 2 == 0}
            for i, r in enumerate(rows)
        ]
    return Dataset.from_list(keep)


def build(arguments: argparse.Namespace, rows: list[dict], losses: list[float]):
    trainer_class, config_class = TRAINERS[arguments.job]
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    auto = AutoModelForSequenceClassification if arguments.job == "reward" else AutoModelForCausalLM
    extra = {"num_labels": 1} if arguments.job == "reward" else {}
    model = auto.from_pretrained(arguments.model, dtype=torch.float32, **extra)
    if arguments.job == "reward":
        # where pad is the end token, transformers scores the token before the end, we the end: compare on equal terms
        tokenizer.pad_token = tokenizer.unk_token
        model.config.pad_token_id = tokenizer.pad_token_id
        with torch.no_grad():
            model.score.weight.copy_(torch.linspace(-0.05, 0.05, model.score.weight.numel())[None])

    class Recording(trainer_class):
        def _get_train_sampler(self, *_args, **_kwargs):
            return SequentialSampler(self.train_dataset)

        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            losses.append(float(loss))
            return loss

    options = {"beta": 0.1} if arguments.job in ("dpo", "kto", "orpo") else {}
    config = config_class(
        output_dir=arguments.scratch,
        per_device_train_batch_size=arguments.batch,
        num_train_epochs=1,
        learning_rate=arguments.lr,
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        max_length=512,
        bf16=arguments.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=arguments.checkpointing,
        logging_steps=1000,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=0,
        dataloader_pin_memory=False,
        **options,
    )
    extra = (
        {"ref_model": AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)}
        if (arguments.job in ("dpo", "kto"))
        else {}
    )
    return Recording(
        model=model, args=config, train_dataset=rows_for(arguments.job, rows), processing_class=tokenizer, **extra
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("job", choices=TRAINERS)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--scratch", required=True)
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in Path(arguments.rows).read_text().splitlines()][: arguments.limit]
    baseline = resident()
    watch = Watch()
    watch.start()
    losses: list[float] = []
    trainer = build(arguments, rows, losses)
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    seconds = clock.ends[-1] - clock.ends[1]
    done = len(rows) - arguments.batch
    print(
        json.dumps(
            {
                "rate": done / seconds,
                "rows": len(rows),
                "peak_bytes": watch.peak,
                "interpreter_bytes": baseline,
                "losses": losses,
            }
        )
    )


if __name__ == "__main__":
    main()
