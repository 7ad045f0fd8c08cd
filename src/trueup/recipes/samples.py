"""Answers of the model in training to a few held-out prompts, so that a person can look at what changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from trueup.data.audit import prompt_length
from trueup.data.render import CompletionTokens, PairTokens
from trueup.models.policy import Policy


def prompt_ids(row: PairTokens | CompletionTokens) -> np.ndarray:
    """Ids before the first trained token, ``[P]``."""
    side = row.chosen if isinstance(row, PairTokens) else row
    return side.ids[: prompt_length(side)]


@torch.no_grad()
def answer_prompts(
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[PairTokens | CompletionTokens],
    *,
    count: int = 3,
    max_new_tokens: int = 64,
) -> list[dict[str, Any]]:
    """Greedy answers to the prompts of the first ``count`` rows that have different ones.

    Returns:
        One record an answer: ``row``, ``prompt``, ``answer``, ``ended`` (False: cut at ``max_new_tokens``).
    """
    model: Any = policy.model
    training = model.training
    model.eval()
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        use_cache=True,
    )
    records: list[dict[str, Any]] = []
    seen: set[bytes] = set()
    for row in rows:
        prompt = prompt_ids(row)
        if len(records) == count or prompt.tobytes() in seen or len(prompt) == 0:
            continue
        seen.add(prompt.tobytes())
        ids = torch.from_numpy(prompt.astype(np.int64))[None].to(policy.device)
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0, len(prompt) :]
        records.append(
            {
                "row": row.id,
                "prompt": tokenizer.decode(prompt.tolist()),
                "answer": tokenizer.decode(whole.tolist(), skip_special_tokens=True),
                "ended": bool(whole[-1] == tokenizer.eos_token_id),
            }
        )
    model.train(training)
    return records
