"""The settings of a run: YAML read into frozen models; an unknown key is an error that names the nearest one.

Every field has one reader (named in ``docs/settings.md``). The hyper-parameters of a loss are the keyword-only
arguments of its function; :func:`trueup.settings.check_effective` checks them against what the caller hands down
(this file knows no loss).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from trueup.thresholds import MonitorConfig

OnAlarm = Literal["warn", "raise_kl", "lower_lr", "stop", "rollback"]


class Section(BaseModel):
    """Base of every section: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class ModelConfig(Section):
    """Which weights are trained, and what they are compared with."""

    path: str = Field(description="folder, GGUF file, hub id, or bundled:NAME")
    revision: str | None = Field(default=None, description="hub revision (commit)")
    reference: str = Field(
        default="auto",
        description="auto | copy | adapter-off | precomputed | none, or the path of another model",
    )
    layout: Literal["auto", "shared", "rows"] = Field(
        default="auto", description="shared: prompt computed once per pair; rows: one padded row a completion"
    )


class DataConfig(Section):
    """Which rows are trained on, and how they become tokens."""

    path: str = Field(description="file, folder or hub id")
    eval_path: str | None = Field(default=None, description="held-out rows; else eval_fraction of path")
    eval_fraction: float = Field(default=0.05, ge=0.0, lt=1.0, description="share of prompts held out")
    split: str = Field(default="train", description="split name, for datasets folders and hub ids")
    format: str = Field(default="auto", description="auto, or a name that `trueup data formats` lists")
    columns: dict[str, str] = Field(default_factory=dict, description="our field -> column of the file")
    chat: Literal["auto", "template", "plain"] = Field(
        default="auto", description="whether plain strings are wrapped in the chat template"
    )
    system: str | None = Field(default=None, description="system turn put before rows that have none")
    max_length: int = Field(default=1024, ge=8, description="tokens of prompt plus completion")
    too_long: Literal["error", "drop", "truncate_prompt", "truncate"] = Field(
        default="error", description="rows over max_length: error, drop, cut the prompt's start, cut the end"
    )
    bad_rows: Literal["error", "skip", "quarantine"] = Field(default="error", description="rows that cannot be used")
    allow_lost_eos: bool = Field(default=False, description="train on completions whose end was cut off")


class TrainConfig(Section):
    """Optimisation."""

    lr: float | None = Field(default=None, gt=0, description="peak learning rate; None: the method's default")
    batch_size: int = Field(default=16, ge=1, description="rows (pairs) of one optimizer step")
    micro_batch: int | None = Field(default=None, ge=1, description="rows at once in memory; None: chosen by tokens")
    micro_tokens: int = Field(default=4096, ge=16, description="tokens at once in memory when micro_batch is None")
    epochs: float = Field(default=1.0, gt=0, description="passes over the data")
    max_steps: int | None = Field(default=None, ge=1, description="optimizer steps at most")
    warmup: float = Field(default=0.1, ge=0, description="share of the steps (< 1) or number of steps (>= 1)")
    schedule: Literal["cosine", "linear", "constant"] = Field(default="linear", description="after the warm-up")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW, matrices only")
    betas: tuple[float, float] = Field(default=(0.9, 0.95), description="AdamW moments")
    eps: float = Field(default=1e-8, gt=0, description="AdamW")
    max_grad_norm: float = Field(default=1.0, gt=0, description="global norm that gradients are clipped to")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="of the forward pass; auto: bf16 where it is faster; bf16 keeps fp32 master weights"
    )
    gradient_checkpointing: bool = Field(default=False, description="recompute activations in the backward pass")
    seed: int = Field(default=0, ge=0, description="data order, LoRA and head initialisation")
    threads: int | None = Field(default=None, ge=1, description="CPU threads; None: torch's choice")
    device: str = Field(default="auto", description="auto: CUDA where present, else CPU")


