"""The card of a data set that a constitution made: a function of the stage's log, like the rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trueup.models.card import escape

_WHAT = {
    "revise": ("sft.jsonl", "Conversations whose answers were criticised and revised under a constitution"),
    "label": ("preferences.jsonl", "Pairs of answers with soft labels, compared under a constitution"),
}


def dataset_card(given: Mapping[str, Any], report: Mapping[str, Any], rows: int) -> str:
    """Markdown with the YAML head that data hubs read.

    Args:
        given: first line of the stage's log.
        report: the stage's counts.
        rows: of the data file.
    """
    stage, constitution = given["stage"], given["constitution"]
    file, what = _WHAT[stage]
    facts: dict[str, Any] = {
        "Constitution": f"{constitution['name']}, schema version {constitution['version']}",
        "Constitution's sha256": given["constitution_sha256"],
        "Rows": rows,
        "Prompts": len(given["prompts"]),
    }
    if stage == "revise":
        facts |= {"Drafts by": given["model"], "Critiques and revisions by": given["critic"],
                  "Dropped": _counts(report["dropped"]), "Written by people": report["helpful"]}  # fmt: skip
    else:
        facts |= {"Answers by": given["answerer"], "Compared by": given["judge"], "Ties": report["ties"],
                  "Decided by": _counts(report["decided_by"]), "Unusable judge": "yes" if report["unusable"] else "no",
                  "Written by people": report["comparisons"]}  # fmt: skip
    lines = [f"- {name}: {escape(str(value))}" for name, value in facts.items()]
    head = ["---", f'tags: ["trueup", "constitutional-ai", "{stage}"]', "---"]
    tail = [
        "The labels and revisions are a model's. Every call that led to a row is in the log beside the data",
        "(`trueup cai explain`), and the log alone makes the data again (`trueup cai rebuild`).",
    ]
    return "\n".join([*head, "", f"# {file}", "", f"{what}.", "", *lines, "", *tail, ""])


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"
