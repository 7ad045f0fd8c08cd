"""The answers of a finished evaluation in the form of other tools."""

from __future__ import annotations

import json
from pathlib import Path

from trueup.errors import ConfigError, DataError
from trueup.evals.export import write_alpaca_eval
from trueup.feedback.base import Answered


def export_paths(path: Path, names: list[str]) -> dict[str, Path]:
    """One file a contestant: ``path`` itself for one, ``<stem>.<name><suffix>`` for several.

    Raises:
        DataError: a file that is there already.
    """
    found = {n: path if len(names) == 1 else path.with_name(f"{path.stem}.{n}{path.suffix}") for n in names}
    for file in found.values():
        if file.exists():
            raise DataError(f"--export: {file}: exists already; name another file")
    return found


def export_answers(folder: Path, form: str, path: Path, names: list[str]) -> list[Path]:
    """Writes the answers of ``folder/answers.jsonl``; of several answers to a prompt, the first.

    Args:
        folder: of a finished evaluation.
        form: ``alpaca-eval``.
        path: file to make.
        names: contestants.

    Raises:
        ConfigError: an unknown form.
        DataError: a prompt that the form cannot hold, or a file that is there.
    """
    check_form(form)
    answers: dict[str, list[Answered]] = {n: [] for n in names}
    for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["index"] == 0 and row["model"] in answers:
            prompt = row["prompt"] if isinstance(row["prompt"], str) else tuple(row["prompt"])
            answers[row["model"]].append(Answered(id=row["id"], prompt=prompt, answer=row["answer"]))
    files = export_paths(path, names)
    for name, file in files.items():
        write_alpaca_eval(file, answers[name], name)
    return list(files.values())


def check_form(form: str) -> None:
    """Refuses a form that is not known.

    Raises:
        ConfigError: it is not.
    """
    if form != "alpaca-eval":
        raise ConfigError(f"--export: {form!r} is no form; there is alpaca-eval")
