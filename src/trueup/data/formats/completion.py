"""Prompt and completion, with a label (unpaired) or without, prompts alone, and plain language modelling."""

from __future__ import annotations

from typing import Any

from trueup.data.fields import Fields, RowFault, Source, boolean, common, completion, string, text, turns
from trueup.data.formats.base import Format, is_text, is_transcript, is_turns, only_string, only_turns, written
from trueup.data.formats.preference import as_answer, without_prompt
from trueup.types import Example, Prompt, Rating, Text, Turn

_PAIRS = ("chosen", "rejected")


def _prompt_and_completion(row: Fields, source: Source) -> dict[str, Text]:
    prompt = text(row, "prompt", source, blank=True)
    answer = text(row, "completion", source)
    if isinstance(prompt, str) and not isinstance(answer, str):
        if prompt:
            raise RowFault("completion", "must be a string like prompt, or prompt a list of turns like completion")
        prompt = ()
    elif not isinstance(prompt, str):
        answer = without_prompt(prompt, as_answer(answer), "completion")
    return {"prompt": prompt, "completion": completion(answer, "completion")}


def _parse_completion(row: Fields, source: Source) -> Example:
    return Example(**_prompt_and_completion(row, source), **common(row, source))


def _parse_unpaired(row: Fields, source: Source) -> Rating:
    label = boolean(row, "label", source)
    return Rating(**_prompt_and_completion(row, source), label=label, **common(row, source))


def _parse_prompt(row: Fields, source: Source) -> Prompt:
    prompt = text(row, "prompt", source)
    if not isinstance(prompt, str):
        if prompt[-1]["role"] == "assistant":
            raise RowFault("prompt", "ends with an assistant turn: nothing is asked")
        if not any((item["content"] or "").strip() for item in prompt):
            raise RowFault("prompt", "is empty")
    known = {"id", "prompt", "tools"}
    return Prompt(
        prompt=prompt, meta={k: v for k, v in row.items() if k not in known and v is not None}, **common(row, source)
    )


def _parse_text(row: Fields, source: Source) -> Example:
    return Example(prompt="", completion=string(row, "text"), **common(row, source))


def _write_text(row: Example) -> dict[str, Any]:
    if row.prompt:
        raise RowFault("prompt", "would be trained on as if it were completion: the text format has no prompt")
    return written(row, text=only_string(row.completion, "completion"))


def boundary(conversation: tuple[Turn, ...], field: str) -> int:
    """Number of turns before the first answer that is trained on.

    An answer with ``weight`` 0 is not (OpenAI fine-tuning files); those must come before the others.

    Raises:
        RowFault: no answer is trained on, or one with weight 0 follows one that is.
    """
    answers = [index for index, item in enumerate(conversation) if item["role"] == "assistant"]
    trained = [index for index in answers if conversation[index].get("weight") != 0]
    if not trained:
        raise RowFault(field, "has no assistant turn" + (" with a weight other than 0" if answers else ""))
    late = [index for index in answers if index > trained[0] and index not in trained]
    if late:
        raise RowFault(f"{field}[{late[0]}]", "weight 0 after a turn that is trained on; split the row there")
    return trained[0]


def asked(conversation: tuple[Turn, ...], field: str) -> int:
    """Number of leading turns up to and with the last user turn: what the last answer answers."""
    users = [index for index, item in enumerate(conversation) if item["role"] == "user"]
    if not users:
        raise RowFault(field, "has no user turn")
    return users[-1] + 1


def example(conversation: tuple[Turn, ...], field: str, **rest: Any) -> Example:
    """A conversation of which every answer from the first that is trained on is imitated."""
    length = boundary(conversation, field)
    said = tuple({key: value for key, value in item.items() if key != "weight"} for item in conversation)
    return Example(prompt=said[:length], completion=completion(said[length:], field), **rest)


