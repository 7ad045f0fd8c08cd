"""Our length-controlled win rates beside those of alpaca_eval's own code, on its judge's annotations of ten models.

    python benchmarks/length_control.py --oracle PYTHON [--out benchmarks/results/length_control.json]

PYTHON is an interpreter that can import alpaca_eval 0.6.6's ``metrics/glm_winrate.py`` (a throw-away environment:
``pip install --no-deps alpaca_eval`` and ``pip install scikit-learn pandas patsy``; other imports are put aside here).
The formula is its ``length_controlled_minimal``: the design matrix and the fit are its functions, called as it does.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy.stats import pearsonr, spearmanr

from trueup.ops.winrate import length_controlled

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "shared/data/alpaca_eval_v2_weighted/annotations_10models.jsonl.gz"

ORACLE = """
import importlib.util, json, sys, types
from pathlib import Path
import numpy as np, pandas as pd

root = Path(next(p for p in sys.path if (Path(p) / "alpaca_eval").is_dir())) / "alpaca_eval"
for name in ("huggingface_hub", "alpaca_eval", "alpaca_eval.constants", "alpaca_eval.types", "alpaca_eval.utils",
             "alpaca_eval.metrics", "alpaca_eval.metrics.winrate"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["huggingface_hub"].hf_hub_download = None
sys.modules["alpaca_eval.metrics.winrate"].get_winrate = None
sys.modules["alpaca_eval.types"].AnyLoadableDF = object
for name in ("constants", "types", "utils"):
    setattr(sys.modules["alpaca_eval"], name, sys.modules["alpaca_eval." + name])
spec = importlib.util.spec_from_file_location("alpaca_eval.metrics.glm_winrate", root / "metrics" / "glm_winrate.py")
glm = importlib.util.module_from_spec(spec)
spec.loader.exec_module(glm)
info, out = glm.GLM_INFO["length_controlled_minimal"], {}
for model, rows in json.load(sys.stdin).items():
    df = pd.DataFrame(rows)
    delta = df["len_1"] - df["len_2"]
    df["std_delta_len"], df["not_gamed_baseline"] = delta / delta.std(), True
    test = df[["not_gamed_baseline"]].assign(std_delta_len=0)
    train, test = glm.make_dmatrix_for_model(df, test, formula=info["formula"])
    fit = glm.fit_LogisticRegressionCV(train, "preference", is_ytrue_proba=True, **info["kwargs"])
    out[model] = {
        "win_rate": float(fit.predict_proba(test)[:, 1].mean()),
        "weights": dict(zip(train.columns, map(float, fit.coef_[0]))),
        "C": float(fit.C_[0]),
    }
json.dump(out, sys.stdout)
"""


def rows_by_model() -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {}
    with gzip.open(DATA, "rt", encoding="utf-8") as stream:
        for line in stream:
            row = json.loads(line)
            found.setdefault(row["generator_2"], []).append(
                {
                    "preference": 0.5 if row["preference"] == 0 else row["preference"] - 1,  # 0 is its tie
                    "len_1": len(row["output_1"]),
                    "len_2": len(row["output_2"]),
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--oracle", required=True, help="interpreter that can import alpaca_eval's metrics")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "length_control.json")
    options = parser.parse_args()
    models = rows_by_model()
    answer = subprocess.run(
        [options.oracle, "-W", "ignore", "-c", ORACLE],
        input=json.dumps(models),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        sys.exit(f"the oracle failed:\n{answer.stderr}")
    oracle = json.loads(answer.stdout)
    table, seconds = [], 0.0
    for model, rows in sorted(models.items()):
        column = {key: np.array([row[key] for row in rows]) for key in rows[0]}
        began = time.perf_counter()
        got = length_controlled(column["preference"], column["len_2"], column["len_1"])
        seconds += time.perf_counter() - began
        table.append(
            {
                "model": model,
                "n": len(rows),
                "raw": round(got.raw.mean, 4),
                "ours": round(got.win_rate.mean, 4),
                "low": round(got.win_rate.low, 4),
                "high": round(got.win_rate.high, 4),
                "phi": round(got.phi, 3),
                "alpaca_eval": round(oracle[model]["win_rate"], 4),
                "alpaca_eval_C": oracle[model]["C"],
                "alpaca_eval_weights": {k: round(v, 3) for k, v in oracle[model]["weights"].items()},
            }
        )
    ours, theirs = ([row[key] for row in table] for key in ("ours", "alpaca_eval"))
    result = {
        "spearman": round(float(spearmanr(ours, theirs).statistic), 4),
        "pearson": round(float(pearsonr(ours, theirs).statistic), 4),
        "largest_difference": round(max(abs(a - b) for a, b in zip(ours, theirs, strict=True)), 4),
        "seconds_a_model": round(seconds / len(table), 3),
        "formula": "length_controlled_minimal of alpaca_eval 0.6.6 (no difficulty term)",
        "models": table,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
