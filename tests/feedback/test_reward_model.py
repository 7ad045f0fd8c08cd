"""A reward model as a scorer: the same score in any company, with any tokenizer, and never a made-up one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from trueup.errors import ModelError, ScoringError
from trueup.feedback.base import Answered
from trueup.feedback.reward_model import RewardModel
from trueup.models.load import load_reward_model
from trueup.models.save import save_result
from trueup.models.tiny import save_tiny, tiny_tokenizer

PROMPT = ({"role": "user", "content": "Hello there"},)


def answers(count: int = 9) -> list[Answered]:
    texts = ["yes", "a longer answer " * 5, "", "no.", "x" * 60, "yes", "ünï", "a b c", "end"]
    return [Answered(id=f"r{i}", prompt=PROMPT if i % 2 else "Q: ", answer=t) for i, t in enumerate(texts[:count])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = save_tiny(tmp_path_factory.mktemp("base") / "tiny")
    model = load_reward_model(base, new_head=True, seed=1, head_std=0.5)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token  # the trap: pad ends every answer
    return save_result(model, tokenizer, tmp_path_factory.mktemp("reward") / "model")


def test_scores_do_not_depend_on_company_order_or_padding(folder: Path) -> None:
    model = RewardModel(folder)
    given = answers()
    wanted = model.score(given)
    assert len(set(wanted[[0, 1, 3, 4, 6, 7, 8]].tolist())) == 7
    assert model.score(given[::-1])[::-1] == pytest.approx(wanted, abs=1e-6)
    assert np.array([model.score([a])[0] for a in given]) == pytest.approx(wanted, abs=1e-6)
    assert RewardModel(folder, micro_tokens=40).score(given) == pytest.approx(wanted, abs=1e-6)


def test_plain_transformers_gives_the_same_scores(folder: Path) -> None:
    """Saved with a pad that is not the end token, so that the last token that is not pad is the true last one."""
    model = RewardModel(folder)
    plain: Any = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token_id == plain.config.pad_token_id != tokenizer.eos_token_id
    rows = [model._rendered(a).ids.tolist() for a in answers()]
    batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    with torch.no_grad():
        scores = plain(**batch).logits[:, 0]
    assert model.score(answers()) == pytest.approx(scores.numpy(), abs=1e-5)


def test_identity_changes_with_the_weights(folder: Path, tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "tiny")
    other = save_result(load_reward_model(base, new_head=True, seed=2), tiny_tokenizer(), tmp_path / "other")
    assert RewardModel(folder).identity == RewardModel(folder).identity
    assert RewardModel(folder).identity.split("@")[1] != RewardModel(other).identity.split("@")[1]


def test_a_damaged_head_is_an_error_that_names_the_row(folder: Path) -> None:
    model = RewardModel(folder)
    with torch.no_grad():
        model.policy.inner.score.weight[0, 0] = torch.nan
    with pytest.raises(ScoringError, match="row r0: the score is nan"):
        model.score(answers(3))


def test_a_model_without_a_score_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="head"):
        RewardModel(save_tiny(tmp_path / "tiny"))


def test_a_text_beyond_the_context_is_an_error(folder: Path) -> None:
    with pytest.raises(ScoringError, match=r"row r1: .*more than"):
        RewardModel(folder, max_length=40).score(answers(3))
