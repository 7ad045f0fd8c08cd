"""Runs `trueup demo` as a user would, and keeps its figures and its time.

python benchmarks/demo.py --scratch FOLDER
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from run import machine

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True, help="folder to make for the demo")
    out = parser.parse_args().scratch
    begun = time.monotonic()
    subprocess.run([str(Path(sys.executable).parent / "trueup"), "demo", "--out", str(out)], check=True)
    seconds = time.monotonic() - begun
    report = {"machine": machine(rates=False), "seconds": seconds, **json.loads((out / "results.json").read_text())}
    (HERE / "results" / "demo.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
