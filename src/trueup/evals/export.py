"""Answers in the form that other evaluations read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from trueup.data.write import whole_file
from trueup.errors import DataError
from trueup.feedback.base import Answered


def alpaca_eval_rows(answers: Sequence[Answered], generator: str) -> list[dict[str, str]]:
    """Answers as AlpacaEval's model outputs: ``instruction``, ``output``, ``generator``, and ``dataset`` if known.

    AlpacaEval joins outputs to its references by the exact text of the instruction, so that is left as it is.

    Args:
        answers: one a prompt; ``meta`` may have ``dataset``.
        generator: the name that the leaderboard shows.

    Raises:
        DataError: no answers, two to one prompt, a prompt that is not one user turn, or an empty name.
    """
    if not answers:
        raise DataError("AlpacaEval export: there is no answer")
    if not generator.strip():
        raise DataError("AlpacaEval export: generator: a name is needed")
    seen: dict[str, str] = {}
    rows: list[dict[str, str]] = []
    for a in answers:
        instruction = _instruction(a)
        if instruction in seen:
            raise DataError(
                f"AlpacaEval export: row {a.id} has the prompt of row {seen[instruction]}; keep one answer a prompt"
            )
        seen[instruction] = a.id
        row = {"instruction": instruction, "output": a.answer, "generator": generator}
        if "dataset" in a.meta:
            row["dataset"] = str(a.meta["dataset"])
        rows.append(row)
    return rows


def write_alpaca_eval(path: Path, answers: Sequence[Answered], generator: str, *, overwrite: bool = False) -> int:
    """Writes :func:`alpaca_eval_rows` as the JSON list that ``alpaca_eval --model_outputs`` reads; returns its length.

    Raises:
        DataError: as there; or the file exists already, or its folder does not.
        ResourceError: the system refuses the write.
    """
    rows = alpaca_eval_rows(answers, generator)
    text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    with whole_file(path, overwrite=overwrite) as draft:
        draft.write_text(text, encoding="utf-8")
    return len(rows)


def _instruction(answered: Answered) -> str:
    prompt = answered.prompt
    if isinstance(prompt, str):
        return prompt
    content = prompt[0].get("content") if len(prompt) == 1 else None
    if not isinstance(content, str) or prompt[0].get("role") != "user":
        raise DataError(
            f"AlpacaEval export: row {answered.id}: the prompt must be one user turn of text; AlpacaEval knows no "
            "system turn and no conversation"
        )
    return content
