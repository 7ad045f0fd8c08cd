"""What the command line leaves open, the constitution says: rounds, temperature, what is mixed in."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trueup.errors import ConfigError
from trueup.feedback.constitution import Constitution


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How texts are made.

    Attributes:
        revisions: critique-revision rounds.
        temperature: of every text.
        helpful: conversations to mix into the revisions; None: none.
        ratio: rows by people for each revision, and for each label.
    """

    revisions: int
    temperature: float
    helpful: str | None
    ratio: float


def course_of(
    constitution: Constitution,
    *,
    revisions: int | None = None,
    temperature: float | None = None,
    helpful: str | None = None,
    ratio: float | None = None,
) -> Course:
    """The constitution's ``defaults`` and ``mix``, but what is given here.

    Raises:
        ConfigError: a number makes no sense.
    """
    usual, mix = constitution.defaults, constitution.mix
    course = Course(
        revisions=usual.revisions if revisions is None else revisions,
        temperature=usual.temperature if temperature is None else temperature,
        helpful=mix.helpfulness_data if helpful is None else helpful,
        ratio=mix.ratio if ratio is None else ratio,
    )
    if course.revisions < 1:
        raise ConfigError(f"--revisions: {course.revisions} is less than 1")
    if not 0 <= course.temperature < math.inf:
        raise ConfigError(f"--temperature: {course.temperature} is not a number from 0 on")
    if not 0 <= course.ratio < math.inf:
        raise ConfigError(f"--ratio: {course.ratio} is not a number from 0 on")
    return course
