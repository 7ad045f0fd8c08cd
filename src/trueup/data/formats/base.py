"""What a format is: a name, the fields it is known by, and the two ways between its rows and ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from trueup.data.fields import Fields, RowFault, Source, common_turns, completion, given
from trueup.types import Comparison, Row, Text, Turn

R = TypeVar("R", bound=Row)


def _anything(row: Fields) -> bool:
    del row
    return True


@dataclass(frozen=True, slots=True)
class Format(Generic[R]):
    """One shape that rows come in.

    Attributes:
        name: what ``--data.format`` takes.
        title: one line for lists.
        makes: the class of the rows that :attr:`parse` returns.
        required: fields that every row has.
        optional: fields that are read where they are present.
        foreign: fields whose presence says that the row is of another format.
        fits: whether the values have the shape of this format (the fields are known to be there).
        parse: a row's fields to our row (several where a row holds several); raises RowFault.
        write: our row to a row's fields; raises RowFault where the format cannot hold it.
        weight: decides between formats that fit equally many rows; more required fields say more.
        aliases: other spellings of a required field, tried in order.
        lone: whether a row is one scored answer, to be gathered with the others to its prompt.
    """

    name: str
    title: str
    makes: type[R]
    required: tuple[str, ...]
    parse: Callable[[Fields, Source], R | tuple[R, ...]]
    write: Callable[[R], dict[str, Any]]
    optional: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    fits: Callable[[Fields], bool] = _anything
    weight: float | None = None
    aliases: Mapping[str, tuple[str, ...]] | None = None
    lone: bool = False

    @property
    def rank(self) -> float:
        """How much a fit of this format says."""
        return float(len(self.required)) if self.weight is None else self.weight

    def resolved(self, row: Fields) -> Fields:
        """The row with the aliases of this format under their first name."""
        renamed = None
        for name, others in (self.aliases or {}).items():
            found = next((other for other in others if given(row, other) is not None), None)
            if given(row, name) is None and found is not None:
                renamed = dict(row) if renamed is None else renamed
                renamed[name] = renamed.pop(found)
        return row if renamed is None else renamed

    def has_fields(self, row: Fields) -> bool:
        """Whether the row has every required field and none that is foreign."""
        row = self.resolved(row)
        return all(row.get(key) is not None for key in self.required) and self.stranger(row) is None

    def recognise(self, row: Fields) -> bool:
        """Whether the row has the fields and the shape of this format."""
        return self.has_fields(row) and self.fits(self.resolved(row))

    def stranger(self, row: Fields) -> str | None:
        """The first field that belongs to another format, if there is one."""
        return next((key for key in self.foreign if row.get(key) is not None), None)

    def known(self) -> set[str]:
        """Every field name this format reads."""
        spellings = {other for others in (self.aliases or {}).values() for other in others}
        return {"id", "tools", *self.required, *self.optional, *spellings}


def is_text(value: object) -> bool:
    """Whether a value is raw text."""
    return isinstance(value, str)


_SPEAKER = re.compile(r"(?:\n\n)?(Human|Assistant):")


def is_transcript(value: object) -> bool:
    """Whether a value is a string that starts with a speaker's mark (see ``transcripts.py``)."""
    return isinstance(value, str) and _SPEAKER.match(value) is not None


def is_turns(value: object, *keys: str) -> bool:
    """Whether a value is a list of objects with the given keys (default ``role``)."""
    keys = keys or ("role",)
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return all(isinstance(item, Mapping) and all(key in item for key in keys) for item in value)


def split_implicit(chosen: tuple[Turn, ...], rejected: tuple[Turn, ...]) -> tuple[tuple[Turn, ...], Text, Text]:
    """Prompt, chosen and rejected of two whole conversations: the prompt is their longest common prefix of turns.

    Raises:
        RowFault: the two are identical, or one is the beginning of the other.
    """
    if chosen == rejected:
        raise RowFault("rejected", "identical to chosen")
    length = common_turns(chosen, rejected)
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if length == len(side):
            other = "rejected" if name == "chosen" else "chosen"
            raise RowFault(name, f"is the beginning of {other}: no turn is left to compare" if side else "is empty")
    return chosen[:length], chosen[length:], rejected[length:]


def comparison(prompt: Text, chosen: Text, rejected: Text, **rest: Any) -> Comparison:
    """A checked Comparison: both sides can be trained on, are of one kind and differ."""
    chosen, rejected = completion(chosen, "chosen"), completion(rejected, "rejected")
    if chosen == rejected:
        raise RowFault("rejected", "identical to chosen")
    return Comparison(prompt=prompt, chosen=chosen, rejected=rejected, **rest)


def written(row: Row, **fields: Any) -> dict[str, Any]:
    """Fields of a row to write: its id, what is given, its tools; None is left out and tuples become lists."""
    fields = {"id": row.id, **fields, "tools": row.tools}
    return {key: listed(value) for key, value in fields.items() if value is not None}


def listed(value: Any) -> Any:
    """Tuples as lists and mappings as dicts, all the way down, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: listed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [listed(item) for item in value]
    return value


def only_turns(value: Text, field: str) -> tuple[Turn, ...]:
    """Turns, where the format to be written needs them.

    Raises:
        RowFault: the text is raw, so who says what is not known.
    """
    if isinstance(value, str):
        raise RowFault(field, "is raw text without turns; the format needs to know who says what (see wrap)")
    return value


def only_string(value: Text, field: str) -> str:
    """Raw text, where the format to be written needs it."""
    if not isinstance(value, str):
        raise RowFault(field, "is a list of turns; the format holds raw text only")
    return value
