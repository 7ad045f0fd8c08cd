"""Agreement: published worked examples, invariances, and labels that allow no figure."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trueup.ops.agreement import agreement, cohen_kappa, krippendorff_alpha
from trueup.ops.winrate import win_rate

# Cohen's table as it is used in textbooks: 20 both yes, 5 yes/no, 10 no/yes, 15 both no: κ = (0.7 − 0.5)/0.5
FIRST = ["yes"] * 25 + ["no"] * 25
SECOND = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15


def test_raw_agreement_has_the_interval_of_a_rate() -> None:
    got = agreement(FIRST, SECOND)
    assert got == win_rate(np.array([1.0] * 20 + [0.0] * 15 + [1.0] * 15)[np.argsort([0] * 50, kind="stable")])
    assert got.mean == 0.7
    assert agreement([1, 2], [1.0, 3]).mean == 0.5  # 1 and 1.0 are one label


def test_kappa_of_the_textbook() -> None:
    got = cohen_kappa(FIRST, SECOND, draws=2000)
    assert got.mean == pytest.approx(0.4)
    # large-sample SE of Fleiss, Cohen & Everitt (1969) for this table
    table = np.array([[20, 5], [10, 15]]) / 50
    p, q = table.sum(1), table.sum(0)
    po, pe = np.trace(table), float(p @ q)
    a = sum(table[k, k] * ((1 - pe) - (p[k] + q[k]) * (1 - po)) ** 2 for k in range(2))
    b = (1 - po) ** 2 * sum(table[i, j] * (q[i] + p[j]) ** 2 for i in range(2) for j in range(2) if i != j)
    error = math.sqrt((a + b - (po * pe - 2 * pe + po) ** 2) / 50) / (1 - pe) ** 2
    assert (got.high - got.low) / 2 == pytest.approx(2.01 * error, rel=0.08)


def test_kappa_does_not_care_for_names_or_for_who_is_first() -> None:
    a, b = cohen_kappa(FIRST, SECOND), cohen_kappa(SECOND, FIRST)
    c = cohen_kappa([x == "yes" for x in FIRST], [x == "yes" for x in SECOND])
    assert a == pytest.approx(b)
    assert a == pytest.approx(c)


def test_alpha_of_krippendorffs_example() -> None:
    """Krippendorff 2011, section C: four observers, twelve units, missing labels; nominal α = 0.743."""
    rows = [
        [1, 1, None, 1], [2, 2, 3, 2], [3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2], [1, 2, 3, 4], [4, 4, 4, 4],
        [1, 1, 2, 1], [2, 2, 2, 2], [None, 5, 5, 5], [None, None, 1, 1], [None, None, 3, None],
    ]  # fmt: skip
    got = krippendorff_alpha(rows)
    assert got.mean == pytest.approx(0.743, abs=5e-4)
    assert got.low < 0.743 < got.high <= 1.0
    # a unit with one label says nothing, and neither does the order of the observers
    assert krippendorff_alpha(rows[:-1]) == pytest.approx(got)
    assert krippendorff_alpha([row[::-1] for row in rows]) == pytest.approx(got)


def test_two_complete_raters_have_nearly_cohens_kappa() -> None:
    alpha = krippendorff_alpha(list(zip(FIRST, SECOND, strict=True)), draws=200)
    assert alpha.mean == pytest.approx(1 - 0.3 / (2 * 55 * 45 / (100 * 99)))  # D_o/D_e by hand: 55 yes, 45 no


def test_rows_of_one_prompt_are_resampled_together() -> None:
    clusters = [str(i) for i in range(50)]
    once = cohen_kappa(FIRST, SECOND, clusters=clusters)
    often = cohen_kappa(FIRST * 4, SECOND * 4, clusters=clusters * 4)
    assert often == pytest.approx(once)


def test_one_label_throughout_allows_no_figure() -> None:
    for got in (cohen_kappa(["a"] * 5, ["a"] * 5), krippendorff_alpha([["a", "a"]] * 5)):
        assert all(math.isnan(v) for v in got)
    # one odd row: most draws hold it, but more than 5 % do not, and then there is no interval
    lone = cohen_kappa(["a"] * 9 + ["b"], ["a"] * 9 + ["b"])
    assert lone.mean == 1.0 and math.isnan(lone.low)
    sure = cohen_kappa(["a", "b"] * 20, ["a", "b"] * 20)
    assert sure.mean == 1.0 and math.isnan(sure.low)  # never differing is no proof that they never will
    single = cohen_kappa(FIRST, SECOND, clusters=["p"] * 50)
    assert single.mean == pytest.approx(0.4) and math.isnan(single.high)


def test_bad_labels() -> None:
    for one, two in ((["a"], []), ([], [])):
        with pytest.raises(ValueError, match="two raters must label the same rows"):
            agreement(one, two)
    with pytest.raises(ValueError, match="label 3 is nan"):
        cohen_kappa([1.0, 2.0], [1.0, float("nan")])
    with pytest.raises(ValueError, match="at least 2 draws"):
        cohen_kappa(["a", "b"], ["a", "b"], draws=1)
    with pytest.raises(ValueError, match="at least one row with two labels"):
        krippendorff_alpha([["a", None], [None, "b"]])
    with pytest.raises(ValueError, match="2 rows need 2 cluster names"):
        krippendorff_alpha([["a", "a"], ["b", "b"]], clusters=["p"])
