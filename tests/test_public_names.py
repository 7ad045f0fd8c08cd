"""What `import trueup` hands out, and what it does not load."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import trueup


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_every_public_name_is_there_and_sorted() -> None:
    assert trueup.__all__ == sorted(trueup.__all__)
    assert set(trueup.__all__) == {
        "Comparison", "Example", "Labels", "Likelihoods", "Pairs", "Prompt", "Ranking", "Rating", "RunConfig",
        "Scores", "Step", "TrueupError", "__version__",
    }  # fmt: skip
    for name in trueup.__all__:
        if name != "__version__":
            assert getattr(trueup, name).__name__ == name
    assert set(dir(trueup)) >= set(trueup.__all__)
    assert trueup.__version__ == version("trueup")


def test_names_can_be_imported_the_usual_ways() -> None:
    star = "from trueup import *; from trueup import Pairs as P; print(Pairs is P, Comparison.__name__, __version__)"
    done = python(star)
    assert (done.returncode, done.stdout.split()) == (0, ["True", "Comparison", version("trueup")]), done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(trueup, "Pear")


def test_neither_the_package_nor_its_light_names_nor_help_load_torch() -> None:
    done = python(
        "import sys, trueup, trueup.cli.main as m; trueup.Comparison, trueup.TrueupError, trueup.__version__;"
        "code = m.run(['--help']);"
        "loaded = {'torch', 'transformers', 'numpy'} & set(sys.modules); sys.exit(code or (3 if loaded else 0))"
    )
    assert done.returncode == 0, done.stderr
