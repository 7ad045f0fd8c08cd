"""Every shape rows come in, by name. ``docs/formats.md`` has an example row of each."""

from __future__ import annotations

from typing import Any

from trueup.data.formats import alpaca, completion, preference, ranked, sharegpt, transcripts, vendors
from trueup.data.formats.base import Format

FORMATS: dict[str, Format[Any]] = {
    entry.name: entry
    for family in (preference, completion, transcripts, sharegpt, alpaca, vendors, ranked)
    for entry in family.FORMATS
}
