"""Writes the measured part of docs/monitors.md from benchmarks/results/faults.json; no figure is typed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
START, END = "<!-- measured -->", "<!-- /measured -->"


def lines(found: dict[str, Any]) -> list[str]:
    """The section."""
    shares = ", ".join(f"{m} {100 * s:.2f} %" for m, s in found["watching_share_of_step_time"].items())
    text = [
        "`python benchmarks/faults.py`: a byte-level model of two layers in a small language, twelve planted faults in "
        f"{found['fault_runs']} runs, {found['clean_runs']} clean runs of {found['steps']} steps.",
        "",
        f"- **{found['detected']} of {found['fault_runs']}** faults were detected within a tenth of the planned steps by a "
        f"monitor that names the cause; in **{found['first_alarm_names_it']}** the first alarm of that time named it.",
        f"- **{found['false_alarms']}** alarms or warnings in the {found['clean_runs']} clean runs, in "
        f"{found['clean_runs_with_false_alarms']} of them; {found['alarms_before_the_fault']} in the steps before a fault.",
        f"- Watching took at most this share of the step time of a run, on a busy machine: {shares}. Steps of larger models "
        "take longer, and watching does not.",
        "",
        "| fault | runs | detected | first alarm names it | steps to the alarm |",
        "|---|---|---|---|---|",
    ]
    text += [
        f"| {name} | {f['runs']} | {f['detected']} | {f['first_alarm_names_it']} | "
        f"{', '.join('-' if s is None else str(s) for s in f['steps_to_alarm'])} |"
        for name, f in found["by_fault"].items()
    ]
    text += [
        "",
        "A PPO run whose scorer pays a tenth for every word, on held-out prompts by a second scorer that takes a tenth for "
        "every word beyond eight (`length_hacking` off, so that what is acted on is the damage, not the scorer's liking):",
        "",
        "| seed | second scorer, left alone | with `--on-alarm rollback` |",
        "|---|---|---|",
    ]
    text += [
        f"| {r['seed']} | {r['gold_left_alone']:.2f} [{r['interval'][0]:.2f}, {r['interval'][1]:.2f}] | "
        f"{r['gold_with_rollback']:.2f} [{r['interval_with_rollback'][0]:.2f}, {r['interval_with_rollback'][1]:.2f}] |"
        for r in found["rollback"]
    ]
    return [*text, "", "Thresholds were set on seeds from 1000 on, in the same world; these are other seeds."]


def main() -> None:
    page = HERE.parent / "docs" / "monitors.md"
    found = json.loads((HERE / "results" / "faults.json").read_text(encoding="utf-8"))
    before, rest = page.read_text(encoding="utf-8").split(START)
    text = f"{before}{START}\n" + "\n".join(lines(found)) + f"\n{END}{rest.split(END)[1]}"
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
