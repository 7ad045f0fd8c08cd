"""Talking to a model: greedy or sampled answers, piece by piece, ended by the tokens that training taught."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trueup.errors import ModelError
from trueup.models.load import require_chat_template

_CUT = "\ufffd"  # what a decoder writes for bytes that do not make a character yet


class Chat:
    """A model, its tokenizer, and how an answer ends.

    Args:
        model: a causal language model, perhaps with an adapter.
        tokenizer: with a chat template.

    Raises:
        ModelError: the tokenizer has no chat template.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> None:
        require_chat_template(tokenizer, tokenizer.name_or_path or "tokenizer")
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.ends = _ends(model, tokenizer)
        inner = model.get_base_model() if isinstance(model, PeftModel) else model
        takes = inspect.signature(inner.forward).parameters
        self._last_only: dict[str, int] = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def reply(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Iterator[str]:
        """Yields the assistant's next answer in pieces of whole characters.

        Args:
            messages: the conversation so far, each with ``role`` and ``content``.
            max_new_tokens: at most so many tokens.
            temperature: 0 takes the likeliest token; above, tokens are drawn.
            seed: of the drawing; the global random state is not touched.

        Raises:
            ModelError: a message without role or content, a template that refuses the conversation, or a conversation
                that leaves no room for an answer.
        """
        prompt = self._prompt(messages)
        room = self._room(len(prompt))
        ids: list[int] = []
        shown = ""
        for token in self._tokens(prompt, min(max_new_tokens, room), temperature, seed):
            ids.append(token)
            text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            if len(text) > len(shown) and not text.endswith(_CUT) and text.startswith(shown):
                yield text[len(shown) :]
                shown = text
        rest = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)[len(shown) :]
        if rest:
            yield rest

    def _prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        for number, message in enumerate(messages, 1):
            if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
                raise ModelError(f"message {number}: role and content must be text")
        try:
            return self.tokenizer.apply_chat_template(
                [dict(m) for m in messages], add_generation_prompt=True, return_dict=False
            )
        except Exception as error:  # whatever a template raises: jinja's own errors, or any from its expressions
            raise ModelError(f"the chat template refuses this conversation: {error}") from None

    def _room(self, used: int) -> int:
        longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if longest is None:
            return 1 << 30
        if used >= longest:
            raise ModelError(f"the conversation has {used} tokens, the model takes {longest}: begin a new one")
        return longest - used

    @torch.no_grad()
    def _step(self, ids: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        """Logits of the next token ``[V]`` in fp32, and the cache."""
        output = self.model(input_ids=ids, past_key_values=cache, use_cache=True, **self._last_only)
        return output.logits[0, -1].float(), output.past_key_values

    def _tokens(self, prompt: list[int], count: int, temperature: float, seed: int) -> Iterator[int]:
        device = next(self.model.parameters()).device
        generator = torch.Generator().manual_seed(seed)
        ids, cache = torch.tensor([prompt], device=device), None
        for _ in range(count):
            logits, cache = self._step(ids, cache)
            if temperature > 0:
                chances = (logits.cpu() / temperature).softmax(-1)
                token = int(torch.multinomial(chances, 1, generator=generator))
            else:
                token = int(logits.argmax())
            if token in self.ends:
                return
            yield token
            ids = torch.tensor([[token]], device=device)


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    generation = getattr(model, "generation_config", None)
    ends = getattr(generation, "eos_token_id", None)
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    return frozenset([*ends, tokenizer.eos_token_id])
