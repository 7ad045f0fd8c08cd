"""Settings: every mistake is one line that names the setting and the way out, and nothing is without effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trueup import errors
from trueup.config import RunConfig
from trueup.errors import ConfigError
from trueup.losses import PREFERENCE
from trueup.settings import check_effective, dump_config, load_config, nearest, parse_overrides, read_yaml, validated
from trueup.train.methods import find_method
from trueup.types import Comparison, Prompt, Step

BASE = {"model": {"path": "m"}, "data": {"path": "d"}}
FIXED = {"method": "dpo", "model.path": "m", "data.path": "d"}
PAIRWISE = {name: loss.arguments for name, loss in PREFERENCE.items()}


def check(name: str, changes: dict[str, Any]) -> None:
    """Checks a run of a method with some sections changed."""
    method = find_method(name)
    assert method is not None
    tree: dict[str, Any] = {"method": name, **BASE}
    for section, values in changes.items():
        tree[section] = {**tree.get(section, {}), **values} if isinstance(values, dict) else values
    check_effective(RunConfig.model_validate(tree), method, PAIRWISE)


# method, sections, what the refusal says, and the same made sound
SILENT: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("simpo", {"model": {"reference": "copy"}}, "model.reference: has no effect, simpo uses no reference",
     {"model": {"reference": "none"}}),
    ("dpo", {"model": {"reference": "copy"}, "options": {"reference_free": True}},
     "model.reference: has no effect with options.reference_free", {"model": {"reference": "copy"}}),
    ("dpo", {"model": {"reference": "precomputed"}, "lora": {"rank": 4}},
     "model.reference: precomputed saves nothing with LoRA", {"model": {"reference": "precomputed"}}),
    ("dpo", {"eval": {"patience": 2}}, "eval.patience: has no effect without eval.every",
     {"eval": {"patience": 2, "every": 5}}),
    ("dpo", {"eval": {"metric": "loss"}}, "eval.metric: has no effect without eval.every",
     {"eval": {"metric": "loss", "every": 5}}),
    ("dpo", {"eval": {"metric": "accuracy", "every": 5}},
     "eval.metric: 'accuracy' is unknown; dpo has rewards/accuracy, loss, rewards/margin",
     {"eval": {"metric": "rewards/margin", "every": 5}}),
    ("sft", {"data": {"eval_path": "e", "eval_fraction": 0.1}}, "data.eval_fraction: has no effect with data.eval_path",
     {"data": {"eval_path": "e"}}),
    ("sft", {"data": {"eval_fraction": 0.0}, "eval": {"every": 5}}, "eval.every: there are no held-out rows",
     {"data": {"eval_fraction": 0.0, "eval_path": None}}),
    ("sft", {"train": {"micro_batch": 2, "micro_tokens": 99}},
     "train.micro_tokens: has no effect with train.micro_batch", {"train": {"micro_tokens": 99}}),
    ("sft", {"data": {"allow_lost_eos": True}}, "data.allow_lost_eos: has no effect without data.too_long: truncate",
     {"data": {"allow_lost_eos": True, "too_long": "truncate"}}),
    ("dpo", {"sample": {"n": 2}}, "sample: has no effect, dpo does not sample answers", {}),
    ("dpo", {"reward": "rule:length"}, "reward: has no effect, dpo does not sample answers", {}),
    ("dpo", {"policy": {"kl_coef": 0.1}}, "policy: has no effect, dpo is no policy-gradient method", {}),
    ("rloo", {"policy": {"value_coef": 0.2}}, "policy.value_coef: has no effect, rloo has no value model",
     {"policy": {"value_coef": 0.2, "advantage": "gae"}}),
    ("ppo", {"policy": {"lam": 0.9, "advantage": "grpo"}}, "policy.lam: has no effect, grpo has no value model",
     {"policy": {"lam": 0.9}}),
    ("grpo", {"policy": {"kl_target": 1.0, "kl": "loss"}}, "policy.kl_target: has no effect unless",
     {"policy": {"kl_target": 1.0, "kl": "reward"}}),
    ("ppo", {"policy": {"kl_horizon": 50.0}}, "policy.kl_horizon: has no effect without policy.kl_target",
     {"policy": {"kl_horizon": 50.0, "kl_target": 6.0}}),
    ("ppo", {"policy": {"ptx_coef": 0.5}}, "policy.ptx_coef: has no effect without policy.ptx_path",
     {"policy": {"ptx_coef": 0.5, "ptx_path": "p"}}),
    ("ppo", {"lora": {"dropout": 0.1}}, "lora.dropout: must be 0: ppo compares two passes", {"lora": {"dropout": 0.0}}),
    ("reinforce", {"train": {"batch_size": 1}, "sample": {"n": 1}}, "train.batch_size: one answer a step",
     {"train": {"batch_size": 1}, "sample": {"n": 2}}),
    ("ppo", {"online": {"rounds": 2}}, "online: has no effect, ppo makes no pairs of its own answers", {}),
    ("iterative-dpo", {"sample": {"n": 1}}, "sample.n: a pair needs two answers", {"sample": {"n": 2}}),
    ("online-dpo", {"online": {"rounds": 2}}, "online.rounds: has no effect", {"online": {"cap": 2}}),
    ("online-dpo", {"online": {"prompts": 9}}, "online.prompts: has no effect", {"online": {"cap": 2}}),
    ("iterative-dpo", {"online": {"decay": 0.9}}, "online.decay: has no effect unless online.reference is ema",
     {"online": {"decay": 0.9, "reference": "ema"}}),
    ("iterative-dpo", {"model": {"reference": "precomputed"}}, "model.reference: precomputed is not possible", {}),
    ("dpo", {"eval": {"gold": "rule:tags"}}, "eval.gold: has no effect, dpo does not sample answers", {}),
    ("sft", {"on_alarm": "raise_kl"}, "on_alarm: raise_kl has no effect, sft has no KL coefficient here",
     {"on_alarm": "lower_lr"}),
    ("ppo", {"on_alarm": "raise_kl", "policy": {"kl": "none"}}, "on_alarm: raise_kl has no effect, ppo has no KL",
     {"on_alarm": "raise_kl"}),
    ("dpo", {"on_alarm": "rollback"}, "on_alarm: rollback needs checkpoints to go back to; set save.every",
     {"on_alarm": "rollback", "save": {"every": 5}}),
    ("dpo", {"monitors": {"act_on": "warn"}}, "monitors.act_on: has no effect with on_alarm: warn",
     {"monitors": {"act_on": "warn"}, "on_alarm": "stop"}),
    ("dpo", {"monitors": {"actions": 2}, "on_alarm": "stop"}, "monitors.actions: has no effect unless",
     {"monitors": {"actions": 2}, "on_alarm": "lower_lr"}),
    ("ppo", {"monitors": {"kl_factor": 3.0}, "on_alarm": "lower_lr"}, "monitors.kl_factor: has no effect unless",
     {"monitors": {"kl_factor": 3.0}, "on_alarm": "rollback", "save": {"every": 5}}),
    ("ppo", {"monitors": {"lr_factor": 0.3}, "on_alarm": "rollback", "save": {"every": 5}},
     "monitors.lr_factor: has no effect unless", {"monitors": {"lr_factor": 0.3}, "on_alarm": "lower_lr"}),
    ("dpo", {"loss": {"beat": 0.1}}, "loss.beat: dpo has no such argument (did you mean beta?); it has: beta", {}),
    ("sft", {"loss": {"beta": 0.1}}, "loss.beta: sft has no such argument; it has: none", {}),
    ("dpo", {"loss": {"beta": "big"}}, "loss.beta: a float is expected, got 'big'", {"loss": {"beta": 1}}),
    ("dpo", {"loss": {"beta": True}}, "loss.beta: a float is expected, got True", {"loss": {"beta": 0.5}}),
    ("ipo", {"loss": {"average": 1}}, "loss.average: a bool is expected, got 1", {"loss": {"average": True}}),
    ("kto", {"options": {"wpo": True}}, "options.wpo: has no effect on kto; its options: none", {}),
    ("orpo", {"options": {"reference_free": True}}, "options.reference_free: has no effect on orpo; its options:", {}),
    ("dpo", {"options": {"alpha_coefficient": 0.3}}, "options.alpha_coefficient: has no effect on dpo",
     {"options": {"alpha_coefficient": 0.3, "f_divergence": "alpha"}}),
    ("kto", {"mixture": [{"name": "dpo"}]}, "mixture: only pairwise methods can be mixed, not kto", {}),
    ("dpo", {"mixture": [{"name": "ippo"}]}, "mixture: 'ippo' is no pairwise loss (did you mean ipo?)",
     {"mixture": [{"name": "ipo"}]}),
    ("dpo", {"mixture": [{"name": "ipo", "arguments": {"tau": 1.0}}]}, "mixture ipo.tau: ipo has no such argument",
     {"mixture": [{"name": "ipo", "arguments": {"average": True}}]}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "wrong", "told", "sound"), SILENT, ids=[f"{m} {t[:40]}" for m, _, t, _ in SILENT])
def test_what_would_have_no_effect_is_refused_and_its_sound_form_is_not(
    method: str, wrong: dict[str, Any], told: str, sound: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as refusal:
        check(method, wrong)
    assert str(refusal.value).startswith(told)
    assert "\n" not in str(refusal.value)
    check(method, sound)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lost"], "unexpected word 'lost'; options look like --train.lr 1e-6"),
        (["--", "x"], "unexpected word '--'"),
        (["--train", "1"], "--train: a section; set its fields, e.g. --train.lr"),
        (["--lora=8"], "--lora: a section; set its fields, e.g. --lora.rank"),
        (["--train.lrr", "1"], "--train.lrr: unknown option (did you mean train.lr?)"),
        (["--beta", "1"], "--beta: unknown option (did you mean loss.beta?)"),
        (["--epochs", "1"], "--epochs: unknown option (did you mean train.epochs?)"),
        (["--xyzzy", "1"], "--xyzzy: unknown option"),
        (["--train.lr", "1", "--train.lr=2"], "--train.lr: given twice"),
        (["--save.sinks", "[wandb"], "--save.sinks:1:7: not valid YAML"),
    ],
)
def test_words_that_cannot_be_options(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_overrides(words)
    assert str(refusal.value).startswith(told)


def test_paths_stay_words_and_flags_are_true() -> None:
    words = ["--model.path", "1e-6", "--data.path=007", "--options.wpo", "--data.columns.prompt", "q", "--train.seed=3"]
    assert parse_overrides(words) == {
        "model.path": "1e-6", "data.path": "007", "options.wpo": True, "data.columns.prompt": "q", "train.seed": 3,
    }  # fmt: skip


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    assert nearest("qqq", ["train.lr", "loss.beta"]) == ""
    assert nearest("lora_r", []) == " (did you mean lora.rank?)"
    assert nearest("rank", ["lora.rank"]) == " (did you mean lora.rank?)"
    assert nearest("simp", ["simpo", "kto"]) == " (did you mean simpo?)"


def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_a_word_is_stronger_than_the_file_and_the_command_stronger_than_both(tmp_path: Path) -> None:
    path = file(tmp_path, "method: sft\nmodel: {path: a}\ntrain: {lr: 1e-3, seed: 4}\nlora:\nloss:\n")
    words = ["--train.lr", "2e-3", "--lora.rank", "8", "--loss.beta", "0.3"]
    config = load_config(path, words, {**FIXED, "data.split": None})
    assert (config.method, config.model.path, config.train.lr, config.train.seed) == ("dpo", "m", 2e-3, 4)
    assert config.lora is not None
    assert (config.lora.rank, config.lora.alpha, config.data.split) == (8, 32.0, "train")
    assert config.loss == {"beta": 0.3}
    assert validated(read_yaml(dump_config(config), "x"), "x") == config


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        ("train: {lr: 1e-3}\n- 1", [], "{path}:2:1: not valid YAML"),
        ("- 1", [], "{path}: a mapping of settings is expected, got list"),
        ("train: 5", ["--train.lr", "1"], "train.lr: train is not a section"),
        ("train: {lr: -1}", [], "{path}: train.lr: input should be greater than 0, got -1"),
        ("train: {lr: .inf}", [], "{path}: train.lr: input should be a finite number, got inf"),
        ("train: {learning_rate: 1}", [], "{path}: train.learning_rate: unknown setting (did you mean train.lr?)"),
        ("model: {}", [], None),
        ("train: {lr: 1, lr: 2}", [], "{path}:1:16: not valid YAML: the key 'lr' stands twice"),
        ("a: !!python/name:os.system", [], "{path}:1:4: not valid YAML: could not determine a constructor"),
    ],
)
def test_files_that_cannot_be_settings(text: str, words: list[str], told: str | None, tmp_path: Path) -> None:
    path = file(tmp_path, text)
    if told is None:
        assert load_config(path, words, FIXED).model.path == "m"
        return
    with pytest.raises(ConfigError) as refusal:
        load_config(path, words, FIXED)
    assert str(refusal.value).startswith(told.format(path=path))


def test_every_mistake_of_a_file_has_its_line(tmp_path: Path) -> None:
    path = file(tmp_path, "train: {lr: fast, batch_size: 0}\nmodle: 1\n")
    with pytest.raises(ConfigError) as refusal:
        load_config(path, [], {"method": "dpo", "data.path": "d"})
    lines = str(refusal.value).splitlines()
    assert len(lines) == 4
    assert f"{path}: model: missing; set --model" in lines
    assert f"{path}: modle: unknown setting (did you mean model?)" in lines


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_config(tmp_path / "none.yaml", [])
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"method: \xff")
    with pytest.raises(ConfigError, match=r"latin\.yaml: cannot be read"):
        load_config(path, [])
    with pytest.raises(ConfigError, match="settings: method: missing"):
        load_config(None, [])


def test_settings_cannot_be_changed_later() -> None:
    config = RunConfig.model_validate({"method": "dpo", **BASE})
    with pytest.raises(ValueError, match="frozen"):
        config.method = "sft"  # type: ignore[misc]


EXITS = {"TrueupError": 1, "UserError": 2, "ConfigError": 2, "DataError": 2, "ModelError": 2, "RunError": 2,
         "ScoringError": 2, "TrainingError": 3, "MidStepError": 3, "ResourceError": 75}  # fmt: skip


def test_every_error_has_its_exit_code() -> None:
    known = {n: v for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, errors.TrueupError)}
    assert {name: kind.exit_code for name, kind in known.items()} == EXITS


def test_rows_and_steps_are_values() -> None:
    one = Comparison(id="a", origin="f:1", prompt="p", chosen="c", rejected="r")
    assert one == Comparison(id="a", origin="f:1", prompt="p", chosen="c", rejected="r", margin=None, preference=None)
    assert one != Comparison(id="a", origin="f:1", prompt="p", chosen="c", rejected="r", preference=1.0)
    assert Prompt(id="a", origin="f:1", prompt="p").meta == {}
    step = Step(3, {"loss": 0.5})
    assert (step.rows, step.timings, step.skipped, step.samples) == ((), {}, False, ())
    with pytest.raises(AttributeError):
        step.index = 4  # type: ignore[misc]
