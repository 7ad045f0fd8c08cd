"""The monitors by name: what each reads, and for which families of methods it means something."""

from __future__ import annotations

from trueup.monitors import (
    agreement,
    data,
    diversity,
    health,
    kl,
    length,
    mismatch,
    over_optimisation,
    ppo_step,
    preference,
    reference,
    value,
)
from trueup.monitors.base import Monitor, Watcher

_POLICY = frozenset({"policy"})
_SAMPLED = frozenset({"policy", "online"})
_PAIRS = frozenset({"pairs"})
_ROWS = frozenset({"sft", "reward", "pairs", "unpaired"})


def _of(fn: Watcher, *reads: str, families: frozenset[str] = frozenset()) -> tuple[str, Monitor]:
    return fn.__name__, Monitor(fn, reads, families)


# in the order in which they speak of the same step: causes before their consequences
MONITORS: dict[str, Monitor] = dict(
    [
        _of(health.non_finite),
        _of(health.lr_jump, "lr"),
        _of(kl.kl_negative, "kl/se", families=_POLICY),
        _of(kl.kl_high, "kl", families=_POLICY),
        _of(kl.kl_unleashed, "kl_coefficient", families=_POLICY),
        _of(reference.reference_moves, "kl/k3", "rewards/chosen", "rewards/desirable", "rewards/undesirable"),
        _of(mismatch.sampler_mismatch, "sampler/kl", families=_POLICY),
        _of(ppo_step.step_size, "kl/step", families=_POLICY),
        _of(ppo_step.clip_fraction, "clip/low", families=_POLICY),
        _of(ppo_step.ratio_first, "ratio/first", families=_POLICY),
        _of(ppo_step.ratio_large, "ratio", families=_POLICY),
        _of(value.value_failure, "value/explained_variance", families=_POLICY),
        _of(over_optimisation.over_optimisation, "eval/gold", families=_SAMPLED),
        _of(agreement.disagreement, agreement.SPREAD, families=_SAMPLED),
        _of(agreement.principle_conflict, "principles/conflict"),
        _of(length.length_hacking, "score/length_correlation", "longer_won", families=_SAMPLED),
        _of(length.length_drift, "length", families=_SAMPLED),
        _of(length.truncation, "truncated", families=_SAMPLED),
        _of(length.length_only, "eval/longer_accuracy", families=frozenset({"reward"})),
        _of(diversity.same_answers, "answers/same", families=_SAMPLED),
        _of(diversity.entropy_collapse, "entropy", families=_POLICY),
        _of(diversity.mode_collapse, "answers/distinct_2", families=_SAMPLED),
        _of(diversity.shared_answer, "answers/shared", families=_SAMPLED),
        _of(diversity.repetition, "answers/repeated", families=_SAMPLED),
        _of(diversity.equal_groups, "groups/equal", families=_POLICY),
        _of(preference.displacement, preference.CHOSEN, families=_PAIRS),
        _of(preference.settled, "rewards/margin", families=_PAIRS),
        _of(preference.accuracy_gap, "eval/rewards/accuracy", "eval/accuracy", families=_PAIRS | {"reward"}),
        _of(data.foreign_data, data.CHOSEN, families=_PAIRS),
        _of(data.data_shift, data.REFERENCE, families=_PAIRS),
        _of(data.sources_apart, data.CHOSEN, families=_PAIRS),
        _of(data.duplicate_rows, "rows/duplicates"),
        _of(data.swapped_labels, "rewards/contradicted", "contradicted", families=_PAIRS | {"reward"}),
        _of(health.loss_spike, "loss", "grad_norm"),
        _of(health.loss_rise, "loss", families=_ROWS),
    ]
)
