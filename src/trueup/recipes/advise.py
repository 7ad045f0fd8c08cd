"""Which method fits what a user has: facts in, advice out, and what each piece of advice would cost.

The rules, each a function of :class:`Facts` alone, in the order in which they stand in ``docs/choosing.md``:

    pairs                      dpo first up to 7B and beyond; from 70B on reward model and PPO are worth considering
    few or noisy pairs         ipo: its target is bounded, so it cannot run after single wrong pairs
    base model, or little room orpo: no reference, no SFT stage before it
    labels without pairs       kto
    verifiable answers         grpo with a rule as the reward
    prompts and a reward model iterative-dpo: fresh answers against distribution shift
    ... and RL experience      ppo
    prompts and a constitution Constitutional AI: the model's own critique stands in for labels
    good answers only          sft
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from trueup.config import RunConfig
from trueup.recipes.estimate import Estimate, estimate
from trueup.recipes.memory import Tokens
from trueup.recipes.train import method_of
from trueup.settings import validated

Place = Literal["first", "next", "later"]

DPO_UP_TO = 8e9  # weights; the models called 7B and 8B
RLHF_FROM = 65e9  # the models called 70B
FEW_PAIRS = 1000
NOISY = 0.02  # share of pairs that another pair contradicts
LONGER_WINS = 0.65  # share of pairs whose longer answer was chosen, from which length is worth a warning
LAMBDA_RATIO = 4 / 3  # λD·nD / (λU·nU) of KTO at most (arXiv 2402.01306, section 4.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a user has.

    Attributes:
        pairs, labels, examples, prompts: rows that hold a pair, a labelled answer, a good answer, a prompt.
        desirable: share of good rows among the labels.
        contradicted: share of pairs whose reverse is in the data too.
        repeated: share of pairs that repeat an earlier one.
        longer_chosen: share of pairs whose longer answer is the chosen one; None without pairs.
        rule: of the bundled rules, the one that tells right answers from wrong; None: answers cannot be verified.
        reward: a reward model's path, or another scorer.
        constitution: a file of principles.
        parameters: weights of the model.
        instruct: it has a chat template.
        team: someone knows reinforcement learning.
        short: of memory or time for dpo with its reference.
    """

    pairs: int = 0
    labels: int = 0
    examples: int = 0
    prompts: int = 0
    desirable: float | None = None
    contradicted: float = 0.0
    repeated: float = 0.0
    longer_chosen: float | None = None
    rule: str | None = None
    reward: str | None = None
    constitution: str | None = None
    parameters: int = 0
    instruct: bool = True
    team: bool = False
    short: Literal["memory", "time"] | None = None

    @property
    def noisy(self) -> bool:
        """Whether the pairs contradict each other."""
        return self.contradicted >= NOISY

    @property
    def few(self) -> bool:
        """Whether there are few pairs."""
        return self.pairs < FEW_PAIRS


@dataclass(frozen=True, slots=True)
class Advice:
    """One method that fits.

    Attributes:
        method: a word of ``trueup train``, or ``constitution``.
        place: try it first, next, or later, when more is there.
        why: in one or two sentences.
        needs: what must be there before; empty if nothing.
        settings: dotted names beyond the defaults.
    """

    method: str
    place: Place
    why: str
    needs: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])


def advise(facts: Facts) -> list[Advice]:
    """Methods that fit, the one to try first at the top; at most one is ``first``.

    Empty if there is nothing to learn from.
    """
    found = [advice for rule in RULES_IN_ORDER for advice in rule(facts)]
    order: dict[Place, int] = {"first": 0, "next": 1, "later": 2}
    found.sort(key=lambda a: order[a.place])  # stable: within a place the order of the rules stays
    best: dict[str, Advice] = {}
    for one in found:
        best.setdefault(one.method, one)
    listed = list(best.values())
    return [one if i == 0 or one.place != "first" else replace(one, place="next") for i, one in enumerate(listed)]


# ── the rules ──


