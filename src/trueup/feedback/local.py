"""A judging model in this process: options by one forward pass over a batch of prompts, text by the sampler."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from trueup.data.order import micro_batches
from trueup.data.render import RowRejected
from trueup.feedback.speaker import Failure, Question, Reply
from trueup.models.layout import Branches
from trueup.models.policy import output_head
from trueup.models.sample import LocalSampler, PromptIds, context_of
from trueup.models.sampling import Sampling
from trueup.types import Prompt


class LocalSpeaker:
    """A causal model and its tokenizer.

    Without a chat template the turns are put one after the other, and ``Reply:`` after them. An option counts in every
    spelling that is one token of the tokenizer, with a blank before it or without. A question whose text would become a
    control token of this tokenizer is not asked.

    Args:
        sampler: the model, its tokenizer and how text becomes tokens (:func:`trueup.recipes.answers.open_sampler`).
        micro_tokens: tokens in a forward pass at once; None: 8192, and on a CPU each question by itself, which costs
            nothing there: what is asked beside it then changes no bit, so an interrupted job gives the same numbers.
    """

    def __init__(self, sampler: LocalSampler, *, micro_tokens: int | None = None) -> None:
        self.sampler = sampler
        self.micro_tokens = micro_tokens or (1 if sampler.policy.device.type == "cpu" else 8192)
        self.policy, self.tokenizer = sampler.policy, sampler.tokenizer
        tokenizer: Any = sampler.tokenizer
        added = tokenizer.added_tokens_decoder.values()
        self._control = sorted({t.content for t in added if t.special} | set(tokenizer.all_special_tokens))
        self._turns = sampler.renderer.has_template and sampler.renderer.chat != "plain"
        self._spellings: dict[str, list[int]] = {}

    @property
    def identity(self) -> str:
        """Path and hash of the weights, and their precision."""
        return f"{self.sampler.identity}, {str(self.policy.inner.dtype).removeprefix('torch.')}"

    def ask(self, question: Question) -> Reply | Failure:
        """The answer to one question."""
        return next(iter(self.ask_many([question])))[1]

    def ask_many(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply | Failure]]:
        """Those that cannot be asked first, then options batch by batch, then texts as they end."""
        ready: dict[int, np.ndarray] = {}
        for i, question in enumerate(questions):
            ids = self._ids(question)
            if isinstance(ids, Failure):
                yield i, ids
            elif question.options and not all(self._single(o) for o in question.options):
                yield i, Reply(tokens_in=0)
            else:
                ready[i] = ids
        yield from self._by_options([(i, questions[i], ids) for i, ids in ready.items() if questions[i].options])
        yield from self._by_text([(i, questions[i], ids) for i, ids in ready.items() if not questions[i].options])

    def _ids(self, question: Question) -> np.ndarray | Failure:
        """The prompt as tokens, ``[P]``."""
        for _, content in question.messages:
            if found := next((c for c in self._control if c in content), None):
                return Failure(f"the text holds the control token {found!r} of the judge's tokenizer", lasting=True)
        turns = tuple({"role": role, "content": content} for role, content in question.messages)
        plain = "\n\n".join(content for _, content in question.messages) + "\n\nReply:"
        try:
            ids = self.sampler.renderer.prompt(Prompt(id="", origin="", prompt=turns if self._turns else plain))
        except RowRejected as error:
            return Failure(f"judge's prompt: {error.reason}", lasting=True)
        room = context_of(self.policy) - (1 if question.options else question.max_tokens)
        if len(ids) > room:
            return Failure(f"judge's prompt: {len(ids)} tokens do not fit its context (room for {room})", lasting=True)
        return ids

    def _single(self, option: str) -> list[int]:
        """Ids of the option's spellings of one token."""
        if option not in self._spellings:
            tokenizer: Any = self.tokenizer
            encoded = [tokenizer(text, add_special_tokens=False).input_ids for text in (option, f" {option}")]
            self._spellings[option] = sorted({ids[0] for ids in encoded if len(ids) == 1})
        return self._spellings[option]

    def _by_options(self, asked: Sequence[tuple[int, Question, np.ndarray]]) -> Iterator[tuple[int, Reply]]:
        """Log P(option | prompt) = log Σ_spellings P(token), from the state of each prompt's last token."""
        if not asked:
            return
        for part in micro_batches([len(ids) for _, _, ids in asked], None, self.micro_tokens):
            rows = [asked[k] for k in part]
            groups = [Branches(ids[:0], (ids,), (np.arange(len(ids)) == len(ids) - 1,)) for _, _, ids in rows]
            layout = self.policy.layout(groups)
            with torch.no_grad():
                states = self.policy.hidden(layout).index_select(0, layout.last)
                logprobs = output_head(self.policy.inner).logits(states).double().log_softmax(-1).cpu()
            for row, (i, question, ids) in zip(logprobs, rows, strict=True):
                found = tuple(float(row[self._single(o)].logsumexp(0)) for o in question.options or ())
                yield i, Reply(option_logprobs=found, tokens_in=len(ids), tokens_out=1)

    def _by_text(self, asked: Sequence[tuple[int, Question, np.ndarray]]) -> Iterator[tuple[int, Reply]]:
        kinds: dict[tuple[int, float, int], list[tuple[int, np.ndarray]]] = {}
        for i, q, ids in asked:
            kinds.setdefault((q.max_tokens, q.temperature, q.seed), []).append((i, ids))
        for (max_tokens, temperature, seed), rows in kinds.items():
            lengths = {i: len(ids) for i, ids in rows}
            sampling = Sampling(temperature=temperature, max_new_tokens=max_tokens, seed=seed)
            # draws depend on the prompt's name: its content, so that what is asked beside it changes nothing
            named: dict[str, list[int]] = {}
            for i, ids in rows:
                named.setdefault(hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest(), []).append(i)
            ids_of = dict(rows)
            asked_once = [PromptIds(id=name, ids=ids_of[places[0]]) for name, places in named.items()]
            for sample in self.sampler.sample_ids(asked_once, sampling):
                assert sample.ids is not None
                for i in named[sample.prompt]:
                    yield (
                        i,
                        Reply(
                            text=sample.text,
                            truncated=sample.finish == "length",
                            tokens_in=lengths[i],
                            tokens_out=len(sample.ids),
                        ),
                    )
