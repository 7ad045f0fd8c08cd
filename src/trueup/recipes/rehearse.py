"""How much memory a pass over some rows takes, rehearsed on a model without weights.

The model is built from its config on torch's ``meta`` device, where tensors have shapes and no content. The passes of
a training step are then run there for real, by the code that trains, and a ledger keeps count of every tensor that is
alive and of every matrix product: no formula of activations has to be kept in step with the models.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from trueup.config import LoraConfig
from trueup.errors import ModelError
from trueup.models.files import quiet
from trueup.models.head import token_figures
from trueup.models.layout import Branches, Layout, rows_layout, shared_layout
from trueup.models.lora import add_lora, trainable
from trueup.models.policy import Policy, output_head
from trueup.models.source import base_of, read_json, resolve

META = torch.device("meta")


@dataclass(frozen=True, slots=True)
class Pass:
    """What some passes took.

    Attributes:
        kept: bytes alive when the forward pass ended: what the backward pass needs.
        peak: most bytes alive at once, weights not counted; gradients are.
        flops: of matrix products, a multiplication and an addition counting two.
    """

    kept: float
    peak: float
    flops: float


class _Ledger(TorchDispatchMode):
    """Counts the bytes of all tensors alive that were made under it, and the FLOPs of matrix products."""

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._size: dict[int, int] = {}
        self._weights = {t.untyped_storage()._cdata for t in weights}
        self.alive, self.peak, self.flops = 0, 0, 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs an operation and books what it made."""
        made = func(*args, **(kwargs or {}))
        if func._schema.name in _PRODUCTS:
            left, right = args[_PRODUCTS[func._schema.name] :][:2]
            self.flops += 2.0 * left.numel() * right.shape[-1]
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:  # masks are made elsewhere and kept between passes
                self._book(tensor)
        return made

    def _book(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._size or key in self._weights:
            return
        self._size[key] = storage.nbytes()
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._strike, key)

    def _strike(self, key: int) -> None:
        self.alive -= self._size.pop(key, 0)


_PRODUCTS = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1, "aten::baddbmm": 1}  # name -> place of the left factor


# ── models without weights ──


def settings_of(path: str, revision: str | None = None, **changes: Any) -> Any:
    """The transformers config of a model; the folder needs nothing but ``config.json``.

    Args:
        path: anything :func:`trueup.models.source.resolve` takes, or a folder or file with a config alone.
        revision: of a hub id.
        **changes: put into the config.

    Raises:
        ModelError: there is none, or it makes no sense.
    """
    place = Path(path).expanduser()
    alone = place / "config.json" if place.is_dir() else place
    if alone.name == "config.json" and alone.is_file():
        read_json(alone)
        folder, file = alone.parent, None
    else:
        source = resolve(path, revision)
        source = base_of(source) if source.kind == "adapter" else source
        folder, file = source.folder, source.file
    extra = {} if file is None else {"gguf_file": file.name}
    try:
        with quiet():
            return AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, **extra, **changes
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder}/config.json: not a model's config: {str(error).splitlines()[0]}") from None


def skeleton(
    settings: Any,
    dtype: torch.dtype,
    *,
    scores: bool = False,
    lora: LoraConfig | None = None,
    checkpointing: bool = False,
    trained: bool = True,
    layout: str = "auto",
) -> Policy:
    """A model with shapes and no weights, dressed as for training.

    Args:
        settings: its transformers config.
        dtype: of the base weights.
        scores: a reward model instead of a language model.
        lora: its adapter; None: every weight is trained.
        checkpointing: activations are computed again in the backward pass.
        trained: False freezes all of it.
        layout: as ``model.layout``.

    Raises:
        ModelError: transformers cannot make a model of this config.
    """
    auto: Any = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    try:
        with quiet(), META:
            model: Any = auto.from_config(settings, dtype=dtype)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{getattr(settings, 'model_type', '?')}: no model can be made of this config: {error}"
        ) from None
    model.requires_grad_(trained and lora is None)
    model.config.pad_token_id = 0
    if lora is not None:
        model = add_lora(model, lora.model_copy(update={"quantize": "none"}), 0)
    if checkpointing:
        inner = model.get_base_model() if lora is not None else model
        name = "activation_checkpointing" if hasattr(inner, "activation_checkpointing_enable") else None
        call = inner.activation_checkpointing_enable if name else inner.gradient_checkpointing_enable
        call(**{f"{name or 'gradient_checkpointing'}_kwargs": {"use_reentrant": False}})
        if lora is not None:
            model.enable_input_require_grads()
    policy = Policy(model, 0, layout)
    model.train(checkpointing)
    return policy


