"""DPO in one file, for reading: a bigram model, one preference pair, plain PyTorch. Imports nothing of trueup.

Rafailov et al. 2023 (arXiv 2305.18290), equation 7:

    loss = −log σ( β [ (log π(yc|x) − log ρ(yc|x)) − (log π(yr|x) − log ρ(yr|x)) ] )

What is simpler here than in the library: one pair, no batching, no padding, no chat template, plain SGD.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

VOCABULARY = ["<end>", "hello", "you", "friend", "fool"]
PROMPT, CHOSEN, REJECTED = [1], [2, 3, 0], [2, 4, 0]  # hello | you friend <end> | you fool <end>


def completion_logprob(logits: torch.Tensor, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Σ_t log p(y_t | y_{t−1}) of a bigram model with logits ``[V, V]``; a scalar."""
    tokens = prompt + completion
    before, after = torch.tensor(tokens[:-1]), torch.tensor(tokens[1:])
    per_token = logits.log_softmax(-1)[before, after]
    return per_token[len(prompt) - 1 :].sum()


def dpo_loss(policy: torch.Tensor, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """Equation 7 for the pair above; a scalar."""
    chosen = completion_logprob(policy, PROMPT, CHOSEN) - completion_logprob(reference, PROMPT, CHOSEN)
    rejected = completion_logprob(policy, PROMPT, REJECTED) - completion_logprob(reference, PROMPT, REJECTED)
    return -logsigmoid(beta * (chosen - rejected))


def main(steps: int = 50, beta: float = 0.5) -> None:
    """Trains and prints how the odds of the two answers move."""
    torch.manual_seed(0)
    reference = torch.randn(len(VOCABULARY), len(VOCABULARY), dtype=torch.float64)
    policy = reference.clone().requires_grad_()
    optimizer = torch.optim.SGD([policy], lr=1.0)
    for step in range(steps + 1):
        loss = dpo_loss(policy, reference, beta)
        if step % 10 == 0:
            odds = completion_logprob(policy, PROMPT, CHOSEN) - completion_logprob(policy, PROMPT, REJECTED)
            print(f"step {step:3d}  loss {loss.item():.4f}  log odds friend : fool {odds.item():+.3f}")  # noqa: T201
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
