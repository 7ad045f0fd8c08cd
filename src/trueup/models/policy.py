"""A causal model seen as a machine that gives log-probabilities of completions.

One forward path serves every method: hidden states of a layout, then the head at completion positions only.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from trueup.errors import ModelError
from trueup.models import attention
from trueup.models.head import Head, TokenFigures, token_figures
from trueup.models.layout import Branches, Layout, rows_layout, shared_layout
from trueup.models.load import score_head

log = logging.getLogger(__name__)

_NO_MASK = torch.zeros(1, 1, 1, 1)  # four dimensions: transformers takes it as ready-made and builds none


@dataclass(frozen=True, slots=True)
class SequenceFigures:
    """Sums over the trained tokens of each sequence, ``[S]`` each.

    Attributes:
        logprob: Σ_t log p_t.
        common: the same over the first min(|yc|, |yr|) trained tokens of a pair; None unless asked for.
        log_weight: mean_t[log p_t − log Σ_v p_v²], detached (WPO); None unless asked for.
        lengths: number of trained tokens.
    """

    logprob: torch.Tensor
    common: torch.Tensor | None
    log_weight: torch.Tensor | None
    lengths: torch.Tensor


class Policy:
    """A model with the layout it can take.

    Args:
        model: a causal or sequence-classification model, perhaps wrapped by PEFT.
        pad_id: id put in padding (any; padding is told by position).
        layout: ``shared``, ``rows``, or ``auto``: shared where the attention allows it.

    Raises:
        ModelError: ``shared`` was asked for and the model cannot take it.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, pad_id: int, layout: str = "auto") -> None:
        self.model = model
        self.inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self.decoder: Any = getattr(self.inner, self.inner.base_model_prefix)
        self.pad_id = pad_id
        why_not = why_not_shared(self.inner)
        if why_not and layout == "shared":
            raise ModelError(f"model.layout: shared is not possible: {why_not}; use --model.layout rows")
        self.shared = not why_not and layout != "rows"
        if why_not and layout == "auto":
            log.warning("prompts are not shared between completions: %s; every completion is a row of its own", why_not)
        if self.shared:
            self.inner.set_attn_implementation(attention.NAME)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def layout(self, groups: Sequence[Branches]) -> Layout:
        """Lays a micro-batch out the way this model takes it, on its device."""
        laid = shared_layout(groups) if self.shared else rows_layout(groups, self.pad_id)
        return laid.to(self.device)

    def hidden(self, layout: Layout, cache: Any = None) -> torch.Tensor:
        """Last hidden states, flat ``[R * T, H]``; ``cache`` sees the keys and values of every layer."""
        extra: dict[str, Any] = {"attention_mask": layout.padding}
        if layout.groups is not None:
            extra = {"attention_mask": _NO_MASK.to(layout.ids.device), "groups": layout.groups}
        if layout.groups is not None or layout.padding is not None:
            extra["position_ids"] = layout.positions
        output = self.decoder(input_ids=layout.ids, use_cache=cache is not None, past_key_values=cache, **extra)
        return output.last_hidden_state.flatten(0, 1)

    def hidden_step(
        self, tokens: torch.Tensor, positions: torch.Tensor, seen: torch.Tensor, cache: Any
    ) -> torch.Tensor:
        """Last hidden states of one further token an answer, ``[B, H]``.

        Args:
            tokens: ``[B]``.
            positions: of the tokens, ``[B]``.
            seen: which keys of the cache each may look at, ``[B, L]`` bool.
            cache: takes each layer's keys and values, and gives all there are.
        """
        output = self.decoder(
            input_ids=tokens[:, None],
            position_ids=positions[:, None],
            attention_mask=_NO_MASK.to(tokens.device),
            past_key_values=cache,
            use_cache=True,
            seen=seen,
        )
        return output.last_hidden_state[:, 0]

    def tokens(self, layout: Layout, *, extras: bool = False) -> TokenFigures:
        """Figures of every trained token, ``[N]``."""
        states = _rows(self.hidden(layout), layout.source)
        return token_figures(states, output_head(self.inner), layout.target, extras=extras)

    def sequences(self, layout: Layout, *, common: bool = False, weights: bool = False) -> SequenceFigures:
        """Sums a sequence; with ``common``, sequences 2i and 2i+1 are taken as a pair."""
        figures = self.tokens(layout, extras=weights)
        log_weight = None
        if figures.collision is not None:
            per_token = figures.logprob.detach() - figures.collision
            log_weight = _sum_by_sequence(per_token, layout) / layout.lengths
        return SequenceFigures(
            logprob=_sum_by_sequence(figures.logprob, layout),
            common=_sum_by_sequence(figures.logprob * _in_common(layout), layout) if common else None,
            log_weight=log_weight,
            lengths=layout.lengths,
        )

    def scores(self, layout: Layout) -> torch.Tensor:
        """Reward-model score at the last token of each sequence, ``[S]`` in fp32 (fp64 stays)."""
        states = self.hidden(layout).index_select(0, layout.last)
        wide = states if states.dtype == torch.float64 else states.float()
        return wide @ score_head(self.model).weight[0].to(wide.dtype)  # in bf16 close scores would round to ties

    def adapter_off(self) -> AbstractContextManager[Any]:
        """Within it the model is its own base: the LoRA adapter is switched off."""
        return self.model.disable_adapter() if isinstance(self.model, PeftModel) else nullcontext()


