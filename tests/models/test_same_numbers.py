"""The bundled model by every path: full logits, padded rows, shared prompts, any chunk, every kind of reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trueup.config import LoraConfig
from trueup.models.bundled import bundled_path
from trueup.models.head import token_figures
from trueup.models.layout import Branches, rows_layout, shared_layout
from trueup.models.load import load_causal_lm
from trueup.models.lora import add_lora
from trueup.models.policy import Policy, output_head
from trueup.models.reference import AdapterOff, FrozenCopy, Precomputed, ReferenceCache, fill_cache


def text_groups(tokenizer) -> list[Branches]:
    """Two conversations with two answers each, of different lengths."""
    groups = []
    for question, answers in (
        ("What is the capital of France?", ("Paris.", "I believe that it is the town of Lyon, on the river.")),
        ("Name three colours of the rainbow, please, and say which you like.", ("Red, green and blue; green.", "No.")),
    ):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        prefix = np.array(tokenizer(prompt, add_special_tokens=False).input_ids)
        ids = [np.array(tokenizer(a + "<|im_end|>", add_special_tokens=False).input_ids) for a in answers]
        groups.append(Branches(prefix, tuple(ids), tuple(np.ones(len(i), dtype=bool) for i in ids)))
    return groups


@pytest.mark.slow
def test_log_probabilities_agree_within_1e_4_by_every_path(tmp_path) -> None:

    path = bundled_path()
    groups = text_groups(AutoTokenizer.from_pretrained(path))
    plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        want = []
        for g in groups:
            for branch in g.branches:
                ids = torch.from_numpy(np.concatenate([g.prefix, branch]))
                logp = plain(input_ids=ids[None]).logits[0].float().log_softmax(-1)
                want.append(float(logp[len(g.prefix) - 1 : -1].gather(1, torch.from_numpy(branch)[:, None]).sum()))
        expected = torch.tensor(want)
        policy = Policy(load_causal_lm(path), pad_id=2)
        for layout in (shared_layout(groups), rows_layout(groups, 2), rows_layout(groups, 0, left=True, extra=7)):
            torch.testing.assert_close(policy.sequences(layout).logprob, expected, rtol=0, atol=1e-4 * 20)
            per_token = (policy.sequences(layout).logprob - expected).abs() / layout.lengths
            assert per_token.max() < 1e-4
        layout = shared_layout(groups)
        states = policy.hidden(layout).index_select(0, layout.source)
        whole = token_figures(states, output_head(policy.inner), layout.target).logprob
        for chunk in (1, 5):
            pieces = token_figures(states, output_head(policy.inner), layout.target, chunk=chunk).logprob
            assert (pieces - whole).abs().max() < 1e-4
        copy = FrozenCopy(policy, "start")
        cache = ReferenceCache(tmp_path, {"weights": "start"})
        fill_cache(cache, copy, [groups])
        cached = Precomputed(ReferenceCache(tmp_path, {"weights": "start"}), "start", torch.device("cpu"))
        lora = Policy(add_lora(load_causal_lm(path), LoraConfig(rank=4), 0), pad_id=2)
        for name, parameter in lora.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
        off = AdapterOff(lora, "start")
        moved = (lora.sequences(lora.layout(groups)).logprob - expected).abs().max()
        assert moved > 0.1  # the adapter does something
        for reference in (copy, cached, off):
            assert (reference.sequences(groups).logprob - expected).abs().max() < 2e-3
