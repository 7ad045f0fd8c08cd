"""`trueup advise`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil
import torch
import typer
import yaml
from transformers import PreTrainedTokenizerBase

from trueup.config import DataConfig
from trueup.errors import ConfigError
from trueup.losses import PREFERENCE
from trueup.models.load import load_tokenizer
from trueup.models.source import TOKENIZER_FILES, resolve
from trueup.recipes.advise import Advice, Facts, Suggestion, advise, priced
from trueup.recipes.estimate import GIB, Estimate, duration
from trueup.recipes.rehearse import settings_of, size_of, skeleton
from trueup.recipes.survey import absolute, rows_for, survey
from trueup.runs.disk import write_atomic
from trueup.settings import check_effective, parse_overrides, validated
from trueup.train.methods import find_method

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

ANSWER_TOKENS = 256  # of methods that sample; the data do not tell how long the model will answer
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(GB|GiB|G|MB|MiB)?", re.IGNORECASE)
READING = ("columns", "format", "split", "bad_rows")
_COMMAND = {"constitution": "trueup cai run --help"}


@dataclass(frozen=True, slots=True)
class Machine:
    """Where training is to run.

    Attributes:
        memory: bytes of one device.
        cuda: whether it is a GPU.
        count: devices.
        tflops: of one; None: as measured here.
    """

    memory: float
    cuda: bool
    count: int
    tflops: float | None

    def line(self) -> str:
        """For a person."""
        rate = ", time at the rate measured here" if self.tflops is None else f", {self.tflops:g} TFLOP/s each"
        what = f"{self.count} GPU{'s' * (self.count > 1)} of" if self.cuda else "no GPU,"
        return f"machine: {what} {self.memory / GIB:.1f} GiB{rate}"

    def seconds(self, guess: Estimate, samples: bool) -> float:
        """An estimate's time, here; methods that sample answers run in one process."""
        here = guess.seconds if self.tflops is None else guess.seconds * guess.flops_rate / (self.tflops * 1e12)
        return here if samples else here / self.count


def memory_of(given: str | None) -> float:
    """``24GB`` in bytes (GB and GiB are both 2**30, as makers of GPUs have it); None: this machine's own.

    Raises:
        ConfigError: not a size.
    """
    if given is None:
        if torch.cuda.is_available():
            return float(torch.cuda.get_device_properties(0).total_memory)
        return float(psutil.virtual_memory().total)
    found = _SIZE.fullmatch(given.strip())
    if found is None or float(found[1]) <= 0:
        raise ConfigError(f"--gpu: {given!r} is no size; write 24GB")
    return float(found[1]) * (2**20 if (found[2] or "").lower().startswith("m") else GIB)


def reading_of(words: Sequence[str]) -> dict[str, Any]:
    """``--data.columns '{prompt: question}'`` and its like, as :func:`trueup.recipes.survey.survey` takes them.

    Raises:
        ConfigError: another setting, or one that says nothing sensible.
    """
    given = parse_overrides(words)
    for name in given:
        if name.removeprefix("data.") not in READING:
            raise ConfigError(
                f"--{name}: has no effect here; trueup advise reads {', '.join(f'--data.{n}' for n in READING)}"
            )
    named = {name.removeprefix("data."): value for name, value in given.items()}
    validated({"method": "sft", "model": {"path": "-"}, "data": {"path": "-", **named}}, "options")
    return named


def _tokenizer(model: str) -> PreTrainedTokenizerBase | None:
    """None for a folder that holds a config and no tokenizer."""
    folder = Path(model).expanduser()
    alone = folder.is_dir() and (folder / "config.json").exists()
    if alone and not any((folder / name).exists() for name in TOKENIZER_FILES):
        return None
    return load_tokenizer(resolve(model).name)


