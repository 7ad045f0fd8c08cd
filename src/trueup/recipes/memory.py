"""The memory of a run by phase and part: who takes part, the heaviest micro-batch, and what stands beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trueup.config import RunConfig
from trueup.data.order import micro_batches
from trueup.data.render import CompletionTokens, PairTokens
from trueup.errors import ConfigError
from trueup.feedback.rules import RULES
from trueup.models.decode import ROUND
from trueup.models.layout import Branches
from trueup.models.policy import Policy
from trueup.models.sample import PREFILL_TOKENS
from trueup.recipes.build import Machine, machine_for, plan_for
from trueup.recipes.online import rounds_for
from trueup.recipes.rehearse import Pass, Size, rehearse_look, rehearse_training, settings_of, size_of, skeleton
from trueup.recipes.rollouts import settle
from trueup.train.actions import group_tokens
from trueup.train.methods import Method
from trueup.train.preference import branches_of
from trueup.train.sft import branch_of

Tokens = PairTokens | CompletionTokens
FOUR_BITS = 0.5 + 0.016  # bytes a weight in NF4 with double quantisation: 4 bits and 8 + 32/256 bits a block of 64
MASKS_KEPT = 512  # by the cache of trueup.models.attention
STEPS_LOOKED_AT = 256  # of the plan, for the largest micro-batch


# ── who takes part ──


@dataclass(frozen=True, slots=True)
class Cast:
    """The models of a run, without weights.

    Attributes:
        policy, size: the model in training.
        reference: none, adapter (switched off), copy, or precomputed.
        reference_size: of a copy.
        value: a value model with a trunk of its own; None: none, or a head on the policy.
        shared_value: a head on the policy.
        judges: reward models that score answers.
    """

    config: RunConfig
    method: Method
    machine: Machine
    policy: Policy
    size: Size
    reference: str
    reference_size: int
    value: Policy | None
    value_size: Size
    shared_value: bool
    judges: tuple[Policy, ...]

    @property
    def wide(self) -> int:
        """Bytes of a weight in the forward pass."""
        return self.machine.dtype.itemsize


def cast_of(config: RunConfig, method: Method) -> Cast:
    """Who takes part in a run.

    Raises:
        ConfigError: settings that contradict each other.
        ModelError: a model whose config cannot be used.
    """
    machine = machine_for(config)
    settings = settings_of(config.model.path, config.model.revision, **_labels(method.family == "reward"))
    policy = skeleton(
        settings, machine.dtype, scores=method.family == "reward", lora=config.lora,
        checkpointing=config.train.gradient_checkpointing, layout=config.model.layout,
    )  # fmt: skip
    size = size_of(policy)
    kind = _reference(config, method)
    other = kind not in ("none", "adapter-off", "copy", "precomputed")
    value = _value(config, method)
    trunk = None
    if value not in ("none", "shared"):
        given = settings if value == "separate" else settings_of(value)
        trunk = skeleton(given, machine.dtype, layout=config.model.layout)
        _freeze_untied_head(trunk)
    return Cast(
        config=config, method=method, machine=machine, policy=policy, size=size,
        reference="copy" if other else kind,
        reference_size=size_of(skeleton(settings_of(kind), machine.dtype)).base if other else size.base,
        value=trunk, value_size=size_of(trunk) if trunk else Size(0, 0, 0), shared_value=value == "shared",
        judges=tuple(
            skeleton(settings_of(path, **_labels(True)), torch.float32, scores=True, trained=False)
            for path in reward_models(config.reward)
        ),
    )  # fmt: skip


def _labels(scores: bool) -> dict[str, Any]:
    return {"num_labels": 1} if scores else {}


def _freeze_untied_head(trunk: Policy) -> None:
    """No value depends on the output layer of a value model (:func:`trueup.recipes.rollouts.build_rollouts`)."""
    if not getattr(trunk.inner.config.get_text_config(), "tie_word_embeddings", False):
        for parameter in trunk.inner.get_output_embeddings().parameters():
            parameter.requires_grad_(False)


def _reference(config: RunConfig, method: Method) -> str:
    """What the reference is: none, adapter-off, copy, precomputed, or a path."""
    kind = config.model.reference
    if method.family == "policy":
        needed = settle(config, method).kl != "none" or kind not in ("auto", "none")
    else:
        needed = method.reference and not config.options.get("reference_free")
    if not needed:
        return "none"
    if kind != "auto":
        return kind
    return "copy" if config.lora is None else "adapter-off"


def _value(config: RunConfig, method: Method) -> str:
    """What the value model is: none, shared, separate, or a path."""
    if method.family != "policy" or settle(config, method).advantage != "gae":
        return "none"
    if config.policy.value != "auto":
        return config.policy.value
    return "shared" if config.lora is not None else "separate"


def reward_models(spec: str | Mapping[str, Any] | None) -> list[str]:
    """Paths of the reward models that a ``reward`` setting names; rules need no memory to speak of.

    Raises:
        ConfigError: a part that names no scorer.
    """
    if spec is None:
        return []
    if isinstance(spec, str):
        module, colon, function = spec.partition(":")
        own = colon and module != "bundled" and function.isidentifier() and "/" not in module
        return [] if own or spec in RULES else [spec]
    if "reward_model" in spec:
        return [str(spec["reward_model"])]
    if "rule" in spec:
        return []
    parts = spec.get("sum") or spec.get("ensemble")
    if not isinstance(parts, list):
        raise ConfigError(f"reward: {dict(spec)} names no scorer")
    return [path for part in parts for path in reward_models(part)]


# ── what they have to do ──


@dataclass(frozen=True, slots=True)
class Load:
    """The heaviest micro-batch of a run and how much work there is in all.

    Attributes:
        groups: the micro-batch with the most tokens.
        parts: micro-batches of its step.
        steps: of the run.
        trained: tokens that go forward and backward, over the run.
        prompts: of one round of answers; empty for methods that do not sample.
        rounds: of answers, over the run.
        first: groups that the self-check looks at.
        masks: entries of the attention masks that a run keeps.
    """

    groups: Sequence[Branches]
    parts: int
    steps: int
    trained: float
    prompts: Sequence[np.ndarray]
    rounds: int
    first: Sequence[Branches]
    masks: float


def load_of(cast: Cast, rows: Sequence[Tokens]) -> Load:
    """What the rows ask of them."""
    config, method = cast.config, cast.method
    if method.family == "online":
        shape, steps = rounds_for(config, method, len(rows))
        prompts = _longest(rows, shape.prompts)
        groups = [_answered(p, 2, config.sample.max_new_tokens) for p in prompts]
        batches = [groups[: shape.batch or len(groups)]]
        rounds, passes = math.ceil(steps / shape.steps), steps
    elif method.family == "policy":
        plan = plan_for(config, method, rows)
        prompts = _longest(rows, len(plan.batch(1)))
        groups = [_answered(p, config.sample.n, config.sample.max_new_tokens) for p in prompts]
        batches = [groups[: math.ceil(len(groups) / config.policy.minibatches)]]
        steps = rounds = plan.total
        passes = steps * config.policy.epochs * min(config.policy.minibatches, len(groups))
    else:
        plan = plan_for(config, method, rows)
        prompts, rounds, steps = [], 0, plan.total
        looked_at = min(steps, STEPS_LOOKED_AT)
        batches = [[_group(r) for r in plan.batch(k)] for k in range(1, looked_at + 1)]
        passes = steps
    cut = [(part, len(parts)) for batch in batches for parts in [_split(cast, batch)] for part in parts]
    heaviest, parts = max(cut, key=lambda c: tokens_of(cast, c[0]))
    mean = float(np.mean([tokens_of(cast, batch) for batch in batches]))
    return Load(heaviest, parts, steps, mean * passes, prompts, rounds, batches[0][:2], _masks(cast, batches))


def _masks(cast: Cast, batches: Sequence[Sequence[Branches]]) -> float:
    """Entries of the masks of all shapes of groups, the largest that are kept (trueup.models.attention, on a CPU)."""
    if not cast.policy.shared or cast.machine.device.type != "cpu":
        return 0.0
    shape = cast.policy.inner.config.get_text_config()
    repeat = shape.num_attention_heads / (getattr(shape, "num_key_value_heads", None) or shape.num_attention_heads)
    sizes = {(len(g.prefix), *map(len, g.branches)) for batch in batches for g in batch}
    return repeat * float(sum(sorted((sum(s) ** 2 for s in sizes), reverse=True)[:MASKS_KEPT]))


def _longest(rows: Sequence[Tokens], count: int) -> list[np.ndarray]:
    """The longest prompts: any of them may come together."""
    prompts = [r.chosen.ids if isinstance(r, PairTokens) else r.ids for r in rows]
    return sorted(prompts, key=len, reverse=True)[:count]


def _answered(prompt: np.ndarray, n: int, length: int) -> Branches:
    """A prompt with ``n`` answers of the greatest length."""
    answer = np.zeros(length, dtype=np.int32)
    return Branches(prompt, (answer,) * n, (np.ones(length, dtype=bool),) * n)


def _group(row: Tokens) -> Branches:
    return branches_of(row) if isinstance(row, PairTokens) else branch_of(row)


def _split(cast: Cast, groups: Sequence[Branches]) -> list[list[Branches]]:
    train = cast.config.train
    lengths = [group_tokens(g, cast.policy.shared) for g in groups]
    cut = micro_batches(lengths, train.micro_batch, None if train.micro_batch else train.micro_tokens)
    return [[groups[i] for i in part] for part in cut]


def tokens_of(cast: Cast, groups: Sequence[Branches]) -> int:
    """Tokens computed in one pass over some groups."""
    return sum(group_tokens(g, cast.policy.shared) for g in groups)


# ── memory ──


def _standing(cast: Cast, load: Load) -> dict[str, float]:
    """Bytes of everything that stays for the whole of training."""
    size, wide, lora = cast.size, cast.wide, cast.config.lora
    weights = float(size.base * wide)
    if lora is not None and lora.quantize == "4bit":
        weights = size.linear * FOUR_BITS + (size.base - size.linear) * wide
    value = cast.value_size
    masters = 4.0 if wide == 2 else 0.0
    return {
        "weights": weights,
        "adapter": size.trained * 4.0 if lora is not None else 0.0,
        "master weights": size.trained * masters if lora is None else 0.0,
        "AdamW": size.trained * 8.0,
        "reference": float(cast.reference_size * wide) if cast.reference == "copy" else 0.0,
        "value model": value.base * wide + value.trained * (masters + 8.0),
        "reward model": sum(size_of(j).base * 4.0 for j in cast.judges),
        "attention masks": load.masks * wide,
        "runtime": RUNTIME,
    }


RUNTIME = 112 * 2**20  # kernels and their code, thread buffers, tokenizer and its tables, measured


def phases_of(cast: Cast, load: Load) -> dict[str, dict[str, float]]:
    """Phase -> part -> bytes."""
    standing = _standing(cast, load)
    training = _training(cast, load)
    gradients = 4.0 * (cast.size.trained + cast.value_size.trained) if load.parts > 1 else 0.0
    held = training.kept - gradients
    phases = {
        "training": {
            **standing,
            "activations": held,
            "gradients and work": training.peak - held,
            "holes in the heap": _holes(cast, load),
        },
        "loading": {name: standing[name] for name in ("weights", "reference", "runtime")}
        | {"file being read": standing["weights"]},
    }
    if cast.method.family != "reward":
        phases["self-check"] = {**standing, "AdamW": 0.0, "logits": _self_check(cast, load)}
    if load.prompts:
        phases["sampling"] = {**standing, **_sampling(cast, load)}
        phases["looking"] = {**standing, "looking": _looking(cast, load)}
        if cast.judges:
            phases["scoring"] = {**standing, "scoring": _scoring(cast, load)}
    return phases


def _holes(cast: Cast, load: Load) -> float:
    """What the C library's heap loses to adapters on a CPU.

    The gradients of an adapter are small and stay; they come to lie among the activations of the layer that made them,
    and the freed block around each can neither be given back nor hold the next activation. Each adapted layer so costs
    one block of its wider side (measured; CUDA's allocator has pools for this and loses little).
    """
    if cast.machine.device.type != "cpu" or cast.config.lora is None:
        return 0.0
    named = {n.partition(".lora_A")[0] for n, _ in cast.policy.model.named_modules() if ".lora_A" in n}
    layers: list[Any] = [m for n, m in cast.policy.model.named_modules() if n in named]
    return float(tokens_of(cast, load.groups) * cast.wide * sum(max(m.in_features, m.out_features) for m in layers))


def _training(cast: Cast, load: Load) -> Pass:
    config = cast.config
    extras = bool(config.options.get("wpo")) or (cast.method.family == "policy" and config.policy.entropy_coef != 0)
    return rehearse_training(
        cast.policy, load.groups,
        reference=cast.reference in ("copy", "adapter-off") and cast.method.family in ("pairs", "unpaired"),
        twin=cast.value, extras=extras, scores=cast.method.family == "reward", accumulated=load.parts > 1,
    )  # fmt: skip


def _self_check(cast: Cast, load: Load) -> float:
    """Logits of every position of two rows, and twice over at the trained ones (models.policy.check_layouts)."""
    vocabulary = cast.policy.inner.config.get_text_config().vocab_size
    pairs = [(g, b, m) for g in load.first for b, m in zip(g.branches, g.masks, strict=True)]
    longest = max(len(g.prefix) + len(b) for g, b, _ in pairs)
    trained = sum(int(m.sum()) for _, _, m in pairs)
    return vocabulary * (len(pairs) * longest * cast.wide + trained * (cast.wide + 4.0 + 4.0))


def _sampling(cast: Cast, load: Load) -> dict[str, float]:
    """Keys and values of the answers in progress, prompts being computed, and logits of one token an answer."""
    config = cast.config
    shape = cast.policy.inner.config.get_text_config()
    slots = min(config.sample.slots, len(load.prompts) * config.sample.n)
    capacity = -(-(len(load.prompts[0]) + config.sample.max_new_tokens) // ROUND) * ROUND
    token = 2.0 * shape.num_hidden_layers * _kv_width(shape) * cast.wide
    pack: list[np.ndarray] = []
    while len(pack) < len(load.prompts) and sum(map(len, pack)) + len(load.prompts[len(pack)]) <= PREFILL_TOKENS:
        pack.append(load.prompts[len(pack)])
    pack = pack or [load.prompts[0]]
    prefill = rehearse_look(cast.policy, [_answered(p[:-1], 1, 1) for p in pack]).peak
    return {
        "KV cache": slots * capacity * token + 2 * sum(map(len, pack)) * token,
        "sampling": max(prefill, slots * shape.vocab_size * 4.0 * 3),
    }


def _kv_width(shape: Any) -> int:
    """Width of a token's keys in one layer."""
    heads = shape.num_attention_heads
    width = getattr(shape, "head_dim", None) or shape.hidden_size // heads
    return width * (getattr(shape, "num_key_value_heads", None) or heads)


def _looking(cast: Cast, load: Load) -> float:
    """The policy (with its value model) and the reference look at fresh answers, without gradient."""
    return rehearse_look(cast.policy, load.groups, extras=cast.method.family == "policy").peak


def _scoring(cast: Cast, load: Load) -> float:
    """Reward models read whole answers, PREFILL_TOKENS tokens at once."""
    length = len(load.prompts[0]) + cast.config.sample.max_new_tokens
    answers = len(load.prompts) * cast.config.sample.n
    count = max(1, min(answers, PREFILL_TOKENS // length))
    row = Branches(np.zeros(0, np.int32), (np.zeros(length, np.int32),), (np.arange(length) == length - 1,))
    return max(rehearse_look(judge, [row] * count, scores=True).peak for judge in cast.judges)
