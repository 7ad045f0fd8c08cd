"""Kinds of files: what they hold reads alike from each, and a file that is broken is refused as a whole."""

import bz2
import gzip
import json
import random
import tracemalloc

import datasets
import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from trueup.data.read import read_rows
from trueup.data.write import write_rows
from trueup.errors import DataError, ResourceError
from trueup.types import Comparison, Example, Rating

PAIRS = [
    {"id": "a", "prompt": 'Q, or "not"?', "chosen": "yes\nindeed", "rejected": "no", "margin": 1.5},
    {"id": "b", "prompt": "ünïcode \u2028 line", "chosen": "[1, 2]", "rejected": "{}", "margin": 0.25},
]
TALKS = [
    {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": None}}}]},
            {"role": "tool", "content": "1", "tool_call_id": "c"},
            {"role": "assistant", "content": "done"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {}}}}}],
    },
    {"messages": [{"role": "user", "content": "r"}, {"role": "assistant", "content": "s"}]},
]
LABELS = [{"prompt": "p", "completion": "c", "label": True}, {"prompt": "", "completion": "d", "label": False}]
NAMES = [f"rows{kind}{packing}" for kind in (".jsonl", ".json", ".csv", ".parquet") for packing in ("", ".gz", ".zst")]


def bare(rows):
    """Rows without where they stood."""
    return [
        {name: getattr(row, name) for name in row.__dataclass_fields__ if name not in ("origin", "id")} for row in rows
    ]


@pytest.mark.parametrize("rows", [PAIRS, TALKS, LABELS], ids=["pairs", "talks", "labels"])
@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_file_reads_alike(name, rows, tmp_path):
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert write_rows(tmp_path / name, rows) == len(rows)
    report, expected = read_rows(tmp_path / name), read_rows(plain)
    assert (report.format, report.read, report.rejected) == (expected.format, len(rows), 0)
    assert bare(report.rows) == bare(expected.rows)


def test_packed_files_are_reproducible(tmp_path):
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_rows(tmp_path / name, PAIRS)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_bom_crlf_blank_lines_and_no_final_line_feed(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(row).encode() for row in PAIRS]
    path.write_bytes(b"\xef\xbb\xbf" + lines[0] + b"\r\n\r\n \t\n" + lines[1])
    report = read_rows(path)
    assert [row.origin for row in report.rows] == [f"{path}:1", f"{path}:4"]
    assert report.rows[0].chosen == "yes\nindeed"


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_members_packed_one_after_another(packing, tmp_path):
    pack = gzip.compress if packing == ".gz" else zstandard.ZstdCompressor().compress
    path = tmp_path / f"a.jsonl{packing}"
    path.write_bytes(b"".join(pack(json.dumps(row).encode() + b"\n") for row in PAIRS))
    assert len(read_rows(path).rows) == 2


