"""From a file of rows to tokens: read, hold out, render, audit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from trueup.config import RunConfig
from trueup.data.audit import Audit, prompt_length, render_all
from trueup.data.mix import split_held_out
from trueup.data.read import ReadReport, read_rows
from trueup.data.render import CompletionTokens, PairTokens, Renderer
from trueup.errors import DataError
from trueup.models.load import load_tokenizer
from trueup.train.methods import Method
from trueup.types import AnyRow

Tokens = PairTokens | CompletionTokens


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rows ready for a method.

    Attributes:
        tokenizer: of the model.
        train, held_out: tokenised rows.
        train_rows, held_out_rows: the same rows as text.
        audit: what happened to every row.
        report: of the reader.
        fingerprint: sha256 over the tokens of all training rows, in order.
    """

    tokenizer: PreTrainedTokenizerBase
    train: list[Any]
    held_out: list[Any]
    train_rows: list[AnyRow]
    held_out_rows: list[AnyRow]
    audit: Audit
    report: ReadReport
    fingerprint: str


def renderer_for(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> Renderer:
    """The renderer that a config asks for."""
    data = config.data
    return Renderer(
        tokenizer,
        chat=data.chat,
        system=data.system,
        max_length=data.max_length,
        too_long=data.too_long,
        allow_lost_eos=data.allow_lost_eos,
    )


def prepare(config: RunConfig, method: Method, quarantine: Path | None = None) -> Prepared:
    """Reads, splits, renders and audits the data of a run.

    Raises:
        DataError: rows that cannot be used (unless they may be skipped), or too few of them.
    """
    data = config.data
    options: dict[str, Any] = {"split": data.split, "format": data.format, "columns": data.columns}
    options |= {"bad_rows": data.bad_rows, "wanted": method.row, "quarantine": quarantine}
    report = read_rows(data.path, **options)
    rows: list[AnyRow] = list(report.rows)
    if data.eval_path is not None:
        held = list(read_rows(data.eval_path, **{**options, "quarantine": None}).rows)
    else:
        rows, held = split_held_out(rows, data.eval_fraction, config.train.seed)
    held = held[: config.eval.rows] if config.eval.rows else held
    tokenizer = load_tokenizer(config.model.path, config.model.revision)
    renderer = renderer_for(config, tokenizer)
    train, audit = render_all(rows, renderer, bad_rows=data.bad_rows, held_out=held)
    held_out, _ = render_all(held, renderer, bad_rows=data.bad_rows) if held else ([], None)
    if not train:
        raise DataError(f"{data.path}: no row left to train on: read {report.read}, rejected {report.rejected}")
    train_rows, held_rows = _kept(rows, train), _kept(held, held_out)
    whole = fingerprint(train + held_out)
    return Prepared(tokenizer, train, held_out, train_rows, held_rows, audit, report, whole)


def _kept(rows: Sequence[AnyRow], tokens: Sequence[Tokens]) -> list[AnyRow]:
    """The rows that were rendered, in the same order."""
    names = {t.id for t in tokens}
    return [r for r in rows if r.id in names]


def fingerprint(rows: Sequence[Tokens]) -> str:
    """sha256 over ids, masks, labels and weights of rows, in order."""
    digest = hashlib.sha256()
    for row in rows:
        sides = (row.chosen, row.rejected) if isinstance(row, PairTokens) else (row,)
        for side in sides:
            digest.update(side.ids.astype(np.int32).tobytes() + side.mask.tobytes() + f"|{side.label}".encode())
        if isinstance(row, PairTokens):
            digest.update(f"|{row.margin}|{row.preference}".encode())
    return digest.hexdigest()


def prompt_key(row: Tokens) -> str:
    """The prompt of a row as a key: rows with the same key are not independent."""
    side = row.chosen if isinstance(row, PairTokens) else row
    first = row.shared if isinstance(row, PairTokens) else prompt_length(side)
    return hashlib.sha256(side.ids[:first].astype(np.int32).tobytes()).hexdigest()[:16]
