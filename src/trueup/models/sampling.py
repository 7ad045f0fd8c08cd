"""What is asked of a sampler and what it gives back, whoever samples: this process or a server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from trueup.types import Prompt

Finish = Literal["stop", "length"]
Indices = Callable[[str], Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How answers are drawn.

    The filters act in this order, each on what the one before left: temperature, top-k, top-p, min-p.

    Attributes:
        temperature: logits are divided by it; 0 means greedy.
        top_k: only the k likeliest tokens; 0: all.
        top_p: only the smallest set of likeliest tokens that holds this probability; 1: all.
        min_p: only tokens at least this fraction as likely as the likeliest; 0: all.
        max_new_tokens: an answer that reaches it without an end is truncated (``finish == "length"``).
        stop: strings that end an answer; they are not part of its text.
        stop_ids: token ids that end an answer besides the model's own end-of-sequence tokens.
        n: answers a prompt.
        seed: answer ``k`` of a prompt depends on (seed, prompt, k) alone.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    n: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        checks = {
            "temperature": self.temperature >= 0,
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p < 1,
            "max_new_tokens": self.max_new_tokens >= 1,
            "stop": all(self.stop),
            "n": self.n >= 1,
        }
        for name, fine in checks.items():
            if not fine:
                raise ValueError(f"sampling.{name}: {getattr(self, name)!r} makes no sense")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One answer.

    Attributes:
        prompt: id of the prompt row.
        index: which of the prompt's answers, from 0.
        text: the answer, without end-of-sequence or stop string.
        ids: sampled token ids, the ending token included; None if the server does not tell.
        logprobs: log-probability of each id under the distribution it was drawn from (after temperature and filters),
            ``[T]``; 0 for greedy; None if unknown.
        model_logprobs: the same under the untempered, unfiltered model, ``[T]``; None if unknown.
        finish: ``stop``: ended by itself; ``length``: truncated.
        policy: identity (version) of the weights that drew it.
        tokens: how many were drawn; None if the server does not tell.
    """

    prompt: str
    index: int
    text: str
    ids: np.ndarray | None = None
    logprobs: np.ndarray | None = None
    model_logprobs: np.ndarray | None = None
    finish: Finish = "stop"
    policy: str = ""
    tokens: int | None = None


@dataclass(slots=True)
class Speed:
    """What sampling did so far.

    Attributes:
        tokens, answers, truncated: counts.
        seconds: spent.
    """

    tokens: int = 0
    answers: int = 0
    truncated: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """New tokens a second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def truncated_share(self) -> float:
        """Answers that reached the limit without an end."""
        return self.truncated / self.answers if self.answers else 0.0


class Sampler(Protocol):
    """Anything that answers prompts."""

    speed: Speed

    @property
    def identity(self) -> str:
        """What drew the answers, for provenance (path and weights hash, or endpoint and model)."""
        ...

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, indices: Indices | None = None) -> Iterator[Sample]:
        """``sampling.n`` answers to each prompt, as they become ready; the order is the sampler's own.

        Args:
            prompts: what to answer.
            sampling: how.
            indices: which answers of a prompt (by its id) are wanted; None: ``range(n)``.

        Raises:
            DataError: a prompt that does not fit the context; nothing was sampled.
        """
        ...


def answer_seed(seed: int, prompt: bytes | str, index: int) -> int:
    """128-bit seed of one answer, from (seed, prompt, index) alone.

    Args:
        seed: of the run.
        prompt: token ids as int32 bytes, or text.
        index: which answer.
    """
    body = prompt.encode("utf-8", "surrogatepass") if isinstance(prompt, str) else prompt
    digest = hashlib.sha256(f"{seed}|{index}|".encode() + body).digest()
    return int.from_bytes(digest[:16], "little")
