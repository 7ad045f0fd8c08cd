"""What comes of alarms: they are written down, told, and acted on.

Deciding depends on the logged metrics, the settings and the progress alone, so a run that is killed and resumed takes
the same actions at the same steps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from trueup.config import RunConfig
from trueup.errors import ConfigError
from trueup.monitors.base import Facts
from trueup.monitors.watch import Watch, check_off
from trueup.runs.folder import RunFolder
from trueup.runs.metrics import JsonlWriter, number
from trueup.train import ranks
from trueup.train.methods import Method, find_method
from trueup.types import Alarm

log = logging.getLogger(__name__)

Deed = Literal["warned", "raise_kl", "lower_lr", "stop", "rollback"]
KEPT_HEALTHY = 2  # newest checkpoints of a healthy run that a rollback may go to, besides the start


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done about the alarms of a step.

    Attributes:
        deed: which action.
        text: the same for a person.
        factor: that the learning rate or the KL coefficient is multiplied by; 1: neither.
        back_to: step of the checkpoint that a rollback goes to.
    """

    deed: Deed
    text: str
    factor: float = 1.0
    back_to: int = 0


def check_alarms(config: RunConfig) -> None:
    """What can be said about monitors before anything is loaded.

    Raises:
        ConfigError: a monitor that there is not, or an action that several processes cannot take.
    """
    check_off(config.monitors)
    if ranks.world() > 1 and config.on_alarm == "rollback":
        raise ConfigError("on_alarm: rollback is not supported with several processes; use lower_lr or stop")


def holds_kl(config: RunConfig, method: Method) -> bool:
    """Whether a KL coefficient acts that can be raised."""
    return method.family == "policy" and config.policy.kl != "none" and config.policy.kl_coef > 0


def facts_for(config: RunConfig, method: Method, total: int, precision: str) -> Facts:
    """What monitors must know of a run besides its steps."""
    gradients = method.family == "policy"
    free = bool(config.options.get("reference_free"))
    return Facts(
        total=total,
        kl_target=config.policy.kl_target if gradients else None,
        reference=method.reference and not free,
        reference_fixed=method.family != "online" or config.online.reference == "fixed",
        low_precision=precision != "torch.float32",
        value_warmup=config.policy.value_warmup if gradients else 0,
        kl_unwanted=gradients and config.policy.kl == "none",
    )


def figures_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a metrics line, as logged or as read back."""
    words = ("nan", "inf", "-inf")
    return {
        name: number(value)
        for name, value in line.items()
        if name != "step" and not isinstance(value, bool) and (isinstance(value, int | float) or value in words)
    }


class Guard:
    """The watch over one run, and what its alarms lead to.

    Args:
        folder: of the run.
        config: its settings.
        total: planned steps.
        precision: of the forward pass.
        tell: where alarms go besides the run folder and the log.
    """

    def __init__(
        self, folder: RunFolder, config: RunConfig, total: int, precision: str, tell: Callable[[str], None]
    ) -> None:
        method = find_method(config.method)
        assert method is not None
        self.folder, self.config, self.tell = folder, config, tell
        self.holds_kl = holds_kl(config, method)
        self._facts, self._family = facts_for(config, method, total, precision), method.family
        self.watch = Watch(self._facts, config.monitors, self._family)

    def replay(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Begins anew with the lines of a run so far; their alarms were raised already."""
        self.watch = Watch(self._facts, self.config.monitors, self._family)
        for line in lines:
            self.watch.see(int(line["step"]), figures_of(line))

    def see(self, line: Mapping[str, Any]) -> list[Alarm]:
        """The alarms that begin with a step's line."""
        return self.watch.see(int(line["step"]), figures_of(line))

    def decide(self, alarms: Sequence[Alarm], taken: int, healthy: Sequence[int]) -> Decision:
        """What to do about the alarms of a step.

        Args:
            alarms: one or more.
            taken: actions so far.
            healthy: steps of the checkpoints that a rollback may go to.
        """
        limits, how = self.config.monitors, self.config.on_alarm
        grave = [a for a in alarms if a.level == "alarm" or limits.act_on == "warn"]
        if not grave or how == "warn":
            return Decision("warned", "nothing was changed")
        names = ", ".join(a.monitor for a in grave)
        if how == "stop":
            return Decision("stop", f"the run was stopped by {names}")
        if taken >= limits.actions:
            if how == "rollback":
                return Decision("stop", f"rolled back {taken} times already: the run was stopped by {names}")
            return Decision("warned", f"nothing more is changed after {taken} actions (monitors.actions)")
        if how == "rollback":
            since = min(a.since for a in grave)
            back = max((h for h in healthy if h < since), default=0)
            return Decision("rollback", f"rolled back to step {back}; {self._change()}", self._factor(), back)
        return Decision(how, self._change(), self._factor())

    def _raises(self) -> bool:
        return self.config.on_alarm == "raise_kl" or (self.config.on_alarm == "rollback" and self.holds_kl)

    def _factor(self) -> float:
        return self.config.monitors.kl_factor if self._raises() else self.config.monitors.lr_factor

    def _change(self) -> str:
        if self._raises():
            return f"the KL coefficient was multiplied by {self._factor():g}"
        return f"the learning rate was multiplied by {self._factor():g}"

    @property
    def raises_kl(self) -> bool:
        """Whether an action changes the KL coefficient; else the learning rate."""
        return self._raises()

    def record(self, alarms: Sequence[Alarm], decision: Decision) -> None:
        """Writes alarms down and tells them."""
        with JsonlWriter(self.folder.alarms) as writer:
            for alarm in alarms:
                writer.append({**asdict(alarm), "deed": decision.deed, "done": decision.text})
        for alarm in alarms:
            text = spoken(alarm, decision.text)
            log.warning("%s", text)
            self.tell(text)


def spoken(alarm: Alarm, done: str) -> str:
    """An alarm for a person: what was seen, since when, the likely cause, the next action, what was done."""
    word = "ALARM" if alarm.level == "alarm" else "warning"
    return (
        f"step {alarm.step}: {word} {alarm.monitor}, since step {alarm.since}: {alarm.seen}\n"
        f"    likely cause: {alarm.cause}\n    next: {alarm.action}\n    done: {done}"
    )