@dataclass(frozen=True, slots=True)
class Size:
    """Numbers of weights.

    Attributes:
        base: without adapters; tied ones once.
        trained: that training changes.
        linear: of ``base`` in linear layers other than the output head (what 4 bits shrink).
    """

    base: int
    trained: int
    linear: int


def size_of(policy: Policy) -> Size:
    """Counts a model's weights."""
    trained = sum(p.numel() for _, p in trainable(policy.model))
    adapter = sum(p.numel() for n, p in policy.model.named_parameters() if "lora_" in n or "modules_to_save" in n)
    total = sum(p.numel() for p in policy.model.parameters())
    head = policy.inner.get_output_embeddings()
    linear = sum(
        m.weight.numel()
        for n, m in policy.inner.named_modules()
        if isinstance(m, torch.nn.Linear) and m is not head and "lora_" not in n
    )
    return Size(total - adapter, trained, linear)


# ── passes ──


def lay_out(policy: Policy, groups: Sequence[Branches]) -> Layout:
    """As :meth:`Policy.layout`, on the meta device, where no mask can be made from content: rows bring a whole one."""
    if policy.shared:
        return shared_layout(groups).to(META)
    laid = rows_layout(groups, policy.pad_id).to(META)
    rows, length = laid.ids.shape
    return replace(laid, padding=torch.ones(rows, 1, length, length, dtype=torch.bool, device=META))


def rehearse_training(
    policy: Policy,
    groups: Sequence[Branches],
    *,
    reference: bool = False,
    twin: Policy | None = None,
    extras: bool = False,
    scores: bool = False,
    accumulated: bool = False,
) -> Pass:
    """Forward and backward pass over one micro-batch, gradients summed in fp32 as the optimizer does.

    Args:
        policy: the model in training, from :func:`skeleton`.
        groups: the micro-batch.
        reference: a reference (of the same shape) looks at the rows after the policy's forward pass.
        twin: a value model with a trunk of its own, trained on the same rows.
        extras: the loss reads entropy or collision probability.
        scores: a reward model: no head over the vocabulary.
        accumulated: gradients of an earlier micro-batch are there already.
    """
    laid = lay_out(policy, groups)
    models = [policy] if twin is None else [policy, twin]
    weights = [p for m in models for p in m.model.parameters()]
    with _Ledger(weights) as ledger, _collected(models, accumulated):
        losses: list[torch.Tensor] = []
        for model in models:
            states = model.hidden(laid)
            if scores or model is twin:
                losses.append(states.index_select(0, laid.last if scores else laid.source).float().sum())
            else:
                states = states.index_select(0, laid.source)
                losses.append(token_figures(states, output_head(model.inner), laid.target, extras=extras).logprob.sum())
            del states
        if reference:
            _look(policy, laid, extras=False)
        kept = ledger.alive
        torch.stack(losses).sum().backward()
        del losses
    result = Pass(kept, ledger.peak, ledger.flops)
    for model in models:
        for _, parameter in trainable(model.model):
            parameter.grad = None
    return result


@torch.no_grad()
def rehearse_look(policy: Policy, groups: Sequence[Branches], *, extras: bool = False, scores: bool = False) -> Pass:
    """A forward pass without gradient: scoring, reference, evaluation."""
    laid = lay_out(policy, groups)
    with _Ledger(list(policy.model.parameters())) as ledger:
        if scores:
            policy.hidden(laid).index_select(0, laid.last).float().sum()
        else:
            _look(policy, laid, extras=extras)
    return Pass(0.0, ledger.peak, ledger.flops)


@torch.no_grad()
def _look(policy: Policy, laid: Layout, *, extras: bool) -> None:
    states = policy.hidden(laid).index_select(0, laid.source)
    token_figures(states, output_head(policy.inner), laid.target, extras=extras)


@contextmanager
def _collected(models: Sequence[Policy], accumulated: bool) -> Iterator[None]:
    """Gradients go into fp32 sums as soon as they are there, as :class:`trueup.train.optim.Optimizer` has it."""
    sums: dict[int, torch.Tensor] = {}

    def collect(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        if id(parameter) in sums:
            sums[id(parameter)].add_(parameter.grad)
        else:
            sums[id(parameter)] = parameter.grad.float()
        parameter.grad = None

    named = [p for m in models for _, p in trainable(m.model)]
    if accumulated:
        sums = {id(p): torch.empty(p.shape, dtype=torch.float32, device=META) for p in named}
    hooks = [p.register_post_accumulate_grad_hook(collect) for p in named]
    yield
    for hook in hooks:
        hook.remove()