class LoraConfig(Section):
    """Low-rank adapters (PEFT). Present means used."""

    rank: int = Field(default=16, ge=1, description="rank of the adapters")
    alpha: float = Field(default=32.0, gt=0, description="scale: the adapter counts alpha / rank")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="on the adapter's input")
    targets: str | tuple[str, ...] = Field(default="all-linear", description="layers that get an adapter")
    dora: bool = Field(default=False, description="weight-decomposed adapters (arXiv 2402.09353)")
    rslora: bool = Field(default=False, description="scale alpha / sqrt(rank) (arXiv 2312.03732)")
    quantize: Literal["none", "4bit"] = Field(default="none", description="4bit needs bitsandbytes (QLoRA)")


class EvalConfig(Section):
    """Evaluation during training, best checkpoint, early stopping."""

    every: int = Field(default=0, ge=0, description="steps between evaluations; 0: only before and after")
    rows: int | None = Field(default=None, ge=1, description="held-out rows used at most")
    metric: str | None = Field(default=None, description="chooses the best checkpoint; None: the method's default")
    patience: int = Field(default=0, ge=0, description="evaluations without improvement before stopping; 0: never")
    gold: str | dict[str, Any] | None = Field(
        default=None,
        description="a second scorer, as reward: it scores the answers to held-out prompts, and is not trained on",
    )


class SaveConfig(Section):
    """Checkpoints and sinks."""

    every: int = Field(default=0, ge=0, description="steps between checkpoints; 0: only at the end and on signals")
    keep: int = Field(default=2, ge=1, description="newest checkpoints kept; the best is kept besides")
    sinks: tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...] = Field(
        default=(), description="where figures go besides the run folder"
    )


class LossTerm(Section):
    """One term of a weighted mixture of losses."""

    name: str = Field(description="a pairwise loss")
    weight: float = Field(default=1.0, description="its weight; the method's own loss counts 1")
    arguments: dict[str, Any] = Field(default_factory=dict, description="its arguments")


class SampleConfig(Section):
    """How answers are drawn (methods that learn from the model's own answers)."""

    n: int = Field(default=4, ge=1, description="answers a prompt")
    max_new_tokens: int = Field(default=64, ge=1, description="longer answers are truncated")
    temperature: float = Field(default=1.0, ge=0, description="logits are divided by it; 0: greedy")
    top_k: int = Field(default=0, ge=0, description="only the k likeliest tokens; 0: all")
    top_p: float = Field(default=1.0, gt=0, le=1, description="only the likeliest tokens that hold this probability")
    min_p: float = Field(default=0.0, ge=0, lt=1, description="only tokens at least this fraction of the likeliest")
    stop: tuple[str, ...] = Field(default=(), description="strings that end an answer")
    slots: int = Field(default=64, ge=1, description="answers in progress at once")