def _rows(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Some rows; on CUDA by a way whose backward pass adds up in a fixed order (index_select's does not)."""
    return states[places] if states.is_cuda else states.index_select(0, places)


def _sum_by_sequence(per_token: torch.Tensor, layout: Layout) -> torch.Tensor:
    """``[S]``; summed along rows of a table, because index_add has no fixed order on CUDA."""
    table = per_token.new_zeros(len(layout.lengths), int(layout.lengths.max()))
    return table.index_put((layout.sequence, layout.ordinal), per_token).sum(1)


def _in_common(layout: Layout) -> torch.Tensor:
    """1 where a token is among the first min(|yc|, |yr|) of its pair, ``[N]``."""
    shorter = layout.lengths.view(-1, 2).amin(1).repeat_interleave(2)
    return (layout.ordinal < shorter[layout.sequence]).float()


def output_head(inner: Any) -> Head:
    """The output layer of a causal model, with what its config does to the logits."""
    config = inner.config.get_text_config()
    layer = inner.get_output_embeddings()
    scale = 1.0
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        scale = 1.0 / divisor
    if (factor := getattr(config, "logit_scale", None)) is not None:
        scale = factor
    return Head(layer.weight, getattr(layer, "bias", None), scale, getattr(config, "final_logit_softcapping", None))


def why_not_shared(inner: Any) -> str:
    """Why this model's attention cannot take branches; empty if it can."""
    config = inner.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        return f"{config.model_type} has layers of type {', '.join(sorted(kinds - {'full_attention'}))}"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return f"{config.model_type} attends through a sliding window of {config.sliding_window} tokens"
    if not getattr(inner, "_supports_attention_backend", False):
        return f"{config.model_type} has an attention of its own"
    return ""


@torch.no_grad()
def check_layouts(policy: Policy, groups: Sequence[Branches], tolerance: float | None = None) -> float:
    """Compares the shared layout with padded rows, and our head with the model's own, on real sequences.

    Args:
        policy: the model; nothing is compared between layouts if it does not share.
        groups: a few groups of the first batch.
        tolerance: largest difference of a token's log-probability, in nats; None: 1e-3 in fp32, 0.5 in bf16 (whose
            8 bits of mantissa leave about 0.05 on a logit of 20).

    Returns:
        The largest difference seen.

    Raises:
        ModelError: the numbers differ; training on them would be wrong.
    """
    if tolerance is None:
        tolerance = 0.5 if policy.inner.dtype in (torch.bfloat16, torch.float16) else 1e-3
    rows = rows_layout(groups, policy.pad_id).to(policy.device)
    by_rows = policy.tokens(rows).logprob
    whole = policy.inner(input_ids=rows.ids, attention_mask=rows.padding, position_ids=rows.positions, use_cache=False)
    own = whole.logits.flatten(0, 1).index_select(0, rows.source)
    own = (own if own.dtype == torch.float64 else own.float()).log_softmax(-1).gather(1, rows.target[:, None])[:, 0]
    worst = float((own - by_rows).abs().max())
    if not worst <= tolerance:
        raise ModelError(
            f"self-check: our output layer and the model's own differ by {worst:.3g} nats a token "
            f"(allowed {tolerance:g}); this architecture ({policy.inner.config.model_type}) is not supported"
        )
    if policy.shared:
        shared = policy.tokens(shared_layout(groups).to(policy.device)).logprob
        difference = float((shared - by_rows).abs().max())
        if not difference <= tolerance:
            raise ModelError(
                f"self-check: shared prompts and padded rows differ by {difference:.3g} nats a token "
                f"(allowed {tolerance:g}); train with --model.layout rows"
            )
        worst = max(worst, difference)
    return worst
