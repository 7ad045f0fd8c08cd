"""From a config and prepared rows to a job: models, reference, objective, optimizer, plan."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trueup.config import RunConfig
from trueup.data.order import batch_at
from trueup.data.render import PairTokens
from trueup.errors import ConfigError, ModelError
from trueup.losses import PREFERENCE
from trueup.losses.metrics import preference_metrics, unpaired_metrics
from trueup.losses.options import Options, bound, mixture, with_options
from trueup.models.bundled import cache_root
from trueup.models.load import load_causal_lm, load_reward_model
from trueup.models.lora import add_lora, trainable
from trueup.models.policy import Policy, check_layouts
from trueup.models.reference import (
    AdapterOff,
    FrozenCopy,
    Precomputed,
    Reference,
    ReferenceCache,
    fill_cache,
)
from trueup.models.source import identity
from trueup.recipes.prepare import Prepared, prompt_key
from trueup.recipes.work import Job
from trueup.runs.encode import hash_json
from trueup.train import ranks
from trueup.train.loop import Plan
from trueup.train.methods import Method
from trueup.train.optim import Optimizer
from trueup.train.preference import Needs, PreferenceObjective, branches_of
from trueup.train.reward import RewardObjective
from trueup.train.sft import SupervisedObjective, branch_of
from trueup.train.unpaired import UnpairedObjective

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and how precisely the forward pass runs."""

    device: torch.device
    dtype: torch.dtype


def machine_for(config: RunConfig) -> Machine:
    """The device and precision of a run; ``auto`` means what the machine is fast at.

    Raises:
        ConfigError: CUDA was asked for and is not there.
    """
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    return machine_named(config.train.device, config.train.precision)


def machine_named(wanted: str = "auto", precision: str = "auto") -> Machine:
    """A device and a precision by name.

    Raises:
        ConfigError: CUDA was asked for and is not there.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else torch.device(wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device: cuda was asked for, but torch sees no CUDA device; use cpu or auto")
    if precision == "auto":
        precision = "bf16" if _fast_bf16(device) else "fp32"
    return Machine(device, torch.bfloat16 if precision == "bf16" else torch.float32)


def _fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path("/proc/cpuinfo")
    return bf16_pays(cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else "")


def bf16_pays(cpuinfo: str) -> bool:
    """Whether a processor multiplies matrices in bf16 faster than in fp32, by its flags in Linux's ``/proc/cpuinfo``.

    AMX does. AVX512-BF16 alone does on AMD (an EPYC: 2.3 times fp32 in products of 2048); an Intel Xeon without
    AMX reached 0.55 times fp32. A rule and no measurement, so that a resumed run computes as it began.
    """
    return "amx_bf16" in cpuinfo or ("avx512_bf16" in cpuinfo and "AuthenticAMD" in cpuinfo)


def open_policy(config: RunConfig, method: Method, machine: Machine, pad_id: int) -> Policy:
    """The model that will be trained, with its adapter or score head, in the precision of the forward pass."""
    options: dict[str, Any] = {"dtype": machine.dtype, "revision": config.model.revision}
    if config.lora is not None and config.lora.quantize != "none":
        options["quantize"] = config.lora.quantize
    if method.family == "reward":
        model: Any = load_reward_model(config.model.path, new_head=None, seed=config.train.seed, **options)
        model.config.pad_token_id = pad_id
    else:
        model = load_causal_lm(config.model.path, **options)
    model.requires_grad_(config.lora is None)
    if config.lora is not None:
        model = add_lora(model, config.lora, config.train.seed)
    if config.train.gradient_checkpointing:
        _checkpoint_activations(model)
        if config.lora is not None:
            model.enable_input_require_grads()
    policy = Policy(model.to(machine.device), pad_id, config.model.layout)
    model.train(config.train.gradient_checkpointing or (config.lora is not None and config.lora.dropout > 0))
    _no_dropout(policy.inner, keep_lora=config.lora is not None)
    return policy


def _checkpoint_activations(model: Any) -> None:
    """Under the name it has from transformers 5.23 on, or the one before."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    settings = {"use_reentrant": False}
    if hasattr(inner, "activation_checkpointing_enable"):
        inner.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:
        inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


