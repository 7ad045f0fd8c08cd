"""Writes docs/settings.md from the settings themselves; a test fails if the page is not up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from trueup.config import (
    DataConfig,
    EvalConfig,
    LoraConfig,
    LossTerm,
    ModelConfig,
    OnlineConfig,
    PolicyConfig,
    RunConfig,
    SampleConfig,
    SaveConfig,
    TrainConfig,
)
from trueup.thresholds import MonitorConfig

SECTIONS: dict[str, type[BaseModel]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "sample": SampleConfig,
    "policy": PolicyConfig,
    "online": OnlineConfig,
    "train": TrainConfig,
    "lora": LoraConfig,
    "eval": EvalConfig,
    "save": SaveConfig,
    "monitors": MonitorConfig,
    "mixture": LossTerm,
}
HEAD = """# Settings

> Every setting of a run. `trueup train METHOD --config FILE.yaml` reads them as YAML sections; on the command line they
> are dotted: `--train.lr 1e-6`. An unknown key is an error that names the nearest one; a setting that would have no
> effect is an error too. `RUN/config.yaml` holds the resolved settings and can be given back with `--config`.
>
> `loss.*` are the arguments of the method's loss (`trueup losses NAME`), `options.*` the options that go with pairwise
> losses (docs/methods/README.md). This page is written by `scripts/settings_page.py`.
"""


def page() -> str:
    """The whole page."""
    parts = [
        HEAD,
        "\n## the run\n\nSettings that belong to no section.\n\n| setting | type | default | what |\n|---|---|---|---|\n",
    ]
    parts += [_line("", name, RunConfig.model_fields[name]) for name in ("reward", "on_alarm")]
    for name, section in SECTIONS.items():
        parts.append(
            f"\n## {name}\n\n{(section.__doc__ or '').strip()}\n\n| setting | type | default | what |\n|---|---|---|---|\n"
        )
        parts += [_line(name, key, field) for key, field in section.model_fields.items()]
    return "".join(parts)


def _line(section: str, key: str, field: Any) -> str:
    default = "required" if field.is_required() else f"`{field.get_default(call_default_factory=True)!r}`"
    kind = getattr(field.annotation, "__name__", None) if isinstance(field.annotation, type) else str(field.annotation)
    kind = str(kind).replace("typing.", "").replace("|", "\\|")
    return f"| `{f'{section}.{key}'.lstrip('.')}` | `{kind}` | {default} | {(field.description or '').replace('|', chr(92) + '|')} |\n"


if __name__ == "__main__":
    Path(__file__).parents[1].joinpath("docs/settings.md").write_text(page(), encoding="utf-8")
