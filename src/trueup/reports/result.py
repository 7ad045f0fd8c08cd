"""The result of a run in one sentence, with its interval, and no more than the figures can carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trueup.reports.names import name_of
from trueup.reports.numbers import MINUS, alike, percent, tidy, whole
from trueup.reports.read import Measured, RunView, at, real

Verdict = Literal["better", "worse", "perhaps", "open", "unknown"]

VERDICTS: Mapping[Verdict, str] = {
    "better": "Better",
    "worse": "Worse",
    "perhaps": "Perhaps a difference",
    "open": "No difference shown",
    "unknown": "Not measured",
}
FIRST = ("score", "rewards/accuracy", "accuracy", "loss")
SAID = {
    "score": "The mean score of answers to {n}held-out prompts is {figure}",
    "rewards/accuracy": "The chosen answer is preferred in {figure} of {n}held-out pairs",
    "accuracy": "The reward model ranks {figure} of {n}held-out pairs rightly",
    "loss": "The loss on {n}held-out rows is {figure}",
}
CHANCE = {"rewards/accuracy": 0.5, "accuracy": 0.5}


@dataclass(frozen=True, slots=True)
class Headline:
    """What a run showed.

    Attributes:
        verdict: what may be said.
        sentence: the result, with its interval.
        detail: why no more than this may be said; may be empty.
        metric: the figure it speaks of; empty if there is none.
    """

    verdict: Verdict
    sentence: str
    detail: str
    metric: str = ""

    @property
    def word(self) -> str:
        """The verdict in words."""
        return VERDICTS[self.verdict]


def headline(view: RunView) -> Headline:
    """The result: of the demo's own comparison where there is one, else of the first figure on held-out rows."""
    told = at(view.demo, "held_out_prompts")
    if isinstance(told, Mapping) and (found := _of_demo(told)) is not None:
        return found
    metric = next((m for m in FIRST if m in view.after), None)
    if metric is None:
        return _nothing(view)
    return _compared(view, metric)


def _of_demo(told: Mapping[str, Any]) -> Headline | None:
    """Scores prompt by prompt: the paired interval decides."""
    difference = told.get("difference")
    if not isinstance(difference, list) or len(difference) != 3:
        return None
    mean, low, high = (real(v) for v in difference)
    n, better, worse = (real(told.get(k)) for k in ("n", "better", "worse"))
    if mean is None or n is None or better is None or worse is None:
        return None
    if low is None or high is None:
        return Headline(
            "open", f"The score of the answer to one held-out prompt changed by {signed(mean)}.", _ONE, "score"
        )
    way = "higher" if mean >= 0 else "lower"
    a, b = sorted((abs(low), abs(high))) if low * high > 0 else (low, high)
    size, a_word, b_word = alike([abs(mean), a, b])
    p = real(told.get("p_value"))
    sentence = (
        f"Answers to {whole(n)} held-out prompts score {size} {way} after training (95\u202f% interval {a_word} to "
        f"{b_word}); {whole(better)} became better, {whole(worse)} worse."
    )
    verdict: Verdict = "better" if low > 0 else "worse" if high < 0 else "open"
    detail = "The same prompts before and after, compared one by one."
    if verdict == "open":
        return Headline(
            verdict, sentence, f"{detail} The interval includes 0: this run does not show a difference.", "score"
        )
    if p is not None and p > 0.05:
        doubt = (
            f"The interval of the mean excludes 0, but the sign test over prompts does not agree (p = {tidy(p, 2)})."
        )
        return Headline("perhaps", sentence, f"{detail} {doubt}", "score")
    return Headline(verdict, sentence, f"{detail} Sign test p = {tidy(p, 2)}." if p is not None else detail, "score")


_ONE = "One prompt: no interval can be given, so nothing follows for others."


def _nothing(view: RunView) -> Headline:
    if not view.finished:
        detail = f"It stands at step {whole(view.steps)}; figures on held-out rows are written at the end."
        return Headline("unknown", "The run is not finished, so there is no result yet.", detail)
    if real(at(view.manifest, "data", "held_out")) == 0:
        detail = "No rows were held out (data.eval_fraction, data.eval_path), and training figures do not show this."
        return Headline("unknown", "Nothing is known about rows that were not trained on.", detail)
    return Headline("unknown", "The folder holds no figures on held-out rows.", "results.json has none after training.")


