"""`trueup cai rebuild` and `explain`: data sets made again from their logs, and the way to a label."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trueup.errors import RunError
from trueup.recipes.cai_label import write_labels
from trueup.recipes.cai_log import Replay, given_of
from trueup.recipes.cai_revise import write_revised
from trueup.runs.encode import hash_file, parse
from trueup.runs.journal import Journal, read_journal

LOGS = ("revise.log.jsonl", "label.log.jsonl")
MADE = ("sft.jsonl", "revise.json", "preferences.jsonl", "matrix.json", "contested.jsonl", "label.json",
        "decisions.jsonl", "README.md")  # fmt: skip


def logs_of(run: Path) -> list[Path]:
    """The logs of a run or of a stage's folder.

    Raises:
        RunError: there is none.
    """
    found = [p for folder in (run, run / "revise", run / "label") for name in LOGS if (p := folder / name).exists()]
    if not found:
        raise RunError(f"{run}: there is no log ({' or '.join(LOGS)}) in it")
    return found


def rebuild(run: Path, out: Path) -> dict[str, bool | None]:
    """Makes the data sets of a run again from its logs alone, into ``out``; no model is asked.

    Returns:
        File -> whether it equals, byte for byte, that of the run; None: the run has none.

    Raises:
        RunError: no log, one with a changed line (named), or ``out`` exists already.
    """
    if out.exists():
        raise RunError(f"{out}: exists already; name another folder")
    logs = logs_of(run)
    for log in logs:
        given_of(log)  # every line is checked before anything is written
    same: dict[str, bool | None] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for log in logs:
            copy, target = Path(scratch) / log.name, out / log.parent.name if log.parent != run else out
            shutil.copyfile(log, copy)
            given = given_of(copy)
            target.mkdir(parents=True, exist_ok=True)
            with Journal(copy, given) as journal:
                if given["stage"] == "revise":
                    model, critic = (Replay(given[who], journal) for who in ("model", "critic"))
                    write_revised(given, journal, model, critic, target)
                else:
                    write_labels(given, journal, Replay(given["judge"], journal), target)
            for name in MADE:
                made, kept = target / name, log.parent / name
                if made.exists():
                    same[made.relative_to(out).as_posix()] = (
                        hash_file(made) == hash_file(kept) if kept.exists() else None
                    )
    return same


def explain(run: Path, row: str) -> list[str]:
    """The whole way of a row, from its prompt to its label: every call about it, and the decision.

    Args:
        run: folder of a run or of a stage.
        row: id of a prompt, or of a pair of its answers (``ID/0-1``).

    Raises:
        RunError: no log, a changed line, or no such row.
    """
    lines: list[str] = []
    for log in logs_of(run):
        whole = list(read_journal(log))
        given = whole[0]["journal"]
        prompts = [p for p in given["prompts"] if row == p["id"] or row.startswith(f"{p['id']}/")]
        if not prompts:
            continue
        lines += [f"== {given['stage']}, constitution {given['constitution']['name']} {given['constitution_sha256']}"]
        lines += [f"prompt: {prompts[0]['prompt']}"]
        if given["stage"] == "label":
            lines += [f"answer {k}: {a}" for k, a in enumerate(given["answers"][prompts[0]["id"]])]
        calls = [
            x for x in whole[1:] if x["record"].get("id") == row or str(x["record"].get("id")).startswith(f"{row}/")
        ]
        lines += [_call(call["record"], call["key"]) for call in calls]
        lines += _decided(log.parent / "decisions.jsonl", row) if given["stage"] == "label" else []
    if not lines:
        raise RunError(f"{run}: no row {row!r} in its logs")
    return lines


def _call(record: Mapping[str, Any], key: str) -> str:
    what = (
        record.get("step")
        or f"{record.get('kind')} {record.get('id')} under {record.get('rubric')}, {record.get('order')}"
    )
    under = f" by {record['principle']}" if "principle" in record else ""
    said = (record.get("failed") and f"FAILED: {record['failed']}") or record.get("text") or (
        f"log-probabilities of {record['options']}: {record.get('option_logprobs')}")  # fmt: skip
    how = f"temperature {record['temperature']}, seed {record['seed']}, prompt {record['prompt_sha256'][:12]}"
    return f"-- {what}{under} [{record['judge']}; {how}; call {key[:12]}]\n   {said}"


def _decided(path: Path, row: str) -> list[str]:
    found = [parse(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return [
        f"=> {d['id']}: label {d['label']} ({d['how']}): {d['why']}"
        + "".join(f"\n   set aside: {a['principle']} by {a['by']}: {a['why']}" for a in d["set_aside"])
        for d in found if d["id"] == row or d["id"].startswith(f"{row}/")
    ]  # fmt: skip
