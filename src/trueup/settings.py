"""From a YAML file and dotted overrides to a RunConfig; every mistake is one line with a remedy."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import yaml
from pydantic import BaseModel, ValidationError

from trueup.config import RunConfig
from trueup.errors import ConfigError

# Names that people arrive with from other tools -> ours. Suggestions only, never aliases.
ELSEWHERE = {
    "learning_rate": "train.lr", "lr": "train.lr", "per_device_train_batch_size": "train.micro_batch",
    "gradient_accumulation_steps": "train.batch_size", "num_train_epochs": "train.epochs", "epochs": "train.epochs",
    "bf16": "train.precision",
    "fp16": "train.precision", "warmup_ratio": "train.warmup", "warmup_steps": "train.warmup",
    "lr_scheduler_type": "train.schedule", "max_grad_norm": "train.max_grad_norm", "weight_decay": "train.weight_decay",
    "seed": "train.seed", "max_steps": "train.max_steps", "gradient_checkpointing": "train.gradient_checkpointing",
    "beta": "loss.beta", "pref_beta": "loss.beta", "rl_beta": "loss.beta", "simpo_gamma": "loss.gamma",
    "label_smoothing": "loss.label_smoothing", "dpo_label_smoothing": "loss.label_smoothing",
    "pref_ftx": "options.sft_weight", "ld_alpha": "options.ld_alpha", "use_weighting": "options.wpo",
    "kto_chosen_weight": "loss.desirable_weight", "kto_desirable_weight": "loss.desirable_weight",
    "cutoff_len": "data.max_length", "max_length": "data.max_length", "max_seq_length": "data.max_length",
    "sequence_len": "data.max_length", "model_name_or_path": "model.path", "base_model": "model.path",
    "dataset": "data.path", "dataset_name": "data.path", "ref_model": "model.reference",
    "precompute_ref_log_probs": "model.reference", "template": "data.chat", "use_peft": "lora.rank",
    "lora_r": "lora.rank", "lora_rank": "lora.rank", "lora_alpha": "lora.alpha", "lora_dropout": "lora.dropout",
    "load_in_4bit": "lora.quantize", "loss_type": "METHOD, the word after `trueup train`", "output_dir": "--out",
    "report_to": "save.sinks", "save_steps": "save.every", "eval_steps": "eval.every",
}  # fmt: skip
_FREE_FORM = ("loss", "options", "data.columns")  # sections whose keys belong to the method or the file
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key stands once and 1e-6 is a number."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^{_NUMBER.pattern}$"), list("+-.0123456789"))


def read_yaml(text: str, where: str) -> Any:
    """One YAML document.

    Raises:
        ConfigError: not YAML, with line and column.
    """
    try:
        return yaml.load(text, _Loader)  # a SafeLoader: builds plain values only
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{where}{place}: not valid YAML: {getattr(error, 'problem', None) or error}") from None


def _sections(model: type[BaseModel], prefix: str = "") -> dict[str, type[BaseModel] | None]:
    """Dotted names of all settings; the value is a section's class, or None for a plain one."""
    found: dict[str, type[BaseModel] | None] = {}
    for name, field in model.model_fields.items():
        inner = next(
            (t for t in _alternatives(field.annotation) if isinstance(t, type) and issubclass(t, BaseModel)), None
        )
        found[prefix + name] = inner
        if inner is not None:
            found |= _sections(inner, f"{prefix}{name}.")
    return found


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return (
        typing.get_args(annotation)
        if typing.get_origin(annotation) in (types.UnionType, typing.Union)
        else (annotation,)
    )


KEYS = _sections(RunConfig)


def nearest(key: str, known: Sequence[str]) -> str:
    """`` (did you mean X?)``, or nothing."""
    if key.rsplit(".", 1)[-1] in ELSEWHERE:
        return f" (did you mean {ELSEWHERE[key.rsplit('.', 1)[-1]]}?)"
    return _like(key, known)