def _no_dropout(model: torch.nn.Module, *, keep_lora: bool) -> None:
    """Dropout off: two passes over one row must give the same log-probabilities (LoRA's own stays if asked for)."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout) and not (keep_lora and "lora_dropout" in name):
            module.p = 0.0
    for key in ("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop", "hidden_dropout"):
        if getattr(model.config, key, None):
            setattr(model.config, key, 0.0)
    for module in model.modules():
        if getattr(module, "attention_dropout", None) and isinstance(module.attention_dropout, float):
            module.attention_dropout = 0.0  # type: ignore[assignment]


def open_reference(
    config: RunConfig, method: Method, policy: Policy, machine: Machine, prepared: Prepared
) -> Reference | None:
    """The reference policy that the method needs, or None.

    Raises:
        ConfigError: a kind of reference that this run cannot have.
    """
    kind = config.model.reference
    if not method.reference or config.options.get("reference_free"):
        return None
    if kind == "auto":
        kind = "copy" if config.lora is None else "adapter-off"
    name = identity(config.model.path, config.model.revision)
    if kind == "adapter-off":
        if config.lora is None:
            raise ConfigError("model.reference: adapter-off needs --lora.rank; a full fine-tuning has no adapter")
        return AdapterOff(policy, name)
    if kind == "none":
        raise ConfigError(f"model.reference: {method.name} needs a reference; none is for reference-free methods")
    path = config.model.path if kind in ("copy", "precomputed") else kind
    revision = config.model.revision if path == config.model.path else None
    if kind not in ("copy", "precomputed"):
        name = identity(path)
    copy = FrozenCopy(_frozen(path, revision, policy, machine, config), name)
    if kind != "precomputed":
        return copy
    if method.family == "unpaired" and method.name == "kto":
        raise ConfigError(
            "model.reference: kto cannot use precomputed log-probabilities: its KL needs new mismatches at every step"
        )
    return _precomputed(config, method, copy, machine, prepared, name)


def _frozen(path: str, revision: str | None, policy: Policy, machine: Machine, config: RunConfig) -> Policy:
    model: Any = load_causal_lm(path, dtype=machine.dtype, revision=revision)
    model = model.to(machine.device)
    return Policy(model, policy.pad_id, config.model.layout)


def _precomputed(
    config: RunConfig, method: Method, copy: FrozenCopy, machine: Machine, prepared: Prepared, name: str
) -> Reference:
    """Fills the cache once, and lets the copy go."""
    key = {"weights": name, "precision": str(machine.dtype), "device": machine.device.type, "torch": torch.__version__}
    cache = ReferenceCache(cache_root() / "reference", key)
    rows = prepared.train + prepared.held_out
    groups = [branches_of(r) if isinstance(r, PairTokens) else branch_of(r) for r in rows]
    size = 8
    with ranks.zero_first():
        cache = ReferenceCache(cache_root() / "reference", key)
        count = fill_cache(cache, copy, [groups[i : i + size] for i in range(0, len(groups), size)])
    log.info("reference: %d of %d rows computed, the rest was cached in %s", count, len(rows), cache.path)
    return Precomputed(cache, name, machine.device)


def pair_loss(config: RunConfig, method: Method) -> tuple[Callable[..., torch.Tensor], Needs]:
    """The method's loss with its arguments, options and mixture bound, and what it reads."""
    options = Options(**config.options)
    terms = [(with_options(bound(method.loss.fn, config.loss), options), 1.0)]
    terms += [(with_options(bound(PREFERENCE[t.name].fn, t.arguments), options), t.weight) for t in config.mixture]
    needs = Needs(
        common=options.ld_alpha is not None,
        weights=options.wpo,
        coupled=method.loss.coupled or any(PREFERENCE[t.name].coupled for t in config.mixture),
    )
    return (mixture(terms) if len(terms) > 1 else terms[0][0]), needs


