"""The phrases of the tree: prints it, and puts it between the marks in README.md and docs/ARCHITECTURE.md."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PHRASES = {
    "types.py": "rows of text on their way in, steps on their way out",
    "tensors.py": "Pairs, Labels, Scores, Likelihoods: what crosses to a loss",
    "errors.py": "the exception tree with its exit codes",
    "config.py": "the settings of a run as frozen models",
    "settings.py": "YAML and dotted overrides to settings; did-you-mean; no option without effect",
    "ops/logprobs.py": "log-probabilities and log1mexp, the plain reference computations",
    "ops/kl.py": "k1, k2, k3 with their biases",
    "ops/returns.py": "scores to advantages: GAE, RLOO, GRPO, whitening, the adaptive KL coefficient",
    "ops/choose.py": "logits to a token: filters, inversion, exact log-probabilities",
    "ops/diversity.py": "distinct-n, repeated answers",
    "ops/stats.py": "Wilson, cluster bootstrap, paired tests",
    "losses/__init__.py": "the registries: a name, a function, what it eats, its source",
    "losses/registry.py": "what a registry holds",
    "losses/preference.py": "pairwise losses, soft labels",
    "losses/unpaired.py": "KTO and APO-zero on single completions",
    "losses/reward.py": "Bradley-Terry with margin, centring, soft labels",
    "losses/supervised.py": "negative log-likelihood",
    "losses/policy.py": "PPO clip, value clip, REINFORCE: a number a sampled token",
    "losses/options.py": "length norm, LD-DPO, WPO, divergences, SFT term, mixtures",
    "losses/metrics.py": "what is logged, apart from what is minimised",
    "data/read.py": "a file to rows: kept or rejected with a reason, counts that add up",
    "data/schema.py": "recognises the format of a file",
    "data/fields.py": "typed access to a row's fields",
    "data/files.py": "opening plain, gzip and zstd files, bounded",
    "data/records.py": "JSON Lines, JSON and CSV to records",
    "data/jsontext.py": "strict JSON of one line",
    "data/jsonarray.py": "a JSON array, element by element",
    "data/tables.py": "Parquet, saved datasets folders, hub ids",
    "data/quarantine.py": "rejected rows, kept to be mended",
    "data/wanted.py": "which rows can be turned into which",
    "data/convert.py": "rows written in any format that holds them",
    "data/write.py": "atomic writing of rows",
    "data/formats/base.py": "what a format is",
    "data/formats/preference.py": "prompt, chosen, rejected",
    "data/formats/completion.py": "prompt-completion, labels, prompts, plain text",
    "data/formats/transcripts.py": "HH-RLHF transcripts and their like",
    "data/formats/sharegpt.py": "ShareGPT conversations",
    "data/formats/alpaca.py": "Alpaca rows",
    "data/formats/vendors.py": "shapes of particular projects and hubs",
    "data/formats/ranked.py": "scored and ranked lists of answers",
    "data/render.py": "turns to tokens with exact boundaries and masks",
    "data/audit.py": "the preflight audit",
    "data/order.py": "which rows a step sees, as pure functions; KTO's mismatches",
    "data/mix.py": "held-out split by prompt, contamination, mixtures",
    "data/pairing.py": "scored answers to pairs: which two, and why none",
    "models/source.py": "where a model is, and its identity",
    "models/files.py": "folders built aside and published at once",
    "models/bundled.py": "the bundled model, fetched and verified",
    "models/gguf_file.py": "reading GGUF into plain weights",
    "models/load.py": "tokenizers, causal and reward models, whole or not at all",
    "models/lora.py": "adapters on and off",
    "models/tiny.py": "random models and a byte tokenizer for tests",
    "models/layout.py": "how a micro-batch lies in memory: shared prompts or padded rows",
    "models/attention.py": "attention in which completions share a prompt",
    "models/head.py": "log-probabilities in chunks with a hand-written backward",
    "models/policy.py": "the one forward path, and its self-check",
    "models/reference.py": "the reference: adapter off, copy, or precomputed on disk",
    "models/value.py": "value heads, on the policy or on a trunk of their own",
    "models/sampling.py": "what is asked of a sampler and what it gives back",
    "models/sample.py": "sampling in this process: continuous batching, draws that depend on (seed, prompt, index)",
    "models/decode.py": "keys and values of answers in progress",
    "models/save.py": "the result as a plain transformers folder, compared before it is published",
    "models/card.py": "the model card",
    "models/merge.py": "LoRA into a full model",
    "models/chat.py": "streaming answers",
    "runs/folder.py": "the run folder: layout, manifest, lock",
    "runs/checkpoint.py": "checkpoints that survive a kill anywhere",
    "runs/tensorfile.py": "streaming safetensors with hashes",
    "runs/disk.py": "atomic writes, fsync, leftovers",
    "runs/encode.py": "canonical JSON and hashes",
    "runs/environment.py": "versions and machine for the manifest",
    "runs/metrics.py": "line files: append, offset, cut",
    "runs/journal.py": "finished calls, kept so that none is made twice",
    "runs/scrub.py": "no secret leaves",
    "runs/signals.py": "stop between two steps",
    "runs/console.py": "bars, lines, tables",
    "runs/sinks.py": "TensorBoard, W&B, trackio, MLflow, if asked for",
    "feedback/base.py": "an answered prompt, and what a scorer is",
    "feedback/reward_model.py": "a reward model as a scorer, with its own tokenizer and template",
    "feedback/rules.py": "rules: bundled ones and module:function",
    "feedback/combine.py": "weighted sums and ensembles of scorers",
    "feedback/parse.py": "from a config to a scorer",
    "train/methods.py": "the methods by name with vetted defaults",
    "train/loop.py": "the loop that yields: denominators, out-of-memory, non-finite steps",
    "train/optim.py": "AdamW on fp32 masters, schedules, clipping",
    "train/ranks.py": "several processes that train one model together",
    "train/sft.py": "supervised fine-tuning",
    "train/reward.py": "reward models",
    "train/preference.py": "DPO and every other pairwise method",
    "train/unpaired.py": "KTO and relatives",
    "train/rollout.py": "sampled answers with rewards, KL and advantages",
    "train/actions.py": "the loss over sampled answers",
    "train/ppo.py": "PPO and relatives, reading like the algorithm",
    "train/online.py": "online and iterative preference learning",
    "train/evaluate.py": "held-out figures with intervals",
    "recipes/prepare.py": "a file to tokens: read, hold out, render, audit",
    "recipes/build.py": "config to job: models, reference, objective, plan",
    "recipes/rollouts.py": "config to job, for methods that learn from the model's own answers",
    "recipes/online.py": "config to job, for pairs of the model's own answers",
    "recipes/answers.py": "trueup sample: answers to a file of prompts, resumable",
    "recipes/pairs.py": "trueup pairs: answers, scores, preference data with provenance",
    "recipes/session.py": "a run while it happens: logs, evaluation, checkpoints, early stopping",
    "recipes/train.py": "train and resume, from config to model folder",
    "recipes/samples.py": "answers before and after, for a person",
    "recipes/estimate.py": "memory and time before loading",
    "recipes/demo.py": "the demo",
    "cli/main.py": "the door: verbs loaded when called, errors to exit codes",
    "cli/train.py": "trueup train",
    "cli/resume.py": "trueup resume",
    "cli/data.py": "trueup data check, convert, show, formats",
    "cli/sample.py": "trueup sample",
    "cli/pairs.py": "trueup pairs",
    "cli/losses.py": "trueup losses",
    "cli/chat.py": "trueup chat",
    "cli/merge.py": "trueup merge",
    "cli/demo.py": "trueup demo",
    "cli/show.py": "what training looks like on a terminal",
}


def tree() -> str:
    """One line a file."""
    width = max(map(len, PHRASES)) + 2
    return "\n".join(f"{name:<{width}}{phrase}" for name, phrase in PHRASES.items())


def main() -> None:
    block = f"<!-- tree -->\n```text\n{tree()}\n```\n<!-- /tree -->"
    for name in ("README.md", "docs/ARCHITECTURE.md"):
        path = ROOT / name
        text = re.sub(
            r"<!-- tree -->.*<!-- /tree -->", lambda _: block, path.read_text(encoding="utf-8"), flags=re.DOTALL
        )
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
