"""The words of trueup: rows of text on their way in, steps on their way out.

Legend: a *turn* is a JSON object with at least ``role`` and ``content``; other keys (``tool_calls``, ``name`` ...) are
kept as they came, because chat templates read them. A *text* is either raw text (``str``: no chat template is applied)
or a tuple of turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Turn: TypeAlias = Mapping[str, Any]
Text: TypeAlias = str | tuple[Turn, ...]

ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What every row has: an identity, where it was read, and what its prompt was.

    Attributes:
        id: unique in its file; the row's own ``id`` field, or ``<file name>:<line>``.
        origin: ``path:line`` of the source row, for messages.
        prompt: what the model is given; an empty tuple or string means none.
        tools: tool declarations for the chat template, untouched.
    """

    id: str
    origin: str
    prompt: Text
    tools: tuple[Any, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Row):
    """Two completions of one prompt, the first preferred.

    Attributes:
        margin: by how much (reward models), or None.
        preference: probability that ``chosen`` is the better one, in [0, 1]; None means a hard label (1).
    """

    chosen: Text
    rejected: Text
    margin: float | None = None
    preference: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating(Row):
    """One completion and whether it is desirable (KTO)."""

    completion: Text
    label: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Example(Row):
    """One completion to imitate (SFT). Every assistant turn in ``completion`` is trained on."""

    completion: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt(Row):
    """A prompt alone.

    Attributes:
        meta: further fields of the row, for rules that score answers (``answer``: the right one).
    """

    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking(Row):
    """Several completions of one prompt with a score each; higher is better."""

    completions: tuple[Text, ...]
    scores: tuple[float, ...]


AnyRow: TypeAlias = Comparison | Rating | Example | Prompt | Ranking


@dataclass(frozen=True, slots=True)
class Step:
    """What a training loop yields after each optimizer step.

    Attributes:
        index: number of optimizer steps done, from 1.
        metrics: plain floats by name; ``loss`` is always there. No wall-clock values.
        rows: ids of the rows of the global batch.
        timings: wall-clock figures of this step (seconds, tokens); never part of the reproducible record.
        skipped: True if the step was non-finite and no weight was changed.
        samples: answers of this step for a person to read (methods that sample).
    """

    index: int
    metrics: Mapping[str, float]
    rows: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict[str, float])
    skipped: bool = False
    samples: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """What a monitor has to say about a run.

    Attributes:
        monitor: its name.
        step: at which it speaks.
        level: ``warn``: look at it; ``alarm``: the run is failing.
        seen: what was seen, with the figures and the threshold.
        since: the step from which on it has been so.
        cause: the likely cause.
        action: what to do next.
        values: the figures behind ``seen``.
    """

    monitor: str
    step: int
    level: Literal["warn", "alarm"]
    seen: str
    since: int
    cause: str
    action: str
    values: Mapping[str, float] = field(default_factory=dict[str, float])
