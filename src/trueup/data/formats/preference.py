"""Preference rows with ``chosen`` and ``rejected``: explicit or implicit prompt, raw text or turns."""

from __future__ import annotations

from typing import Any

from trueup.data.fields import (
    Fields,
    RowFault,
    Source,
    common,
    common_turns,
    given,
    optional_number,
    text,
    turns,
    user,
)
from trueup.data.formats.base import (
    Format,
    comparison,
    is_text,
    is_transcript,
    is_turns,
    only_turns,
    split_implicit,
    written,
)
from trueup.types import Comparison, Text, Turn

STRENGTH = ("margin", "preference")


def strength(row: Fields, source: Source) -> dict[str, float | None]:
    """Margin and soft preference of a row; a margin may also come as two scores."""
    margin = optional_number(row, "margin", source, low=0.0)
    if margin is None and given(row, "score_chosen") is not None and given(row, "score_rejected") is not None:
        better, worse = (optional_number(row, f"score_{side}", source) or 0.0 for side in ("chosen", "rejected"))
        if better < worse:
            raise RowFault("score_chosen", f"{better:g} is lower than score_rejected {worse:g}")
        margin = better - worse
    return {"margin": margin, "preference": optional_number(row, "preference", source, low=0.0, high=1.0)}


def as_answer(value: Text) -> tuple[Turn, ...]:
    """Raw text beside a prompt of turns is one assistant turn."""
    return ({"role": "assistant", "content": value},) if isinstance(value, str) else value


def _is_continuation(prompt: tuple[Turn, ...], side: tuple[Turn, ...]) -> bool:
    return not side or side[0]["role"] == "assistant" or bool(prompt and prompt[-1]["role"] == "assistant")


def without_prompt(prompt: tuple[Turn, ...], side: tuple[Turn, ...], field: str) -> tuple[Turn, ...]:
    """The turns after the prompt: some files repeat the prompt in each side, others do not."""
    if prompt and side[: len(prompt)] == prompt:
        return side[len(prompt) :]
    if _is_continuation(prompt, side) or not prompt:
        return side
    raise RowFault(field, "repeats a prompt that differs from 'prompt': it is not a prefix")


def _string_prompt(prompt: str, chosen: tuple[Turn, ...], rejected: tuple[Turn, ...]) -> tuple[Any, Any, Any]:
    """A prompt as a string beside sides of turns: the turns say where it stands in the conversation."""
    if chosen == rejected:
        raise RowFault("rejected", "identical to chosen")
    length = common_turns(chosen, rejected)
    asked = [item["content"] for item in chosen[:length] if item["role"] == "user"]
    if asked and prompt in (asked[0], asked[-1]):
        return split_implicit(chosen, rejected)
    if not asked and all(side[:1] and side[0]["role"] == "assistant" for side in (chosen, rejected)):
        return (user(prompt),) if prompt else (), chosen, rejected
    raise RowFault("prompt", "is not the question that chosen and rejected begin with")


