"""What became of every row, before any weight is loaded: the preflight audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from trueup.data.mix import shared_prompts
from trueup.data.render import CompletionTokens, PairTokens, Renderer, RowRejected
from trueup.errors import DataError
from trueup.ops.stats import wilson
from trueup.types import Comparison, Prompt, Row

Tokens = PairTokens | CompletionTokens
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Spread:
    """Lengths in tokens."""

    least: int
    median: float
    mean: float
    p95: float
    most: int

    @classmethod
    def of(cls, values: Sequence[int]) -> Spread:
        """The spread of some lengths; zeros if there are none."""
        v = np.array(values if len(values) else [0])
        return cls(int(v.min()), float(np.median(v)), float(v.mean()), float(np.percentile(v, 95)), int(v.max()))


@dataclass(frozen=True, slots=True)
class Audit:
    """Figures of a rendered data set.

    Attributes:
        read, kept, dropped: rows; read = kept + dropped.
        reasons: how many rows were dropped for what.
        dropped_rows: ``origin: field: reason`` of every dropped row.
        truncated, lost_eos: kept rows that were cut, and those that lost their end.
        lengths: spread of prompt and completion lengths by side.
        longer_chosen: share of pairs whose longer answer is the chosen one, with its 95 % interval; None for others.
        trained_share: trained tokens over all tokens.
        shared_tokens: share of a pair's tokens that is computed once; None for others.
        identical, duplicates: dropped identical pairs; kept rows that repeat an earlier one.
        leaked: held-out rows whose first user turn also occurs in training.
        desirable: share of good rows (unpaired); None for others.
        wrapped: strings that were put into the chat template.
        example: one row, decoded, trained tokens between ⟦ and ⟧.
        edges: first 30 and last 10 tokens of that row, decoded.
    """

    read: int
    kept: int
    dropped: int
    reasons: dict[str, int]
    dropped_rows: list[str]
    truncated: int
    lost_eos: int
    lengths: dict[str, Spread]
    longer_chosen: tuple[float, float, float] | None
    trained_share: float
    shared_tokens: float | None
    identical: int
    duplicates: int
    leaked: list[str]
    desirable: float | None
    wrapped: int
    example: str
    edges: tuple[str, str] = field(default=("", ""))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For a person."""
        out = [f"rows: {self.read} rendered, {self.kept} kept, {self.dropped} dropped"]
        out += [f"  dropped, {name}: {count}" for name, count in sorted(self.reasons.items())]
        out += [f"  {line}" for line in self.dropped_rows[:_SHOWN]]
        if len(self.dropped_rows) > _SHOWN:
            out.append(f"  ... and {len(self.dropped_rows) - _SHOWN} more (audit.json has them all)")
        out.append(f"cut to fit: {self.truncated}; end token lost: {self.lost_eos}; duplicates: {self.duplicates}")
        for name, s in self.lengths.items():
            out.append(
                f"{name} tokens: {s.least} to {s.most}, median {s.median:g}, mean {s.mean:.1f}, 95 % below {s.p95:g}"
            )
        if self.trained_share:
            out.append(f"trained tokens: {self.trained_share:.1%} of all")
        if self.shared_tokens is not None:
            out.append(f"prompt tokens computed once instead of twice: {self.shared_tokens:.1%} of all")
        if self.longer_chosen is not None:
            share, low, high = self.longer_chosen
            out.append(f"the longer answer is the chosen one in {share:.1%} [{low:.1%}, {high:.1%}] of pairs")
        if self.desirable is not None:
            ratio = self.desirable / (1 - self.desirable) if self.desirable < 1 else float("inf")
            out.append(f"good rows: {self.desirable:.1%}; good : bad = {ratio:.2f} (λD·nD / λU·nU should be 1 to 1.33)")
        if self.wrapped:
            out.append(f"plain strings put into the chat template: {self.wrapped} (data.chat: plain leaves them alone)")
        if self.leaked:
            out.append(f"WARNING: {len(self.leaked)} held-out rows share their first user turn with training rows")
        title = "one row, trained tokens between ⟦ and ⟧:" if self.trained_share else "one prompt as the model sees it:"
        return [*out, title, self.example]


def render_all(
    rows: Sequence[Row], renderer: Renderer, *, bad_rows: str = "error", held_out: Sequence[Row] = ()
) -> tuple[list[Tokens], Audit]:
    """Renders rows and says what became of each.

    Args:
        rows: comparisons, ratings, examples or prompts.
        renderer: for the model's tokenizer.
        bad_rows: ``error`` refuses the data set if a row cannot be used; otherwise such rows are dropped and counted.
            Rows over the limit are dropped in any mode if the renderer's ``too_long`` is ``drop``.
        held_out: rows to check for prompts shared with ``rows``.

    Raises:
        DataError: bad rows, in mode ``error``; the message names the first ones.
    """
    wrapped_before = renderer.wrapped
    kept: list[Tokens] = []
    dropped: list[tuple[Row, RowRejected]] = []
    for row in rows:
        try:
            kept.append(_rendered(row, renderer))
        except RowRejected as why:
            dropped.append((row, why))
    fatal = [(r, w) for r, w in dropped if not (w.kind == "too_long" and renderer.too_long == "drop")]
    if fatal and bad_rows == "error":
        shown = "\n".join(f"  {r.origin}: {w}" for r, w in fatal[:_SHOWN])
        more = f"\n  ... and {len(fatal) - _SHOWN} more" if len(fatal) > _SHOWN else ""
        raise DataError(
            f"{len(fatal)} of {len(rows)} rows cannot be rendered (--data.bad_rows skip drops them):\n{shown}{more}"
        )
    return kept, _audit(kept, dropped, renderer, renderer.wrapped - wrapped_before, shared_prompts(rows, held_out))


