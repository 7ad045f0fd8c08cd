"""Writes docs/benchmarks.md from the JSON files in benchmarks/results; no figure is typed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import learning as own_answers

COMPARED = "\n## Methods\n\nSFT, DPO, KTO, PPO and others on the same prompts, budget and seeds: [comparison.md](comparison.md)."
HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
# from the counts in the docstring of flops(): SmolLM2-135M
BODY, HEAD = 106.2e6, 28.3e6


def read(name: str) -> Any:
    path = RESULTS / name
    return json.loads(path.read_text()) if path.exists() else None


def flops(job: str, ours: dict[str, Any]) -> float | None:
    """Useful FLOPs of a training run: 6 a body parameter and computed token for the policy, 2 for a live reference.

    The output layer is left out (a few per cent); KTO's extra forward passes are left out too, so its figure is not given.
    """
    if job == "kto":
        return None
    return (8 if job == "dpo" else 6) * BODY * ours["tokens_computed"]


def speed(report: dict[str, Any]) -> list[str]:
    machine = report["machine"]
    lines = [
        "## Training, beside TRL 1.16.0\n",
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, torch {machine['torch']}, "
        f"{machine['date']}. Matrix products of 2048 here: {machine['matmul_flops']['bf16'] / 1e9:.0f} GFLOP/s in bf16, "
        f"{machine['matmul_flops']['fp32'] / 1e9:.0f} in fp32.\n",
        f"First {report['pairs']} pairs of `hh_harmless` that fit in 512 tokens, batches of 4, full fine-tuning, reference "
        "computed live, the first step left out; TRL without gradient checkpointing. Rows a second and peak resident memory "
        "(interpreter and libraries included).\n",
        "| job | trueup rows/s | TRL rows/s | ratio | wanted | memory ratio | wanted | useful FLOP/s over matmul |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in report["speed"]:
        ours, trl = entry["ours"][0], entry["trl"][0]
        useful = flops(entry["job"], ours)
        rate = machine["matmul_flops"][entry["precision"]]
        share = "-" if useful is None else f"{useful / ours['rows'] * ours['rate'] / rate:.0%}"
        memory = entry["wanted"]["memory"]
        lines.append(
            f"| {entry['job']} {entry['precision']} | {ours['rate']:.3f} | {trl['rate']:.3f} | {entry['speed_ratio']:.2f} | "
            f"{entry['wanted']['speed']} | {entry['memory_ratio']:.2f} | {memory or '-'} | {share} |"
        )
    return lines


def parity(report: dict[str, Any]) -> list[str]:
    if not report["parity"]:
        return ["\n## Parity with TRL\n", "Not measured in this run."]
    lines = ["\n## Parity with TRL\n", "20 steps in fp32 from the same weights on the same batches of 2: largest difference "
             "of a step's loss.\n", "| job | largest difference | |", "|---|---|---|"]  # fmt: skip
    why = {
        "orpo": "TRL averages the likelihood over prompt and chosen answer of the batch, we over the chosen answer; "
        "`orpo-as-trl` is ours with TRL's average"
    }
    for entry in report["parity"]:
        close = entry["largest_difference"] <= 1e-4
        note = "within 1e-4" if close else why.get(entry["job"], "not explained")
        lines.append(f"| {entry['job']} | {entry['largest_difference']:.1e} | {note} |")
    return lines


def learning() -> list[str]:
    lines = ["\n## Learning\n"]
    if (reward := read("reward_model.json")) is not None:
        a, b, d = reward["accuracy"], reward["shorter_is_better"], reward["difference"]
        verdict = "beats" if d[1] > 0 else "does not beat"
        lines.append(
            f"Reward model, {reward['train_pairs']} pairs of `hh_harmless`, one epoch, {reward['held_out_pairs']} held-out "
            f'pairs: accuracy {a[0]:.3f} [{a[1]:.3f}, {a[2]:.3f}]; "shorter is better" {b[0]:.3f} [{b[1]:.3f}, {b[2]:.3f}]; '
            f"difference {d[0]:+.3f} [{d[1]:+.3f}, {d[2]:+.3f}], sign test p = {reward['p_value']:.2g}. It {verdict} the rule "
            "by its 95 % interval. (`python benchmarks/learn_reward.py`)\n"
        )
    if (demo := read("demo.json")) is not None:
        training, held_out = demo["training"], demo["held_out_prompts"]
        accuracy, loss = (training["after"][k] for k in ("rewards/accuracy", "loss"))
        before, after, d = held_out["before_score"], held_out["after_score"], held_out["difference"]
        lines.append(
            f"Demo (`make demo`, {demo['seconds'] / 60:.1f} minutes): {demo['pairs']['pairs']} pairs of the model's own "
            f"answers. Held-out prompts (n = {held_out['n']}): the rule's score {before[0]:.2f} [{before[1]:.2f}, "
            f"{before[2]:.2f}] before, {after[0]:.2f} [{after[1]:.2f}, {after[2]:.2f}] after, difference {d[0]:+.2f} "
            f"[{d[1]:+.2f}, {d[2]:+.2f}], sign test p = {held_out['p_value']:.2g}. Held-out pairs: accuracy "
            f"{accuracy['mean']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}], loss {loss['mean']:.3f} "
            f"[{loss['low']:.3f}, {loss['high']:.3f}] (0.693 before).\n"
        )
    return lines if len(lines) > 1 else [*lines, "Not measured yet."]


def sampling(report: dict[str, Any]) -> list[str]:
    rates = {name: sorted(values)[len(values) // 2] for name, values in report["tokens_per_second"].items()}
    ratios = report["ratios"]
    return [
        "\n## Sampling\n",
        f"{report['prompts']} prompts, {report['new_tokens']} new tokens each, bf16 (`python benchmarks/sampling.py`): "
        f"transformers' generate {rates['generate']:.0f} tokens/s in one batch; trueup {rates['ours_n1']:.0f} with one answer "
        f"a prompt ({ratios['ours_n1']:.2f}x, wanted 1.5x), {rates['ours_n4']:.0f} with four ({ratios['ours_n4']:.2f}x; vLLM's CPU "
        "build was seen at 416).",
    ]


def figures(report: dict[str, Any]) -> str:
    """The short table of README.md."""
    lines = ["| job | beside TRL 1.16.0 | memory |", "|---|---|---|"]
    lines += [
        f"| {e['job']} {e['precision']} | {e['speed_ratio']:.1f}x | {e['memory_ratio']:.2f} |" for e in report["speed"]
    ]
    note = "Rows a second and peak memory on two CPU cores, 135M model; all figures: [docs/benchmarks.md](docs/benchmarks.md)."
    return "\n".join([*lines, "", note])


def main() -> None:
    report = read("training.json")
    head = ["# Benchmarks\n", "> Written by `python benchmarks/page.py` from `benchmarks/results/*.json`. Ratios within one run "
            "count; absolute rates are those of a shared, noisy machine.\n"]  # fmt: skip
    body = [*speed(report), *parity(report)] if report else ["Not measured yet."]
    if (sampled := read("sampling.json")) is not None:
        body += sampling(sampled)
    text = "\n".join([*head, *body, *learning(), *own_answers.lines(), COMPARED]) + "\n"
    (HERE.parent / "docs" / "benchmarks.md").write_text(text, encoding="utf-8")
    if report:
        readme = HERE.parent / "README.md"
        start, end = "<!-- figures -->", "<!-- /figures -->"
        before, rest = readme.read_text(encoding="utf-8").split(start)
        after = rest.split(end)[1]
        readme.write_text(f"{before}{start}\n{figures(report)}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