def explicit(prompt: Text, chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """Prompt, chosen and rejected with the prompt stated once, whichever way the row repeats it."""
    if isinstance(chosen, str) and isinstance(rejected, str) and isinstance(prompt, str):
        return prompt, chosen, rejected
    if isinstance(prompt, str):
        if isinstance(chosen, str) or isinstance(rejected, str):
            raise RowFault("rejected", "must be of the same kind as chosen: both strings or both lists of turns")
        return _string_prompt(prompt, chosen, rejected)
    chosen, rejected = as_answer(chosen), as_answer(rejected)
    return (
        prompt,
        without_prompt(prompt, chosen, "chosen"),
        without_prompt(prompt, rejected, "rejected"),
    )


def _parse(row: Fields, source: Source) -> Comparison:
    parts = explicit(
        text(row, "prompt", source, blank=True), text(row, "chosen", source), text(row, "rejected", source)
    )
    return comparison(*parts, **common(row, source), **strength(row, source))


def _write(row: Comparison) -> dict[str, Any]:
    return written(
        row,
        prompt=row.prompt,
        chosen=row.chosen,
        rejected=row.rejected,
        margin=row.margin,
        preference=row.preference,
    )


def _parse_implicit(row: Fields, source: Source) -> Comparison:
    chosen, rejected = text(row, "chosen", source), text(row, "rejected", source)
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowFault("rejected", "must be of the same kind as chosen: both strings or both lists of turns")
    if isinstance(chosen, str) or isinstance(rejected, str):
        # Which characters are shared says nothing: the shared prefix is found on tokens when the row is rendered.
        parts: tuple[Text, Text, Text] = ("", chosen, rejected)
    else:
        parts = split_implicit(chosen, rejected)
    return comparison(*parts, **common(row, source), **strength(row, source))


def whole(prompt: Text, side: Text, field: str) -> Text:
    """Prompt and completion as one text."""
    if isinstance(side, str):
        if prompt:
            raise RowFault("prompt", "and completion are raw text: one string would not say where the prompt ends")
        return side
    return (*only_turns(prompt or (), "prompt"), *only_turns(side, field))


def _write_implicit(row: Comparison) -> dict[str, Any]:
    return written(
        row,
        chosen=whole(row.prompt, row.chosen, "chosen"),
        rejected=whole(row.prompt, row.rejected, "rejected"),
        margin=row.margin,
        preference=row.preference,
    )


def _same_kind(row: Fields) -> bool:
    sides = (row["chosen"], row["rejected"])
    first = sides if row.get("prompt") is None else (row["prompt"],)
    return (all(map(is_text, sides)) and not all(map(is_transcript, first))) or all(map(is_turns, sides))


def _parse_ultrafeedback(row: Fields, source: Source) -> Comparison:
    prompt = text(row, "prompt", source)
    chosen, rejected = (turns(row.get(key), key, source) for key in ("chosen", "rejected"))
    return comparison(*explicit(prompt, chosen, rejected), **common(row, source), **strength(row, source))


def _write_ultrafeedback(row: Comparison) -> dict[str, Any]:
    prompt = only_turns(row.prompt, "prompt")
    asked = next((item["content"] for item in prompt if item["role"] == "user"), None)
    if asked is None:
        raise RowFault("prompt", "has no user turn to be the prompt string")
    scores = {} if row.margin is None else {"score_chosen": row.margin, "score_rejected": 0.0}
    return written(
        row,
        prompt=asked,
        chosen=whole(prompt, row.chosen, "chosen"),
        rejected=whole(prompt, row.rejected, "rejected"),
        preference=row.preference,
        **scores,
    )


def _fits_ultrafeedback(row: Fields) -> bool:
    return is_text(row["prompt"]) and is_turns(row["chosen"]) and is_turns(row["rejected"])


def renamed(name: str, title: str, columns: dict[str, str], **changes: Any) -> Format[Comparison]:
    """A preference format that differs from the explicit or implicit one by its column names alone."""
    has_prompt = "prompt" in columns
    parse, write = (_parse, _write) if has_prompt else (_parse_implicit, _write_implicit)

    def read(row: Fields, source: Source) -> Comparison:
        ours = {**row, **{our: row.get(theirs) for our, theirs in columns.items()}}
        try:
            return parse(ours, source)
        except RowFault as fault:
            head, bracket, tail = fault.field.partition("[")
            raise RowFault(columns.get(head, head) + bracket + tail, fault.reason) from None

    def put(row: Comparison) -> dict[str, Any]:
        return {columns.get(key, key): value for key, value in write(row).items()}

    return Format(
        name=name,
        title=title,
        makes=Comparison,
        required=tuple(columns.values()),
        optional=STRENGTH,
        parse=read,
        write=put,
        **changes,
    )


PREFERENCE = Format(
    name="preference",
    title="prompt, chosen, rejected: strings or turns",
    makes=Comparison,
    required=("prompt", "chosen", "rejected"),
    optional=(*STRENGTH, "score_chosen", "score_rejected"),
    fits=_same_kind,
    parse=_parse,
    write=_write,
)
IMPLICIT = Format(
    name="preference-implicit",
    title="chosen and rejected with the prompt inside both",
    makes=Comparison,
    required=("chosen", "rejected"),
    optional=(*STRENGTH, "score_chosen", "score_rejected"),
    foreign=("prompt",),
    fits=_same_kind,
    parse=_parse_implicit,
    write=_write_implicit,
)
ULTRAFEEDBACK = Format(
    name="ultrafeedback",
    title="prompt string, whole conversations in chosen and rejected, score_chosen and score_rejected",
    makes=Comparison,
    required=("prompt", "chosen", "rejected"),
    optional=("score_chosen", "score_rejected", *STRENGTH),
    fits=_fits_ultrafeedback,
    parse=_parse_ultrafeedback,
    write=_write_ultrafeedback,
    weight=3.5,
)
ARGILLA = renamed(
    "argilla",
    "prompt, chosen_response, rejected_response",
    {"prompt": "prompt", "chosen": "chosen_response", "rejected": "rejected_response"},
    aliases={"prompt": ("instruction", "input")},
)
MESSAGES_PAIR = renamed(
    "messages-pair",
    "messages_chosen and messages_rejected: whole conversations",
    {"chosen": "messages_chosen", "rejected": "messages_rejected"},
    aliases={"messages_chosen": ("chosen_messages",), "messages_rejected": ("rejected_messages",)},
    foreign=("messages",),
)
FORMATS = (PREFERENCE, IMPLICIT, ULTRAFEEDBACK, ARGILLA, MESSAGES_PAIR)
