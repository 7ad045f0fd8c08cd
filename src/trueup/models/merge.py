"""A LoRA adapter and its base as one full model folder; published only if it answers like the two did."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from trueup.errors import ModelError, RunError, TrueupError
from trueup.models.card import write_merged_card
from trueup.models.load import load_adapter, load_tokenizer
from trueup.models.save import save_result
from trueup.models.source import Source, base_of, resolve

_TOLERANCE = 1e-3  # nats or points, in fp32: W + (α/r)BA is rounded once more than W x + (α/r)B(A x)
_PROBE = (3, 24)  # sequences, tokens


def merge(source: str | Path, out: Path, dtype: torch.dtype | None = None) -> Path:
    """Makes a full model of an adapter.

    Args:
        source: a run folder or an adapter folder.
        out: the folder to make; it must not exist.
        dtype: of the weights written; None: as in the base model's files. The sum is taken in fp32.

    Returns:
        The folder: model, tokenizer, chat template, and the adapter's card, made to fit.

    Raises:
        ModelError: not an adapter, or one that cannot be read.
        RunError: ``out`` exists.
        ResourceError: the disk is full; nothing is left behind.
        TrueupError: the merged model answers differently from base and adapter; nothing is left behind.
    """
    if os.path.lexists(out):
        raise RunError(f"{out}: exists already; name another folder or remove this one")
    found = resolve(source)
    if found.kind != "adapter":
        raise ModelError(f"{source}: a full model already, there is nothing to merge")
    if dtype is None:
        dtype = _written_dtype(base_of(found))
    scores = found.config.get("task_type") == "SEQ_CLS"
    auto = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    options = {"dtype": torch.float32, **({"num_labels": 1} if scores else {})}
    model = load_adapter(found, auto, options)
    probe = _probe(int(model.get_base_model().config.get_text_config().vocab_size))  # pyright: ignore
    before = _answers(model, probe, scores=scores)
    merged: PreTrainedModel = model.merge_and_unload()  # pyright: ignore[reportCallIssue]
    _require_same(before, _answers(merged, probe, scores=scores))
    return save_result(
        merged,
        load_tokenizer(source),
        out,
        dtype=dtype,
        card=lambda folder: write_merged_card(found.folder, folder),
        replace=False,
    )


def _require_same(before: torch.Tensor, after: torch.Tensor) -> None:
    worst = float((before - after).abs().max())
    if not worst <= _TOLERANCE:
        raise TrueupError(
            f"merged model: answers differ by {worst:.3g} from those of base and adapter (allowed {_TOLERANCE:g}); "
            "nothing was written"
        )


def _written_dtype(base: Source) -> torch.dtype:
    """What the base's config says of its files; fp32 where it says nothing (GGUF among others)."""
    if base.file is not None:
        return torch.float32
    word = base.config.get("dtype", base.config.get("torch_dtype"))
    dtype = getattr(torch, word, None) if isinstance(word, str) else None
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def _probe(vocab: int) -> torch.Tensor:
    return torch.randint(vocab, _PROBE, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _answers(model: torch.nn.Module, probe: torch.Tensor, *, scores: bool) -> torch.Tensor:
    """Log-probabilities of every next token, or the score, in fp32."""
    if scores:
        return torch.stack([model(input_ids=row[None]).logits.float()[0] for row in probe])
    return model(input_ids=probe).logits.float().log_softmax(-1)