def _compared(view: RunView, metric: str) -> Headline:
    """Before and after on the same rows; intervals that do not touch are a difference."""
    after, before = view.after[metric], view.before.get(metric)
    name = name_of(metric)
    count = f"{whole(after.n)} " if after.n else ""
    chance = metric == "rewards/accuracy" and _tied(view)
    start = _start(metric, before, chance)
    sentence = f"{SAID[metric].format(n=count, figure=figure(metric, after))} after training{start}."
    if after.low is None or after.high is None:
        return Headline("open", sentence, _ONE, metric)
    if before is None:
        return Headline(
            "open", sentence, "The figure before training is not in the folder, so no change is shown.", metric
        )
    low, high = (CHANCE[metric],) * 2 if chance else (before.low, before.high)
    if low is None or high is None:
        return Headline("open", sentence, _ONE, metric)
    above, below = after.low > high, after.high < low
    if not above and not below:
        why = f"The interval includes {percent(0.5)}" if chance else "The intervals overlap"
        return Headline("open", sentence, f"{why}: this run does not show a difference.", metric)
    verdict: Verdict = "better" if above == (name.better == "up") else "worse"
    detail = f"The interval excludes {percent(0.5)}." if chance else "The intervals do not overlap."
    return Headline(verdict, sentence, detail + _gold(view) + _chosen(view, metric), metric)


def _gold(view: RunView) -> str:
    """What the scorer says that nothing is trained on."""
    after, before = view.after.get("gold"), view.before.get("gold")
    if after is None or before is None:
        return ""
    now, then = figure("gold", after), figure("gold", before)
    return f" The second scorer, on which nothing is trained, gives {now}, against {then} before."


def _chosen(view: RunView, metric: str) -> str:
    """Whether the checkpoint was chosen by the very rows that the figure is of."""
    curve = view.curves.get(f"eval/{metric}")
    if curve is None or len(curve.values) < 2 or not real(at(view.config, "eval", "every")):
        return ""
    count = len(curve.values)
    return f" The best of {count} evaluations on these rows was taken as the result, which flatters the figure."


def _start(metric: str, before: Measured | None, chance: bool) -> str:
    if chance:
        return f", against {percent(0.5)} at the start, where policy and reference are the same"
    return "" if before is None else f", against {figure(metric, before)} before"


def _tied(view: RunView) -> bool:
    """Whether every pair was a tie before training, because the policy was its own reference."""
    margin = view.before.get("rewards/margin")
    return margin is not None and margin.mean == margin.low == margin.high == 0


def figure(metric: str, value: Measured) -> str:
    """A mean with its interval in words; shares as percentages."""
    if is_share(metric):
        low, high = (None if v is None else min(1.0, max(0.0, v)) for v in (value.low, value.high))
        ends = "no interval" if low is None or high is None else f"95\u202f% interval {percent(low)} to {percent(high)}"
        return f"{percent(value.mean)} ({ends})"
    if value.low is None or value.high is None:
        return f"{tidy(value.mean)} (no interval)"
    mean, low, high = alike([value.mean, value.low, value.high])
    return f"{mean} (95\u202f% interval {low} to {high})"


def cell(metric: str, value: Measured | None) -> tuple[str, str]:
    """A mean and its interval for a table; the interval of one prompt is not known."""
    if value is None:
        return "–", ""
    share = is_share(metric)
    if value.low is None or value.high is None:
        return percent(value.mean) if share else tidy(value.mean), "no interval"
    if value.low == value.high:
        return percent(value.mean) if share else tidy(value.mean), "all rows alike"
    if share:
        return percent(value.mean), f"{percent(max(0.0, value.low))} to {percent(min(1.0, value.high))}"
    mean, low, high = alike([value.mean, value.low, value.high])
    return mean, f"{low} to {high}"


def is_share(metric: str) -> bool:
    """Whether the figure is a share of something, to be written as a percentage."""
    return name_of(metric).unit.startswith("share")


def signed(value: float) -> str:
    """With its sign, plus or minus."""
    return ("+" if value > 0 else "") + tidy(value).replace("-", MINUS)
