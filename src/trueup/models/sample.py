"""Sampling in this process, for any loaded causal model, with or without an adapter.

A prompt is computed once for all its answers; an answer that ends leaves the batch and the next takes its place. The
random numbers of an answer come from (seed, prompt, index) alone, so neither the batch size nor the order of the
prompts changes what is drawn (up to rounding: where a draw falls within a rounding error of the border between two
tokens, another batch shape may take the neighbour).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from trueup.data.render import Renderer, RowRejected
from trueup.errors import DataError
from trueup.models.decode import Prefix, Slots, Whole
from trueup.models.policy import Policy, output_head
from trueup.models.sampling import Finish, Indices, Sample, Sampling, Speed, answer_seed
from trueup.ops.choose import choose
from trueup.types import Prompt

PREFILL_TOKENS = 4096  # prompt tokens computed at once


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptIds:
    """A prompt as tokens.

    Attributes:
        id: of its row.
        ids: ``[P]`` int32, at least one.
    """

    id: str
    ids: np.ndarray


@dataclass(slots=True)
class _Answer:
    """An answer in progress."""

    prompt: PromptIds
    index: int
    uniform: np.ndarray
    ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    model_logprobs: list[float] = field(default_factory=list[float])
    text: str | None = None
    finish: Finish | None = None


class LocalSampler:
    """Draws from a model in memory.

    Args:
        policy: the model; its weights are read when sampling begins, so it may be in training.
        tokenizer: of the model.
        identity: what it is, for provenance.
        slots: answers at once.
        renderer: how text becomes tokens; None: the chat template where there is one.

    Attributes:
        speed: counts of everything sampled so far.
    """

    def __init__(
        self,
        policy: Policy,
        tokenizer: PreTrainedTokenizerBase,
        *,
        identity: str = "",
        slots: int = 64,
        renderer: Renderer | None = None,
    ) -> None:
        self.policy, self.tokenizer, self._identity, self.slots = policy, tokenizer, identity, slots
        self.renderer = renderer or Renderer(tokenizer, max_length=context_of(policy))
        self.ends = end_ids(policy, tokenizer)
        self.speed = Speed()

    @property
    def identity(self) -> str:
        """What draws."""
        return self._identity

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, indices: Indices | None = None) -> Iterator[Sample]:
        """Renders the prompts and draws ``sampling.n`` answers to each, as they end.

        Raises:
            DataError: a prompt that cannot be rendered, or does not fit the context with its answer.
        """
        ready: list[PromptIds] = []
        for row in prompts:
            try:
                ready.append(PromptIds(id=row.id, ids=self.renderer.prompt(row)))
            except RowRejected as error:
                raise DataError(f"{row.origin}: {error}") from None
        return self.sample_ids(ready, sampling, indices)

    def sample_ids(
        self, prompts: Sequence[PromptIds], sampling: Sampling, indices: Indices | None = None
    ) -> Iterator[Sample]:
        """The same for prompts that are tokens already.

        Args:
            prompts: at least one token each.
            sampling: how.
            indices: which answers of a prompt (by its id) are wanted; None: ``range(n)``.

        Raises:
            DataError: an empty prompt, or one that does not fit the context with its answer.
        """
        self._check(prompts, sampling)
        wanted = [(p, list(range(sampling.n) if indices is None else indices(p.id))) for p in prompts]
        draw = self._by_slots if self.policy.shared else self._by_length
        return self._timed(draw([w for w in wanted if w[1]], sampling))

    def _check(self, prompts: Sequence[PromptIds], sampling: Sampling) -> None:
        if not prompts:
            raise DataError("sampling: there is no prompt")
        room = context_of(self.policy)
        for prompt in prompts:
            if len(prompt.ids) == 0:
                raise DataError(f"{prompt.id}: prompt: empty")
            if len(prompt.ids) + sampling.max_new_tokens > room:
                raise DataError(
                    f"{prompt.id}: prompt: {len(prompt.ids)} tokens and {sampling.max_new_tokens} new ones are more "
                    f"than the model's context of {room}; shorten it or lower max_new_tokens"
                )

    def _timed(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        """Counts what passes; time counts only while we work, not while the caller does."""
        while True:
            begun = time.perf_counter()
            with torch.no_grad():
                sample = next(samples, None)
            self.speed.seconds += time.perf_counter() - begun
            if sample is None:
                return
            assert sample.ids is not None
            self.speed.answers += 1
            self.speed.tokens += len(sample.ids)
            self.speed.truncated += sample.finish == "length"
            yield sample

    # ── the two ways to decode ──

    def _by_slots(self, wanted: Sequence[tuple[PromptIds, list[int]]], sampling: Sampling) -> Iterator[Sample]:
        """Continuous batching: a slot is filled again as soon as its answer ends."""
        longest = max((len(p.ids) for p, _ in wanted), default=0)
        total = sum(len(indices) for _, indices in wanted)
        slots = Slots(self.policy, min(self.slots, total), longest + sampling.max_new_tokens)
        waiting = _Waiting(wanted, slots)
        active: list[_Answer] = []
        states: torch.Tensor | None = None
        while active or waiting:
            fresh: list[torch.Tensor] = []
            while len(active) < slots.size and waiting:
                prompt, index, prefix = waiting.take()
                slots.put(len(active), prefix)
                active.append(_begin(prompt, index, sampling))
                fresh.append(prefix.state)
            if fresh:
                joined = torch.stack(fresh)
                states = joined if states is None or not len(states) else torch.cat([states, joined])
            assert states is not None
            self._advance(active, states, sampling)
            yield from (self._finished(a) for a in active if a.finish)
            active = _compact(active, slots)
            if active:
                states = slots.step(torch.tensor([a.ids[-1] for a in active], device=self.policy.device))
            else:
                states = None

    def _by_length(self, wanted: Sequence[tuple[PromptIds, list[int]]], sampling: Sampling) -> Iterator[Sample]:
        """For models with a cache of their own: batches of prompts of one length, each until its last answer ends."""
        by_length: dict[int, list[tuple[PromptIds, int]]] = {}
        for prompt, indices in wanted:
            by_length.setdefault(len(prompt.ids), []).extend((prompt, k) for k in indices)
        for same in by_length.values():
            for first in range(0, len(same), self.slots):
                part = same[first : first + self.slots]
                answers = [_begin(prompt, k, sampling) for prompt, k in part]
                engine = Whole(self.policy)
                states = engine.start([p.ids for p, _ in part])
                while True:
                    going = [i for i, a in enumerate(answers) if a.finish is None]
                    if not going:
                        break
                    self._advance([answers[i] for i in going], states[going], sampling)
                    yield from (self._finished(answers[i]) for i in going if answers[i].finish)
                    if any(a.finish is None for a in answers):
                        states = engine.step(torch.tensor([a.ids[-1] for a in answers], device=self.policy.device))

    # ── one token ──

    def _advance(self, answers: Sequence[_Answer], states: torch.Tensor, sampling: Sampling) -> None:
        """Draws the next token of each answer and marks those that end with it."""
        logits = output_head(self.policy.inner).logits(states)
        uniform = torch.tensor([a.uniform[len(a.ids)] for a in answers], dtype=torch.float64, device=states.device)
        filters = {"top_k": sampling.top_k, "top_p": sampling.top_p, "min_p": sampling.min_p}
        chosen = choose(logits, uniform, temperature=sampling.temperature, **filters)
        columns = (chosen.token.tolist(), chosen.logprob.tolist(), chosen.model_logprob.tolist())
        for answer, token, logprob, model_logprob in zip(answers, *columns, strict=True):
            answer.ids.append(token)
            answer.logprobs.append(logprob)
            answer.model_logprobs.append(model_logprob)
            self._mark(answer, token, sampling)

    def _mark(self, answer: _Answer, token: int, sampling: Sampling) -> None:
        if token in self.ends or token in sampling.stop_ids:
            answer.finish = "stop"
            answer.text = self._text(answer.ids[:-1])
            return
        if sampling.stop:
            text = self._text(answer.ids)
            places = [at for word in sampling.stop if (at := text.find(word)) >= 0]
            if places:
                answer.finish, answer.text = "stop", text[: min(places)]
                return
        if len(answer.ids) == sampling.max_new_tokens:
            answer.finish, answer.text = "length", self._text(answer.ids)

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)  # type: ignore[return-value]

    def _finished(self, answer: _Answer) -> Sample:
        assert answer.finish is not None and answer.text is not None
        return Sample(
            prompt=answer.prompt.id,
            index=answer.index,
            text=answer.text,
            ids=np.array(answer.ids, dtype=np.int32),
            logprobs=np.array(answer.logprobs, dtype=np.float64),
            model_logprobs=np.array(answer.model_logprobs, dtype=np.float64),
            finish=answer.finish,
            policy=self._identity,
            tokens=len(answer.ids),
        )


class _Waiting:
    """Answers not yet begun; prompts are computed in packs when their first answer is due."""

    def __init__(self, wanted: Sequence[tuple[PromptIds, list[int]]], slots: Slots) -> None:
        self.todo = deque(wanted)
        self.slots = slots
        self.ready: deque[tuple[PromptIds, deque[int], Prefix]] = deque()

    def __bool__(self) -> bool:
        return bool(self.todo or self.ready)

    def take(self) -> tuple[PromptIds, int, Prefix]:
        """The next answer and its computed prompt."""
        if not self.ready:
            self._compute()
        prompt, indices, prefix = self.ready[0]
        index = indices.popleft()
        if not indices:
            self.ready.popleft()
        return prompt, index, prefix

    def _compute(self) -> None:
        pack: list[tuple[PromptIds, list[int]]] = []
        tokens = 0
        while self.todo and (not pack or tokens + len(self.todo[0][0].ids) <= PREFILL_TOKENS):
            pack.append(self.todo.popleft())
            tokens += len(pack[-1][0].ids)
        prefixes = self.slots.prefill([p.ids for p, _ in pack])
        self.ready.extend((p, deque(k), prefix) for (p, k), prefix in zip(pack, prefixes, strict=True))


def _begin(prompt: PromptIds, index: int, sampling: Sampling) -> _Answer:
    key = answer_seed(sampling.seed, prompt.ids.astype(np.int32).tobytes(), index)
    uniform = np.random.Generator(np.random.Philox(key=key)).random(sampling.max_new_tokens)
    return _Answer(prompt, index, uniform)


def _compact(active: list[_Answer], slots: Slots) -> list[_Answer]:
    """Closes the gaps that finished answers left, the last answers first."""
    active = list(active)
    slot = 0
    while slot < len(active):
        if active[slot].finish is None:
            slot += 1
            continue
        last = active.pop()
        if slot < len(active):
            active[slot] = last
            if last.finish is None:
                slots.move(len(active), slot)
    return active


def end_ids(policy: Policy, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's, and those of the model's generation settings."""
    settings: Any = getattr(policy.inner, "generation_config", None)
    own = getattr(settings, "eos_token_id", None)
    listed = own if isinstance(own, list) else [own]
    return frozenset(int(i) for i in (tokenizer.eos_token_id, *listed) if i is not None)  # type: ignore[arg-type]


def context_of(policy: Policy) -> int:
    """Tokens the model can attend to; a large number if its config does not say."""
    return int(getattr(policy.inner.config.get_text_config(), "max_position_embeddings", None) or 2**20)
