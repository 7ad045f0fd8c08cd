"""trueup: align language models with human or written preferences, with the evidence that it worked.

Names are handed out when they are first used, so that ``import trueup`` (and ``trueup --help``) need no torch.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

_HOMES = {
    "Comparison": "trueup.types",
    "Example": "trueup.types",
    "Labels": "trueup.tensors",
    "Likelihoods": "trueup.tensors",
    "Pairs": "trueup.tensors",
    "Prompt": "trueup.types",
    "Ranking": "trueup.types",
    "Rating": "trueup.types",
    "RunConfig": "trueup.config",
    "Scores": "trueup.tensors",
    "Step": "trueup.types",
    "TrueupError": "trueup.errors",
}
__all__ = sorted([*_HOMES, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("trueup")
    if name not in _HOMES:
        raise AttributeError(f"module 'trueup' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
