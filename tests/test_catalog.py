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
