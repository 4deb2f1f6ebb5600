"""What `import bayesreg` costs beside the `import torch, pyro` that it needs: whole processes, in turn, in one run.

python benchmarks/import_time.py [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

OURS, BASE = "import bayesreg", "import torch, pyro"


def seconds(code: str) -> float:
    """Wall time of a fresh interpreter that runs `code`."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 45 s")
    rounds = 5 if parser.parse_args().quick else 15
    for code in (OURS, BASE):
        seconds(code)  # warm the file cache
    ratios = [seconds(OURS) / seconds(BASE) for _ in range(rounds)]
    print("| wall time | aim | median | min | max |\n|---|---|---|---|---|")
    print(f"| {OURS} ÷ {BASE} | ≤ 1.15 | {statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |")


if __name__ == "__main__":
    main()
