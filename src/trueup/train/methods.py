"""The methods by name: what rows each eats, which loss it minimises, and its vetted defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from trueup.losses import POLICY, PREFERENCE, REWARD, SUPERVISED, UNPAIRED
from trueup.losses.registry import Loss
from trueup.types import Comparison, Example, Prompt, Rating, Row

Family = Literal["sft", "reward", "pairs", "unpaired", "policy", "online"]

_METRICS: dict[str, tuple[str, ...]] = {
    "sft": ("loss",),
    "reward": ("accuracy", "loss", "margin"),
    "pairs": ("rewards/accuracy", "loss", "rewards/margin"),
    "unpaired": ("loss",),
    "policy": ("score",),
    "online": ("score",),
}


@dataclass(frozen=True, slots=True)
class Method:
    """One word of ``trueup train METHOD``.

    Attributes:
        name: the word.
        family: which objective trains it.
        loss: its entry in a registry.
        row: the rows it eats.
        lr, lora_lr: default peak learning rate, full and LoRA.
        metric: watched on held-out rows; higher is better if ``maximise``.
    """

    name: str
    family: Family
    loss: Loss
    row: type[Row]
    lr: float
    lora_lr: float
    metric: str
    maximise: bool

    @property
    def reference(self) -> bool:
        """Whether the loss needs a reference policy."""
        return self.loss.reference

    @property
    def arguments(self) -> dict[str, Any]:
        """Hyper-parameters of the loss with their defaults."""
        return self.loss.arguments

    @property
    def option_names(self) -> frozenset[str]:
        """Options that mean something for the loss."""
        return self.loss.options

    @property
    def metrics(self) -> tuple[str, ...]:
        """Figures on held-out rows that ``eval.metric`` may name."""
        return _METRICS[self.family]


def _methods() -> dict[str, Method]:
    table = {
        "sft": Method("sft", "sft", SUPERVISED["sft"], Example, 2e-5, 2e-4, "loss", False),
        "reward": Method("reward", "reward", REWARD["reward"], Comparison, 1e-5, 1e-4, "accuracy", True),
    }
    for name, loss in PREFERENCE.items():
        rate = 1e-6 if loss.reference else 5e-6
        table[name] = Method(name, "pairs", loss, Comparison, rate, 10 * rate, "rewards/accuracy", True)
    for name, loss in UNPAIRED.items():
        table[name] = Method(name, "unpaired", loss, Rating, 1e-6, 1e-5, "loss", False)
    for name, loss in POLICY.items():
        table[name] = Method(name, "policy", loss, Prompt, 1e-6, 2e-5, "score", True)
    return table


METHODS: dict[str, Method] = _methods()

ONLINE = ("online", "iterative")  # online-LOSS, iterative-LOSS: for every pairwise loss


def find_method(name: str) -> Method | None:
    """A method by its word; ``online-dpo``, ``iterative-ipo`` and the like are made from their pairwise loss."""
    if name in METHODS:
        return METHODS[name]
    how, _, loss = name.partition("-")
    if how not in ONLINE or loss not in PREFERENCE:
        return None
    base = METHODS[loss]
    return Method(name, "online", base.loss, Prompt, base.lr, base.lora_lr, "score", True)


def words() -> list[str]:
    """Every word that :func:`find_method` knows."""
    return [*METHODS, *(f"{how}-{loss}" for how in ONLINE for loss in PREFERENCE)]