@dataclass(frozen=True, slots=True)
class Desk:
    """Prices advice for one model, one file and one machine."""

    model: str
    data: str
    tokenizer: PreTrainedTokenizerBase | None
    machine: Machine
    reading: Mapping[str, Any] = field(default_factory=dict[str, Any])  # data.columns and the like, as given

    def short(self, hours: float | None) -> Literal["memory", "time"] | None:
        """What dpo with its reference has too little of."""
        usual = self.price(Advice("dpo", "first", ""))
        assert usual.estimate is not None
        if not usual.fits:
            return "memory"
        return "time" if hours is not None and usual.estimate.seconds > hours * 3600 else None

    def price(self, advice: Advice) -> Suggestion:
        """With its config and estimate, where it is a method of ``trueup train``."""
        method = find_method(advice.method)
        if method is None:
            return Suggestion(advice, None, None, None)
        lengths = rows_for(self.data, method, self.tokenizer, self.reading)
        context = settings_of(self.model).get_text_config()
        room = int(getattr(context, "max_position_embeddings", None) or 2**20)
        base: dict[str, Any] = {"model.path": absolute(self.model), "data.path": absolute(self.data)}
        base |= {f"data.{name}": value for name, value in self.reading.items()}
        samples = method.family in ("policy", "online")
        if samples:
            base["sample.max_new_tokens"] = ANSWER_TOKENS
            room -= ANSWER_TOKENS
        if lengths.longest > DataConfig.model_fields["max_length"].default:
            base["data.max_length"] = min(room, -(-lengths.longest // 64) * 64)
        if lengths.longest > room:
            base["data.too_long"] = "drop"
        if self.machine.cuda:
            base["train.precision"] = "bf16"
        found = priced(advice, base, lengths.rows, self.machine.memory, cuda=self.machine.cuda)
        assert found.estimate is not None
        guess = replace(found.estimate, seconds=self.machine.seconds(found.estimate, samples))
        return replace(found, estimate=guess)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def command(
    context: typer.Context,
    data: Annotated[str, typer.Option(help="what you have: pairs, labels, answers or prompts")],
    model: Annotated[str, typer.Option(help="as for trueup train; a folder with config.json is enough")],
    reward: Annotated[str | None, typer.Option(help="a reward model, if you have one")] = None,
    constitution: Annotated[str | None, typer.Option(help="a file of principles, if you have one")] = None,
    team: Annotated[bool, typer.Option("--team", help="someone here knows reinforcement learning")] = False,
    gpu: Annotated[str | None, typer.Option(help="memory of one GPU, e.g. 24GB; default: this machine's")] = None,
    gpus: Annotated[int, typer.Option(help="how many")] = 1,
    tflops: Annotated[float | None, typer.Option(help="TFLOP/s of one GPU in bf16; default: measured here")] = None,
    hours: Annotated[float | None, typer.Option(help="time you have for a run")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for ready config files")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
) -> int:
    """Say which methods fit, which to try first, and what each takes. Odd files: --data.columns as for trueup train."""
    if gpus < 1 or (tflops is not None and tflops <= 0) or (hours is not None and hours <= 0):
        raise ConfigError("--gpus is at least 1, --tflops and --hours above 0")
    if constitution is not None and not Path(constitution).is_file():
        raise ConfigError(f"--constitution: {constitution}: no such file")
    place = Machine(memory_of(gpu), gpu is not None or torch.cuda.is_available(), gpus, tflops)
    tokenizer = _tokenizer(model)
    reading = reading_of(context.args)
    held = survey(data, **reading)
    if held.unusable:
        reading.setdefault("bad_rows", "skip")
    size = size_of(skeleton(settings_of(model), torch.bfloat16)).base
    known = {name: value for name, value in asdict(held).items() if name not in ("unusable", "problem")}
    facts = Facts(
        **known, reward=reward, constitution=constitution, parameters=size, team=team,
        instruct=bool(tokenizer is not None and tokenizer.chat_template),
    )  # fmt: skip
    desk = Desk(model, data, tokenizer, place, reading)
    if facts.pairs:
        facts = replace(facts, short=desk.short(hours))
    found = [desk.price(a) for a in advise(facts)]
    files = write(out, found) if out is not None else []
    if as_json:
        print(json.dumps({"facts": asdict(facts), "suggestions": [s.to_json() for s in found],
                          "files": [str(f) for f in files]}, ensure_ascii=False))  # fmt: skip
        return 0
    kind = "instruct model" if facts.instruct else "base model (no chat template)"
    print("\n".join([*held.lines(), f"model: {size / 1e6:,.0f}M weights, {kind}", place.line(), "", *shown(found)]))
    if files:
        print(f"\nwritten: {', '.join(map(str, files))}")
    return 0


def shown(found: Sequence[Suggestion]) -> list[str]:
    """For a person: what to try first and why, with its price."""
    if not found:
        return [
            "nothing to learn from yet: collect pairs, labels or right answers, or score answers with a reward model"
        ]
    out: list[str] = []
    for number, one in enumerate(found, 1):
        advice = one.advice
        out.append(
            f"{number}. {advice.method} ({'try first' if advice.place == 'first' else advice.place}): {advice.why}"
        )
        out += [f"   needs: {advice.needs}"] if advice.needs else []
        if one.estimate is None:
            out.append(f"   see: {_COMMAND[advice.method]}")
            continue
        fits = "fits" if one.fits else "DOES NOT FIT"
        out.append(
            f"   {_how(one)}: {one.estimate.total / GIB:.1f} GiB ({fits}), {duration(one.estimate.seconds)}, "
            f"{sum(one.estimate.disk.values()) / GIB:.1f} GiB of disk"
        )
    return out


def _how(one: Suggestion) -> str:
    """Full or LoRA, in words."""
    config = one.config or {}
    lora = config.get("lora")
    parts = ["all weights" if lora is None else f"LoRA of rank {lora['rank']}"]
    parts += ["on 4-bit weights"] if lora and lora.get("quantize") == "4bit" else []
    parts += ["activations computed again"] if config.get("train", {}).get("gradient_checkpointing") else []
    return ", ".join(parts)


def write(folder: Path, found: Sequence[Suggestion]) -> list[Path]:
    """A config file for each suggestion, ``1-dpo.yaml`` and so on, in the order of the advice.

    Raises:
        ConfigError: a file of that name is there already.
    """
    ready = [(folder / f"{k}-{s.advice.method}.yaml", s) for k, s in enumerate(found, 1) if s.config is not None]
    for path, _ in ready:
        if path.exists():
            raise ConfigError(f"--out: {path} is there already; name another folder")
    for path, one in ready:
        assert one.config is not None
        config, method = validated(one.config, str(path)), find_method(one.advice.method)
        assert method is not None
        check_effective(config, method, {name: loss.arguments for name, loss in PREFERENCE.items()})
        note = (
            f"# {one.advice.method}: {one.advice.why}\n# trueup train {one.advice.method} --config {path} --out RUN\n"
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, note + yaml.safe_dump(one.config, sort_keys=False, allow_unicode=True))
    return [path for path, _ in ready]
