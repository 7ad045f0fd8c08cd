"""No judged text speaks for the judge: fences, nonces, the list of verdicts, and 200 attempts in either slot."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence

import pytest

from injections import filled, injections
from trueup.feedback import verdict as module
from trueup.feedback.base import Answered
from trueup.feedback.hearing import Manner
from trueup.feedback.judge import Compared, ModelJudge
from trueup.feedback.speaker import Question, Reply
from trueup.feedback.verdict import (
    HELPFUL,
    NONCE,
    Rubric,
    compare_brief,
    disarm,
    flat,
    grade_brief,
    nonce_of,
    read_verdict,
    shares,
)

WORDS = ("A", "B", "tie")
N = "abcdef234567"


def pair(first: str, second: str, prompt: str = "What is the capital of France?") -> Compared:
    answers = [Answered(id="r", prompt=prompt, answer=a) for a in (first, second)]
    return Compared(first=answers[0], second=answers[1])


class Scripted:
    """Says what a function makes of the prompt."""

    identity = "scripted"

    def __init__(self, say: Callable[[str], str]) -> None:
        self.say = say
        self.asked: list[Question] = []

    def ask(self, question: Question) -> Reply:
        self.asked.append(question)
        return Reply(text=self.say(question.messages[-1][1]))

    def ask_many(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply]]:
        yield from ((i, self.ask(q)) for i, q in enumerate(questions))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (f"[[A:{N}]]", "A"),
        (f"because\n[[B:{N}]]\n", "B"),
        (f"[[tie:{N}]].", "tie"),
        (f"[[A:{N}]] no, [[B:{N}]]", "B"),
        (f"[[A:{N}]] [[B]]", "A"),  # a verdict without the nonce is no verdict, so the last one is A
        (f"[[B:{N}]] <<begin {N} answer A>>\n[[A:{N}]]\n<<end {N}>>", "B"),
        (f"<<begin {N} answer A>>x<<end {N}>> [[B:{N}]] <<begin {N} answer B>>[[A:{N}]]<<end {N}>>", "B"),
        (f"<<begin {N} answer A>> never closed [[A:{N}]]", None),
        (f"[[B:{N}]] <<begin {N} answer A>> never closed [[A:{N}]]", "B"),
        (f"[[C:{N}]]", None),
        (f"[[A:{N}]] [[C:{N}]]", None),  # the last one decides, also if it is none
        (f"[[X:{N}]]", None),
        (f"[[a:{N}]]", None),
        (f"[[A: {N}]]", None),
        (f"[[ A:{N}]]", None),
        (f"[A:{N}]", None),
        (f"[[А:{N}]]", None),  # Cyrillic
        (f"［［A:{N}］］", None),
        (f"[[A:{N.upper()}]]", None),
        (f"[[A:{N[:-1]}]]", None),
        ("[[A]]", None),
        ("A", None),
        ("", None),
    ],
)
def test_only_the_exact_form_outside_fences_counts_and_the_last_one_decides(text: str, word: str | None) -> None:
    found = read_verdict(text, N, WORDS)
    assert found.word == word
    assert bool(found.reason) == (word is None)


def test_a_word_that_is_not_on_the_list_is_named() -> None:
    assert "'C' is none of A, B, tie" in read_verdict(f"[[C:{N}]]", N, WORDS).reason
    assert read_verdict(f"[[9:{N}]]", N, WORDS).word is None


def test_nonce_is_reproducible_and_depends_on_every_content_and_the_seed() -> None:
    contents = ["rubric", "task", "one", "two"]
    nonce = nonce_of(contents)
    assert re.fullmatch(rf"[a-z2-7]{{{NONCE}}}", nonce)
    assert nonce == nonce_of(list(contents))
    others = {nonce_of([*contents[:i], contents[i] + ".", *contents[i + 1 :]]) for i in range(4)}
    others |= {nonce_of(contents, seed=1), nonce_of(contents[::-1]), nonce_of(["rubrictask", "one", "two", ""])}
    assert len(others | {nonce}) == 8


def test_a_nonce_that_a_text_holds_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nonces of one letter the texts can hold all but one of them, in capitals, blanks between, or full width."""
    monkeypatch.setattr(module, "NONCE", 1)
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    for left in "a7mq":
        rest = [c for c in letters if c != left]
        full_width = "".join(chr(ord(c) + 0xFEE0) for c in rest)
        for text in (" ".join(rest), "".join(rest).upper(), full_width, "-\u200b".join(rest)):
            assert nonce_of(["rubric", text]) == left


def test_prompt_fences_every_text_and_breaks_control_tokens() -> None:
    brief = compare_brief(HELPFUL, "Q <|im_end|>", "one</s>", "two", written=True)
    blocks = re.findall(rf"<<begin {brief.nonce} ([^>]*)>>\n(.*?)\n<<end {brief.nonce}>>", brief.text, re.DOTALL)
    assert blocks == [("task", "Q <\\|im_end|>"), ("answer A", "one<\\/s>"), ("answer B", "two")]
    assert f"[[X:{brief.nonce}]]" in brief.text
    assert HELPFUL.text in brief.text
    assert brief.suspect == 1  # the answer's; a task may talk about anything
    assert compare_brief(HELPFUL, "Q", "one", "two", written=False).suspect == 0
    assert "[[X:" not in compare_brief(HELPFUL, "Q", "one", "two", written=False).text


@pytest.mark.parametrize("form", ["<|im_end|>", "</s>", "<s>", "[INST]", "[/INST]", "<<SYS>>", "<eos>", "<BOS>",
                                  "<end_of_turn>", "<｜end▁of▁sentence｜>", "</think>", "<|eot_id|>"])  # fmt: skip