def objective_for(
    config: RunConfig, method: Method, policy: Policy, reference: Reference | None, prepared: Prepared
) -> Any:
    """The objective of a method."""
    if method.family == "pairs":
        loss, needs = pair_loss(config, method)
        beta = float(config.loss.get("beta", method.loss.arguments.get("beta", 1.0)))
        return PreferenceObjective(policy, reference, loss, partial(preference_metrics, beta=beta), needs)
    loss = partial(method.loss.fn, **config.loss)
    if method.family == "sft":
        return SupervisedObjective(policy, loss)
    if method.family == "reward":
        return RewardObjective(policy, loss)
    assert reference is not None
    return UnpairedObjective(
        policy,
        reference,
        loss,
        partial(unpaired_metrics, beta=float(config.loss.get("beta", method.loss.arguments["beta"]))),
        needs_kl=method.loss.needs_kl,
        others=prepared.train,
        seed=config.train.seed,
    )


def plan_for(config: RunConfig, method: Method, rows: Sequence[Any]) -> Plan[Any]:
    """Which rows each step sees, and how many steps there are."""
    train = config.train
    size = min(train.batch_size, len(rows))
    total = max(1, math.ceil(len(rows) * train.epochs / size))
    total = min(total, train.max_steps) if train.max_steps is not None else total
    labels = np.array([bool(r.label) for r in rows]) if method.family == "unpaired" else None
    peak = train.lr if train.lr is not None else (method.lr if config.lora is None else method.lora_lr)

    def batch(step: int) -> list[Any]:
        return [rows[i] for i in batch_at(len(rows), size, train.seed, step - 1, labels=labels)]

    return Plan(total, batch, peak)


def check_start(job: Job, policy: Policy, prepared: Prepared, *, expects_zero: bool) -> None:
    """Step 0: both layouts agree, and policy and reference agree where they are the same weights.

    Raises:
        ModelError: they do not; training would be wrong.
    """
    first = job.plan.batch(1)
    groups = [branches_of(r) if isinstance(r, PairTokens) else branch_of(r) for r in first[:2]]
    if not isinstance(job.objective, RewardObjective):
        worst = check_layouts(policy, groups)
        log.info("self-check: layouts and output layer agree within %.2g nats a token", worst)
    reference = getattr(job.objective, "reference", None)
    if reference is None or not expects_zero:
        return
    with torch.no_grad():
        ours = policy.sequences(policy.layout(groups)).logprob
    lengths = torch.tensor([float(m.sum()) for g in groups for m in g.masks], device=ours.device)
    apart = float(((ours - reference.sequences(groups).logprob).abs() / lengths).max())
    allowed = 0.05 if policy.inner.dtype == torch.bfloat16 else 1e-3
    if not apart <= allowed:
        raise ModelError(
            f"self-check: policy and reference are the same weights but differ by {apart:.3g} nats a token "
            f"(allowed {allowed:g}); reference: {reference.identity}"
        )


def build(config: RunConfig, method: Method, prepared: Prepared) -> tuple[Job, Policy]:
    """Loads the models and puts the job together."""
    machine = machine_for(config)
    torch.manual_seed(config.train.seed)
    policy = open_policy(config, method, machine, int(prepared.tokenizer.pad_token_id))  # type: ignore[arg-type]
    reference = open_reference(config, method, policy, machine, prepared)
    objective = objective_for(config, method, policy, reference, prepared)
    parts = {"loss": config.loss, "mixture": [t.model_dump() for t in config.mixture], "options": config.options}
    identity_of_run = {
        "method": method.name,
        "loss": hash_json(parts),
        "reference": reference.identity if reference else "none",
        "model": identity(config.model.path, config.model.revision),
        "data": prepared.fingerprint,
        "precision": str(machine.dtype),
    }
    job = Job(
        config=config,
        objective=objective,
        optimizer=Optimizer(trainable(policy.model), config.train),
        plan=plan_for(config, method, prepared.train),
        held_out=prepared.held_out,
        clusters=[prompt_key(r) for r in prepared.held_out],
        metric=config.eval.metric or method.metric,
        maximise=method.maximise if config.eval.metric in (None, method.metric) else "loss" not in config.eval.metric,
        identity=identity_of_run,
    )
    own = config.model.reference in ("auto", "copy", "adapter-off", "precomputed")
    check_start(job, policy, prepared, expects_zero=own)
    return job, policy
