"""The pages in a real browser: nothing asked for, nothing complained of, drawn, fit for a phone; text stays text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, Page
from run_folders import figures, greedy, policy_metrics, write_run

from trueup.reports.page import LARGEST
from trueup.reports.write import write_comparison, write_report

EVIL = "</script><script>window.evil=1</script>\"'><img src=x onerror=window.evil=1>{{ 7 * 7 }}"
SCORES = {
    "before": figures(score=(0.2, 0.1, 0.3), length=(20, 19, 21)),
    "after": figures(score=(0.8, 0.7, 0.9), length=(30, 28, 32)),
}
ALARM = {
    "monitor": "kl", "step": 9, "level": "alarm", "seen": "KL 20 nats", "since": 6, "cause": "rate",
    "action": "lower it", "values": {}, "deed": "warned", "done": "nothing was changed",
}  # fmt: skip
DRAWN = [{"step": s, "row": f"r{i}", "answer": f"answer {i} of {s}", "score": 0.1 * s + i, "tokens": 5 * s + i,
          "finish": "stop"} for s in range(1, 13) for i in range(4)]  # fmt: skip
SAMPLES = [greedy(0, "r1", "<|im_start|>user\nWhy?<|im_end|>", "red fish swim far"), *DRAWN,
           greedy(12, "r1", "<|im_start|>user\nWhy?<|im_end|>", "blue fish swim far")]  # fmt: skip
# every coordinate of every chart, and how far the page reaches to the right
SHAPES = """[...document.querySelectorAll('svg *')].flatMap(e =>
  ['d', 'x', 'y', 'x1', 'x2', 'y1', 'y2', 'cx', 'cy', 'r', 'width', 'height']
    .map(a => e.getAttribute(a)).filter(v => v !== null))"""
OVERFLOW = "document.scrollingElement.scrollWidth - document.documentElement.clientWidth"


def policy_run(path: Path, **more: Any) -> Path:
    plain = {"method": "ppo", "metrics": policy_metrics, "samples": SAMPLES, "alarms": [ALARM]}
    return write_run(path, **{**plain, **SCORES, "settings": {"reward": "rule:length"}, **more})


def evaluation(path: Path, name: str = "m") -> Path:
    """A folder as `trueup eval` writes it, with two subjects; one figure without an interval."""
    path.mkdir(parents=True)
    figure = {"name": "reward", "mean": 0.5, "low": 0.4, "high": 0.6, "n": 30, "clusters": 30, "note": name}
    unknown = {**figure, "name": "one", "low": None, "high": None}
    subjects = [
        {"name": who, "figures": [figure, unknown], "left_out": [name], "warnings": [name]} for who in (name, "base")
    ]
    contrast = {
        "measure": "reward", "first": name, "second": "base", "figure": figure, "even": 0.0, "better": 20,
        "worse": 10, "p_value": 0.01, "p_holm": 0.02, "verdict": f"{name} higher",
    }  # fmt: skip
    told = {
        "schema": 1, "kind": "answers", "headline": name, "subjects": subjects, "contrasts": [contrast],
        "warnings": [name], "files": {"answers": "answers.jsonl"},
    }  # fmt: skip
    (path / "eval.json").write_text(json.dumps(told))
    lines = [
        {"model": who, "id": f"q{i}", "index": 0, "prompt": [{"role": "user", "content": f"ask {i}"}],
         "answer": f"{who} says {i}", "truncated": False, "tokens": i + 3, "scores": {name: 0.1 * i}}
        for who in (name, "base") for i in range(40)
    ]  # fmt: skip
    (path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def check(page: Page, path: Path) -> None:
    """What must hold of every page."""
    assert page.complaints == []
    assert page.requests == [path.as_uri()] or all(r.startswith("data:") for r in page.requests[1:])
    shapes = page.value(SHAPES)
    assert len(shapes) > 50
    assert not [s for s in shapes if re.search(r"nan|inf|undefined|e[+-]?\d{3}", s, re.IGNORECASE)]
    assert page.value(OVERFLOW) <= 0
    assert page.value("typeof window.evil") == "undefined"
    names = page.value("[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())")
    assert not [n for n in names if n.startswith("on") or n == "style"]
    assert page.value("document.images.length + document.querySelectorAll('link, iframe, object').length") == 0


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One page of each kind that a user can come to."""
    folder = tmp_path_factory.mktemp("pages")
    a, b = (
        policy_run(folder / "a"),
        policy_run(folder / "b", steps=5, settings={"reward": "rule:length", "train": {"lr": 1e-5}}),
    )
    wild = policy_run(
        folder / 'wild "<b>', method=EVIL, alarms=[{**ALARM, "seen": EVIL, "monitor": EVIL, "done": EVIL}],
        metrics=lambda s: {**policy_metrics(s), EVIL: float(s), "huge": 1e305 * (-1) ** s},
        samples=[greedy(0, EVIL, EVIL, EVIL), greedy(12, EVIL, EVIL, f"{EVIL} and more words here")],
        settings={"reward": EVIL}, tokens=EVIL,
    )  # fmt: skip
    one = write_run(folder / "one", steps=1)
    half = write_run(folder / "half", finished=False, steps=7)
    (half / "audit.json").unlink()
    empty = write_run(folder / "empty", steps=0, finished=False)
    evaluation(a / "eval")
    return {
        "run": write_report([a], folder / "r1", pictures=False).page,
        "several": write_report([a, b, half], folder / "r2", pictures=False).page,
        "hostile": write_report([wild], folder / "r3", [evaluation(folder / "ev", EVIL)]).page,
        "one step": write_report([one], folder / "r4", pictures=False).page,
        "unfinished": write_report([half], folder / "r5", pictures=False).page,
        "empty": write_report([empty], folder / "r6").page,
        "compared": write_comparison([a, b], folder / "c1").page,
        "hostile compared": write_comparison([a, wild, one, half], folder / "c2", [folder / "ev"], pictures=False).page,
    }


