"""From turns to token ids and a mask of what is trained.

The whole conversation is rendered and tokenised once; boundaries are character offsets into that text, never lengths of
parts tokenised apart. Masks go by position: a pad token that equals the end token is harmless. A trained turn runs from
after the generation prompt to its end-of-turn token, inclusive; the sequence ends there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from trueup.errors import DataError, ModelError
from trueup.types import Comparison, Example, Prompt, Rating, Row, Text, Turn

Chat = Literal["auto", "template", "plain"]
TooLong = Literal["error", "drop", "truncate_prompt", "truncate"]


class RowRejected(DataError):
    """A row that cannot be rendered.

    Attributes:
        field: which part of the row.
        reason: why, with the remedy where there is one.
        kind: ``too_long``, ``lost_eos``, ``identical``, ``empty``, ``injection`` or ``template``.
    """

    def __init__(self, field: str, reason: str, kind: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason, self.kind = field, reason, kind


@dataclass(frozen=True, slots=True)
class CompletionTokens:
    """A prompt with one completion.

    Attributes:
        id: of the row.
        ids: ``[T]`` int32.
        mask: ``[T]`` bool, True where the token is trained on (is a target).
        label: good or bad (unpaired rows).
        cut: tokens removed to fit.
        lost_eos: the completion's end was cut off.
    """

    id: str
    ids: np.ndarray
    mask: np.ndarray
    label: bool | None = None
    cut: int = 0
    lost_eos: bool = False


@dataclass(frozen=True, slots=True)
class PairTokens:
    """A prompt with a chosen and a rejected completion.

    Attributes:
        id: of the row.
        chosen, rejected: the two sides, each with its prompt.
        shared: leading tokens common to both and before the first trained token of either: computed once.
        margin, preference: as in the row.
    """

    id: str
    chosen: CompletionTokens
    rejected: CompletionTokens
    shared: int
    margin: float | None = None
    preference: float | None = None


@dataclass(frozen=True, slots=True)
class _Sequence:
    ids: np.ndarray
    mask: np.ndarray


class Renderer:
    """Turns rows into tokens for one tokenizer.

    Args:
        tokenizer: a fast tokenizer.
        chat: ``auto`` wraps plain strings in the chat template if there is one; ``template`` demands one; ``plain``
            concatenates prompt and completion as they are.
        system: system turn put before conversations that have none.
        max_length: tokens of prompt plus completion.
        too_long: what happens to longer rows.
        allow_lost_eos: accept completions whose end was cut off (``truncate``).
        eos_ids: ids that end a turn; None: the tokenizer's eos_token.

    Attributes:
        wrapped: strings that were wrapped in the chat template so far.

    Raises:
        ModelError: no fast tokenizer, or no chat template where one is demanded.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        chat: Chat = "auto",
        system: str | None = None,
        max_length: int = 1024,
        too_long: TooLong = "error",
        allow_lost_eos: bool = False,
        eos_ids: Iterable[int] | None = None,
    ) -> None:
        if not tokenizer.is_fast:
            raise ModelError("the tokenizer has no fast form (tokenizer.json), so token boundaries cannot be known")
        self.has_template = bool(getattr(tokenizer, "chat_template", None))
        if chat == "template" and not self.has_template:
            raise ModelError("data.chat: template was asked for, but the model has no chat template; use plain")
        self.tokenizer: Any = tokenizer
        self.chat, self.system = chat, system
        self.max_length, self.too_long, self.allow_lost_eos = max_length, too_long, allow_lost_eos
        self.eos = int(self.tokenizer.eos_token_id)
        self.eos_ids = {self.eos} if eos_ids is None else set(eos_ids)
        self.wrapped = 0
        added = self.tokenizer.added_tokens_decoder.values()
        self._special = sorted({t.content for t in added if t.special} | set(self.tokenizer.all_special_tokens))
        self._starts_with_bos = self._adds_bos()

    def _adds_bos(self) -> bool:
        bos = self.tokenizer.bos_token_id
        return bos is not None and list(self.tokenizer("a").input_ids[:1]) == [bos]

    def completion(self, row: Rating | Example) -> CompletionTokens:
        """A rating or example as tokens.

        Raises:
            RowRejected: the row cannot be used.
        """
        whole = self._sequence(row, row.completion, "completion")
        cut = self._cut_of([whole])
        return self._fitted(row.id, whole, cut, "completion", row.label if isinstance(row, Rating) else None)

    def pair(self, row: Comparison) -> PairTokens:
        """A comparison as tokens.

        Raises:
            RowRejected: the row cannot be used.
        """
        chosen = self._sequence(row, row.chosen, "chosen")
        rejected = self._sequence(row, row.rejected, "rejected")
        if np.array_equal(chosen.ids, rejected.ids):
            raise RowRejected("rejected", "the same tokens as chosen: the pair says nothing", "identical")
        if row.prompt == "" and isinstance(row.chosen, str):
            chosen, rejected = _without_common_prefix(chosen, rejected)
        cut = self._cut_of([chosen, rejected])
        sides = (
            self._fitted(row.id, chosen, cut, "chosen"),
            self._fitted(row.id, rejected, cut, "rejected"),
        )
        if np.array_equal(sides[0].ids, sides[1].ids):
            raise RowRejected("rejected", "the same tokens as chosen after cutting", "identical")
        first = min(int(np.argmax(s.mask)) for s in sides)
        shared = min(first, _common_prefix(sides[0].ids, sides[1].ids))
        return PairTokens(row.id, *sides, shared, row.margin, row.preference)

    def prompt(self, row: Prompt) -> np.ndarray:
        """A prompt alone, up to where the model would begin to answer, ``[P]`` int32.

        Raises:
            RowRejected: longer than ``max_length``, or the template refuses it.
        """
        turns = self._turns(row.prompt, "", "prompt")
        if turns is None:
            assert isinstance(row.prompt, str)
            ids = self._plain_ids(row.prompt)
        else:
            text = self._render(self._with_system(turns), row.tools, "prompt", generate=True)
            ids = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        if len(ids) > self.max_length:
            raise RowRejected(
                "prompt", f"{len(ids)} tokens are more than data.max_length {self.max_length}", "too_long"
            )
        return np.array(ids, dtype=np.int32)

    # ── one sequence ──

    def _sequence(self, row: Row, completion: Text, field: str) -> _Sequence:
        prompt = self._turns(row.prompt, completion, "prompt")
        if prompt is None:
            return self._plain(str(row.prompt or ""), str(completion), field)
        answer = ({"role": "assistant", "content": completion},) if isinstance(completion, str) else tuple(completion)
        self._refuse_special((*prompt, *answer), field)
        return self._conversation(self._with_system(prompt), answer, row.tools, field)

    def _turns(self, prompt: Text, completion: Text, field: str) -> tuple[Turn, ...] | None:
        """The prompt as turns; None if the row is plain text."""
        if isinstance(prompt, str) and isinstance(completion, str):
            if self.chat == "plain" or not self.has_template or prompt == "":
                return None
            self.wrapped += 1
            return ({"role": "user", "content": prompt},)
        if self.chat == "plain" or not self.has_template:
            raise RowRejected(
                field, "messages need a chat template, and the model has none (or data.chat is plain)", "template"
            )
        return ({"role": "user", "content": prompt},) if isinstance(prompt, str) and prompt else tuple(prompt)  # type: ignore[arg-type]

    def _with_system(self, turns: Sequence[Turn]) -> tuple[Turn, ...]:
        has = bool(turns) and turns[0]["role"] in ("system", "developer")
        return tuple(turns) if self.system is None or has else ({"role": "system", "content": self.system}, *turns)

    def _refuse_special(self, turns: Iterable[Turn], field: str) -> None:
        """Text of a person must not become control tokens."""
        for turn in turns:
            content = turn.get("content")
            if isinstance(content, str) and (found := next((s for s in self._special if s in content), None)):
                raise RowRejected(field, f"the text of a turn holds the control token {found!r}", "injection")

    def _render(self, turns: Sequence[Turn], tools: Any, field: str, *, generate: bool = False) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                [dict(t) for t in turns],
                tools=list(tools) if tools else None,
                tokenize=False,
                add_generation_prompt=generate,
            )
        except Exception as error:  # templates raise jinja2's errors, and ValueError or TypeError from inside them
            raise RowRejected(field, f"the chat template refuses the turns: {error}", "template") from error

    def _conversation(self, prompt: Sequence[Turn], answer: Sequence[Turn], tools: Any, field: str) -> _Sequence:
        turns = (*prompt, *answer)
        full = self._render(turns, tools, field)
        spans = [
            self._span(turns, k, full, tools, field)
            for k in range(len(prompt), len(turns))
            if turns[k]["role"] == "assistant"
        ]
        if not spans:
            raise RowRejected(field, "no assistant turn to train on", "empty")
        encoded = self.tokenizer(full, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = np.array(encoded.input_ids, dtype=np.int32)
        self._refuse_double_bos(ids, field)
        starts, ends = np.array(encoded.offset_mapping).T
        mask = np.zeros(len(ids), dtype=bool)
        for start, end in spans:
            self._mark(ids, mask, np.flatnonzero((ends > start) & (starts < end)), field)
        return self._ended(ids, mask)

    def _span(self, turns: Sequence[Turn], k: int, full: str, tools: Any, field: str) -> tuple[int, int]:
        """Characters of turn ``k`` in the whole text, from after the generation prompt."""
        before = self._render(turns[:k], tools, field, generate=True)
        after = full if k == len(turns) - 1 else self._render(turns[: k + 1], tools, field)
        if not full.startswith(before):
            before = self._render(turns[:k], tools, field)
        if not (full.startswith(before) and full.startswith(after) and len(before) < len(after)):
            raise RowRejected(
                field,
                f"the chat template rewrites turn {k + 1} when further turns follow, so its tokens "
                "cannot be told apart; keep only the last assistant turn in the completion",
                "template",
            )
        return len(before), len(after)

    def _mark(self, ids: np.ndarray, mask: np.ndarray, inside: np.ndarray, field: str) -> None:
        """Trains on a turn's tokens up to its last end token; whitespace after it belongs to the template."""
        ending = [i for i in inside if int(ids[i]) in self.eos_ids]
        stop = ending[-1] + 1 if ending else (inside[-1] + 1 if len(inside) else 0)
        trained = inside[inside < stop]
        if len(trained) == 0 or (ending and len(trained) == 1):
            raise RowRejected(field, "nothing is left of the turn after rendering", "empty")
        mask[trained] = True

    def _ended(self, ids: np.ndarray, mask: np.ndarray) -> _Sequence:
        """Cut after the last trained token, which is made an end token if it is none."""
        last = int(np.flatnonzero(mask)[-1])
        ids, mask = ids[: last + 1], mask[: last + 1]
        if int(ids[-1]) not in self.eos_ids:
            ids, mask = np.append(ids, np.int32(self.eos)), np.append(mask, True)
        if mask[0]:
            mask = mask.copy()
            mask[0] = False  # nothing comes before it
        return _Sequence(ids, mask)

    def _plain(self, prompt: str, completion: str, field: str) -> _Sequence:
        if not completion.strip():
            raise RowRejected(field, "empty", "empty")
        encoded = self.tokenizer(
            prompt + completion, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ends = np.array(encoded.offset_mapping)[:, 1]
        ids, mask = np.array(encoded.input_ids, dtype=np.int32), ends > len(prompt)
        if self._starts_with_bos and ids[0] != self.tokenizer.bos_token_id:
            ids, mask = np.insert(ids, 0, self.tokenizer.bos_token_id), np.insert(mask, 0, False)
        self._refuse_double_bos(ids, field)
        if not mask.any():
            raise RowRejected(field, "no token is left to train on", "empty")
        return self._ended(ids, mask)

    def _plain_ids(self, text: str) -> list[int]:
        ids = list(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
        bos = self.tokenizer.bos_token_id
        return [bos, *ids] if self._starts_with_bos and ids[:1] != [bos] else ids

    def _refuse_double_bos(self, ids: np.ndarray, field: str) -> None:
        bos = self.tokenizer.bos_token_id
        if bos is not None and len(ids) > 1 and int(ids[0]) == bos == int(ids[1]):
            raise RowRejected(field, f"begins with two {self.tokenizer.bos_token!r}", "template")

    # ── fitting ──

    def _cut_of(self, sides: Sequence[_Sequence]) -> int:
        """Tokens to take from the start of the prompt, the same for both sides of a pair."""
        over = max(len(s.ids) for s in sides) - self.max_length
        if over <= 0 or self.too_long == "truncate":
            return 0
        if self.too_long != "truncate_prompt":
            first = min(int(np.argmax(s.mask)) for s in sides)
            part = "prompt alone" if first >= self.max_length else "prompt and completion"
            raise RowRejected(
                "length",
                f"{part}: {over + self.max_length} tokens are more than data.max_length "
                f"{self.max_length}; raise it, or choose --data.too_long drop or truncate_prompt",
                "too_long",
            )
        room = min(int(np.argmax(s.mask)) for s in sides) - 1 - self._keeps_bos(sides[0])
        if over > room:
            raise RowRejected(
                "length", f"the completion alone is too long for data.max_length {self.max_length}", "too_long"
            )
        return over

    def _keeps_bos(self, side: _Sequence) -> int:
        return int(int(side.ids[0]) == self.tokenizer.bos_token_id)

    def _fitted(self, name: str, side: _Sequence, cut: int, field: str, label: bool | None = None) -> CompletionTokens:
        ids, mask = side.ids, side.mask
        if cut:
            keep = self._keeps_bos(side)
            gone = np.arange(keep, keep + cut)
            ids, mask = np.delete(ids, gone), np.delete(mask, gone)
        lost = len(ids) > self.max_length
        if lost:
            if not self.allow_lost_eos:
                raise RowRejected(
                    field,
                    f"cutting to data.max_length {self.max_length} would lose the end token; "
                    "allow it with --data.allow_lost_eos, or use truncate_prompt or drop",
                    "lost_eos",
                )
            cut += len(ids) - self.max_length
            ids, mask = ids[: self.max_length], mask[: self.max_length]
        if not mask.any():
            raise RowRejected(field, "no trained token is left within data.max_length", "too_long")
        return CompletionTokens(name, ids, mask, label, cut, lost)


def _common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n


def _without_common_prefix(chosen: _Sequence, rejected: _Sequence) -> tuple[_Sequence, _Sequence]:
    """Two whole texts: what they have in common is the prompt, token for token."""
    first = max(1, _common_prefix(chosen.ids, rejected.ids))
    sides = [_Sequence(s.ids, s.mask & (np.arange(len(s.ids)) >= first)) for s in (chosen, rejected)]
    return sides[0], sides[1]
