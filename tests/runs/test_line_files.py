"""Line files: strict JSON, whole lines only, exact offsets."""

import errno
import json
import math
import os
import resource

import numpy as np
import pytest
import torch
from faults import count_calls, failing_at, in_child, start
from hypothesis import given
from hypothesis import strategies as st

from trueup.errors import ResourceError, RunError, TrueupError
from trueup.runs.metrics import JsonlWriter, encode_line, number, read_jsonl

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=5))
def test_what_goes_in_comes_out_on_one_line(value):
    line = encode_line(value)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert json.loads(line) == value
    assert encode_line(dict(reversed(value.items()))) == line


def test_step_and_loss_first_then_by_name():
    assert encode_line({"b": 1, "loss": 0.5, "a": 2, "step": 3}) == b'{"step": 3, "loss": 0.5, "a": 2, "b": 1}\n'


def test_non_finite_numbers_are_words_and_come_back():
    line = encode_line({"step": 1, "loss": math.nan, "deep": {"x": [math.inf, -math.inf]}})
    assert line == b'{"step": 1, "loss": "nan", "deep": {"x": ["inf", "-inf"]}}\n'
    assert math.isnan(number("nan")) and number("inf") == math.inf and number("-inf") == -math.inf
    assert number(3) == 3.0
    for odd in ("", "NaN", "1.0", None, True, [1]):
        with pytest.raises(RunError, match="is not a number"):
            number(odd)


def test_scalars_of_numpy_and_torch_are_numbers():
    line = encode_line({"a": np.float64(0.1), "b": np.int32(3), "c": torch.tensor(0.5), "d": np.bool_(True)})
    assert line == b'{"a": 0.1, "b": 3, "c": 0.5, "d": true}\n'
    assert encode_line({"loss": torch.tensor(math.nan)}) == b'{"loss": "nan"}\n'


@pytest.mark.parametrize("bad", [{"a": object()}, {"a": {1: 2}}, {"a": torch.ones(2)}, {"a": b"x"}, [1]])
def test_what_json_cannot_hold_is_refused_and_nothing_is_written(tmp_path, bad):
    with JsonlWriter(tmp_path / "m.jsonl") as writer, pytest.raises(TrueupError):
        writer.append(bad)
    assert (tmp_path / "m.jsonl").read_bytes() == b""


def test_each_line_is_readable_at_once(tmp_path):
    with JsonlWriter(tmp_path / "m.jsonl") as writer:
        for step in (1, 2, 3):
            writer.append({"step": step, "loss": 1 / step})
            assert [r["step"] for r in read_jsonl(tmp_path / "m.jsonl")] == list(range(1, step + 1))
            assert writer.offset() == (tmp_path / "m.jsonl").stat().st_size


def test_truncate_and_go_on_gives_the_same_bytes(tmp_path):
    with JsonlWriter(tmp_path / "calm") as calm:
        for step in range(1, 6):
            calm.append({"step": step, "loss": 1 / step})
    with JsonlWriter(tmp_path / "broken") as writer:
        for step in range(1, 5):
            writer.append({"step": step, "loss": 1 / step})
            if step == 2:
                writer.fsync()
                offset = writer.offset()
    with open(tmp_path / "broken", "ab") as raw:
        raw.write(b'{"step": 5, "lo')
    with JsonlWriter(tmp_path / "broken") as writer:
        writer.truncate_to(offset)
        for step in range(3, 6):
            writer.append({"step": step, "loss": 1 / step})
    assert (tmp_path / "broken").read_bytes() == (tmp_path / "calm").read_bytes()


@pytest.mark.parametrize("torn", [b'{"step": 2', b"\xff\xfe", b"x" * 200_000])
def test_a_torn_last_line_is_reported_then_cut_off(tmp_path, torn, caplog):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n' + torn)
    records = read_jsonl(path)
    assert records == [{"step": 1}] and records.torn == torn.decode(errors="replace")
    with JsonlWriter(path) as writer:
        writer.append({"step": 2})
    assert f"cut off an unfinished last line of {len(torn)} bytes" in caplog.text
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'
    assert read_jsonl(path).torn is None


def test_a_file_of_one_torn_line_becomes_empty(tmp_path):
    (tmp_path / "m").write_bytes(b'{"st')
    JsonlWriter(tmp_path / "m").close()
    assert (tmp_path / "m").read_bytes() == b""


def test_offsets_that_do_not_fit_the_file(tmp_path):
    with JsonlWriter(tmp_path / "m") as writer:
        writer.append({"step": 1})
        with pytest.raises(RunError, match="12 bytes, but the checkpoint was saved after 99"):
            writer.truncate_to(99)
        for offset in (-1, 5):
            with pytest.raises(RunError, match="not the end of a line"):
                writer.truncate_to(offset)
        writer.truncate_to(12)
        writer.truncate_to(0)
    assert (tmp_path / "m").read_bytes() == b""


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"a": 1}\n{"a": \n{"a": 2}\n', "m:2: not JSON"),
        (b"\n", "m:1: not JSON"),
        (b'{"a": NaN}\n', "m:1: not JSON: NaN is not JSON"),
        (b'{"a": 1, "a": 2}\n', "m:1: not JSON: the same key twice"),
        (b"[1]\n", "m:1: not a JSON object"),
        (b'{"a": "\xff"}\n', "m:1: not JSON"),
        (b"[" * 100_000 + b"\n", "m:1: not JSON: nested too deeply"),
        (b'{"a": 1}\n\x00\x00\x00\n', "m:2: not JSON"),
    ],
)
def test_any_other_damage_is_an_error_with_its_line(tmp_path, raw, message):
    (tmp_path / "m").write_bytes(raw)
    with pytest.raises(RunError, match=message):
        read_jsonl(tmp_path / "m")


def test_a_missing_file(tmp_path):
    with pytest.raises(RunError, match=r"absent\.jsonl: cannot be read: No such file"):
        read_jsonl(tmp_path / "absent.jsonl")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_refused_line_leaves_no_part_of_itself(tmp_path, number):
    with JsonlWriter(tmp_path / "m") as writer:
        writer.append({"step": 1})
        assert count_calls(lambda: writer.append({"step": 2})) == 1
        with failing_at(1, number), pytest.raises(ResourceError, match="while adding a line"):
            writer.append({"step": 3, "text": "x" * 100})
        writer.append({"step": 4})
    assert [r["step"] for r in read_jsonl(tmp_path / "m")] == [1, 2, 4]


def test_a_real_size_limit(tmp_path):
    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with JsonlWriter(tmp_path / "m") as writer:
            writer.append({"step": 1})
            with pytest.raises(ResourceError, match="size limit"):
                writer.append({"text": "x" * 200})
            writer.append({"step": 2})

    assert in_child(work) == 0
    assert [r["step"] for r in read_jsonl(tmp_path / "m")] == [1, 2]


def test_two_writers_never_mix_lines(tmp_path):
    def work(name):
        with JsonlWriter(tmp_path / "m") as writer:
            for step in range(300):
                writer.append({"who": name, "step": step, "text": name * 50})

    JsonlWriter(tmp_path / "m").close()
    pid = start(lambda: work("a"))
    work("b")
    os.waitpid(pid, 0)
    records = read_jsonl(tmp_path / "m")
    for name in "ab":
        assert [r["step"] for r in records if r["who"] == name] == list(range(300))
