"""Question sets in their published form, as choices and comparisons. The files are the user's; none is shipped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from trueup.data.read import read_rows, records
from trueup.errors import ConfigError, DataError
from trueup.evals.choice import Choice
from trueup.types import Comparison, Turn

_LETTERED = re.compile(r"\A(.*?Options:\n) \(A\) (.*?)\n \(B\) (.*?)(\n\nThe answer is:\s*)\Z", re.DOTALL)
_TURN = re.compile(r"\n\n(Human|Assistant):")


def hhh_choices(path: str | Path, form: Literal["letter", "text"] = "letter") -> list[Choice]:
    """The HHH comparisons of Bai et al. 2022 (arXiv 2212.08073), 438 in their published file.

    Args:
        path: of the file; rows have ``prompt``, ``corrects``, ``incorrects``, ``text_correct``, ``text_incorrect``.
        form: ``letter``: as published, the options stand in the prompt and the model is asked for " (A)" or " (B)";
            every question is asked in both orders, for a model that likes (A) is else taken for a good one. ``text``:
            the conversation, and the two answers as options; asked once, for there is no order.

    Raises:
        DataError: a row that is not of this form.
    """
    found: list[Choice] = []
    for where, fields in _rows(path):
        shared, right, wrong = _split_hhh(where, fields)
        question = where.rpartition("/")[2]
        if form == "text":
            # the right one is not always first, so that ties cannot favour it
            options = (right, wrong) if len(found) % 2 == 0 else (wrong, right)
            found.append(_choice(question, question, shared, shared + "Assistant:", options, options.index(right)))
            continue
        parts = _LETTERED.match(_field(where, fields, "prompt"))
        letters = _letters(where, fields)
        if parts is None:
            raise DataError(f"{where}: prompt: options (A) and (B) and 'The answer is:' are expected")
        before, a, b, after = parts.groups()
        for suffix, first, second, place in (("", a, b, letters), ("/swapped", b, a, 1 - letters)):
            prompt = f"{before} (A) {first}\n (B) {second}{after.rstrip(' ')}"
            found.append(_choice(question + suffix, question, shared, prompt, (" (A)", " (B)"), place))
    return found


def hhh_comparisons(path: str | Path) -> list[Comparison]:
    """The same file as comparisons of two answers, for judges and reward models.

    Raises:
        DataError: a row that is not of this form.
    """
    found: list[Comparison] = []
    for where, fields in _rows(path):
        shared, right, wrong = _split_hhh(where, fields)
        name = where.rpartition("/")[2]
        turns = _turns(where, shared)
        found.append(Comparison(id=name, origin=where, prompt=turns, chosen=right.strip(), rejected=wrong.strip()))
    return found


def comparisons(path: str | Path, form: str = "pairs") -> list[Comparison]:
    """Ranked answers of any format that holds them (``pairs``), or the HHH comparisons (``hhh``).

    Raises:
        ConfigError: another form.
        DataError: rows that are none.
    """
    if form not in ("pairs", "hhh"):
        raise ConfigError(f"--form: {form!r} is none of pairs, hhh")
    rows: list[Any] = hhh_comparisons(path) if form == "hhh" else list(read_rows(path, wanted=Comparison).rows)
    return rows


def truthfulqa_choices(path: str | Path, *, one: bool = True) -> list[Choice]:
    r"""TruthfulQA (Lin et al. 2022, arXiv 2109.07958) from its published table.

    The question stands as "Q: ...\nA:"; the published evaluation puts six examples before it, so figures compare with
    each other, not with published ones. An answer listed twice is one option.

    Args:
        path: of the table, with ``Question``, ``Best Answer``, ``Correct Answers`` and ``Incorrect Answers`` (lists
            separated by semicolons).
        one: the best answer against the incorrect ones (MC1); else all correct ones against them (MC2).

    Raises:
        DataError: a row that is not of this form.
    """
    found: list[Choice] = []
    for where, fields in _rows(path):
        wrong = _listed(_field(where, fields, "Incorrect Answers"))
        right = [_field(where, fields, "Best Answer").strip()]
        right = right if one else list(dict.fromkeys([*right, *_listed(_field(where, fields, "Correct Answers"))]))
        wrong = [w for w in dict.fromkeys(wrong) if w not in right]
        question = _field(where, fields, "Question").strip()
        name = where.rpartition("/")[2]
        options = tuple(f" {o}" for o in (*right, *wrong))
        found.append(
            Choice(
                id=name, question=name, cluster=question, prompt=f"Q: {question}\nA:", options=options,
                right=tuple(range(len(right))),
            )
        )  # fmt: skip
    return found


def plain_choices(path: str | Path) -> list[Choice]:
    """Rows of ``prompt``, ``options`` (a list) and ``right`` (an index, or several), as they stand.

    The option follows the prompt directly: one that is to be parted from it by a blank begins with one. Rows with one
    ``cluster`` are not independent; without it every prompt is its own.

    Raises:
        DataError: a row that is not of this form.
    """
    found: list[Choice] = []
    for where, fields in _rows(path):
        prompt, options, right = _field(where, fields, "prompt"), fields.get("options"), fields.get("right")
        if not isinstance(options, list) or not all(isinstance(o, str) for o in options):
            raise DataError(f"{where}: options: a list of texts is expected, got {options!r}")
        places: list[Any] = right if isinstance(right, list) else [right]
        if not all(isinstance(r, int) and not isinstance(r, bool) for r in places):
            raise DataError(f"{where}: right: the index of the right option is expected, from 0, got {right!r}")
        name = where.rpartition("/")[2]
        cluster = str(fields.get("cluster", prompt))
        found.append(
            Choice(id=name, question=name, cluster=cluster, prompt=prompt, options=tuple(options), right=tuple(places))
        )
    return found


def xstest_labels(path: str | Path) -> dict[str, dict[str, str]]:
    """``label`` (safe or unsafe) and ``type`` of each XSTest prompt, by its text: the ``meta`` of answers to them.

    Raises:
        DataError: a row that is not of this form.
    """
    found: dict[str, dict[str, str]] = {}
    for where, fields in _rows(path):
        label = _field(where, fields, "label")
        if label not in ("safe", "unsafe"):
            raise DataError(f"{where}: label: safe or unsafe is expected, got {label!r}")
        found[_field(where, fields, "prompt")] = {"label": label, "type": _field(where, fields, "type")}
    return found


def _rows(path: str | Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    seen: dict[str, int] = {}
    for record in records(path):
        where = record.origin or f"{path}:{record.line}"
        seen[where] = seen.get(where, 0) + 1  # the elements of a JSON list may share one line of the file
        where += f"#{seen[where]}" if seen[where] > 1 else ""
        if record.fields is None:
            raise DataError(f"{where}: {record.fault or 'cannot be read'}")
        yield where, record.fields


def _field(where: str, fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name}: a text is expected, got {value!r}; the row has {', '.join(fields)}")
    return value


def _letters(where: str, fields: Mapping[str, Any]) -> int:
    """0 if (A) is right, 1 if (B) is."""
    corrects, incorrects = (fields.get(name) for name in ("corrects", "incorrects"))
    if (corrects, incorrects) not in (([" (A)"], [" (B)"]), ([" (B)"], [" (A)"])):
        raise DataError(f"{where}: corrects, incorrects: one letter each is expected, got {corrects!r}, {incorrects!r}")
    return int(corrects == [" (B)"])


def _split_hhh(where: str, fields: Mapping[str, Any]) -> tuple[str, str, str]:
    """The conversation up to the last "Assistant:", and the right and the wrong answer after it."""
    right, wrong = (_field(where, fields, name) for name in ("text_correct", "text_incorrect"))
    shared = 0
    while (at := right.find("Assistant:", shared)) >= 0 and right[: at + 10] == wrong[: at + 10]:
        shared = at + 10
    if not shared:
        raise DataError(f"{where}: text_correct, text_incorrect: they share no conversation up to an 'Assistant:'")
    return right[: shared - len("Assistant:")], right[shared:], wrong[shared:]


def _turns(where: str, shared: str) -> tuple[Turn, ...]:
    pieces = _TURN.split(shared.rstrip())
    if pieces[0].strip():
        raise DataError(f"{where}: text_correct: begins with {pieces[0][:40]!r}, not with a turn")
    roles = {"Human": "user", "Assistant": "assistant"}
    return tuple(
        {"role": roles[who], "content": text.strip()} for who, text in zip(pieces[1::2], pieces[2::2], strict=True)
    )


def _choice(name: str, question: str, cluster: str, prompt: str, options: tuple[str, str], right: int) -> Choice:
    return Choice(id=name, question=question, cluster=cluster, prompt=prompt, options=options, right=(right,))


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]
