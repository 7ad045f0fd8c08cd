"""The errors of trueup, and the exit code of each.

    TrueupError                 (exit 1) something of ours went wrong
    ├── UserError               (exit 2) the input, an option or a file needs mending; the message says how
    │   ├── ConfigError         an unknown key, a wrong type, contradictory or ineffective options
    │   ├── DataError           a row or a file that cannot be used: ``file:line: field: reason``
    │   ├── ModelError          a model folder or name that cannot be used
    │   ├── RunError            a run folder that exists, is damaged, or belongs to another objective
    │   └── ScoringError        an answer that could not be scored; no number stands in for it
    ├── TrainingError           (exit 3) the run stopped itself: three non-finite steps, a failed self-check, an alarm
    │   └── MidStepError        in the middle of a step, whose state belongs to no checkpoint
    └── ResourceError           (exit 75) disk full, out of memory at the smallest micro-batch

A message names the value, where it stands, and the remedy, in one line where possible.
"""

from __future__ import annotations


class TrueupError(Exception):
    """Base of every error that trueup raises on purpose."""

    exit_code = 1


class UserError(TrueupError):
    """The user can mend this; the command line prints it without a traceback and exits with 2."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration that cannot be used."""


class DataError(UserError):
    """A row or a file that cannot be used."""


class ModelError(UserError):
    """A model that cannot be loaded or used for this."""


class RunError(UserError):
    """A run folder or checkpoint that cannot be used."""


class ScoringError(UserError):
    """An answer that a reward model, a rule or a judge could not score."""


class TrainingError(TrueupError):
    """Training stopped itself, with everything up to then saved."""

    exit_code = 3


class MidStepError(TrainingError):
    """Training stopped itself in the middle of a step: only what was saved before it counts."""


class ResourceError(TrueupError):
    """The machine ran out of something; the last good state is intact."""

    exit_code = 75
