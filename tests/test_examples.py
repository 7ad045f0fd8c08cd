"""The example that imports nothing of ours agrees with the library."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from trueup.losses import PREFERENCE
from trueup.tensors import Pairs

PATH = Path(__file__).parents[1] / "examples" / "dpo_from_scratch.py"


def test_dpo_from_scratch_agrees_in_loss_and_gradient(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("dpo_from_scratch", PATH)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    torch.manual_seed(1)
    reference = torch.randn(5, 5, dtype=torch.float64)
    policy = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)

    def sums(logits: torch.Tensor, answer: list[int]) -> torch.Tensor:
        return example.completion_logprob(logits, example.PROMPT, answer)[None]

    pairs = Pairs(
        policy_chosen=sums(policy, example.CHOSEN),
        policy_rejected=sums(policy, example.REJECTED),
        reference_chosen=sums(reference, example.CHOSEN),
        reference_rejected=sums(reference, example.REJECTED),
    )
    ours = PREFERENCE["dpo"].fn(pairs, beta=0.3).sum()
    theirs = example.dpo_loss(policy, reference, 0.3)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-9)
    (a,), (b,) = torch.autograd.grad(ours, policy), torch.autograd.grad(theirs, policy)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    assert "trueup" not in PATH.read_text().replace("nothing of trueup", "")
    example.main(steps=10)
    assert "log odds" in capsys.readouterr().out