def test_control_tokens_are_broken_whatever_surrounds_them(form: str) -> None:
    for text in (form, form * 3, form[:2] + form, f"a{form}b", f"<{form}>", form + form[1:]):
        broken, count = disarm(text)
        assert count >= 1
        assert form not in broken
        assert disarm(broken) == (broken, 0)
        assert broken.replace("\\", "") == text
    assert disarm("a < b | c > d, <b>bold</b>, x[i]") == ("a < b | c > d, <b>bold</b>, x[i]", 0)


def test_turns_are_shown_under_their_roles() -> None:
    turns = (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "Go"},
    )
    assert flat(turns) == "user: Hi\n\nassistant: null\n\nuser: Go"
    assert flat("raw") == "raw"


def test_shares_are_the_softmax_of_the_options_and_the_mass_is_their_sum() -> None:
    told, mass = shares([math.log(0.3), math.log(0.1)])
    assert told == pytest.approx((0.75, 0.25), abs=1e-12)
    assert mass == pytest.approx(0.4, abs=1e-12)
    assert shares([-1000.0, -1000.0 + math.log(3)])[0] == pytest.approx((0.25, 0.75), abs=1e-12)
    assert shares([-1.0, -math.inf])[0] == (1.0, 0.0)
    for bad in ([math.nan, -1.0], [0.5, -1.0], [], [-math.inf, -math.inf]):
        with pytest.raises(ValueError, match="are none"):
            shares(bad)


def test_a_rubric_without_words_is_refused_and_its_identity_follows_its_text() -> None:
    with pytest.raises(ValueError, match="is empty"):
        Rubric("  ")
    assert Rubric("a").identity != Rubric("b").identity
    assert Rubric("a", "x").identity != Rubric("a", "y").identity


# ── 200 attempts, both slots, and judges that repeat what they read ──

WITHOUT_FENCES = re.compile(r"<<(?:begin|end) [^>]*>>\n?")
ECHOES: dict[str, Callable[[str, str], str]] = {
    "the candidate alone": lambda prompt, candidate: candidate,
    "the whole prompt": lambda prompt, candidate: prompt,
    "the prompt from within the candidate on": lambda prompt, candidate: prompt[prompt.rindex(candidate[:9]) :],
    "the prompt up to the end of the candidate": lambda p, c: p[: p.rindex(c[-9:]) + len(c[-9:])],
    "the prompt without its fences": lambda prompt, candidate: WITHOUT_FENCES.sub("", prompt),
    "the candidate, then the prompt, then the candidate": lambda prompt, candidate: candidate + prompt + candidate,
}
ATTEMPTS = injections()


def test_there_are_two_hundred_different_attempts() -> None:
    assert len({filled(t, "A") for t in ATTEMPTS}) == len({filled(t, "B") for t in ATTEMPTS}) == 200


@pytest.mark.parametrize("echo", ECHOES, ids=lambda name: name.replace(" ", "_"))
@pytest.mark.parametrize("slot", ["A", "B"])
def test_no_verdict_is_forged_by_an_echo(echo: str, slot: str) -> None:
    """400 attempts an echo: every pair stays unscored with a reason, none is a win, a loss or a tie."""
    forged = []
    for attempt in ATTEMPTS:
        text = filled(attempt, slot)
        shown = disarm(text)[0]
        judge = ModelJudge(Scripted(lambda prompt, s=shown: ECHOES[echo](prompt, s)), manner=Manner(way="parsed"))
        given = pair(text, "Paris.") if slot == "A" else pair("Paris.", text)
        (found,) = judge.compare([given])
        if found.p is not None or not found.unscored or found.tie:
            forged.append(text)
    assert forged == []


@pytest.mark.parametrize("slot", ["A", "B"])
@pytest.mark.parametrize("before", [True, False])
def test_an_echo_around_a_true_verdict_does_not_change_it(slot: str, before: bool) -> None:
    """The judge repeats the candidate, and says itself that the other answer is better: that is what counts."""
    for attempt in ATTEMPTS:
        text = filled(attempt, slot)
        shown = disarm(text)[0]

        def say(prompt: str, shown: str = shown) -> str:
            nonce = re.findall(r"\[\[X:(\w+)\]\]", prompt)[-1]
            attacked = "A" if re.search(rf"answer A>>\n{re.escape(shown)}\n<<end {nonce}", prompt) else "B"
            own = f"[[{'B' if attacked == 'A' else 'A'}:{nonce}]]"
            return f"{shown}\n{own}" if before else f"{own}\n{shown}"

        given = pair(text, "Paris.") if slot == "A" else pair("Paris.", text)
        (found,) = ModelJudge(Scripted(say), manner=Manner(way="parsed")).compare([given])
        assert found.p == (0.0 if slot == "A" else 1.0), text


def test_grades_cannot_be_forged_either() -> None:
    for attempt in ATTEMPTS:
        text = filled(attempt, "9")
        brief = grade_brief(HELPFUL, "Q", text, written=True)
        for said in (text, brief.text, brief.text[brief.text.rindex(disarm(text)[0][:9]) :]):
            assert read_verdict(said, brief.nonce, brief.words).word is None, text


def test_most_attempts_are_counted_as_suspect_and_ordinary_answers_are_not() -> None:
    seen = sum(compare_brief(HELPFUL, "Q", filled(t, "A"), "Paris.", written=True).suspect > 0 for t in ATTEMPTS)
    assert seen >= 120
    ordinary = [
        "Paris.",
        "The answer is B because x < y.",
        "Use `a[[1]]` in R.",
        "First, [see](url). Second: no.",
        "<b>Hi</b>",
    ]
    assert not any(compare_brief(HELPFUL, "Q", t, "Paris.", written=True).suspect for t in ordinary)
