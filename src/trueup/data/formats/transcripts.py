r"""HH-RLHF transcripts: one string with the turns marked ``\n\nHuman:`` and ``\n\nAssistant:``.

A transcript that starts with ``Human:`` without the two line feeds is of the looser kind in which one line feed
separates turns. One space after the colon belongs to the mark; everything else is text. An ``Assistant:`` with nothing
behind it at the end of a prompt asks for the answer and is no turn.
"""

from __future__ import annotations

import re
from typing import Any

from trueup.data.fields import Fields, RowFault, Source, assistant, common, given, string, user
from trueup.data.formats.base import Format, comparison, is_text, is_transcript, only_turns, split_implicit, written
from trueup.data.formats.preference import STRENGTH, strength, whole
from trueup.types import Comparison, Prompt, Text, Turn

_STRICT = re.compile(r"\n\n(Human|Assistant):")
_LOOSE = re.compile(r"(?:\A|\n+)(Human|Assistant):")
_TURN = {"Human": user, "Assistant": assistant}
_MARK = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}


def read_transcript(value: str, field: str, *, asks: bool = False) -> tuple[Turn, ...]:
    """The turns of a transcript.

    Args:
        value: the transcript.
        field: its name, for messages.
        asks: whether it is a prompt, whose last mark may stand alone.

    Raises:
        RowFault: it does not start with a speaker's mark.
    """
    if not is_transcript(value):
        raise RowFault(field, r"is not a transcript: it must start with '\n\nHuman:' or '\n\nAssistant:'")
    loose = not value.startswith("\n\n")
    _, *parts = (_LOOSE if loose else _STRICT).split(value)
    speakers, texts = parts[::2], [part.removeprefix(" ") for part in parts[1::2]]
    if loose:
        texts[-1] = texts[-1].rstrip("\n")
    if asks and speakers[-1] == "Assistant" and not texts[-1].strip():
        speakers, texts = speakers[:-1], texts[:-1]
    return tuple(_TURN[speaker](text) for speaker, text in zip(speakers, texts, strict=True))


def write_transcript(turns: tuple[Turn, ...], field: str) -> str:
    """Turns as a strict transcript.

    Raises:
        RowFault: a role or a key that a transcript has no mark for.
    """
    for item in turns:
        if item["role"] not in _MARK or set(item) != {"role", "content"}:
            raise RowFault(
                field,
                f"a transcript holds user and assistant text only, not a {item['role']} turn with "
                f"{', '.join(sorted(set(item) - {'role'}))}",
            )
    return "".join(_MARK[item["role"]] + item["content"] for item in turns)


def _parse(row: Fields, source: Source) -> Comparison:
    chosen, rejected = string(row, "chosen"), string(row, "rejected")
    rest: dict[str, Any] = {**common(row, source), **strength(row, source)}
    if given(row, "prompt") is None or (is_transcript(chosen) and is_transcript(rejected)):
        sides = (read_transcript(chosen, "chosen"), read_transcript(rejected, "rejected"))
        return comparison(*split_implicit(*sides), **rest)
    prompt: Text = read_transcript(string(row, "prompt"), "prompt", asks=True)
    answers = [(assistant(side.removeprefix(" ")),) for side in (chosen, rejected)]
    return comparison(prompt, *answers, **rest)


def _write(row: Comparison) -> dict[str, Any]:
    sides = {}
    for name, side in (("chosen", row.chosen), ("rejected", row.rejected)):
        sides[name] = write_transcript(only_turns(whole(only_turns(row.prompt, "prompt"), side, name), name), name)
    return written(row, **sides, margin=row.margin, preference=row.preference)


def _fits(row: Fields) -> bool:
    sides = (row["chosen"], row["rejected"])
    if row.get("prompt") is None:
        return all(map(is_transcript, sides))
    return is_transcript(row["prompt"]) and all(map(is_text, sides))


def _parse_prompt(row: Fields, source: Source) -> Prompt:
    prompt = read_transcript(string(row, "prompt"), "prompt", asks=True)
    if not prompt:
        raise RowFault("prompt", "is empty")
    if prompt[-1]["role"] == "assistant":
        raise RowFault("prompt", "ends with an answer: nothing is asked")
    return Prompt(prompt=prompt, **common(row, source))


def _write_prompt(row: Prompt) -> dict[str, Any]:
    return written(row, prompt=write_transcript(only_turns(row.prompt, "prompt"), "prompt"))


HH = Format(
    name="hh",
    title=r"HH-RLHF transcripts (\n\nHuman: ... \n\nAssistant: ...) in chosen and rejected",
    makes=Comparison,
    required=("chosen", "rejected"),
    optional=("prompt", *STRENGTH),
    fits=_fits,
    parse=_parse,
    write=_write,
    weight=3.5,
)
HH_PROMPT = Format(
    name="hh-prompt",
    title="a transcript that ends with a question in prompt",
    makes=Prompt,
    required=("prompt",),
    foreign=("chosen", "rejected", "completion", "completions", "answers", "response", "messages"),
    fits=lambda row: is_transcript(row["prompt"]),
    parse=_parse_prompt,
    write=_write_prompt,
    weight=1.5,
)
FORMATS = (HH, HH_PROMPT)
