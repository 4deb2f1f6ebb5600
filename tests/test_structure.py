"""The shape of the package: imports point one way, files stay small, `import bayesreg` stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bayesreg"
# from what everything stands on to what a person meets; a file imports from lines above its own only
ORDER = [
    ["_check", "record", "moments"],
    ["_catalog"],
    ["priors"],
    ["layers"],
    ["behaviour"],
    ["prior_table"],
    ["spec"],
    ["equivalents"],
    ["rules_file"],
    ["likelihoods"],
    ["data"],
    ["predictive"],
    ["latents", "activity", "autoscale"],
    ["prior_predictive", "binding"],
    ["model"],
    ["flat"],
    ["training_copy"],
    ["guides", "propagate"],
    ["posterior"],
    ["noisy", "batch_statistics"],
    ["inference"],
    ["path_result"],
    ["path"],
    ["stability"],
    ["io", "datasets"],
    ["_readings"],
    ["metrics"],
    ["compare"],
    ["plots"],
    ["report"],
    ["_cli_job", "_cli_screen", "cli"],
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """Parts of the package that a file imports, anywhere in it; its own class tree apart."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bayesreg":
            rest = node.module.split(".")[1:]
            yield from [rest[0]] if rest else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("bayesreg."))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    mine = part(path)
    assert mine in RANK, f"{mine} has no place in the order of the package; give it one"
    for other in imported(path):
        if other in RANK and RANK[other] != RANK[mine]:
            assert RANK[other] < RANK[mine], f"{mine} imports {other}, which stands below it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_small_and_say_what_they_are(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 450
    assert ast.get_docstring(ast.parse(text)), "the first lines say the file's idea"


def test_import_is_light():
    heavy = ["matplotlib", "arviz", "scipy.stats", "sklearn", "pandas", "jinja2", "typer", "rich", "pyarrow"]
    code = f"import sys, bayesreg; print([m for m in {heavy} if m in sys.modules])"
    base = f"import sys, torch, pyro, pyro.infer, pyro.optim; print([m for m in {heavy} if m in sys.modules])"
    ours, theirs = (
        ast.literal_eval(subprocess.run([sys.executable, "-c", c], capture_output=True, text=True, check=True).stdout)
        for c in (code, base)
    )
    assert set(ours) <= set(theirs)


def test_nothing_is_printed_or_configured_at_import():
    code = (
        "import warnings, torch, sys; f = list(warnings.filters); d = torch.get_default_dtype(); s = torch.get_rng_state();"
        "import pyro, pyro.infer; f = list(warnings.filters); import bayesreg;"
        "assert list(warnings.filters) == f and torch.get_default_dtype() == d and torch.get_rng_state().equal(s)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
