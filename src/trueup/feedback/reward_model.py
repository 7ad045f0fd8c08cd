"""A reward model as a scorer: text is rendered with its own tokenizer and template, never with ids of another model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from trueup.data.order import micro_batches
from trueup.data.render import Chat, CompletionTokens, Renderer, RowRejected
from trueup.errors import ScoringError
from trueup.feedback.base import Answered
from trueup.models.layout import Branches
from trueup.models.load import load_reward_model, load_tokenizer
from trueup.models.policy import Policy
from trueup.models.source import identity, resolve
from trueup.settings import read_yaml
from trueup.types import Example, Prompt


class RewardModel:
    """A sequence-classification model with one output.

    The answer is put after the prompt as an assistant turn (or plainly, after a prompt that is raw text) and ended as
    in training; the score is read at its true last token, whatever the pad token is.

    Args:
        path: anything that :func:`trueup.models.source.resolve` takes.
        revision: of a hub id.
        dtype: of the weights; scores are computed in fp32 from the last hidden state.
        device: where it runs.
        max_length: longer texts are an error; None: the model's context.
        chat: as ``data.chat`` in its training; None: what the run that made it says, else ``auto``.
        micro_tokens: tokens at once.

    Raises:
        ModelError: the files hold no score head, or cannot be used.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        revision: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        max_length: int | None = None,
        chat: Chat | None = None,
        micro_tokens: int = 4096,
    ) -> None:
        self.path = str(path)
        tokenizer = load_tokenizer(path, revision)
        model = load_reward_model(path, dtype=dtype, revision=revision, new_head=False)
        self.policy = Policy(model.to(device=device), int(tokenizer.pad_token_id))  # type: ignore[arg-type]
        self.policy.model.requires_grad_(False)
        context = int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**20)
        self.renderer = Renderer(tokenizer, max_length=max_length or context, chat=chat or _chat_of_run(path, revision))
        self.micro_tokens = micro_tokens
        self._identity = f"reward model {path}@{identity(path, revision)}"

    @property
    def identity(self) -> str:
        """Path and hash of the weights."""
        return self._identity

    @torch.no_grad()
    def score(self, answers: Sequence[Answered]) -> np.ndarray:
        """``[n]``.

        Raises:
            ScoringError: a text that cannot be rendered or is too long, or a score that is not finite.
        """
        rows = [self._rendered(a) for a in answers]
        scores = np.empty(len(rows))
        for part in micro_batches([len(r.ids) for r in rows], None, self.micro_tokens):
            groups = [Branches(rows[i].ids[:0], (rows[i].ids,), (rows[i].mask,)) for i in part]
            scores[part] = self.policy.scores(self.policy.layout(groups)).double().cpu().numpy()
        if len(bad := np.flatnonzero(~np.isfinite(scores))):
            raise ScoringError(
                f"{self.path}: row {answers[bad[0]].id}: the score is {scores[bad[0]]}; the reward model is damaged or "
                "its precision too low"
            )
        return scores

    def _rendered(self, answered: Answered) -> CompletionTokens:
        row = Example(id=answered.id, origin=answered.id, prompt=answered.prompt, completion=answered.answer)
        try:
            if not answered.answer.strip():  # an answer that ended at once is the prompt and an end
                ids = self.renderer.prompt(Prompt(id=row.id, origin=row.id, prompt=row.prompt))
                ids = np.append(ids, np.int32(self.renderer.eos))
                return CompletionTokens(row.id, ids, np.arange(len(ids)) == len(ids) - 1)
            return self.renderer.completion(row)
        except RowRejected as error:
            raise ScoringError(f"{self.path}: row {answered.id}: {error}") from None


def _chat_of_run(path: str | Path, revision: str | None) -> Chat:
    """How the run that made the model rendered its rows; ``auto`` for models that no run of ours made."""
    settings = resolve(path, revision).folder.parent / "config.yaml"
    if not settings.is_file():
        return "auto"
    data = read_yaml(settings.read_text(encoding="utf-8"), str(settings)).get("data", {})
    return data.get("chat", "auto")
