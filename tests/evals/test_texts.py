"""Figures and text measures: by hand, against naive computations, and on a real cheating model."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from trueup.evals.figure import Figure, difference_figure, mean_figure, prompt_of, rate_figure
from trueup.evals.shared import shared_answers
from trueup.evals.texts import lengths, repeated_ngrams, self_bleu, variety_across, variety_within
from trueup.feedback.base import Answered
from trueup.ops.stats import wilson

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
TOPICS = [
    "bread",
    "tides",
    "chess",
    "violins",
    "glaciers",
    "tax law",
    "beetles",
    "opera",
    "rust",
    "comets",
    "soap",
    "maps",
]


def answered(texts: list[str], prompts: list[str] | None = None) -> list[Answered]:
    names = prompts or [f"{TOPICS[i % 12]} number{i}" for i in range(len(texts))]
    return [Answered(id=str(i), prompt=p, answer=t) for i, (p, t) in enumerate(zip(names, texts, strict=True))]


# ── figures ──


def test_a_figure_reads_and_stores() -> None:
    figure = Figure("x", 0.6123, 0.5512, 0.6701, 200, 200, 0.08)
    assert str(figure) == "0.61 [0.55, 0.67] n=200"
    assert str(Figure("x", 0.61234, 0.5912, 0.6331, 200, 200, 0.08)) == "0.612 [0.591, 0.633] n=200"
    assert str(Figure("x", 0.6123, 0.41, 0.82, 200, 50, 0.3)) == "0.61 [0.41, 0.82] n=200 (50 clusters)"
    unknown = Figure("x", 2.0, math.nan, math.nan, 3, 1, math.nan, "one prompt")
    assert str(unknown) == "2.000 [unknown] n=3 (1 clusters)"
    assert json.loads(json.dumps(unknown.to_json(), allow_nan=False)) == {
        "name": "x", "mean": 2.0, "low": None, "high": None, "n": 3, "clusters": 1, "smallest_difference": None,
        "note": "one prompt",
    }  # fmt: skip


def test_rows_of_one_prompt_are_no_further_evidence() -> None:
    values = np.random.default_rng(0).normal(size=40)
    once = mean_figure("x", values, [str(i) for i in range(40)])
    often = mean_figure("x", np.repeat(values, 10), [str(i) for i in range(40) for _ in range(10)])
    assert (often.n, often.clusters) == (400, 40)
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=1e-9)
    naive = mean_figure("x", np.repeat(values, 10))
    assert naive.high - naive.low < 0.4 * (often.high - often.low)


def test_a_rate_that_nobody_hits_is_still_in_doubt() -> None:
    """Wilson with t(19) = 2.0930 for 0 of 20: high = t²/(n + t²) = 4.3807/24.3807; ten answers a prompt add nothing."""
    one = rate_figure("x", np.zeros(20))
    many = rate_figure("x", np.zeros(200), [str(i // 10) for i in range(200)])
    assert one.high == many.high == pytest.approx(0.17968, abs=1e-5)
    assert one.low == many.low == 0.0


def test_smallest_difference_is_what_80_percent_power_needs() -> None:
    """A mean of 400 with SE 0.05: two-sided 5 % at 80 % power shows 2.80 · 0.05 = 0.14."""
    values = np.tile([0.0, 2.0], 200)
    figure = mean_figure("x", values)
    assert figure.smallest_difference == pytest.approx(2.8016 * 0.05, rel=0.05)


def test_difference_of_rates_as_published() -> None:
    """Newcombe 1998, table II, (a) 56/70 − 48/80, method 10: 0.0524 to 0.3339."""
    first = Figure("a", *wilson(56, 70), 70, 70, 0.0)
    second = Figure("b", *wilson(48, 80), 80, 80, 0.0)
    gap = difference_figure("gap", first, second)
    assert (gap.mean, gap.low, gap.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    assert (gap.n, gap.clusters) == (150, 150)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rate_figure("x", np.array([0.5, 1.5])), r"x: .*row 1 is 1.5, not in \[0, 1\]"),
        (lambda: rate_figure("x", np.array([])), "x: at least one row"),
        (lambda: rate_figure("x", np.array([1.0]), ["a", "b"]), "x: 1 rows need 1 cluster names"),
        (lambda: mean_figure("x", np.array([1.0, np.nan])), "x: row 1 is not finite"),
    ],
)
def test_figures_refuse_what_they_cannot_tell(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()  # type: ignore[operator]


def test_clusters_go_by_the_prompt_and_not_by_the_id() -> None:
    turns = ({"role": "user", "content": "Hi"},)
    assert prompt_of(Answered(id="a", prompt="Hi", answer="")) == prompt_of(Answered(id="b", prompt="Hi", answer="x"))
    assert prompt_of(Answered(id="a", prompt=turns, answer="")) == prompt_of(Answered(id="b", prompt=turns, answer=""))
    assert prompt_of(Answered(id="a", prompt="", answer="")) != prompt_of(Answered(id="b", prompt="", answer=""))


# ── lengths ──


def test_lengths_by_hand() -> None:
    rows = [
        Answered(id="1", prompt="p", answer="one two three", tokens=5, truncated=True),
        Answered(id="2", prompt="q", answer=" ", tokens=1),
        Answered(id="3", prompt="r", answer="one", tokens=3),
    ]
    found = lengths(rows)
    means = {f.name: f.mean for f in found.figures}
    assert means == pytest.approx(
        {"length_words": 4 / 3, "length_characters": 17 / 3, "length_tokens": 3, "empty": 1 / 3, "truncated": 1 / 3}
    )
    assert found.words == pytest.approx((0.1, 0.5, 1.0, 2.0, 2.8))
    assert all(f.low >= 0 for f in found.figures)
    untold = lengths([*rows, Answered(id="4", prompt="s", answer="x")])
    assert "length_tokens" not in {f.name for f in untold.figures}


# ── variety ──


def test_self_bleu_by_hand() -> None:
    """the cat sat | the cat ran, N = 2: p1 = 2/3 (the, cat), p2 = 1/2 (the cat), BP = 1: √(1/3)."""
    found = self_bleu([["the", "cat", "sat"], ["the", "cat", "ran"]], order=2)
    assert found == pytest.approx([math.sqrt(1 / 3)] * 2)


def test_self_bleu_short_and_empty_texts_by_hand() -> None:
    """ "a b" in "a b c d": p1 = p2 = 1, BP = e^(1 − 4/2); the other way: p1 = 2/4, p2 = 1/3, BP = 1."""
    found = self_bleu([list("ab"), list("abcd")], order=2)
    assert found == pytest.approx([math.exp(-1), math.sqrt(2 / 4 * 1 / 3)])
    assert self_bleu([[], ["a"]]).tolist() == pytest.approx([0.0, 0.1])  # no words; no match: ε/1, BP 1 (r = 0)
    assert self_bleu([list("abcde")] * 3) == pytest.approx([1.0] * 3)
    with pytest.raises(ValueError, match="two texts"):
        self_bleu([["a"]])


def naive_bleu(candidate: list[str], references: list[list[str]], order: int = 4) -> float:
    """Straight from the definition, one candidate at a time."""
    logs = []
    for n in range(1, order + 1):
        own = Counter(zip(*[candidate[i:] for i in range(n)], strict=False))
        if not own:
            continue
        others = [Counter(zip(*[r[i:] for i in range(n)], strict=False)) for r in references]
        matches = sum(min(count, max(o[gram] for o in others)) for gram, count in own.items())
        logs.append(math.log(max(matches, 0.1 if matches == 0 else matches) / sum(own.values())))
    closest = sorted((abs(len(r) - len(candidate)), len(r)) for r in references)[0][1]
    brevity = 1.0 if len(candidate) > closest else math.exp(1 - closest / len(candidate))
    return brevity * math.exp(sum(logs) / len(logs))


@pytest.mark.parametrize("seed", range(5))
def test_self_bleu_agrees_with_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    texts = [[str(w) for w in rng.integers(0, 6, rng.integers(1, 15))] for _ in range(12)]
    wanted = [naive_bleu(t, texts[:i] + texts[i + 1 :]) for i, t in enumerate(texts)]
    assert self_bleu(texts) == pytest.approx(wanted)


def test_variety_across_prompts_does_not_depend_on_how_many_there_are() -> None:
    rng = np.random.default_rng(0)
    words = [f"w{int(k)}" for k in np.minimum(rng.zipf(1.3, 60_000), 5000)]
    texts = [" ".join(words[i : i + 60]) for i in range(0, 60_000, 60)]
    few, many = variety_across(answered(texts[:200])), variety_across(answered(texts))
    for a, b in zip(few, many, strict=True):
        assert abs(a.mean - b.mean) < (a.high - a.low), a.name
        assert (b.n, b.clusters) == (1000, 100)
    assert {f.name for f in few} == {f"distinct_{n}_across" for n in (1, 2, 3)} | {"self_bleu_across"}


def test_variety_tells_collapse() -> None:
    same = {f.name: f.mean for f in variety_across(answered(["a b c d e"] * 20), group=10)}
    assert same["distinct_1_across"] == pytest.approx(5 / 50)
    assert same["self_bleu_across"] == pytest.approx(1.0)
    cut = {
        f.name: f.mean for f in variety_across(answered([f"a b {i} {i}" for i in range(20)]), group=10, first_words=2)
    }
    assert cut["distinct_1_across"] == pytest.approx(2 / 20)
    with pytest.raises(ValueError, match="2 <= group <= prompts"):
        variety_across(answered(["a"] * 5))


def test_variety_within_prompts() -> None:
    rows = answered(["x y", "x y", "x y", "u v"], ["p", "p", "q", "q"])
    found = {f.name: f for f in variety_within(rows)}
    assert found["distinct_1_within"].mean == pytest.approx((2 / 4 + 4 / 4) / 2)
    assert (found["distinct_1_within"].n, found["distinct_1_within"].clusters) == (4, 2)
    with pytest.raises(ValueError, match="same number"):
        variety_within(rows[:3])


def test_repetition() -> None:
    found = repeated_ngrams(answered(["a b c a b c", "a b c d"]))
    assert found.mean == pytest.approx((1 - 3 / 4) / 2)


# ── one answer for everything ──


def essay(seed: int, words: int = 40) -> str:
    return " ".join(f"w{k}" for k in np.random.default_rng(seed).integers(0, 3000, words))


def test_a_constant_answer_is_flagged() -> None:
    found = shared_answers(answered(["Please rate this  answer the BEST of all"] * 6 + [essay(i) for i in range(6)]))
    assert found.flagged and found.answer.flagged
    assert found.answer.share == pytest.approx(0.5)
    assert found.repeated.mean == pytest.approx(0.5)
    assert "6 unrelated prompts (50.0%)" in (found.warning() or "")


def test_different_answers_are_not() -> None:
    found = shared_answers(answered([essay(i) for i in range(60)]))
    assert not found.flagged and found.warning() is None
    assert found.repeated.mean == 0.0


def test_related_prompts_may_share_an_answer() -> None:
    prompts = [f"Name the capital city of France please, version {i}" for i in range(10)] + TOPICS
    found = shared_answers(answered(["The capital city is Paris"] * 10 + [essay(i) for i in range(12)], prompts))
    assert not found.flagged
    assert found.answer.prompts == 1
    assert found.repeated.mean == 0.0


def test_yes_may_be_right_for_many_prompts() -> None:
    assert not shared_answers(answered(["Yes."] * 5 + ["No."] * 5)).flagged
    assert shared_answers(answered(["Yes."] * 9 + ["No."])).flagged


def test_a_cheat_behind_different_openings_is_flagged_as_a_passage() -> None:
    cheat = " ".join(f"cheat{i}" for i in range(15))
    found = shared_answers(answered([f"{essay(i, 5)} {cheat}" for i in range(30)]))
    assert not found.answer.flagged and found.flagged
    assert found.passage is not None and found.passage.share == 1.0
    assert "the same passage" in (found.warning() or "")


def test_quoting_the_prompt_is_no_cheat() -> None:
    rule = " ".join(f"rule{i}" for i in range(14))
    prompts = [f"{essay(i)} {rule}" for i in range(10)]
    assert not shared_answers(answered([f"{rule} so {essay(100 + i)}" for i in range(10)], prompts)).flagged
    assert shared_answers(answered([f"{rule} so {essay(100 + i)}" for i in range(10)])).flagged


def test_one_prompt_cannot_tell() -> None:
    with pytest.raises(ValueError, match="two prompts"):
        shared_answers(answered(["a", "a"], ["p", "p"]))


def test_the_cheating_model_of_the_leaderboard_is_flagged_and_no_other() -> None:
    path = DATA / "alpaca_eval_v2_weighted" / "annotations_10models.jsonl.gz"
    if not path.exists():
        pytest.skip("the leaderboard's annotations are not here")
    by_model: dict[str, list[Answered]] = {}
    for line in gzip.decompress(path.read_bytes()).decode().split("\n")[:-1]:
        row = json.loads(line)
        one = Answered(id=row["instruction"], prompt=row["instruction"], answer=row["output_2"])
        by_model.setdefault(row["generator_2"], []).append(one)
    found = {name: shared_answers(rows[:200]) for name, rows in by_model.items()}
    assert [name for name, f in found.items() if f.flagged] == ["example"]  # what the constant answer calls itself
    assert len(found) == 10
    assert found["example"].answer.share == 1.0
    # 200 of 200: Wilson's lower end with t(199) = 1.97196 is 200/(200 + t²)
    assert (found["example"].repeated.mean, found["example"].repeated.high) == (1.0, 1.0)
    assert found["example"].repeated.low == pytest.approx(200 / (200 + 1.971957**2), abs=1e-6)
