"""From what stands in a config or on a command line to a scorer."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch

from trueup.errors import ConfigError
from trueup.feedback.base import Scorer
from trueup.feedback.combine import Ensemble, WeightedSum
from trueup.feedback.reward_model import RewardModel
from trueup.feedback.rules import RULES, Rule

_KINDS = {
    "rule": {"rule", "arguments"},
    "reward_model": {"reward_model", "revision", "max_length", "chat"},
    "sum": {"sum"},
    "ensemble": {"ensemble", "how", "penalty"},
}
_HOWS = ("mean", "min", "mean_minus_variance")


def open_scorer(
    spec: str | Mapping[str, Any], *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Scorer:
    """Opens who scores.

    Args:
        spec: ``rule:NAME``, ``module:function`` or the path of a reward model; or a mapping: ``{rule, arguments}``,
            ``{reward_model, revision, max_length, chat}``, ``{sum: [{..., weight}]}``,
            ``{ensemble: [...], how, penalty}``.
        dtype: of reward models.
        device: of reward models.

    Raises:
        ConfigError: a mapping that says nothing sensible.
        ModelError: a reward model that cannot be used.
    """
    if isinstance(spec, str):
        return _from_words(spec, dtype, device)
    kind = next((k for k in _KINDS if k in spec), None)
    if kind is None:
        raise ConfigError(f"reward: {dict(spec)} names none of {', '.join(_KINDS)}")
    for key in spec:
        if key not in _KINDS[kind]:
            near = difflib.get_close_matches(str(key), _KINDS[kind], 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(f"reward.{key}: unknown beside {kind}{hint}; known: {', '.join(sorted(_KINDS[kind]))}")
    if kind == "rule":
        return Rule(str(spec["rule"]).removeprefix("rule:"), spec.get("arguments"))
    if kind == "reward_model":
        options = {k: v for k, v in spec.items() if k != "reward_model"}
        return RewardModel(str(spec["reward_model"]), dtype=dtype, device=device, **options)
    parts = spec[kind]
    if not isinstance(parts, list) or not parts:
        raise ConfigError(f"reward.{kind}: a list of scorers is expected, got {parts!r}")
    if kind == "sum":
        return WeightedSum([_weighted(part, dtype, device) for part in parts])
    how = spec.get("how", "mean")
    if how not in _HOWS:
        raise ConfigError(f"reward.how: {how!r} is none of {', '.join(_HOWS)}")
    return Ensemble([open_scorer(p, dtype=dtype, device=device) for p in parts], how, float(spec.get("penalty", 1.0)))


def _weighted(part: Any, dtype: torch.dtype, device: str | torch.device) -> tuple[Scorer, float]:
    if isinstance(part, str):
        return open_scorer(part, dtype=dtype, device=device), 1.0
    weight = part.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise ConfigError(f"reward.sum: weight: a number is expected, got {weight!r}")
    return open_scorer({k: v for k, v in part.items() if k != "weight"}, dtype=dtype, device=device), float(weight)


def _from_words(spec: str, dtype: torch.dtype, device: str | torch.device) -> Scorer:
    if spec.startswith("rule:"):
        return Rule(spec.removeprefix("rule:"))
    module, colon, function = spec.partition(":")
    if colon and not spec.startswith("bundled:") and function.isidentifier() and "/" not in module:
        return Rule(spec)
    if spec in RULES:
        raise ConfigError(f"reward: {spec!r}: a bundled rule is named rule:{spec}")
    return RewardModel(spec, dtype=dtype, device=device)
