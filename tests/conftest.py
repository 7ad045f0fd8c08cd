"""Shapes and types are checked at every call of a loss or an op, in tests only."""

from __future__ import annotations

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

install_import_hook(["trueup.losses", "trueup.ops"], "beartype.beartype")

import torch  # noqa: E402  # after the hook and the environment

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
