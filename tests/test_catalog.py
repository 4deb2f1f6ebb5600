"""The class tree is the registry: a new class, or a new file, is found without being named anywhere."""

import gc
import sys
from pathlib import Path

import pytest

from bayesreg import _catalog, inference, priors
from bayesreg.inference import AbstractMethod
from bayesreg.priors import AbstractPrior, Normal


def test_a_new_class_is_found_by_text_and_by_name():
    class Tight(Normal):
        """A normal of its own."""

    try:
        assert Tight in _catalog.concrete(AbstractPrior)
        assert priors.parse("Tight(0.5)") == Tight(0.5)
        assert priors.Tight is Tight
    finally:
        del Tight
        gc.collect()
    with pytest.raises(AttributeError, match=r"module 'bayesreg.priors' has no attribute 'Tight'"):
        _ = priors.Tight
    with pytest.raises(AttributeError, match=r"module 'bayesreg.inference' has no attribute 'Nuts'"):
        _ = inference.Nuts


def test_a_new_file_is_imported_with_its_package(tmp_path, monkeypatch):
    package = tmp_path / "somewhere"
    package.mkdir()
    (package / "__init__.py").write_text("from bayesreg import _catalog\n_catalog.load_files(__name__, __path__)\n")
    (package / "new.py").write_text("FOUND = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("somewhere")
    assert sys.modules.pop("somewhere.new").FOUND
    del sys.modules["somewhere"]


def test_every_file_of_the_two_folders_is_loaded():
    for package in (priors, inference):
        files = {p.stem for p in Path(package.__path__[0]).glob("*.py")} - {"__init__"}
        assert all(f"{package.__name__}.{name}" in sys.modules for name in files)


def test_abstract_and_private_classes_are_no_choices():
    assert all(not cls.__name__.startswith(("Abstract", "_")) for cls in _catalog.concrete(AbstractPrior))
    assert {cls.name for cls in _catalog.concrete(AbstractMethod)} >= {"map", "exact", "laplace", "mean-field"}


NEW_PRIOR = '''
"""A prior in a file of its own."""

from dataclasses import dataclass
from typing import Any, ClassVar

import math
import torch
from bayesreg import _check
from bayesreg.priors import AbstractElementwisePrior


@dataclass(frozen=True, repr=False)
class Logistic(AbstractElementwisePrior):
    """Logistic density: log p(w) = Σ −|z| − 2 log(1 + e^−|z|) − log scale, z = w/scale.

    As a regulariser: L2 near zero, L1 far out, smooth between.

    >>> Logistic(1.0).penalty(torch.zeros(2))
    tensor(0.)
    """

    scale: float = 1.0

    regulariser: ClassVar[str] = "smooth L1"

    def check(self):
        _check.positive("scale", self.scale)

    def energy(self, value):
        size = (value / self.scale).abs()
        return size + 2 * torch.log1p((-size).exp()) - 2 * math.log(2)

    @property
    def log_constant(self):
        return -2 * math.log(2) - (self.scale.log() if isinstance(self.scale, torch.Tensor) else math.log(self.scale))

    def draw(self, shape, num_samples, options):
        u = torch.rand((num_samples, *shape), dtype=torch.float64)
        return (self.scale * (u / (1 - u)).log()).to(**options)

    @property
    def penalty_text(self):
        return "Σ |w| + 2 log(1 + e^−|w|)"
'''


CASES_OF = {  # what contract tests take beside the prior
    "test_prox_is_the_brute_force_minimum": ((0.1,), (2.0,)),
    "test_expectation_by_quadrature_is_scipy_s": ((0.3, 0.02), (-0.4, 0.9)),
}


def test_a_prior_in_one_new_file_passes_every_contract(tmp_path, monkeypatch):
    """No other edit: its text, its draws as a Pyro distribution, its prox, the log-joint, MAP and the CLI's list."""
    import torch
    from typer.testing import CliRunner

    import bayesreg as br
    from bayesreg.cli import app
    from bayesreg.likelihoods import Gaussian
    from tests.contracts import test_log_joint
    from tests.contracts import test_priors as contract

    (tmp_path / "logistic_prior.py").write_text(NEW_PRIOR, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = __import__("logistic_prior")
    try:
        assert module.Logistic in _catalog.concrete(AbstractPrior)
        held = (contract.TestEveryPrior, contract.TestEveryElementwisePrior, contract.TestEveryDensity)
        for tests in held:
            for name in (name for name in vars(tests) if name.startswith("test_")):
                for prior in (module.Logistic(), module.Logistic(0.3)):
                    for more in CASES_OF.get(name, ((),)):
                        try:
                            getattr(tests(), name)(prior, *more)
                        except pytest.skip.Exception:
                            continue
        test_log_joint.test_log_joint_is_the_trace_s(module.Logistic(0.3), Gaussian(), torch.float64, True)
        X, y = torch.randn(30, 2).double(), torch.randn(30).double()
        mode = br.fit(br.BayesianModel(torch.nn.Linear(2, 1).double(), module.Logistic(0.5)), X, y, method="map")
        assert mode.certificate.converged
        monkeypatch.setenv("COLUMNS", "300")
        listed = CliRunner().invoke(app, ["priors", "--list"]).stdout
        assert "Logistic(scale=1.0)" in listed
        assert "smooth L1" in listed
    finally:
        contract.quantiles.cache_clear()
        del sys.modules["logistic_prior"], module, prior, mode
        gc.collect()
