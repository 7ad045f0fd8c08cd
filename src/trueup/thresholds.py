"""The thresholds of every monitor, each with its source, and what an alarm may do.

Needs pydantic alone. ``ours`` marks a threshold for which nothing published was found; those were tried on runs with
planted faults and on clean ones (benchmarks/faults.py).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class MonitorConfig(BaseModel):
    """When a monitor speaks. Shares are 0 to 1, lengths tokens, KL nats an answer unless said otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    off: tuple[str, ...] = Field(default=(), description="names of monitors that do not run")
    act_on: Literal["warn", "alarm"] = Field(default="alarm", description="level from which on_alarm acts")
    actions: int = Field(
        default=3, ge=1, description="times that on_alarm changes a run; a rollback beyond it stops the run"
    )
    lr_factor: float = Field(default=0.5, gt=0, lt=1, description="what an action multiplies the learning rate by")
    kl_factor: float = Field(default=2.0, gt=1, description="what an action multiplies the KL coefficient by")
    window: int = Field(default=5, ge=1, description="steps that figures are averaged over (ours)")
    start: int = Field(
        default=5, ge=1, description="first steps, whose mean is what later ones are compared with (ours)"
    )
    clear_after: int = Field(
        default=10, ge=1, description="quiet steps after which a monitor may raise the same alarm again (ours)"
    )

    kl_negative_se: float = Field(
        default=3.0, gt=0, description="kl below 0 by so many standard errors is a bug: k1 is unbiased (TRL issue 1857)"
    )
    kl_negative_floor: float = Field(default=0.05, ge=0, description="and by at least so many nats (ours)")
    kl_target_factor: float = Field(
        default=2.0, gt=1, description="times policy.kl_target (Ziegler et al. 2019, section 2.2, steers to the target)"
    )
    kl_target_steps: int = Field(default=10, ge=1, description="for so many steps in a row (ours)")
    kl_warn: float = Field(default=20.0, gt=0, description="kl without a target: look at it (ours)")
    kl_alarm: float = Field(default=50.0, gt=0, description="kl without a target: the answers are elsewhere (ours)")
    kl_unleashed: float = Field(
        default=5.0, gt=0, description="kl with a coefficient of 0: from a warning to an alarm (ours)"
    )
    reference_share: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="kl/k3 below this share of the largest step so far: the reference moves (ours)",
    )
    reference_zero: float = Field(
        default=1e-6, gt=0, description="all of rewards/* below this, in nats times beta: the reference moves (ours)"
    )

    gold_evaluations: int = Field(
        default=2, ge=2, description="evaluations over which the score rose while the second scorer fell (ours)"
    )

    correlation_warn: float = Field(
        default=0.3, gt=0, le=1, description="score-length correlation within prompts (ours, below ODIN's 0.45)"
    )
    correlation_alarm: float = Field(
        default=0.45, gt=0, le=1, description="the same: a vanilla reward model's 0.451 in ODIN (arXiv 2402.07319)"
    )
    longer_won: float = Field(default=0.7, gt=0.5, le=1, description="share of pairs won by the longer answer (ours)")
    length_growth: float = Field(default=1.5, gt=1, description="times the length at the start (ours)")
    length_fall: float = Field(default=0.5, gt=0, lt=1, description="times the length at the start (ours)")
    truncated_warn: float = Field(default=0.05, gt=0, le=1, description="answers without an end (ours)")
    truncated_alarm: float = Field(default=0.5, gt=0, le=1, description="answers without an end (ours)")

    entropy_warn: float = Field(
        default=0.25, gt=0, lt=1, description="times the entropy at the start (ours; arXiv 2505.22617: 73 % gone early)"
    )
    entropy_alarm: float = Field(default=0.1, gt=0, lt=1, description="the same (ours)")
    distinct_fall: float = Field(default=0.3, gt=0, lt=1, description="relative fall of distinct-2 (ours)")
    shared_answer: float = Field(
        default=0.02, gt=0, lt=1, description="unrelated prompts that share one answer, above the start (ours)"
    )
    same_warn: float = Field(default=0.5, gt=0, le=1, description="answers equal to another of their prompt (ours)")
    same_alarm: float = Field(default=0.9, gt=0, le=1, description="the same (ours)")
    repetition: float = Field(default=0.2, gt=0, lt=1, description="repeated 4-grams above the start (ours)")
    equal_groups_warn: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="prompts whose answers all score alike: they teach GRPO and RLOO nothing (ours)",
    )
    equal_groups_alarm: float = Field(default=0.9, gt=0, le=1, description="the same (ours)")

    value_alarm: float = Field(default=-0.5, lt=1, description="explained variance: far worse than a constant (ours)")
    value_warn: float = Field(
        default=0.0, lt=1, description="explained variance after the warm-up: worse than a constant"
    )
    value_warmup: float = Field(default=0.2, ge=0, lt=1, description="share of the run before it is judged (ours)")
    value_steps: int = Field(default=20, ge=1, description="steps before it is judged, at least (ours)")

    step_kl_warn: float = Field(
        default=0.02, gt=0, description="kl/step, nats a token: usually below (recollected: 37 details of PPO)"
    )
    step_kl_alarm: float = Field(default=0.1, gt=0, description="kl/step, nats a token (ours)")
    clip_warn: float = Field(default=0.3, gt=0, le=1, description="tokens on which the clip acts (recollected)")
    clip_alarm: float = Field(default=0.4, gt=0, le=1, description="the same (partly ours)")
    ratio_first: float = Field(
        default=1e-4, gt=0, description="ratio/first off 1, in fp32: it must be 1 (TRL issue 454)"
    )
    ratio_first_low: float = Field(default=0.05, gt=0, description="the same in bf16 (ours)")
    ratio_largest: float = Field(default=10.0, gt=1, description="largest ratio of a token (TRL skipped such batches)")
    ratio_mean: float = Field(default=2.0, gt=1, description="mean ratio, or its inverse (TRL's PPO page: wrong)")

    sampler_kl_warn: float = Field(default=1e-3, gt=0, description="nats a token; errors below it are fine (NeMo-RL)")
    sampler_kl_alarm: float = Field(
        default=0.01, gt=0, description="nats a token (tinker-cookbook and prime-rl's limit)"
    )
    sampler_error: float = Field(default=1.05, gt=1, description="multiplicative error: investigate (NeMo-RL)")
    sampler_largest: float = Field(
        default=0.01, gt=0, description="nats of any one token, in fp32, where the two passes agree to 1e-3 (ours)"
    )

    displaced_warn: float = Field(
        default=0.2, gt=0, description="nats a token that chosen answers lost: 20 nats per 100 tokens (ours)"
    )
    displaced_alarm: float = Field(default=0.5, gt=0, description="the same (ours)")
    settled_accuracy: float = Field(default=0.99, gt=0.5, le=1, description="nothing left to learn (TRL issue 1236)")
    settled_margin: float = Field(
        default=10.0, gt=0, description="with rewards/margin beyond it (TRL issues 1236, 2371)"
    )
    accuracy_gap: float = Field(default=0.15, gt=0, lt=1, description="training less held-out accuracy (ours)")
    contradicted_rise: float = Field(
        default=0.15, gt=0, lt=1, description="rise of the margin that speaks against the labels (ours)"
    )
    jump_before: int = Field(
        default=20, ge=8, le=96, description="steps before the window that a sudden change is measured from (ours)"
    )
    jump_sigma: float = Field(default=4.0, gt=0, description="standard errors of a sudden change, at least (ours)")

    foreign_nll: float = Field(default=3.0, gt=0, description="nats a token of chosen answers at the start (ours)")
    foreign_shift: float = Field(
        default=0.5, gt=0, description="sudden change of what the reference gives chosen answers, nats a token (ours)"
    )
    source_gap: float = Field(
        default=0.5, gt=0, description="chosen and rejected apart at the start, nats a token: two sources (ours)"
    )
    duplicates: float = Field(default=0.1, gt=0, lt=1, description="rows equal to another one (ours)")

    spike_sigma: float = Field(default=6.0, gt=0, description="loss and gradient above their mean (OLMo-core)")
    spike_window: int = Field(default=128, ge=8, le=128, description="steps of that mean (OLMo-core)")
    spike_least: int = Field(default=20, ge=4, description="steps before it is judged (ours)")
    spike_factor: float = Field(
        default=3.0, gt=1, description="and above the largest of those steps (ours; Megatron-LM warns from 10 on)"
    )
    rise_factor: float = Field(default=2.0, gt=1, description="loss over its rolling mean (llm-foundry)")
    rise_steps: int = Field(default=5, ge=2, description="steps in a row (llm-foundry)")
    lr_jump: float = Field(default=3.0, gt=1, description="learning rate over that of the step before (ours)")

    disagreement_warn: float = Field(
        default=2.0,
        gt=1,
        description="spread of the reward models over that at the start (ours, after arXiv 2310.02743)",
    )
    disagreement_alarm: float = Field(default=4.0, gt=1, description="the same (ours)")
    conflict: float = Field(
        default=0.1, gt=0, lt=1, description="pairs on which two principles of a level clearly disagree (ours)"
    )
