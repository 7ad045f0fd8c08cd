"""What stands above what: circles in it, and an order in which nothing comes before what stands above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter


def cycle(below: Mapping[str, Sequence[str]]) -> list[str] | None:
    """A circle, from above to below, its first name repeated at its end; None if there is none.

    Args:
        below: for each name, those it stands above; names without an entry stand above none.
    """
    try:
        ordered(below)
    except CycleError as found:
        return list(found.args[1])
    return None


def ordered(below: Mapping[str, Sequence[str]]) -> list[str]:
    """Every name, those above first.

    Raises:
        graphlib.CycleError: there is a circle.
    """
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for name, others in below.items():
        sorter.add(name)
        for other in others:
            sorter.add(other, name)
    return list(sorter.static_order())
