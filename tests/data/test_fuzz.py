"""Ten thousand rows, most of them damaged: nothing is lost, nothing crashes, and what was refused can be read again."""

import gzip
import json
import random
import re
from pathlib import Path

import pytest

from trueup.data.convert import convert
from trueup.data.formats import FORMATS
from trueup.data.read import RowProblem, read_rows
from trueup.data.write import write_rows
from trueup.errors import DataError

ROWS = 10_000
PIECES = [
    b"", b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b'"', b"\\", b"{", b"}", b"[", b"]", b",",
    b":", b"\r", b"\t", b" ", b"null", b"NaN", b"-Infinity", b"1e999", b"true", b"\xef\xbb\xbf", b"\xe2\x80\xa8",
    b"\x1f", b"[" * 3000, b"9" * 4500, b'"role": "user"', b'"chosen": "x", ', b"\\ud83d\\ude00", "é".encode(), b"\x85",
]  # fmt: skip
VALUES = [
    None, "", " ", "x", 0, 1, -1, 2.5, True, False, [], {}, [[]], [{}], ["a"], {"role": "user"}, "true", "NaN",
    "\ud800", "\0", 10**30, [{"role": "bot", "content": "x"}], [{"role": "assistant", "content": ""}],
    [{"role": "assistant", "content": "fine"}], [{"from": "gpt", "value": 1}], "\n\nHuman: q\n\nAssistant: a",
    {"from": "gpt", "value": "v"}, [[["a", "b"]]], "[", '{"a": 1}',
]  # fmt: skip
PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text("utf-8")
SEEDS = {
    name: json.loads(block.splitlines()[0])
    for name, block in re.findall(r"^### ([\w-]+)\n.*?^```json\n(.*?)\n^```", PAGE, flags=re.S | re.M)
}


def changed(row, noise):
    """A row with one value somewhere in it replaced, dropped or added."""
    row = json.loads(json.dumps(row))
    holder = row
    for _ in range(noise.randrange(4)):
        inside = [value for value in (holder.values() if isinstance(holder, dict) else holder) if value]
        inside = [value for value in inside if isinstance(value, (dict, list))]
        if not inside:
            break
        holder = noise.choice(inside)
    keys = list(holder) if isinstance(holder, dict) else range(len(holder))
    key = noise.choice(list(keys)) if keys else None
    action = noise.randrange(3)
    if key is None or (action == 0 and isinstance(holder, dict)):
        if isinstance(holder, dict):
            holder[noise.choice(["id", "label", "images", "extra", "score", "text"])] = noise.choice(VALUES)
    elif action == 1:
        del holder[key]
    else:
        holder[key] = noise.choice(VALUES)
    return row


def line(seed, noise):
    """One line of the fuzzed file; it holds no line feed and is not blank."""
    kind = noise.randrange(4)
    if kind == 0:
        return json.dumps(seed).encode()
    text = json.dumps(changed(seed, noise), ensure_ascii=noise.random() < 0.5).encode("utf-8", "surrogatepass")
    if kind == 1:
        return text
    at = noise.randrange(len(text))
    piece = noise.choice(PIECES) if noise.random() < 0.7 else noise.randbytes(noise.randrange(1, 5)).replace(b"\n", b"")
    return (text[:at] + piece + text[at + noise.randrange(3) :]) if kind == 2 else text[:at] or b"x"


def check(report, path, lines):
    """Every line is accounted for exactly once."""
    assert report.read == len(lines) == report.kept + report.rejected
    kept = {int(row.origin.rpartition(":")[2]) for row in report.rows}
    lost = [problem.line for problem in report.problems]
    assert len(lost) == len(set(lost)) and not kept & set(lost)
    assert kept | set(lost) == set(range(1, len(lines) + 1))
    for problem in report.problems:
        assert isinstance(problem, RowProblem) and problem.field and problem.reason
        assert str(problem).startswith(f"{path}:{problem.line}: {problem.field}: ") and "\n" not in str(problem)
        assert len(str(problem)) < 500


def check_writing(rows):
    """Whatever was read is written in each format, or refused with the row named."""
    noise = random.Random(0)
    for row in noise.sample(rows, 40):
        for name in FORMATS:
            try:
                assert all(isinstance(fields, dict) for fields in convert([row], name))
            except DataError as error:
                assert str(error).startswith(f"{row.origin}: ")


@pytest.mark.parametrize("name", SEEDS)
def test_fuzzed_rows_are_kept_or_refused_and_refused_ones_read_again(name, tmp_path):
    noise = random.Random(f"rows of {name}")
    seed = SEEDS[name]
    lines = [json.dumps(seed).encode()] * 3 + [line(seed, noise) for _ in range(ROWS // len(SEEDS) + 1)]
    lines = [item if item.strip(b" \t\r") else b"x" for item in lines]
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(lines)))
    report = read_rows(path, bad_rows="quarantine", format=name)
    assert all(isinstance(row, FORMATS[name].makes) for row in report.rows)
    check(report, path, lines)
    assert report.kept > 0.2 * len(lines) and report.rejected > 0.2 * len(lines)

    check_writing(report.rows)

    with pytest.raises(DataError):
        read_rows(path, format=name)
    skipped = read_rows(path, bad_rows="skip", format=name)
    assert (skipped.rows, skipped.problems, skipped.quarantine) == (report.rows, report.problems, None)

    held = report.quarantine.read_bytes().splitlines()
    again = tmp_path / "again.jsonl"
    again.write_bytes(json.dumps(seed).encode() + b"\n" + report.quarantine.read_bytes())
    second = read_rows(again, bad_rows="skip", format=name)
    taken = {row.origin for row in second.rows} - {f"{again}:1"}
    # A row refused for an id that a kept row has is fine on its own; every other one is refused again.
    fine = {f"{path}:{problem.line}" for problem in report.problems if problem.field == "id"}
    assert taken <= fine and second.read == len(held) + 1 == report.rejected + 1
    assert [problem.field for problem in second.problems] == [
        problem.field for problem in report.problems if f"{path}:{problem.line}" not in taken
    ]

    mended = tmp_path / "mended.jsonl"
    rows = [json.loads(item) for item in held]
    mended.write_text("".join(json.dumps({**row, "raw": json.dumps(seed)}) + "\n" for row in rows))
    third = read_rows(mended)
    assert (third.kept, third.rejected, third.format) == (report.rejected, 0, name)
    assert list(dict.fromkeys(row.origin for row in third.rows)) == [
        f"{path}:{problem.line}" for problem in report.problems
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".csv.zst"])
def test_fuzzed_files_give_rows_or_one_clear_error(suffix, tmp_path):
    """Bytes changed anywhere in a file: a report that adds up, or a DataError that names the file."""
    noise = random.Random(f"files {suffix}")
    seed = {"prompt": "p", "completion": 'c, "d"\ne', "label": True}

    path = tmp_path / f"rows{suffix}"
    write_rows(path, [seed] * 20)
    whole = path.read_bytes()
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(noise.randrange(1, 4)):
            at = noise.randrange(len(content) or 1)
            content[at : at + noise.randrange(3)] = noise.choice(PIECES[:30])
        path.write_bytes(content[: noise.choice([len(content), noise.randrange(len(content) + 1)])])
        try:
            report = read_rows(path, bad_rows="skip")
        except DataError as error:
            assert str(error).startswith(str(path))
        else:
            assert report.read == report.kept + report.rejected and report.kept == len(report.rows)
