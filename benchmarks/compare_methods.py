"""Runs `trueup bench-methods` on the bundled model and keeps its figures, plots and table.

    python benchmarks/compare_methods.py --scratch FOLDER [-- further options of trueup bench-methods]
    python benchmarks/compare_methods.py --page      # page and plots from the kept figures; nothing is run

Interrupted, the same command goes on. Writes benchmarks/results/methods.json, docs/images/methods-*.png and the table
in docs/comparison.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from run import machine

from trueup.recipes.bench_table import markdown, pictures

HERE = Path(__file__).resolve().parent
OUT = HERE / "results" / "methods.json"
PAGE = HERE.parent / "docs" / "comparison.md"
IMAGES = HERE.parent / "docs" / "images"
PICTURES = {
    "score": "Score of each method with its interval",
    "score-kl": "Score against KL",
    "cost": "Time and memory of each method",
}
RATE = "2e-4"  # of every method, for the reason in docs/comparison.md; chosen before the run
START, END = "<!-- measured -->", "<!-- /measured -->"


def measured(report: dict[str, Any]) -> str:
    """The text between the marks."""
    where = report["machine"]
    head = (
        f"{where['cpu']}, {where['cores']} cores, {where['memory_gib']} GiB, torch {where['torch']}, {where['date']}; "
        f"{report['settings']['model']}; seeds {', '.join(map(str, report['asked']['seeds']))}.\n"
    )
    images = "\n".join(f"![{words}](images/methods-{name}.png)" for name, words in PICTURES.items())
    return f"{head}\n{markdown(report)}\n{images}"


def write_page(report: dict[str, Any]) -> None:
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    IMAGES.mkdir(exist_ok=True)
    drawn = pictures(report)
    for name in PICTURES:
        (IMAGES / f"methods-{name}.png").write_bytes(drawn[f"{name}.png"])
    PAGE.write_text(f"{before}{START}\n{measured(report)}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, help="folder for the runs")
    parser.add_argument("--page", action="store_true", help="page and plots from the kept figures alone")
    parser.add_argument("more", nargs="*", help="after --: further options of trueup bench-methods")
    given = parser.parse_args()
    if given.page:
        write_page(json.loads(OUT.read_text()))
        return
    if given.scratch is None:
        parser.error("--scratch: a folder for the runs is needed")
    words = [str(Path(sys.executable).parent / "trueup"), "bench-methods", "--out", str(given.scratch), "--lr", RATE]
    words += given.more
    subprocess.run(words, check=True)
    report = json.loads((given.scratch / "results.json").read_text())
    del report["environment"]
    report = {"machine": machine(rates=False), **report}
    OUT.write_text(json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    write_page(report)


if __name__ == "__main__":
    main()