@pytest.mark.parametrize("mode", ["error", "skip", "quarantine"])
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_truncated_packed_file_is_refused_in_every_mode(packing, kind, mode, tmp_path):
    path = tmp_path / f"a{kind}{packing}"
    noise = random.Random(0)
    write_rows(path, [{"text": noise.randbytes(300).hex()} for _ in range(200)])
    whole = path.read_bytes()
    for keep in (len(whole) - 1, len(whole) // 2, 30):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError, match=r"truncated|damaged"):
            read_rows(path, bad_rows=mode)
    assert not list(tmp_path.glob("*quarantine*"))


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_flipped_bytes_are_found(packing, tmp_path):
    path = tmp_path / f"a.jsonl{packing}"
    packed = bytearray(
        gzip.compress(json.dumps(PAIRS[0]).encode())
        if packing == ".gz"
        else zstandard.ZstdCompressor(write_checksum=True).compress(json.dumps(PAIRS[0]).encode())
    )
    packed[-1 if packing == ".zst" else -6] ^= 255
    path.write_bytes(packed)
    with pytest.raises(DataError, match="damaged"):
        read_rows(path)


BROKEN = {
    "empty": ("a.jsonl", b"", "holds no rows"),
    "empty gzip": ("a.jsonl.gz", b"", "holds no rows"),
    "only blank lines": ("a.jsonl", b"\n \r\n\n", "holds no rows"),
    "only a BOM": ("a.jsonl", b"\xef\xbb\xbf", "holds no rows"),
    "empty array": ("a.json", b" [ ] ", "holds no rows"),
    "empty CSV": ("a.csv", b"", "holds no rows"),
    "header alone": ("a.csv", b"prompt,chosen,rejected\n", "holds no rows"),
    "empty Parquet": ("a.parquet", b"", "cannot be read as Parquet"),
    "binary": ("a.jsonl", bytes(range(256)) * 20, "is a binary file"),
    "ELF": ("a.csv", b"\x7fELF\x02\x01\x01" + bytes(200), "is a binary file"),
    "gzip without .gz": ("a.jsonl", gzip.compress(b"{}"), "a gzip file; name it .gz"),
    "zstd without .zst": ("a.json", zstandard.ZstdCompressor().compress(b"{}"), "a zstd file; name it .zst"),
    "zip": ("a.csv", b"PK\x03\x04rest", "a zip archive"),
    "Parquet named JSON": ("a.jsonl", b"PAR1xxxx", "a Parquet file; name it .parquet"),
    "text named .gz": ("a.jsonl.gz", b'{"text": "t"}\n', "damaged or not gzip data"),
    "bzip2 named .zst": ("a.jsonl.zst", bz2.compress(b"{}"), "damaged or not zstd data"),
    "text named .parquet": ("a.parquet", b'{"text": "t"}\n', "cannot be read as Parquet"),
    "UTF-16": ("a.jsonl", '{"text": "t"}'.encode("utf-16"), "UTF-16 text; save it as UTF-8"),
    "unknown suffix": ("a.txt", b"hello", "unknown kind of file '.txt'"),
    "no suffix": ("rows", b"hello", "unknown kind of file"),
    "array cut off": ("a.json", b'[{"text": "t"}, {"text": "u', "a.json:1: the array does not end"),
    "array with a quote too many": ("a.json", b'[{"text": "t"},\n{"te"xt": "u"}]', "a.json:2: the array does not end"),
    "array and more": ("a.json", b'[{"text": "t"}] x', "stands outside of the array"),
    "array with an empty place": ("a.json", b'[{"text": "t"},, {"text": "u"}]', "a comma without a row"),
    "array with a comma at the end": ("a.json", b'[{"text": "t"},]', "a comma without a row"),
    "a JSON string": ("a.json", b'"hello"', "must hold an array of rows"),
    "open quote": ("a.csv", b'text\nfine\n"never closed\nmore\n', "a.csv:3: a quote opens here and is never closed"),
    "broken quotes": ("a.csv", b'text,more\nfine,1\n"a"b,"c\nd",2\n', "a.csv:3: is not CSV"),
    "column twice": ("a.csv", b"text,text\na,b\n", "names 'text' twice"),
    "semicolons": ("a.csv", b"prompt;chosen;rejected\na;b;c\n", "is not separated by commas"),
}


@pytest.mark.parametrize("mode", ["error", "skip"])
@pytest.mark.parametrize(("name", "content", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_with_one_line(name, content, message, mode, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_rows(path, bad_rows=mode)
    assert message in str(error.value) and str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_what_is_not_there(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        read_rows(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="is a folder, but not one saved by the datasets library"):
        read_rows(tmp_path)


def test_a_link_to_nothing_and_a_file_without_permission(tmp_path):
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match="no such file"):
        read_rows(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_rows(tmp_path / "b.jsonl")


def test_a_fault_in_a_json_array_stays_in_its_row(tmp_path):
    path = tmp_path / "a.json"
    bad = [
        b'{"text": "a", "text": "b"}',
        b'{"text": NaN}',
        b"{'text'}",
        b'{"text": "\\ud800"}',
        b"[" * 9999 + b"]" * 9999,
    ]
    good = b'{"text": "x] } , \\" \\\\", "more": [{"a": "[{"}, []]}'
    path.write_bytes(b"[" + b",\n".join([good, *bad, good]) + b"\n]\n")
    report = read_rows(path, bad_rows="skip")
    assert (report.read, report.kept) == (7, 2)
    assert [problem.line for problem in report.problems] == [2, 3, 4, 5, 6]
    assert [row.id for row in report.rows] == ["a.json:1", "a.json:7"]


def test_json_lines_named_json(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('\n{"text": "a"}\n{"text": "b"}\n')
    assert [row.id for row in read_rows(path).rows] == ["a.json:2", "a.json:3"]


def test_csv_cells(tmp_path):
    path = tmp_path / "a.csv"
    lines = [
        b"prompt,completion,label",
        b'p,"two\r\nlines, one cell",True',
        b"p,c,0",
        b"",
        b"p,c,yes",
        b"p,c",
        b"p,c,1,more",
        b'p,"c"c,1',
        b"p,\xff,1",
        b"p,,1",
        b"p,c,false",
        b'p,"nul \x00",1',
    ]
    path.write_bytes(b"\r\n".join(lines))
    report = read_rows(path, bad_rows="quarantine")
    assert [row.label for row in report.rows] == [True, False, False]
    assert report.rows[0].completion == "two\r\nlines, one cell"
    assert [(problem.line, problem.field) for problem in report.problems] == [
        (6, "label"),
        (7, "row"),
        (8, "row"),
        (9, "row"),
        (10, "row"),
        (11, "completion"),
        (13, "completion"),
    ]
    again = read_rows_of_quarantine(report, tmp_path)
    assert [problem.field for problem in again.problems] == [problem.field for problem in report.problems]


def read_rows_of_quarantine(report, tmp_path):
    path = tmp_path / "again.jsonl"
    good = json.dumps({"prompt": "p", "completion": "c", "label": True}) + "\n"
    path.write_bytes(good.encode() + report.quarantine.read_bytes())
    return read_rows(path, bad_rows="skip")


def test_a_mended_csv_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'prompt,completion,label\np,"c, d",maybe\np,e,1\n')
    report = read_rows(path, bad_rows="quarantine")
    line = json.loads(report.quarantine.read_text())
    assert line["raw"] == 'p,"c, d",maybe' and line["header"] == ["prompt", "completion", "label"]
    report.quarantine.write_text(json.dumps(line | {"raw": line["raw"].replace("maybe", "true")}))
    (row,) = read_rows(report.quarantine).rows
    assert row == Rating(id="a.csv:2", origin=f"{path}:2", prompt="p", completion="c, d", label=True)


def test_parquet_faults_are_of_rows(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table(
        {
            "prompt": ["p", "p", "p"],
            "completion": ["c", None, "d"],
            "label": pa.array([1, 0, 3], pa.int8()),
            "score": [float("nan")] * 3,
        }
    )
    pq.write_table(table, path)
    report = read_rows(path, bad_rows="quarantine", format="unpaired")
    assert [str(problem) for problem in report.problems] == [
        f"{path}:2: completion: is missing",
        f"{path}:3: label: must be true or false (or the number 1 or 0), not a number 3",
    ]
    assert report.unused == ("score",)


def test_damaged_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    write_rows(path, [{"text": f"{number}"} for number in range(500)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_rows(path)


def save(folder, rows):
    """A folder as ``Dataset.save_to_disk`` lays it out."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as out,
    ):
        out.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_a_folder_of_the_datasets_library(tmp_path):
    rows = list(PAIRS)
    datasets.Dataset.from_list(rows).select([1]).save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "many")
    assert [row.id for row in read_rows(tmp_path / "one").rows] == ["b"]
    report = read_rows(tmp_path / "many")
    assert (report.format, [row.origin for row in report.rows]) == (
        "preference",
        [f"{tmp_path}/many:1", f"{tmp_path}/many:2"],
    )
    with pytest.raises(DataError, match="has no split 'test'; it has 'train'"):
        read_rows(tmp_path / "many", split="test")


def test_a_saved_folder_may_not_point_outside(tmp_path):
    save(tmp_path / "victim", PAIRS)
    folder = save(tmp_path / "folder", PAIRS)
    for name in ("../victim/data-00000-of-00001.arrow", "/etc/passwd", 3):
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
        with pytest.raises(DataError, match="is not the name of a file in the folder"):
            read_rows(folder)


def test_a_damaged_folder(tmp_path):
    folder = save(tmp_path / "folder", PAIRS)
    arrow = folder / "data-00000-of-00001.arrow"
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be read as Arrow"):
        read_rows(folder)
    (folder / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"state.json: cannot be read"):
        read_rows(folder)


def test_a_name_in_a_local_folder_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="data/rows: no such file or folder"):
        read_rows("data/rows")


def test_a_hub_id_without_a_network(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match="no-such-owner/no-such-set: is no local file, and the hub did not give its split"
    ):
        read_rows("no-such-owner/no-such-set")


def test_a_line_of_50_mb_needs_little_memory(tmp_path):
    path = tmp_path / "a.jsonl"
    good = json.dumps({"text": "t"}).encode() + b"\n"
    with path.open("wb") as stream:
        stream.write(good + b'{"text": "')
        for _ in range(50):
            stream.write(b"x" * 1_000_000)
        stream.write(b'"}\n' + good)
    tracemalloc.start()
    try:
        report = read_rows(path, bad_rows="skip")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(report.problems[0]) == f"{path}:2: row: is 50000012 bytes long; the limit is 20000000"
    assert (report.kept, report.rejected) == (2, 1)
    assert peak < 30_000_000


def test_an_array_element_of_50_mb_needs_little_memory(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as stream:
        stream.write(b'[{"text": "t"},\n{"text": "')
        for _ in range(50):
            stream.write(b"x" * 1_000_000)
        stream.write(b'"},\n{"text": "u"}]')
    tracemalloc.start()
    try:
        report = read_rows(path, bad_rows="skip")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (report.kept, [problem.line for problem in report.problems]) == (2, [2])
    assert peak < 30_000_000


def test_a_bomb_is_refused(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    packer = zstandard.ZstdCompressor().compressobj()
    piece = b"x" * 999_999 + b"\n"
    path.write_bytes(b"".join(packer.compress(piece) for _ in range(1000)) + packer.flush())
    assert path.stat().st_size < 200_000
    with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
        read_rows(path)


def test_writing_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.jsonl"
    write_rows(path, PAIRS)
    before = path.read_bytes()
    with pytest.raises(DataError, match="exists already"):
        write_rows(path, TALKS)

    def breaking():
        yield PAIRS[0]
        raise DataError("second row")

    with pytest.raises(DataError, match="second row"):
        write_rows(path, breaking(), overwrite=True)
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["a.jsonl"]
    write_rows(path, TALKS, overwrite=True)
    assert read_rows(path, wanted=Example).kept == 2
    with pytest.raises(DataError, match="does not exist"):
        write_rows(tmp_path / "no" / "a.jsonl", PAIRS)
    with pytest.raises(ResourceError, match="nothing was changed"):
        write_rows(tmp_path / ("n" * 250 + ".jsonl"), PAIRS)


def test_pairs_can_be_had_from_every_file_kind(tmp_path):
    write_rows(tmp_path / "a.csv", [{"prompt": "p", "completions": ["a", "b"], "scores": [1, 2]}])
    (row,) = read_rows(tmp_path / "a.csv", wanted=Comparison).rows
    assert (row.chosen, row.rejected) == ("b", "a")


def test_rows_of_an_array_on_one_line_have_names_of_their_own(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"text": "t"}, {"text": "u"}, {"id": "mine", "text": "v"},\n{"text": "w"}]')
    assert [row.id for row in read_rows(path).rows] == ["a.json:1", "a.json:1#2", "mine", "a.json:2"]
