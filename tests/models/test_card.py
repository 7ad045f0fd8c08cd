"""The model card: everything that was done and measured, readable by hubs, and no way to smuggle anything in."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from trueup.config import LoraConfig
from trueup.models.card import CardInfo, card_text, escape, known_licence, write_card, write_merged_card
from trueup.models.load import add_lora, load_causal_lm, load_reward_model
from trueup.models.save import save_result
from trueup.models.tiny import tiny_tokenizer


def info(**changes) -> CardInfo:
    values = {
        "base": "bundled:smollm2-135m-instruct",
        "base_identity": "sha256:abc",
        "method": "dpo",
        "data": "pairs.jsonl",
        "data_fingerprint": "0123456789abcdef",
        "rows": 1234,
        "settings": {"train": {"lr": 5e-7}, "loss": {"beta": 0.1}},
        "reference": "copy of sha256:abc",
        "results": {
            "before": {"rewards/accuracy": {"mean": 0.5, "low": 0.45, "high": 0.55, "n": 400}},
            "after": {"rewards/accuracy": {"mean": 0.71234, "low": 0.667, "high": 0.755, "n": 400}},
        },
        "steps": 77,
    }
    return CardInfo(**{**values, **changes})


def head_of(text: str) -> dict:
    _, head, _ = text.split("---\n", 2)
    return yaml.safe_load(head)


def test_it_tells_data_method_settings_and_results(tiny_folder: Path) -> None:
    write_card(tiny_folder, info())
    text = (tiny_folder / "README.md").read_text()
    assert head_of(text) == {
        "library_name": "transformers",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["trueup", "dpo"],
    }
    assert "| rewards/accuracy | 0.5 \\[0.45, 0.55\\] | 0.7123 \\[0.667, 0.755\\] | 400 |" in text
    for fact in (
        "sha256:abc",
        "0123456789abcdef",
        "1234 rows",
        "77 steps",
        '"lr": 5e-07',
        '"beta": 0.1',
        "transformers 5",
    ):
        assert fact in text, fact
    assert 'AutoModelForCausalLM.from_pretrained("this/folder")' in text


def test_it_fits_adapters_and_reward_models(tiny_folder: Path, tmp_path: Path) -> None:
    reward = load_reward_model(tiny_folder, new_head=True)
    folder = save_result(reward, tiny_tokenizer(), tmp_path / "reward", card=lambda path: write_card(path, info()))
    text = (folder / "README.md").read_text()
    assert head_of(text)["pipeline_tag"] == "text-classification"
    assert 'AutoModelForSequenceClassification.from_pretrained("this/folder")' in text
    lora = add_lora(load_causal_lm(tiny_folder), LoraConfig(rank=2), 0)
    folder = save_result(lora, tiny_tokenizer(), tmp_path / "lora", card=lambda path: write_card(path, info()))
    text = (folder / "README.md").read_text()
    assert head_of(text)["library_name"] == "peft"
    assert "A LoRA adapter for **" in text and "trueup merge" in text


def test_the_merged_card_speaks_of_a_full_model(tiny_folder: Path, tmp_path: Path) -> None:
    lora = add_lora(load_causal_lm(tiny_folder), LoraConfig(rank=2), 0)
    adapter = save_result(lora, tiny_tokenizer(), tmp_path / "lora", card=lambda path: write_card(path, info()))
    write_merged_card(adapter, tiny_folder)
    text = (tiny_folder / "README.md").read_text()
    assert head_of(text)["library_name"] == "transformers"
    assert "adapter merged into" in text and "PEFT must be installed" not in text
    assert text.count("## Loading it") == text.count("## Versions") == 1
    (adapter / "README.md").unlink()
    write_merged_card(adapter, tiny_folder)
    assert "from_pretrained" in (tiny_folder / "README.md").read_text()


EVIL = [
    "<script>alert(1)</script>", "![x](http://e/x.png)", "a|b|c", "x\n---\nlicense: mit", "`code`", "$x$", "&lt;b&gt;",
    "# title", "[click](javascript:alert(1))", "]\n- list", "**bold**", "\u202e evil",
]  # fmt: skip


@pytest.mark.parametrize("evil", EVIL)
def test_words_of_the_user_stay_words(evil: str, tiny_folder: Path) -> None:
    results = {"after": {evil: {"mean": 1, "low": 0, "high": 2, "n": 1}}}
    words = dict.fromkeys(("base", "data", "method", "reference"), evil)
    text = card_text(tiny_folder, info(**words, settings={evil: evil}, results=results))
    head = head_of(text)
    assert head["tags"] == ["trueup", evil] and head.get("base_model", evil) == evil and "license" not in head
    outside, _, rest = text.split("---\n", 2)[2].partition("```json")
    prose = outside + rest.split("```", 1)[1]
    assert "<script" not in prose and "](http" not in prose.replace("\\](", "") and "[click](" not in prose
    rows = [line for line in prose.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 and rows[1].replace("\\|", "").count("|") == 5
    assert sum(line.startswith("# ") for line in prose.splitlines()) == 1


def test_a_fence_in_the_settings_does_not_end_the_block(tiny_folder: Path) -> None:
    text = card_text(tiny_folder, info(settings={"system": "```\n# out"}))
    assert "\n# out" not in text
    text = card_text(tiny_folder, info(settings={"system": "````"}))
    assert "`````json" in text


def test_escape() -> None:
    assert escape("a_b *c* <d> & \\ `e`\nf") == "a\\_b \\*c\\* &lt;d&gt; &amp; \\\\ \\`e\\` f"


def test_the_home_folder_is_not_told(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    text = card_text(
        tiny_folder, info(data="/home/someone/pairs.jsonl", settings={"data": {"path": "/home/someone/x"}})
    )
    assert "someone" not in text and "~/pairs.jsonl" in text and '"~/x"' in text


def test_the_licence_is_carried_over(tiny_folder: Path) -> None:
    assert known_licence("bundled:smollm2-135m-instruct") == "apache-2.0"
    assert known_licence("x", tiny_folder) is None
    for head, found in (
        ("license: mit", "mit"),
        ('license: "llama3.2"', "llama3.2"),
        ("licence: apache-2.0", "apache-2.0"),
        ("license: [a, b]", None),
        ("tags: [x]", None),
    ):
        (tiny_folder / "README.md").write_text(f"---\n{head}\n---\n# Base\nlicense: gpl\n")
        assert known_licence("x", tiny_folder) == found
    (tiny_folder / "README.md").write_text("---\nlicense: mit\n---\n")
    text = card_text(tiny_folder, info(base=str(tiny_folder)))
    assert head_of(text)["license"] == "mit" and "Licence of the base model: mit" in text


def test_nothing_measured_is_said(tiny_folder: Path) -> None:
    assert "Nothing was measured." in card_text(tiny_folder, info(results={}))
    assert "Reference policy: none" in card_text(tiny_folder, info(reference="None"))
