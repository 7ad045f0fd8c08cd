"""lm-evaluation-harness and inspect-ai on a run, as docs/evaluation.md says; skipped where they are absent.

Neither is a dependency: run this file from an environment that has them to exercise it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trueup.cli.main import run
from trueup.models.tiny import save_tiny

DOCS = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run folder, one epoch over a few pairs."""
    folder = tmp_path_factory.mktemp("run")
    tiny = save_tiny(folder / "tiny")
    rows = [{"prompt": f"say {i}", "chosen": "yes", "rejected": "no"} for i in range(8)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    words = ["train", "dpo", "--model", str(tiny), "--data", str(folder / "pairs.jsonl"), "--out", str(folder / "RUN"),
             "--data.eval_fraction", "0", "--train.precision", "fp32"]  # fmt: skip
    assert run(words) == 0
    return folder / "RUN"


def documented(tool: str) -> list[str]:
    """The words of the documented command that begins with ``tool``, continuation lines joined."""
    found = re.search(rf"^\$ ({tool} (?:.*\\\n)*.*)$", DOCS, re.MULTILINE)
    assert found is not None, f"docs/evaluation.md has no command {tool}"
    return found[1].replace("\\\n", " ").split()


def module_run(module: str, words: list[str], folder: Path, changes: dict[str, str]) -> None:
    for old, new in changes.items():
        words = [w.replace(old, new) for w in words]
    done = subprocess.run([sys.executable, "-m", module, *words], cwd=folder, env=ENVIRONMENT, text=True,
                          capture_output=True, timeout=240)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]


def block(kind: str) -> str:
    """The documented file of that kind."""
    found = re.search(rf"^```{kind}\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_lm_evaluation_harness_gives_the_accuracy_of_trueup_eval_choice(
    trained: Path, tmp_path: Path, capsys: Any
) -> None:
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm-evaluation-harness is not installed")
    rows = [{"prompt": f"Q{i}:", "options": [" red", " blue fish", " x"], "right": i % 3} for i in range(12)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "mine.yaml").write_text(block("yaml"))
    module_run("lm_eval", documented("lm_eval")[1:], tmp_path, {"RUN/": f"{trained}/"})
    (result,) = (tmp_path / "harness").rglob("results_*.json")
    theirs = json.loads(result.read_text())["results"]["mine"]["acc,none"]
    words = [
        "eval",
        "choice",
        "--model",
        str(trained),
        "--questions",
        str(tmp_path / "questions.jsonl"),
        "--precision",
        "fp32",
    ]
    capsys.readouterr()
    assert run([*words, "--json"]) == 0
    ours = {f["name"]: f["mean"] for f in json.loads(capsys.readouterr().out)["subjects"][0]["figures"]}
    assert theirs == pytest.approx(ours["choice_sum"])


def test_inspect_runs_a_task(trained: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("inspect_ai") is None:
        pytest.skip("inspect-ai is not installed")
    (tmp_path / "mine.py").write_text(block("python"))
    words = documented("inspect")[1:]
    module_run("inspect_ai", words, tmp_path, {"RUN/": f"{trained}/"})
    (log,) = (tmp_path / "logs").glob("*.json")
    told = json.loads(log.read_text())
    assert told["status"] == "success" and told["results"]["completed_samples"] == 2


def test_the_documented_commands_are_there_whether_the_tools_are_or_not() -> None:
    assert "pretrained=RUN/model" in " ".join(documented("lm_eval"))
    assert "model_path=RUN/model" in " ".join(documented("inspect"))
