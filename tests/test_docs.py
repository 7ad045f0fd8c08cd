"""The documentation tells what is: every file has its phrase, every setting its row, every loss its page."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from trueup.losses import POLICY, PREFERENCE, REWARD, SUPERVISED, UNPAIRED
from trueup.settings import KEYS

ROOT = Path(__file__).parents[1]
LOSSES = {**PREFERENCE, **UNPAIRED, **REWARD, **SUPERVISED, **POLICY}
FAMILY_METRICS = {
    "Pairs": ("loss", "rewards/chosen", "rewards/rejected", "rewards/margin", "rewards/accuracy", "logps/chosen",
              "logps/rejected", "logps/chosen_per_token", "logps/rejected_per_token", "grad_norm", "lr", "tokens"),
    "Labels": ("loss", "rewards/desirable", "rewards/undesirable", "desirable_share", "grad_norm", "lr", "tokens"),
    "Scores": ("loss", "accuracy", "margin", "score/chosen", "score/rejected", "grad_norm", "lr", "tokens"),
    "Actions": ("loss", "score", "reward", "kl", "entropy", "ratio/first", "clip/low", "truncated", "grad_norm", "lr"),
    "Likelihoods": ("loss", "trained_tokens", "grad_norm", "lr", "tokens"),
}  # fmt: skip


# logged where a run has what they tell of, which the golden runs do not
SOMETIMES = {"skipped", "score/length_correlation", "score/unscored"}


def module_of(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_settings_page_is_up_to_date() -> None:
    page = module_of(ROOT / "scripts" / "settings_page.py").page()
    assert (ROOT / "docs" / "settings.md").read_text() == page, "run python scripts/settings_page.py"
    assert not re.findall(r"\|\s*\|\n", page), "a setting without a description"


@pytest.mark.parametrize("document", ["README.md", "docs/ARCHITECTURE.md"])
def test_the_tree_has_a_phrase_for_every_file_and_none_too_many(document: str) -> None:
    files = {p.relative_to(ROOT / "src" / "trueup").as_posix() for p in (ROOT / "src" / "trueup").rglob("*.py")}
    files = {f for f in files if Path(f).name != "__init__.py" or f == "losses/__init__.py"}
    text = (ROOT / document).read_text()
    named = {m[0]: m[1] for m in re.findall(r"^([a-z_/]+\.py)\s{2,}(\S.*)$", text, re.MULTILINE)}
    assert set(named) == files


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_a_page_with_its_arguments_and_metrics(name: str) -> None:
    loss = LOSSES[name]
    page = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
    for argument, default in loss.arguments.items():
        assert re.search(rf"\| `{argument}` \| `{re.escape(str(default))}` \|", page), f"{argument} = {default}"
    for metric in FAMILY_METRICS[loss.eats.__name__] + (("kl",) if loss.needs_kl else ()):
        assert f"`{metric}`" in page, metric
    for option in loss.options:
        assert f"`{option}`" in page, option
    assert loss.source.split(";")[0] in page


def test_every_page_belongs_to_a_loss() -> None:
    pages = {p.stem for p in (ROOT / "docs" / "methods").glob("*.md")} - {"README"}
    assert pages == set(LOSSES)


def logged() -> set[str]:
    """What real runs of every family wrote (tests/recipes/test_golden.py); ``eval/NAME`` counts as NAME if that is
    logged in training too."""
    golden = [json.loads(p.read_text()) for p in (ROOT / "tests" / "golden").glob("*.json")]
    names = {name for run in golden for name in [*run["logged"], *run["timed"]]} | SOMETIMES
    return {name for name in names if name.removeprefix("eval/") not in names - {name}}


def metric_sections() -> dict[str, str]:
    """Heading of docs/metrics.md -> what stands under it."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    parts = re.findall(r"^### `([^`]+)`$\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(parts) == len({name for name, _ in parts}), "a heading stands twice"
    return dict(parts)


def test_every_logged_metric_has_a_heading_and_no_heading_is_left_over() -> None:
    assert set(metric_sections()) == logged()


@pytest.mark.parametrize("name", sorted(metric_sections()))
def test_a_metric_is_defined_with_unit_range_and_what_is_wrong_outside_it(name: str) -> None:
    text = metric_sections()[name]
    assert len(text.split("- Unit:")[0].strip()) > 15, "no definition"
    for word in ("Unit", "Healthy", "Bad"):
        assert re.search(rf"^- {word}: \S+", text, re.MULTILINE), word


def test_settings_that_the_metrics_page_names_are_there() -> None:
    named = set(
        re.findall(r"`((?:train|loss|options|policy|sample|online|eval)\.\w+)", "".join(metric_sections().values()))
    )
    arguments = {f"loss.{a}" for loss in LOSSES.values() for a in loss.arguments}
    options = {f"options.{o}" for loss in LOSSES.values() for o in loss.options}
    assert named <= set(KEYS) | arguments | options