def _verifiable(facts: Facts) -> list[Advice]:
    if facts.rule is None:
        return []
    return [
        Advice(
            "grpo", "first",
            "the right answers are known, so a rule scores as well as any reward model and cannot be argued with; "
            "several answers to a prompt are their own baseline, no value model is needed",
            "a model that answers some of the prompts right already, else every answer scores alike",
            {"reward": f"rule:{facts.rule}", "sample.n": 8},
        )
    ]  # fmt: skip


def _scored(facts: Facts) -> list[Advice]:
    """A reward model (or another scorer) and prompts."""
    if facts.reward is None or not (facts.prompts or facts.pairs):
        return []
    ppo = Advice(
        "ppo", "first" if facts.team else "later",
        "a reward model is there and someone knows reinforcement learning: PPO optimises it directly under a KL leash"
        if facts.team
        else "a reward model is there, but PPO has many settings that fail in silence; try it with someone who knows "
        "reinforcement learning (--team), after iterative-dpo",
        settings={"reward": facts.reward, "lora.rank": 16},
    )  # fmt: skip
    rounds = Advice(
        "iterative-dpo", "next" if facts.team or facts.pairs else "first",
        "pairs of the model's own fresh answers, scored by the reward model: answers in fixed data drift away from "
        "what the model says, fresh ones cannot",
        settings={"reward": facts.reward},
    )  # fmt: skip
    return [ppo, rounds]


def _paired(facts: Facts) -> list[Advice]:
    if not facts.pairs:
        return []
    found = [*_without_reference(facts), *_bounded(facts)]
    size = _size(facts.parameters)
    if facts.parameters <= DPO_UP_TO:
        why = f"pairs are there and at {size} DPO is the simple and stable choice: no reward model, no sampling"
    else:
        why = f"pairs are there; at {size} too DPO is the cheapest first answer, and what RLHF has to beat"
    needs = "" if facts.instruct else "a model that answers already: trueup train sft first, on the chosen answers"
    found.append(Advice("dpo", "first" if facts.instruct else "next", why + _length_warning(facts), needs))
    if facts.parameters >= RLHF_FROM and facts.reward is None:
        found.append(
            Advice(
                "reward", "next",
                f"at {size} RLHF is worth considering: a reward model from these pairs, then PPO on prompts; large "
                "models gain most from learning on their own answers",
                "someone who knows reinforcement learning for the PPO stage" if not facts.team else "",
            )
        )  # fmt: skip
    elif facts.reward is None and not facts.few:
        found.append(
            Advice(
                "reward", "later",
                "after the first result: a reward model from these pairs lets iterative-dpo or best-of-n use the "
                "model's own answers, against distribution shift",
            )
        )  # fmt: skip
    return found


def _without_reference(facts: Facts) -> list[Advice]:
    if facts.short is not None:
        why = f"{facts.short} is short, and ORPO needs no reference: one model, one forward pass a pair"
        return [Advice("orpo", "first", why)]
    if not facts.instruct:
        why = "a base model: ORPO teaches the form of the answers and the preference in one stage, without SFT before"
        return [Advice("orpo", "first", why)]
    return []


def _bounded(facts: Facts) -> list[Advice]:
    if not (facts.noisy or facts.few):
        return []
    if facts.noisy:
        reason = f"{facts.contradicted:.1%} of the pairs contradict another"
    else:
        reason = f"{facts.pairs} pairs are few"
    why = f"{reason}; DPO's margin would grow without bound on single pairs, IPO's stops at 1/(2β)"
    return [Advice("ipo", "first" if facts.instruct and facts.short is None else "next", why)]


def _length_warning(facts: Facts) -> str:
    share = facts.longer_chosen
    if share is None or share < LONGER_WINS:
        return ""
    return (
        f"; the longer answer is the chosen one in {share:.0%} of pairs, so answers will grow: watch their length, or "
        "set options.ld_alpha: 0.5"
    )


def _labelled(facts: Facts) -> list[Advice]:
    if not facts.labels or facts.pairs:
        return []
    share = facts.desirable or 0.0
    why = f"single answers with a label ({share:.0%} good) and no pairs: KTO learns from them as they are"
    if not 0 < share < 1:
        return [Advice("kto", "next", why, f"labels of both kinds; all are {'good' if share else 'bad'}")]
    return [Advice("kto", "first", why, settings=_balanced(share))]


