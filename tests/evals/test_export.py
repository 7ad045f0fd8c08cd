"""Answers leave in AlpacaEval's form, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trueup.errors import DataError
from trueup.evals.export import alpaca_eval_rows, write_alpaca_eval
from trueup.feedback.base import Answered

TURN = ({"role": "user", "content": "What is  2+2?\n"},)


def test_the_file_is_what_alpaca_eval_reads(tmp_path: Path) -> None:
    """A JSON list of objects with instruction, output and generator; the instruction to the character."""
    path = tmp_path / "outputs.json"
    answers = [
        Answered(id="1", prompt=TURN, answer="Four — “4”.", meta={"dataset": "koala", "other": 1}),
        Answered(id="2", prompt="Say\tnothing", answer=""),
    ]
    assert write_alpaca_eval(path, answers, "mine") == 2
    assert json.loads(path.read_text(encoding="utf-8")) == [
        {"instruction": "What is  2+2?\n", "output": "Four — “4”.", "generator": "mine", "dataset": "koala"},
        {"instruction": "Say\tnothing", "output": "", "generator": "mine"},
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["outputs.json"]


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "outputs.json"
    path.write_text("precious")
    answers = [Answered(id="1", prompt="p", answer="a")]
    with pytest.raises(DataError, match="exists already"):
        write_alpaca_eval(path, answers, "mine")
    assert path.read_text() == "precious"
    assert write_alpaca_eval(path, answers, "mine", overwrite=True) == 1
    assert json.loads(path.read_text())[0]["output"] == "a"


@pytest.mark.parametrize(
    ("answers", "generator", "words"),
    [
        ([], "m", "there is no answer"),
        ([Answered(id="1", prompt="p", answer="a")], " ", "generator: a name is needed"),
        ([Answered(id=i, prompt="p", answer=i) for i in "12"], "m", "row 2 has the prompt of row 1; keep one answer"),
        ([Answered(id="1", prompt=(*TURN, *TURN), answer="a")], "m", "row 1: the prompt must be one user turn"),
        ([Answered(id="1", prompt=({"role": "system", "content": "x"},), answer="a")], "m", "one user turn"),
        ([Answered(id="1", prompt=({"role": "user", "content": [{}]},), answer="a")], "m", "one user turn of text"),
    ],
)
def test_what_alpaca_eval_could_not_use(answers: list[Answered], generator: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        alpaca_eval_rows(answers, generator)
    with pytest.raises(DataError, match=words):
        write_alpaca_eval(tmp_path / "x.json", answers, generator)
    assert list(tmp_path.iterdir()) == []