def rating(conversation: tuple[Turn, ...], field: str, label: bool, **rest: Any) -> Rating:
    """A conversation whose last answer is judged."""
    length = asked(conversation, field)
    answer = completion(conversation[length:], field)
    return Rating(prompt=conversation[:length], completion=answer, label=label, **rest)


def conversation_of(row: Example | Rating) -> tuple[Turn, ...]:
    """Prompt and completion as one list of turns."""
    return (*only_turns(row.prompt or (), "prompt"), *only_turns(row.completion, "completion"))


def imitated(row: Example) -> tuple[Turn, ...]:
    """A conversation all of whose answers are imitated.

    Raises:
        RowFault: there are answers in the prompt.
    """
    said = conversation_of(row)
    if any(item["role"] == "assistant" for item in row.prompt if not isinstance(item, str)):
        raise RowFault("prompt", "holds an answer; the format has no way to say that it is not trained on")
    return said


def _write_messages(row: Example) -> dict[str, Any]:
    said = conversation_of(row)
    length = len(row.prompt)
    unused = [{**item, "weight": 0} if item["role"] == "assistant" else item for item in said[:length]]
    return written(row, messages=[*unused, *said[length:]])


def _parse_messages(row: Fields, source: Source) -> Example:
    return example(turns(row.get("messages"), "messages", source), "messages", **common(row, source))


def _parse_labelled(row: Fields, source: Source) -> Rating:
    label = boolean(row, "label", source)
    return rating(turns(row.get("messages"), "messages", source), "messages", label, **common(row, source))


def _fits_completion(row: Fields) -> bool:
    kinds = [value for value in (row.get("prompt"), row["completion"]) if value is not None]
    return all(map(is_text, kinds)) or is_turns(kinds[0])


COMPLETION = Format(
    name="prompt-completion",
    title="prompt and completion: strings or turns",
    makes=Example,
    required=("prompt", "completion"),
    foreign=(*_PAIRS, "label", "score"),
    fits=_fits_completion,
    parse=_parse_completion,
    write=lambda row: written(row, prompt=row.prompt, completion=row.completion),
)
UNPAIRED = Format(
    name="unpaired",
    title="prompt, completion and a true or false label",
    makes=Rating,
    required=("prompt", "completion", "label"),
    foreign=_PAIRS,
    fits=_fits_completion,
    parse=_parse_unpaired,
    write=lambda row: written(row, prompt=row.prompt, completion=row.completion, label=row.label),
)
PROMPT = Format(
    name="prompt",
    title="a prompt alone: a string or turns",
    makes=Prompt,
    required=("prompt",),
    foreign=(*_PAIRS, "completion", "completions", "answers", "response", "chosen_response", "rejected_response"),
    fits=lambda row: (is_text(row["prompt"]) and not is_transcript(row["prompt"])) or is_turns(row["prompt"]),
    parse=_parse_prompt,
    write=lambda row: written(row, prompt=row.prompt),
)
TEXT = Format(
    name="text",
    title="plain text to model",
    makes=Example,
    required=("text",),
    foreign=_PAIRS,
    fits=lambda row: is_text(row["text"]),
    parse=_parse_text,
    write=_write_text,
)
MESSAGES = Format(
    name="messages",
    title="OpenAI messages: every assistant turn is imitated",
    makes=Example,
    required=("messages",),
    foreign=("label", "rejected_response", "rejected_messages"),
    fits=lambda row: is_turns(row["messages"]),
    parse=_parse_messages,
    write=_write_messages,
)
MESSAGES_LABEL = Format(
    name="messages-label",
    title="messages and a true or false label for the last answer",
    makes=Rating,
    required=("messages", "label"),
    fits=lambda row: is_turns(row["messages"]),
    parse=_parse_labelled,
    write=lambda row: written(row, messages=conversation_of(row), label=row.label),
)
FORMATS = (COMPLETION, UNPAIRED, PROMPT, TEXT, MESSAGES, MESSAGES_LABEL)
