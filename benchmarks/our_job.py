"""One job in trueup, timed: our side of `make bench`. Prints one JSON line."""

from __future__ import annotations

import argparse
import json
import resource
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from trueup.config import TrainConfig
from trueup.data.render import CompletionTokens, PairTokens
from trueup.losses import PREFERENCE, REWARD, SUPERVISED, UNPAIRED
from trueup.losses.metrics import preference_metrics, unpaired_metrics
from trueup.models.layout import Branches
from trueup.models.load import load_causal_lm, load_reward_model, load_tokenizer
from trueup.models.policy import Policy
from trueup.models.reference import FrozenCopy
from trueup.train.loop import LoopState, Plan, Share, optimise
from trueup.train.optim import Optimizer
from trueup.train.preference import PreferenceObjective
from trueup.train.reward import RewardObjective
from trueup.train.sft import SupervisedObjective
from trueup.train.unpaired import UnpairedObjective


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


def completion(tokenizer, prompt: str, answer: str, name: str, label: bool | None = None) -> CompletionTokens:
    head = tokenizer(prompt, add_special_tokens=False).input_ids
    whole = tokenizer(prompt + answer, add_special_tokens=False).input_ids
    assert whole[: len(head)] == head
    ids = np.array(whole, dtype=np.int32)
    return CompletionTokens(id=name, ids=ids, mask=np.arange(len(ids)) >= len(head), label=label)


def tokens_for(job: str, rows: list[dict], tokenizer) -> list:
    made = []
    for i, row in enumerate(rows):
        sides = [completion(tokenizer, row["prompt"], row[k], str(i)) for k in ("chosen", "rejected")]
        if job == "sft":
            made.append(sides[0])
        elif job == "kto":
            key = "chosen" if i % 2 == 0 else "rejected"
            made.append(completion(tokenizer, row["prompt"], row[key], str(i), i % 2 == 0))
        else:
            shared = int(np.argmax(sides[0].mask))
            made.append(
                PairTokens(id=str(i), chosen=sides[0], rejected=sides[1], shared=shared, margin=None, preference=None)
            )
    return made


class OrpoAsTrl:
    """ORPO with TRL's likelihood term: a mean over all tokens of prompt and chosen answer of the batch (parity only)."""

    def __init__(self, ours: PreferenceObjective) -> None:
        self.ours, self.policy = ours, ours.policy
        self.length, self.identity = ours.length, ours.identity

    def begin(self, _step, batch, _parts) -> tuple[int, int]:
        return len(batch), sum(len(r.chosen.ids) - 1 for r in batch)

    def share(self, batch, part, begun) -> Share:
        rows = [batch[i] for i in part]
        pairs = self.ours.pairs(rows)
        odds = PREFERENCE["orpo"].fn(pairs) + pairs.policy_chosen / pairs.chosen_length
        whole = [np.arange(len(r.chosen.ids)) > 0 for r in rows]
        layout = self.policy.layout(
            [Branches(r.chosen.ids[:0], (r.chosen.ids,), (m,)) for r, m in zip(rows, whole, strict=True)]
        )
        return Share(odds.sum() / begun[0] - self.policy.tokens(layout).logprob.sum() / begun[1], {})


def objective_for(job: str, policy: Policy, model_path: str, dtype: torch.dtype, rows: list):
    def reference() -> FrozenCopy:
        return FrozenCopy(Policy(load_causal_lm(model_path, dtype=dtype), policy.pad_id), "start")

    if job == "sft":
        return SupervisedObjective(policy, SUPERVISED["sft"].fn)
    if job == "reward":
        return RewardObjective(policy, REWARD["reward"].fn)
    if job == "kto":
        loss = partial(UNPAIRED["kto"].fn, beta=0.1)
        figures = partial(unpaired_metrics, beta=0.1)
        return UnpairedObjective(policy, reference(), loss, figures, needs_kl=True, others=rows, seed=0)
    loss = partial(PREFERENCE["dpo"].fn, beta=0.1) if job == "dpo" else PREFERENCE["orpo"].fn
    if job == "orpo-as-trl":
        return OrpoAsTrl(
            PreferenceObjective(policy, None, PREFERENCE["orpo"].fn, partial(preference_metrics, beta=0.1))
        )
    return PreferenceObjective(
        policy, reference() if job == "dpo" else None, loss, partial(preference_metrics, beta=0.1)
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("job", choices=["dpo", "kto", "orpo", "orpo-as-trl", "sft", "reward"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--limit", type=int, default=None)
    arguments = parser.parse_args()
    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    rows = [json.loads(line) for line in Path(arguments.rows).read_text().splitlines()][: arguments.limit]
    baseline = resident()
    watch = Watch()
    watch.start()
    tokenizer = load_tokenizer(arguments.model)
    tokens = tokens_for(arguments.job, rows, tokenizer)
    if arguments.job == "reward":
        model = load_reward_model(arguments.model, dtype=dtype, new_head=True)
        with torch.no_grad():
            model.score.weight.copy_(torch.linspace(-0.05, 0.05, model.score.weight.numel())[None])
    else:
        model = load_causal_lm(arguments.model, dtype=dtype)
    policy = Policy(model, tokenizer.pad_token_id)
    objective = objective_for(arguments.job, policy, arguments.model, dtype, tokens)
    config = TrainConfig(warmup=0, schedule="constant", micro_tokens=2048)
    size = arguments.batch
    plan = Plan(len(tokens) // size, lambda step: tokens[(step - 1) * size : step * size], arguments.lr)
    optimizer = Optimizer(model.named_parameters(), config)
    losses, ends, computed = [], [], 0
    for step in optimise(objective, optimizer, plan, config, LoopState()):
        losses.append(step.metrics["loss"])
        computed += int(step.metrics["tokens"])
        ends.append(time.perf_counter())
    seconds = ends[-1] - ends[0]
    print(
        json.dumps(
            {
                "rate": (len(tokens) - size) / seconds,
                "rows": len(tokens),
                "peak_bytes": watch.peak,
                "interpreter_bytes": baseline,
                "tokens_computed": computed,
                "losses": losses,
            }
        )
    )


if __name__ == "__main__":
    main()
