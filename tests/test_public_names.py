"""What `import trueup` hands out, and what it does not load."""

from __future__ import annotations

import subprocess
import sys

import trueup


def test_every_public_name_is_there_and_sorted() -> None:
    assert trueup.__all__ == sorted(trueup.__all__)
    for name in trueup.__all__:
        assert getattr(trueup, name).__name__ == name
    assert "Pairs" in dir(trueup)


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(trueup, "Pear")


def test_neither_the_package_nor_help_loads_torch() -> None:
    code = (
        "import sys, trueup, trueup.cli.main as m; code = m.run(['--help']);"
        "loaded = {'torch', 'transformers', 'numpy'} & set(sys.modules); sys.exit(code or (3 if loaded else 0))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
