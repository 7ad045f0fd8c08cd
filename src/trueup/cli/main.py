"""The door: finds the verb, loads its module only then, and turns errors into one line and an exit code."""

from __future__ import annotations

import difflib
import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

import typer

from trueup.errors import ConfigError, TrueupError

# verb -> (module that owns it, one line of help)
VERBS = {
    "advise": ("trueup.cli.advise", "which methods fit your data and machine, and what each takes"),
    "estimate": ("trueup.cli.estimate", "memory, time and disk of a run, before anything is loaded"),
    "train": ("trueup.cli.train", "train a model: trueup train dpo --model M --data FILE --out RUN"),
    "resume": ("trueup.cli.resume", "go on with a run that was interrupted"),
    "data": ("trueup.cli.data", "check, convert and show preference data"),
    "sample": ("trueup.cli.sample", "answer a file of prompts, resumable"),
    "pairs": ("trueup.cli.pairs", "make preference data: sample, score, pair"),
    "constitution": ("trueup.cli.constitution", "check, show, import, compare, settle constitutions"),
    "cai": ("trueup.cli.cai", "Constitutional AI: revise, label, train, explain; one command for all"),
    "eval": ("trueup.cli.eval", "measure models, answers, reward models and judges, with intervals"),
    "losses": ("trueup.cli.losses", "list the losses; with a name: equation, arguments, worked example"),
    "chat": ("trueup.cli.chat", "talk to a model or to the result of a run"),
    "merge": ("trueup.cli.merge", "merge a LoRA adapter into a full model"),
    "report": ("trueup.cli.report", "one HTML file that says what a run did; and JSON and PNGs"),
    "compare": ("trueup.cli.compare", "several runs over one another, in one HTML file"),
    "bench-methods": ("trueup.cli.bench_methods", "SFT, DPO, KTO, PPO ... on the same prompts and budget, measured"),
    "demo": ("trueup.cli.demo", "the whole road on bundled model and data, in a few minutes"),
}
EX_TEMPFAIL = 75
_USAGE_ERRORS = {"UsageError", "NoSuchOption", "BadParameter", "MissingParameter", "BadArgumentUsage", "NoSuchCommand",
                 "BadOptionUsage"}  # by name: typer brings its own copy of click  # fmt: skip


def usage() -> str:
    """What ``trueup --help`` prints."""
    width = max(map(len, VERBS)) + 2
    lines = [
        "usage: trueup VERB ...",
        "",
        "Align language models with preferences, with the evidence that it worked.",
        "",
    ]
    lines += [f"  {verb:<{width}}{line}" for verb, (_, line) in VERBS.items()]
    return "\n".join([*lines, "", "trueup VERB --help tells more; trueup --version prints the version."])


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command line and exits."""
    sys.exit(run(list(sys.argv[1:] if words is None else words)))


def run(words: list[str]) -> int:
    """Runs the command line; returns the exit code. Set TRUEUP_DEBUG=1 for tracebacks."""
    if not words or words[0] in ("--help", "-h", "help"):
        print(usage())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"trueup {version('trueup')}")
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("transformers", "peft", "httpx", "datasets", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        return _verb(words)
    except TrueupError as error:
        return _tell(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _tell("interrupted", 130)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _tell(f"the disk is full: {error.filename or error}", EX_TEMPFAIL)
        raise


def _verb(words: list[str]) -> int:
    if words[0] not in VERBS:
        close = difflib.get_close_matches(words[0], VERBS, 1, 0.5)
        hint = f" (did you mean {close[0]}?)" if close else f"; there are {', '.join(VERBS)}"
        raise ConfigError(f"{words[0]!r} is no verb of trueup{hint}")
    app: typer.Typer = importlib.import_module(VERBS[words[0]][0]).app
    command = typer.main.get_command(app)
    try:
        code = command.main(words[1:], prog_name=f"trueup {words[0]}", standalone_mode=False)
    except Exception as error:
        if type(error).__name__ in _USAGE_ERRORS:
            raise ConfigError(
                f"{getattr(error, 'format_message', lambda: error)()} (trueup {words[0]} --help)"
            ) from None
        if type(error).__name__ == "Abort":
            raise KeyboardInterrupt from None
        raise
    return code if isinstance(code, int) else 0


def _tell(message: str, code: int) -> int:
    if os.environ.get("TRUEUP_DEBUG") == "1":
        logging.getLogger(__name__).error("", exc_info=True)
    print(f"error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