KINDS = ["run", "several", "hostile", "one step", "unfinished", "compared", "hostile compared"]


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_asks_for_nothing_complains_of_nothing_and_fits(
    browser: Browser, pages: dict[str, Path], kind: str, width: int
) -> None:
    with browser.page(pages[kind], width, dark=width == 390) as page:
        check(page, pages[kind])
        page.value("document.querySelectorAll('details').forEach(d => d.open = true)")
        check(page, pages[kind])


def test_a_run_without_a_single_step_is_still_a_page(browser: Browser, pages: dict[str, Path]) -> None:
    with browser.page(pages["empty"], 390) as page:
        assert page.complaints == [] and page.value(OVERFLOW) <= 0
        assert "not finished" in page.value("document.querySelector('.sentence').innerText")


def test_hostile_text_is_shown_as_it_is_written(browser: Browser, pages: dict[str, Path]) -> None:
    with browser.page(pages["hostile"]) as page:
        text = page.value("document.body.textContent")
        assert text.count(EVIL) > 10
        assert "49" not in page.value("document.querySelector('h1').innerText")


def test_the_pointer_and_the_keys_read_values(browser: Browser, pages: dict[str, Path]) -> None:
    with browser.page(pages["run"]) as page:
        page.value("document.querySelector('svg[data-hover]').scrollIntoView({behavior: 'instant'})")
        box = "document.querySelector('svg[data-hover]').getBoundingClientRect()"
        x, y = page.value(f"(b => [b.left + b.width * 0.4, b.top + b.height / 2])({box})")
        page.do("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        tip = "[...document.querySelectorAll('.tip:not([hidden])')].map(t => t.innerText).join('|')"
        read = re.fullmatch(r"step (\d+)\n.*?−0\.0(\d)00", page.value(tip).replace("training: ", ""))
        assert read is not None and read[1] == read[2], page.value(tip)  # the loss of step n is −0.01 n
        assert page.value("document.querySelectorAll('.hover:not([hidden]) circle').length") == 1
        page.do("Input.dispatchMouseEvent", type="mouseMoved", x=2, y=2)
        page.value("document.querySelector('svg[data-hover]').focus()")
        page.do("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft")
        assert page.value(tip).startswith("step 11")


def test_the_theme_follows_the_system_until_the_button_is_pressed(browser: Browser, pages: dict[str, Path]) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    with browser.page(pages["run"], dark=True) as page:
        dark = page.value(paper)
        page.value("document.querySelector('.toggle').click()")
        light = page.value(paper)
    with browser.page(pages["run"]) as page:
        assert page.value(paper) == light != dark
        page.value("document.querySelector('.toggle').click()")
        assert page.value(paper) == dark


def test_text_can_be_read_in_both_themes(browser: Browser, pages: dict[str, Path]) -> None:
    """Contrast of every text colour with the paper, as WCAG 2 reckons it: 4.5 at least."""
    script = """(() => {
      const linear = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
      const lum = c => { const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(v => linear(v / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const paper = lum(getComputedStyle(document.body).backgroundColor);
      const ratio = c => { const l = lum(c); return (Math.max(l, paper) + 0.05) / (Math.min(l, paper) + 0.05); };
      const colour = e => getComputedStyle(e)[e.tagName === 'text' ? 'fill' : 'color'];
      return [...document.querySelectorAll('p, b, td, th, dt, dd, h1, h2, h3, small, summary, text, li, a')]
        .filter(e => e.getClientRects().length && e.textContent.trim() && !e.closest('.tip'))
        .map(e => [ratio(colour(e)), e.tagName, e.className.baseVal ?? e.className])
        .sort((a, b) => a[0] - b[0])[0]; })()"""
    for dark in (False, True):
        for kind in ("run", "hostile compared"):
            with browser.page(pages[kind], dark=dark) as page:
                least = page.value(script)
                assert least[0] >= 4.5, least


def test_it_prints_with_everything_open(browser: Browser, pages: dict[str, Path]) -> None:
    with browser.page(pages["run"]) as page:
        page.value("dispatchEvent(new Event('beforeprint'))")
        assert page.value("[...document.querySelectorAll('details')].every(d => d.open)")
        assert len(page.do("Page.printToPDF")["data"]) > 10_000


def test_pages_are_small_and_hold_no_address(pages: dict[str, Path]) -> None:
    for path in pages.values():
        text = path.read_text()
        assert len(text.encode()) < LARGEST
        assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)\s*=", text.split("<body>")[0])
        assert re.search(r"default-src &#39;none&#39;|default-src 'none'", text)


def test_a_long_run_stays_small(tmp_path: Path, browser: Browser) -> None:
    def noisy(step: int) -> dict[str, float]:
        return {f"metric/{i}": ((step * 7919 + i) % 1000) / 1000 for i in range(30)} | {"loss": 1.0 / step}

    long_text = "word " * 40_000
    samples = [
        greedy(s, f"r{i}", f"prompt {i} {long_text}", f"{s} {i} {long_text}") for s in (0, 3000) for i in range(20)
    ]
    path = write_report(
        [write_run(tmp_path / "run", steps=3000, metrics=noisy, samples=samples)], tmp_path / "out", pictures=False
    ).page
    assert path.stat().st_size < LARGEST
    with browser.page(path, 390) as page:
        check(page, path)
