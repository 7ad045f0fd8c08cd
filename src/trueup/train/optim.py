"""AdamW on fp32 master weights, a learning-rate schedule, and the rule that a non-finite step changes nothing.

In bf16 the model holds bf16 working weights; gradients are summed over micro-batches in fp32, the update happens in
fp32, and the working weights are rounded from the masters once a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch

from trueup.config import TrainConfig
from trueup.errors import RunError


def learning_rate(config: TrainConfig, peak: float, step: int, total: int) -> float:
    """Rate of optimizer step ``step`` (from 1) of ``total``: linear warm-up, then the schedule down to 0."""
    warmup = round(config.warmup * total) if config.warmup < 1 else min(int(config.warmup), total)
    if step <= warmup:
        return peak * step / warmup
    if config.schedule == "constant":
        return peak
    done = (step - 1 - warmup) / max(total - warmup, 1)
    return peak * (1 - done) if config.schedule == "linear" else peak * 0.5 * (1 + math.cos(math.pi * done))


class Optimizer:
    """AdamW over the trainable parameters of a model.

    Args:
        named: trainable parameters by name; bf16 and fp16 ones get fp32 masters.
        config: betas, eps, weight decay (on matrices only), clipping.
    """

    def __init__(self, named: Iterable[tuple[str, torch.nn.Parameter]], config: TrainConfig) -> None:
        self.config = config
        self.params = dict(named)
        self.masters = {name: _master(p) for name, p in self.params.items()}
        decayed = [m for m in self.masters.values() if m.ndim >= 2]
        plain = [m for m in self.masters.values() if m.ndim < 2]
        self.adam = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=0.0,
            betas=config.betas,
            eps=config.eps,
            fused=True,
        )
        self._names = {id(m): name for name, m in self.masters.items()}
        self._hooks = [
            p.register_post_accumulate_grad_hook(self._collector(name))
            for name, p in self.params.items()
            if self.masters[name] is not p
        ]

    def _collector(self, name: str):
        master = self.masters[name]

        def collect(parameter: torch.Tensor) -> None:
            assert parameter.grad is not None
            if master.grad is None:
                master.grad = parameter.grad.float()
            else:
                master.grad.add_(parameter.grad)
            parameter.grad = None

        return collect

    def zero(self) -> None:
        """Forgets all gradients."""
        for name, p in self.params.items():
            p.grad = None
            self.masters[name].grad = None

    def gradients(self) -> list[torch.Tensor]:
        """The summed gradients."""
        return [m.grad for m in self.masters.values() if m.grad is not None]

    def every_master(self) -> list[torch.nn.Parameter]:
        """The fp32 weights, in the model's order."""
        return list(self.masters.values())

    def norm(self) -> float:
        """Global norm of the summed gradients; 0 if there are none."""
        grads = self.gradients()
        return float(torch.nn.utils.get_total_norm(grads, foreach=True)) if grads else 0.0

    def step(self, lr: float) -> float:
        """Clips to the global norm and updates; returns the norm before clipping.

        A non-finite norm changes nothing: no weight, no moment.
        """
        norm = self.norm()
        if math.isfinite(norm):
            self.apply(lr, norm)
        self.zero()
        return norm

    def apply(self, lr: float, norm: float) -> None:
        """The update itself, with gradients clipped from ``norm``."""
        excess = norm / self.config.max_grad_norm
        device = next(iter(self.masters.values())).device
        # The fused kernel divides by grad_scale as it reads a gradient: clipping costs no pass of its own.
        self.adam.grad_scale = torch.tensor(excess, device=device) if excess > 1 else None  # type: ignore[attr-defined]
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        self._publish()

    @torch.no_grad()
    def _publish(self) -> None:
        """Rounds the masters into the working weights."""
        for name, p in self.params.items():
            if self.masters[name] is not p:
                p.copy_(self.masters[name])

    @torch.no_grad()
    def give_masters(self) -> None:
        """Puts the fp32 masters into the model itself, for saving; training cannot go on after it."""
        for hook in self._hooks:
            hook.remove()
        for name, p in self.params.items():
            p.data = self.masters[name].data

    def weights(self) -> dict[str, torch.Tensor]:
        """Master weights by name, for a checkpoint."""
        return {name: m.detach() for name, m in self.masters.items()}

    def moments(self) -> dict[str, torch.Tensor]:
        """AdamW's state, flat: ``<parameter>//<entry>``."""
        return {
            f"{self._names[id(m)]}//{key}": value
            for m, entries in self.adam.state.items()
            for key, value in entries.items()
        }

    def load(self, weights: Mapping[str, torch.Tensor], moments: Mapping[str, torch.Tensor]) -> None:
        """Takes back what :meth:`weights` and :meth:`moments` gave.

        Raises:
            RunError: the names are not those of this model.
        """
        if set(weights) != set(self.masters):
            odd = sorted(set(weights) ^ set(self.masters))
            raise RunError(f"checkpoint: {len(odd)} weights do not match the model, first {odd[0]}")
        with torch.no_grad():
            for name, m in self.masters.items():
                m.copy_(weights[name])
        self.adam.state.clear()
        for flat, value in moments.items():
            name, key = flat.rsplit("//", 1)
            self.adam.state[self.masters[name]][key] = value.to(self.masters[name].device, copy=True)
        self._publish()


class Several:
    """Optimizers of separate parts that step together: each clips its own gradients and has its own rate.

    Args:
        parts: by name: an optimizer and the factor on the learning rate. The first one's norm is reported.
    """

    def __init__(self, parts: Mapping[str, tuple[Optimizer, float]]) -> None:
        self.parts = dict(parts)

    def zero(self) -> None:
        """Forgets all gradients."""
        for part, _ in self.parts.values():
            part.zero()

    def every_master(self) -> list[torch.nn.Parameter]:
        """The fp32 weights of all parts."""
        return [m for part, _ in self.parts.values() for m in part.every_master()]

    def step(self, lr: float) -> float:
        """Updates every part, or none if any norm is not finite; the first part's norm (or the non-finite one)."""
        norms = [part.norm() for part, _ in self.parts.values()]
        bad = next((n for n in norms if not math.isfinite(n)), None)
        if bad is None:
            for (part, factor), norm in zip(self.parts.values(), norms, strict=True):
                part.apply(lr * factor, norm)
        self.zero()
        return norms[0] if bad is None else bad

    def weights(self) -> dict[str, torch.Tensor]:
        """Master weights of all parts by name."""
        return {name: w for part, _ in self.parts.values() for name, w in part.weights().items()}

    def moments(self) -> dict[str, torch.Tensor]:
        """AdamW's state of all parts, flat."""
        return {name: m for part, _ in self.parts.values() for name, m in part.moments().items()}

    def load(self, weights: Mapping[str, torch.Tensor], moments: Mapping[str, torch.Tensor]) -> None:
        """Takes back what :meth:`weights` and :meth:`moments` gave."""
        for part, _ in self.parts.values():
            own = set(part.masters)
            part.load(
                {n: w for n, w in weights.items() if n in own},
                {n: m for n, m in moments.items() if n.rsplit("//", 1)[0] in own},
            )

    def give_masters(self) -> None:
        """As :meth:`Optimizer.give_masters`, for all parts."""
        for part, _ in self.parts.values():
            part.give_masters()


AnyOptimizer = Optimizer | Several


def _master(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    if parameter.dtype in (torch.bfloat16, torch.float16):
        return torch.nn.Parameter(parameter.detach().float())
    return parameter