def _rendered(row: Row, renderer: Renderer) -> Tokens:
    """A prompt alone is a sequence of which nothing is trained."""
    if isinstance(row, Prompt):
        ids = renderer.prompt(row)
        return CompletionTokens(row.id, ids, np.zeros(len(ids), dtype=bool))
    return renderer.pair(row) if isinstance(row, Comparison) else renderer.completion(row)  # type: ignore[arg-type]


def _audit(
    kept: list[Tokens], dropped: list[tuple[Row, RowRejected]], renderer: Renderer, wrapped: int, leaked: list[str]
) -> Audit:
    sides = [s for t in kept for s in ((t.chosen, t.rejected) if isinstance(t, PairTokens) else (t,))]
    pairs = [t for t in kept if isinstance(t, PairTokens)]
    labels = [s.label for s in sides if s.label is not None]
    total = sum(len(s.ids) for s in sides)
    seen = Counter(_key(t) for t in kept)
    return Audit(
        read=len(kept) + len(dropped),
        kept=len(kept),
        dropped=len(dropped),
        reasons=dict(Counter(w.kind for _, w in dropped)),
        dropped_rows=[f"{r.origin}: {w}" for r, w in dropped],
        truncated=sum(_any(t, "cut") for t in kept),
        lost_eos=sum(_any(t, "lost_eos") for t in kept),
        lengths=_lengths(kept),
        longer_chosen=_longer_chosen(pairs),
        trained_share=sum(int(s.mask.sum()) for s in sides) / total if total else 0.0,
        shared_tokens=sum(p.shared for p in pairs) / total if pairs else None,
        identical=sum(w.kind == "identical" for _, w in dropped),
        duplicates=sum(n - 1 for n in seen.values()),
        leaked=leaked,
        desirable=sum(labels) / len(labels) if labels else None,
        wrapped=wrapped,
        example=marked(sides[0], renderer) if sides else "",
        edges=_edges(sides[0], renderer) if sides else ("", ""),
    )


def _any(tokens: Tokens, name: str) -> bool:
    sides = (tokens.chosen, tokens.rejected) if isinstance(tokens, PairTokens) else (tokens,)
    return any(getattr(s, name) for s in sides)


def _key(tokens: Tokens) -> bytes:
    sides = (tokens.chosen, tokens.rejected) if isinstance(tokens, PairTokens) else (tokens,)
    return b"|".join(s.ids.tobytes() for s in sides)


def _lengths(kept: Sequence[Tokens]) -> dict[str, Spread]:
    pairs = [t for t in kept if isinstance(t, PairTokens)]
    singles = [t for t in kept if isinstance(t, CompletionTokens)]
    lengths: dict[str, list[int]] = {"prompt": [prompt_length(t) for t in singles]}
    lengths["prompt"] += [int(np.argmax(t.chosen.mask)) for t in pairs]
    if pairs:
        lengths["chosen"] = [int(t.chosen.mask.sum()) for t in pairs]
        lengths["rejected"] = [int(t.rejected.mask.sum()) for t in pairs]
    if any(t.mask.any() for t in singles):
        lengths["completion"] = [int(t.mask.sum()) for t in singles]
    return {name: Spread.of(values) for name, values in lengths.items()}


def prompt_length(tokens: CompletionTokens) -> int:
    """Tokens before the first trained one; all of a prompt alone."""
    return int(np.argmax(tokens.mask)) if tokens.mask.any() else len(tokens.ids)


def _longer_chosen(pairs: Sequence[PairTokens]) -> tuple[float, float, float] | None:
    """Ties in length count half."""
    if not pairs:
        return None
    lengths = [(int(p.chosen.mask.sum()), int(p.rejected.mask.sum())) for p in pairs]
    return tuple(wilson(sum(1.0 if c > r else 0.5 * (c == r) for c, r in lengths), len(lengths)))  # type: ignore[return-value]


def marked(side: CompletionTokens, renderer: Renderer) -> str:
    """The decoded row with runs of trained tokens between ⟦ and ⟧."""
    parts: list[str] = []
    edges = np.flatnonzero(np.diff(side.mask.astype(int), prepend=0, append=0))
    at = 0
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        parts += [_decode(side.ids[at:start], renderer), "⟦", _decode(side.ids[start:end], renderer), "⟧"]
        at = int(end)
    return "".join([*parts, _decode(side.ids[at:], renderer)])


def _edges(side: CompletionTokens, renderer: Renderer) -> tuple[str, str]:
    return _decode(side.ids[:30], renderer), _decode(side.ids[-10:], renderer)


def _decode(ids: np.ndarray, renderer: Renderer) -> str:
    return renderer.tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False) if len(ids) else ""