def _like(key: str, known: Sequence[str]) -> str:
    last = [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    close = last or difflib.get_close_matches(key, known, 1, 0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """``--train.lr 1e-6 --loss.beta=0.2 --data.allow_lost_eos`` as a mapping of dotted names.

    Raises:
        ConfigError: a word that is no option, an unknown option, or the same one twice.
    """
    given: dict[str, Any] = {}
    at = 0
    while at < len(words):
        word = words[at]
        if not word.startswith("--") or word == "--":
            raise ConfigError(f"unexpected word {word!r}; options look like --train.lr 1e-6")
        key, equals, value = word[2:].partition("=")
        _check_key(key)
        at += 1
        if not equals:
            if at < len(words) and not words[at].startswith("--"):
                value = words[at]
                at += 1
            else:
                value = "true"
        if key in given:
            raise ConfigError(f"--{key}: given twice")
        given[key] = read_yaml(value, f"--{key}") if not key.startswith(("model.path", "data.path")) else value
    return given


def _check_key(key: str) -> None:
    free = any(key.startswith(f"{section}.") for section in _FREE_FORM)
    if free or (key in KEYS and (KEYS[key] is None)):
        return
    if key in KEYS:
        raise ConfigError(
            f"--{key}: a section; set its fields, e.g. --{next(k for k in KEYS if k.startswith(key + '.'))}"
        )
    raise ConfigError(f"--{key}: unknown option{nearest(key, [k for k in KEYS if KEYS[k] is None])}")


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for name in path:
        inner = tree.setdefault(name, {})
        if inner is None:
            inner = tree[name] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"{key}: {name} is not a section")
        tree = inner
    tree[last] = value


def load_config(path: Path | None, overrides: Sequence[str], fixed: Mapping[str, Any] | None = None) -> RunConfig:
    """The settings of a run.

    Args:
        path: YAML file; None: defaults only.
        overrides: words of the command line, stronger than the file.
        fixed: dotted names set by the command itself (method, model.path, data.path), strongest; None values are left.

    Raises:
        ConfigError: anything that is unknown, of the wrong type or contradictory.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from None
        loaded = read_yaml(text, str(path))
        if not isinstance(loaded, dict):
            raise ConfigError(f"{path}: a mapping of settings is expected, got {type(loaded).__name__}")
        tree = loaded
    for key, value in parse_overrides(overrides).items():
        _put(tree, key, value)
    for key, value in (fixed or {}).items():
        if value is not None:
            _put(tree, key, value)
    return validated(tree, str(path) if path else "settings")


def validated(tree: Mapping[str, Any], where: str) -> RunConfig:
    """A tree of plain values as a config.

    Raises:
        ConfigError: one line an error.
    """
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as errors:
        raise ConfigError("\n".join(_line(e, where) for e in errors.errors())) from None


def _line(error: Any, where: str) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{where}: {key}: unknown setting{nearest(key, list(KEYS))}"
    if error["type"] == "missing":
        return f"{where}: {key}: missing; set --{key}"
    return f"{where}: {key}: {error['msg'][0].lower()}{error['msg'][1:]}, got {error['input']!r}"


def dump_config(config: RunConfig) -> str:
    """YAML that loads again to the same config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class MethodLike(Protocol):
    """What :func:`check_effective` must know of a method (floors above this one fill it in)."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def family(self) -> str: ...  # noqa: D102
    @property
    def reference(self) -> bool: ...  # noqa: D102
    @property
    def arguments(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def option_names(self) -> frozenset[str]: ...  # noqa: D102
    @property
    def metrics(self) -> tuple[str, ...]: ...  # noqa: D102


def check_effective(config: RunConfig, method: MethodLike, pairwise: Mapping[str, Mapping[str, Any]]) -> None:
    """An option that would have no effect is an error.

    Args:
        config: the settings.
        method: of the run.
        pairwise: names of pairwise losses with their arguments (for mixtures).

    Raises:
        ConfigError: naming the option and why it would do nothing.
    """
    _check_arguments(config.loss, method.arguments, "loss", method.name)
    for name in config.options:
        if name not in method.option_names and not (name == "alpha_coefficient" and "f_divergence" in config.options):
            known = ", ".join(sorted(method.option_names)) or "none"
            raise ConfigError(f"options.{name}: has no effect on {method.name}; its options: {known}")
    if config.mixture and method.family not in ("pairs", "online"):
        raise ConfigError(f"mixture: only pairwise methods can be mixed, not {method.name}")
    for term in config.mixture:
        if term.name not in pairwise:
            raise ConfigError(f"mixture: {term.name!r} is no pairwise loss{_like(term.name, list(pairwise))}")
        _check_arguments(term.arguments, pairwise[term.name], f"mixture {term.name}", term.name)
    _check_pairs_of_settings(config, method)


def _check_arguments(given: Mapping[str, Any], known: Mapping[str, Any], where: str, method: str) -> None:
    for name, value in given.items():
        if name not in known:
            some = ", ".join(known) or "none"
            raise ConfigError(
                f"{where}.{name}: {method} has no such argument{_like(name, list(known))}; it has: {some}"
            )
        wanted = type(known[name])
        sound = (
            isinstance(value, bool)
            if wanted is bool
            else isinstance(value, int | float) and not isinstance(value, bool)
        )
        if not sound:
            raise ConfigError(f"{where}.{name}: a {wanted.__name__} is expected, got {value!r}")


def _check_pairs_of_settings(config: RunConfig, method: MethodLike) -> None:
    """Settings that contradict each other or one of which silences another."""
    used = config.model_fields_set
    fields = {
        name: getattr(config, name).model_fields_set for name in ("model", "data", "train", "eval") if name in used
    }
    rules: list[tuple[bool, str]] = [
        (not method.reference and config.model.reference not in ("auto", "none"),
         f"model.reference: has no effect, {method.name} uses no reference"),
        (bool(config.options.get("reference_free")) and config.model.reference not in ("auto", "none"),
         "model.reference: has no effect with options.reference_free"),
        (config.lora is not None and config.model.reference == "precomputed",
         "model.reference: precomputed saves nothing with LoRA, whose reference is the adapter switched off"),
        (config.eval.patience > 0 and config.eval.every == 0, "eval.patience: has no effect without eval.every"),
        (config.eval.metric is not None and config.eval.every == 0, "eval.metric: has no effect without eval.every"),
        (config.eval.metric is not None and config.eval.metric not in method.metrics,
         f"eval.metric: {config.eval.metric!r} is unknown; {method.name} has {', '.join(method.metrics)}"),
        (config.data.eval_path is not None and "eval_fraction" in fields.get("data", set()),
         "data.eval_fraction: has no effect with data.eval_path"),
        (config.eval.every > 0 and config.data.eval_path is None and config.data.eval_fraction == 0,
         "eval.every: there are no held-out rows; set data.eval_path or data.eval_fraction"),
        (config.train.micro_batch is not None and "micro_tokens" in fields.get("train", set()),
         "train.micro_tokens: has no effect with train.micro_batch"),
        (config.data.allow_lost_eos and config.data.too_long != "truncate",
         "data.allow_lost_eos: has no effect without data.too_long: truncate"),
    ]  # fmt: skip
    rules += _rules_of_sampling(config, method)
    rules += _rules_of_alarms(config, method)
    for broken, message in rules:
        if broken:
            raise ConfigError(message)


def _rules_of_alarms(config: RunConfig, method: MethodLike) -> list[tuple[bool, str]]:
    """What an alarm can do to a run."""
    given = config.monitors.model_fields_set if "monitors" in config.model_fields_set else set[str]()
    samples, how = method.family in ("policy", "online"), config.on_alarm
    held = method.family == "policy" and config.policy.kl != "none" and config.policy.kl_coef > 0
    changes = how in ("raise_kl", "lower_lr", "rollback")
    return [
        (config.eval.gold is not None and not samples,
         f"eval.gold: has no effect, {method.name} does not sample answers"),
        (how == "raise_kl" and not held,
         f"on_alarm: raise_kl has no effect, {method.name} has no KL coefficient here; use lower_lr"),
        (how == "rollback" and config.save.every == 0,
         "on_alarm: rollback needs checkpoints to go back to; set save.every"),
        ("act_on" in given and how == "warn", "monitors.act_on: has no effect with on_alarm: warn"),
        ("actions" in given and not changes,
         "monitors.actions: has no effect unless on_alarm is raise_kl, lower_lr or rollback"),
        ("kl_factor" in given and not (how == "raise_kl" or (how == "rollback" and held)),
         "monitors.kl_factor: has no effect unless on_alarm raises a KL coefficient"),
        ("lr_factor" in given and not (how == "lower_lr" or (how == "rollback" and not held)),
         "monitors.lr_factor: has no effect unless on_alarm lowers the learning rate"),
    ]  # fmt: skip


def _rules_of_sampling(config: RunConfig, method: MethodLike) -> list[tuple[bool, str]]:
    """Settings of methods that learn from the model's own answers."""
    used = config.model_fields_set
    policy = config.policy.model_fields_set if "policy" in used else set[str]()
    online, samples = method.family == "online", method.family in ("policy", "online")
    gradients = method.family == "policy"
    rounds = config.online.model_fields_set if "online" in used else set[str]()
    advantage = config.policy.advantage
    kind = advantage if advantage != "auto" else ("gae" if method.name == "ppo" else method.name)
    critic = sorted(n for n in policy if n.startswith("value") or n == "lam")
    return [
        *[(not samples and name in used, f"{name}: has no effect, {method.name} does not sample answers")
          for name in ("reward", "sample")],
        (not gradients and "policy" in used, f"policy: has no effect, {method.name} is no policy-gradient method"),
        (not online and "online" in used, f"online: has no effect, {method.name} makes no pairs of its own answers"),
        (online and config.sample.n < 2, "sample.n: a pair needs two answers to a prompt; use 2 or more"),
        (online and method.name.startswith("online-") and "rounds" in rounds,
         "online.rounds: has no effect, online methods take a round a step; use iterative-LOSS"),
        (online and method.name.startswith("online-") and "prompts" in rounds,
         "online.prompts: has no effect, the prompts of a round are train.batch_size"),
        (online and "decay" in rounds and config.online.reference != "ema",
         "online.decay: has no effect unless online.reference is ema"),
        (online and config.model.reference == "precomputed",
         "model.reference: precomputed is not possible: the answers are new in every round"),
        (gradients and kind != "gae" and bool(critic),
         f"policy.{critic[0] if critic else ''}: has no effect, {kind} has no value model"),
        (gradients and config.policy.kl_target is not None and config.policy.kl in ("loss", "none"),
         "policy.kl_target: has no effect unless the KL is in the reward (policy.kl reward)"),
        (gradients and "kl_horizon" in policy and config.policy.kl_target is None,
         "policy.kl_horizon: has no effect without policy.kl_target"),
        (gradients and "ptx_coef" in policy and config.policy.ptx_path is None,
         "policy.ptx_coef: has no effect without policy.ptx_path"),
        (gradients and config.lora is not None and config.lora.dropout > 0,
         f"lora.dropout: must be 0: {method.name} compares two passes over the same answers"),
        (gradients and config.train.batch_size * config.sample.n < 2,
         "train.batch_size: one answer a step teaches nothing; raise it or sample.n"),
    ]  # fmt: skip
