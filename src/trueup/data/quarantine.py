"""The file that refused rows go to, with the reason for each; mended, it is read like any other file.

Each line is a JSON object: ``trueup_quarantine`` (1), ``origin`` (``path:line``), ``field``, ``reason`` and the row as
it stood in the file: ``raw`` (text) or ``raw_base64`` (bytes that are not UTF-8). CSV rows bring their ``header``.
Mend ``raw`` and give the file to ``--data``: the rows inside are read as if they stood in the first file. A row too
long to keep has ``raw`` null with its ``offset`` and ``length`` in the unpacked file.
"""

from __future__ import annotations

from pathlib import Path

from trueup.data.fields import RowFault
from trueup.data.records import Record, quarantined
from trueup.data.write import json_text, whole_file
from trueup.errors import DataError


def default_path(path: Path) -> Path:
    """Where the refused rows of ``path`` go when nothing else is said."""
    name = path.name
    for suffix in (".gz", ".zst", ".jsonl", ".ndjson", ".json", ".csv", ".parquet"):
        name = name.removesuffix(suffix)
    return path.with_name(f"{name}.quarantine.jsonl")


class Quarantine:
    """Collects refused rows and writes them when the whole file has been read.

    Args:
        path: file to write.

    Raises:
        DataError: the file holds other rows already (somebody may have mended them).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []

    def add(self, record: Record, origin: str, fault: RowFault) -> None:
        """Take a refused row."""
        self.lines.append(json_text(quarantined(record, origin, fault)) + "\n")

    def write(self) -> Path | None:
        """Write the file; None where no row was refused."""
        if not self.lines:
            return None
        content = "".join(self.lines).encode("utf-8")
        if self.path.exists():
            if self.path.read_bytes() == content:
                return self.path
            raise DataError(f"{self.path}: holds other quarantined rows; move it away or name another file")
        with whole_file(self.path) as draft:
            draft.write_bytes(content)
        return self.path
