"""Small fits of every kind, and their numbers as they were: a change that only moves code leaves every one of them.

    python -m tests.recorded_fits              writes the record anew, tests/recorded_fits.json
    python -m tests.recorded_fits --check      compares with it, and prints how far each fit is away

Only the public interface is used. Few steps, so that no rounding has the time to grow.
"""

import argparse
import json
import math
import pathlib
import time
import warnings

import torch

import bayesreg as br
from tests.recorded_cases import CASES

FILE = pathlib.Path(__file__).with_suffix(".json")
# Of each number. Rounding is 1e-16 in double precision and 6e-8 in single; the steps of a search enlarge both, and what a
# thread more or another processor's instructions change stays below these.
RELATIVE = {"float64": 1e-6, "float32": 1e-5}
ABSOLUTE = {"float64": 1e-9, "float32": 1e-6}  # times the largest number of the same line, or 1: what is zero but for rounding


def measured(name):
    """The numbers of a case as JSON gives them back; the random state is kept."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", br.ConvergenceWarning)
        torch.manual_seed(0)
        return json.loads(json.dumps(CASES[name]()))


def recorded():
    return json.loads(FILE.read_text(encoding="utf-8"))


def other_torch(record):
    """Why the record says nothing about this torch, or an empty text: a release may change its kernels and its generators."""
    theirs, ours = (version.split("+")[0].rsplit(".", 1)[0] for version in (record["torch"], torch.__version__))
    return "" if theirs == ours else f"recorded by torch {record['torch']}; the numbers of {torch.__version__} are not these"


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def numbers_of(value):
    """All numbers below a line of the record."""
    if is_number(value):
        return [float(value)]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [number for part in parts for number in numbers_of(part)]


def departures(found, expected, dtype, where=""):
    """What differs: (where, found, expected, how far relative to the larger scale, whether it is too far)."""
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        for name in expected:
            yield from departures(found[name], expected[name], dtype, f"{where} {name}".strip())
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        scale = max([1.0, *map(abs, numbers_of(expected))])
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            yield from _departure(one, other, dtype, f"{where}[{index}]", scale)
    else:
        yield from _departure(found, expected, dtype, where, 1.0)


def _departure(found, expected, dtype, where, scale):
    if is_number(found) and is_number(expected):
        if found == expected or (math.isnan(found) and math.isnan(expected)):
            return
        apart = abs(found - expected)
        allowed = RELATIVE[dtype] * abs(expected) + ABSOLUTE[dtype] * scale
        yield (
            where,
            found,
            expected,
            apart / max(abs(expected), ABSOLUTE[dtype] / RELATIVE[dtype] * scale),
            not apart <= allowed,
        )
    elif found != expected:
        yield where, found, expected, math.inf, True


def too_far(name, expected):
    """The differences of a case that are no rounding, one sentence each."""
    found = measured(name)
    return [
        f"{where}: {one!r} came, {other!r} is recorded"
        for where, one, other, _, bad in departures(found, expected, expected["dtype"])
        if bad
    ]


def write():
    """Measure all, and rewrite the record: a line for each entry of a fit."""
    blocks = []
    for name in CASES:
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in measured(name).items()]
        blocks.append(f"{json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n}")
    text = f'{{"torch": {json.dumps(torch.__version__)}, "fits": {{\n' + ",\n".join(blocks) + "\n}}\n"
    FILE.write_text(text, encoding="utf-8")
    print(f"{len(CASES)} fits, {len(text.encode()):,} bytes: {FILE}")


def check(only):
    """Compare with the record and print a table; the number of fits that are too far away."""
    record, failed = recorded(), 0
    print(other_torch(record) or f"torch {record['torch']}")
    print(f"{'fit':<58}{'seconds':>8}{'largest difference':>20}  where")
    for name, expected in record["fits"].items():
        if only and only not in name:
            continue
        started = time.perf_counter()
        found = list(departures(measured(name), expected, expected["dtype"]))
        took = time.perf_counter() - started
        bad = [one for one in found if one[-1]]
        worst = max(bad or found, key=lambda one: one[3], default=("equal to the last bit", 0, 0, 0.0, False))
        failed += bool(bad)
        print(f"{name:<58}{took:>8.2f}{worst[3]:>20.1e}  {'TOO FAR: ' if bad else ''}{worst[0]}", flush=True)
    print(f"{failed} fits are too far from the record")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare in place of writing")
    parser.add_argument("--only", default="", help="check the fits with this in their name")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.check:
        raise SystemExit(bool(check(options.only)))
    write()


if __name__ == "__main__":
    main()
