"""Published judgements, evaluated again: AlpacaEval's raw and length-controlled win rates, and judges that agree.

The files are not part of the project; where they are absent these tests are skipped.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from trueup.cli.main import run
from trueup.evals.figure import rate_figure
from trueup.ops.agreement import agreement, cohen_kappa
from trueup.ops.winrate import length_controlled

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"

# Raw win rates of the leaderboard that alpaca_eval 0.6.6 ships (weighted_alpaca_eval_gpt4_turbo), over all 805
# instructions; the file here has 577 of them
LEADERBOARD = {
    "OpenHermes-2.5-Mistral-7B": 0.1034, "alpaca-7b": 0.0259, "claude-2.1": 0.1573, "claude-instant-1.2": 0.1613,
    "gemma-7b-it": 0.0694, "humpback-llama2-70b": 0.1012, "oasst-rlhf-llama-33b": 0.0630,
    "openbuddy-falcon-40b-v9": 0.0599, "vicuna-7b-v1.5": 0.0480, "example": 0.7692,
}  # fmt: skip


def rows(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


def preference(row: dict[str, Any]) -> float:
    """Probability that the candidate (output_2) is better; 0 is AlpacaEval's tie."""
    value = float(row["preference"])
    return 0.5 if value in (0.0, 1.5) else value - 1


def by_model() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows("alpaca_eval_v2_weighted/annotations_10models.jsonl.gz"):
        found[row["generator_2"]].append(row)
    return found


def test_raw_win_rates_of_ten_models_and_the_constant_answer() -> None:
    """Exactly the mean preference; the leaderboard's figure over 805 lies within the interval over these 577."""
    found = by_model()
    assert set(found) == set(LEADERBOARD)
    for name, own in found.items():
        values = np.array([preference(r) for r in own])
        got = rate_figure("win_rate", values, [r["instruction"] for r in own])
        assert got.n == got.clusters == 577
        assert got.mean == pytest.approx(sum(values) / 577, abs=1e-12)
        assert got.low < LEADERBOARD[name] < got.high, name
        assert abs(got.mean - LEADERBOARD[name]) < 0.013, name
    assert np.mean([preference(r) for r in found["example"]]) == pytest.approx(0.7728, abs=5e-5)


def test_length_controlled_rates_rank_as_alpaca_evals_own_code_does() -> None:
    """Against benchmarks/length_control.py's record of what alpaca_eval 0.6.6 gave on the same rows."""
    recorded = json.loads((RESULTS / "length_control.json").read_text())
    theirs = {m["model"]: m["alpaca_eval"] for m in recorded["models"]}
    ours = {}
    for name, own in by_model().items():
        sizes = np.array([[len(r["output_2"]), len(r["output_1"])] for r in own], dtype=float)
        got = length_controlled(np.array([preference(r) for r in own]), sizes[:, 0], sizes[:, 1], draws=2)
        ours[name] = got.win_rate.mean
    assert len(theirs) == 10 and set(ours) == set(theirs)
    pairs = np.array([[ours[n], theirs[n]] for n in theirs])
    assert spearmanr(*pairs.T).statistic >= 0.99
    assert np.abs(pairs[:, 0] - pairs[:, 1]).max() < 0.006


def test_the_command_flags_the_constant_answer_and_no_other(capsys: Any, tmp_path: Path) -> None:
    found = by_model()
    words = []
    for name in ("claude-2.1", "example"):
        lines = [{"instruction": r["instruction"], "output": r["output_2"], "generator": name} for r in found[name]]
        (tmp_path / f"{name}.json").write_text(json.dumps(lines[:200]))
        words += ["--answers", str(tmp_path / f"{name}.json")]
    assert run(["eval", "answers", *words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    flagged = {s["name"]: any("unrelated prompts" in w for w in s["warnings"]) for s in record["subjects"]}
    assert flagged == {"claude-2.1": False, "example": True}


def test_agreement_of_three_judges() -> None:
    """Exactly the share of pairs with the same winner; over all pairs upstream prints 0.904, 0.939 and 0.909."""
    verdicts: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for row in rows("alpaca_eval_judges/annotations_judges.jsonl.gz"):
        if row["preference"] is not None:
            key = tuple(row[f] for f in ("instruction", "generator_2", "output_1", "output_2"))
            verdicts[key][row["annotator"]] = preference(row)
    cot, plain, weighted = (
        "alpaca_eval_cot_gpt4_turbo_fn", "alpaca_eval_gpt4_turbo_fn", "weighted_alpaca_eval_gpt4_turbo",
    )  # fmt: skip
    printed = {(cot, plain): 0.904, (cot, weighted): 0.939, (plain, weighted): 0.909}
    here = {(cot, plain): 0.906, (cot, weighted): 0.938, (plain, weighted): 0.913}
    for one, other in combinations((cot, plain, weighted), 2):
        both = [(k[0], v[one], v[other]) for k, v in verdicts.items() if one in v and other in v]
        labels = [[(p > 0.5) - (p < 0.5) for p in side] for side in zip(*[b[1:] for b in both], strict=True)]
        got = agreement(*labels, clusters=[b[0] for b in both])
        assert got.mean == pytest.approx(np.mean([a == b for a, b in zip(*labels, strict=True)]))
        assert got.mean == pytest.approx(here[one, other], abs=5e-4)
        assert got.low < printed[one, other] < got.high
        kappa = cohen_kappa(*labels, clusters=[b[0] for b in both], draws=100)
        assert 0 < kappa.low < kappa.mean < got.mean  # most wins are the baseline's: chance alone agrees often