def _balanced(share: float) -> dict[str, float]:
    """Weights that bring λD·nD / (λU·nU) into [1, 4/3] by raising the rarer side's."""
    ratio = share / (1 - share)
    if ratio > LAMBDA_RATIO:
        return {"loss.undesirable_weight": round(ratio / LAMBDA_RATIO, 3)}
    return {"loss.desirable_weight": round(1 / ratio, 3)} if ratio < 1 else {}


def _constitutional(facts: Facts) -> list[Advice]:
    if facts.constitution is None or not (facts.prompts or facts.pairs or facts.examples):
        return []
    labelled = bool(facts.pairs or facts.labels)
    return [
        Advice(
            "constitution", "next" if labelled else "first",
            "principles and prompts are there"
            + ("" if labelled else ", labels are not")
            + ": the model criticises and revises its own answers, then prefers between them by the principles",
            "a model that follows instructions" if not facts.instruct else "",
        )
    ]  # fmt: skip


def _imitated(facts: Facts) -> list[Advice]:
    if facts.examples:
        why = "good answers to imitate: SFT teaches their form; preferences come after it"
        return [Advice("sft", "first" if facts.rule is None else "next", why)]
    if facts.pairs and not facts.instruct:
        why = "a base model: SFT on the chosen answers is the stage that DPO presumes"
        return [Advice("sft", "next", why)]
    return []


def _size(parameters: int) -> str:
    return f"{parameters / 1e9:.1f}B weights" if parameters >= 1e9 else f"{parameters / 1e6:.0f}M weights"


RULES_IN_ORDER: tuple[Callable[[Facts], Sequence[Advice]], ...] = (
    _verifiable,
    _scored,
    _paired,
    _labelled,
    _constitutional,
    _imitated,
)


# ── what it would cost ──


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A piece of advice with its price.

    Attributes:
        advice: the method and why.
        config: ready to train; None where no ``trueup train`` config exists (constitution).
        estimate: of that config; None as above.
        fits: whether it fits the memory given.
    """

    advice: Advice
    config: dict[str, Any] | None
    estimate: Estimate | None
    fits: bool | None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        cost = self.estimate.to_json() if self.estimate else None
        return {**asdict(self.advice), "config": self.config, "estimate": cost, "fits": self.fits}


# what is tried, in order, until a run fits
_DIETS: tuple[dict[str, Any], ...] = (
    {},
    {"lora.rank": 16},
    {"lora.rank": 16, "train.gradient_checkpointing": True, "train.micro_batch": 1},
)
_QUANTIZED = {**_DIETS[-1], "lora.quantize": "4bit"}


def priced(
    advice: Advice, base: Mapping[str, Any], rows: Sequence[Tokens], memory: float, *, cuda: bool = False
) -> Suggestion:
    """The first of full fine-tuning, LoRA, LoRA with checkpointing (and 4 bits on CUDA) that fits.

    Args:
        advice: a method of ``trueup train``.
        base: dotted settings that every method shares (model.path, data.path, ...).
        rows: rendered for the method.
        memory: bytes of one device.
        cuda: whether 4 bits are possible.

    Raises:
        ConfigError: settings that the method does not take.
    """
    diets = [*_DIETS, *([_QUANTIZED] if cuda else [])]
    if "lora.rank" in advice.settings:
        diets = diets[1:]
    for diet in diets:
        tree = _tree({"method": advice.method, **base, **advice.settings, **diet})
        config: RunConfig = validated(tree, advice.method)
        guess = estimate(config, method_of(config), rows)
        if guess.total <= memory or diet is diets[-1]:
            return Suggestion(advice, tree, guess, guess.total <= memory)
    raise AssertionError("there is a last diet")


def _tree(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` -> ``{"a": {"b": 1}}``."""
    tree: dict[str, Any] = {}
    for name, value in dotted.items():
        *path, last = name.split(".")
        inner = tree
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return tree