class PolicyConfig(Section):
    """Policy gradients: PPO, RLOO, GRPO, REINFORCE."""

    advantage: Literal["auto", "gae", "rloo", "grpo", "reinforce"] = Field(
        default="auto", description="how rewards become advantages; auto: what the method is named after, gae for ppo"
    )
    epochs: int = Field(default=2, ge=1, description="passes over each batch of answers")
    minibatches: int = Field(default=1, ge=1, description="optimizer steps a pass")
    gamma: float = Field(default=1.0, gt=0, le=1, description="discount")
    lam: float = Field(default=0.95, ge=0, le=1, description="lambda of GAE")
    whiten_advantages: bool = Field(default=True, description="mean 0, deviation 1 over a batch's tokens")
    whiten_rewards: bool = Field(default=False, description="token rewards divided by their deviation")
    scale_scores: bool = Field(default=False, description="scores divided by their running deviation")
    score_clip: float | None = Field(default=None, gt=0, description="scores clipped to +- this; None: not clipped")
    missing_eos_penalty: float | None = Field(
        default=None, ge=0, description="taken from the score of a truncated answer; None: nothing"
    )
    kl: Literal["auto", "reward", "loss", "none"] = Field(
        default="auto", description="where the KL to the reference acts; auto: in the loss for grpo, else in the reward"
    )
    kl_coef: float = Field(default=0.05, ge=0, description="its coefficient, at the start if it is adaptive")
    kl_target: float | None = Field(default=None, gt=0, description="wanted KL in nats an answer; None: fixed kl_coef")
    kl_horizon: float = Field(default=10_000.0, gt=0, description="answers over which the coefficient adapts")
    kl_estimator: Literal["k1", "k3"] = Field(default="k1", description="of the KL in the reward")
    step_kl: float | None = Field(
        default=None, gt=0, description="passes over a batch end when its KL exceeds 1.5 times this; None: never"
    )
    entropy_coef: float = Field(default=0.0, ge=0, description="bonus for entropy, a token")
    average: Literal["auto", "tokens", "answers"] = Field(
        default="auto", description="loss over all tokens, or answer by answer; auto: answers for grpo, else tokens"
    )
    value: str = Field(
        default="auto",
        description="value model: shared (a head on the policy), separate (its own copy), or a model's path; "
        "auto: shared with LoRA, else separate",
    )
    value_coef: float = Field(default=0.1, gt=0, description="weight of the value loss")
    value_clip: float | None = Field(default=0.2, gt=0, description="how far a value may move at once; None: any")
    value_lr: float | None = Field(default=None, gt=0, description="peak learning rate of the value model; None: 1e-4 "
                                   "for a head, train.lr for the rest")  # fmt: skip
    value_warmup: int = Field(default=0, ge=0, description="first steps in which only the value model learns")
    ptx_path: str | None = Field(default=None, description="SFT rows mixed in (PPO-ptx)")
    ptx_coef: float = Field(default=0.1, gt=0, description="weight of their loss, a token")


class OnlineConfig(Section):
    """Pairs of the model's own answers: online-LOSS (a round a step) and iterative-LOSS (a few rounds)."""

    rounds: int = Field(default=3, ge=1, description="of iterative-LOSS; online-LOSS has one a step")
    prompts: int | None = Field(default=None, ge=1, description="prompts of a round; None: all, spread over the rounds")
    choose: Literal["best-worst", "best-random", "all", "length-matched", "ranked"] = Field(
        default="best-worst", description="which answers make a pair"
    )
    min_margin: float = Field(default=0.0, ge=0, description="scores of a pair differ by more than this; 0 drops ties")
    max_similarity: float = Field(default=0.9, ge=0, le=1, description="answers more alike are near-duplicates")
    cap: int = Field(default=1, ge=1, description="pairs a prompt at most")
    reference: Literal["fixed", "round", "ema"] = Field(
        default="fixed", description="the start; the policy at the start of each round; a moving average of it"
    )
    decay: float = Field(default=0.5, ge=0, lt=1, description="of the moving average, a round")


class RunConfig(Section):
    """Everything one training run is told."""

    method: str
    model: ModelConfig
    data: DataConfig
    loss: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the loss")
    mixture: tuple[LossTerm, ...] = Field(default=(), description="further losses added to the method's own")
    options: dict[str, Any] = Field(default_factory=dict, description="orthogonal options of pairwise losses")
    reward: str | dict[str, Any] | None = Field(
        default=None, description="who scores answers: a reward model's path, rule:NAME, or a mapping (docs/rewards.md)"
    )
    sample: SampleConfig = Field(default_factory=SampleConfig)
    policy: PolicyConfig = Field(default_factory=PolicyConfig)
    online: OnlineConfig = Field(default_factory=OnlineConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    lora: LoraConfig | None = None
    eval: EvalConfig = Field(default_factory=EvalConfig)
    save: SaveConfig = Field(default_factory=SaveConfig)
    monitors: MonitorConfig = Field(default_factory=MonitorConfig)
    on_alarm: OnAlarm = Field(default="warn", description="what an alarm does to the run (docs/monitors.md)")
