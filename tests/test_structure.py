"""The shape of the package: imports point one way, files stay small, `import bayesreg` stays light."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bayesreg"
# from what everything stands on to what a person meets; a file imports from its own folder and those above it only
ORDER = [
    *["_check", "_text", "storage", "_threads", "_memory", "_catalog"],
    *["data", "priors", "likelihoods", "layers", "behaviour", "dictionary", "predictive", "model"],
    *["objective", "solvers", "samplers", "certificates", "posteriors", "inference", "selection"],
    *["metrics", "comparison", "plots", "reports"],
    *["arviz", "io", "cli", "__main__"],
]
RANK = {name: rank for rank, name in enumerate(ORDER)}
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


PROSE = {"sentence", "notes", "details", "said", "of_statistics"}
READERS = {"startswith", "endswith", "removesuffix", "removeprefix", "split", "partition", "rpartition", "find", "replace"}
SHOW = {"certificates/words.py"}  # which makes the words


def is_prose(node):
    return isinstance(node, ast.Attribute) and node.attr in PROSE


def reads_prose(node):
    """Whether words that were made for people decide something: `in`, `re`, a method of texts, a look-up by name."""
    match node:
        case ast.Compare(left=left, comparators=others):
            return any(map(is_prose, [left, *others]))
        case ast.Subscript(value=value, ctx=ast.Load()):
            return is_prose(value)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="re")), args=given):
            return any(is_prose(part) for one in given for part in ast.walk(one))
        case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in READERS:
            return any(map(is_prose, ast.walk(value)))
        case ast.comprehension(iter=values, ifs=[_, *_]):
            return is_prose(values)
    return False


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_parses_a_sentence(path):
    if str(path.relative_to(PACKAGE)) not in SHOW:
        found = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if reads_prose(node)]
        assert not found, f"{ast.unparse(found[0])}: words are for people; ask the certificate's values"


@pytest.mark.parametrize(
    "code",
    [
        'c.sentence.removesuffix(".")',
        '"no mode" in c.details',
        'c.details["log joint"]',
        '[n for n in h.notes if n.startswith("batch")]',
        're.sub("a", "b", c.sentence)',
    ],
)
def test_parsing_a_sentence_would_be_seen(code):
    assert any(map(reads_prose, ast.walk(ast.parse(code))))


EVERYTHING = "[getattr(bayesreg, name) for name in bayesreg.__all__]"  # which loads what `import bayesreg` names


# what normalises by batches and what draws in training is asked of `Behaviour`: these know it, build it, or are that method
LAYERS_THEMSELVES = re.compile(r"BatchNorm|InstanceNorm|batchnorm|\bis_norm\b|_DropoutNd|has_dropout")
WHO_NAMES_THEM = ("behaviour", "layers", "cli")
THE_METHOD = {
    *["inference/mc_batchnorm.py", "posteriors/refreshed.py", "reports/sections/convergence.py"],
    *["inference/__init__.py", "posteriors/__init__.py", "reports/page.py"],  # which pass its names on
}


def identifiers(path):
    """Every name, attribute, argument and import of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for field in ("id", "attr", "name", "asname", "arg", "module"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield value


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_kinds_of_layers_are_named_where_behaviour_is_told(path):
    if part(path) in WHO_NAMES_THEM or path.relative_to(PACKAGE).as_posix() in THE_METHOD:
        return
    found = sorted({name for name in identifiers(path) if LAYERS_THEMSELVES.search(name)})
    assert not found, f"ask model.behaviour, or Behaviour(module), in place of {', '.join(found)}"


def test_names_load_when_they_are_used():
    code = "import sys, bayesreg; dir(bayesreg); print([m for m in ('torch', 'numpy', 'pyro') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def named(tree):
    """Names of the functions and classes at the top of a file."""
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_function_shares_its_name_with_a_file(path):
    files = {file.stem for file in path.parent.iterdir()} | {path.parent.name}
    assert not files & set(named(ast.parse(path.read_text(encoding="utf-8"))))


def test_no_public_name_is_that_of_a_file():
    import bayesreg

    parts = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()}
    assert parts & set(bayesreg.__all__) == {"inference", "layers", "likelihoods", "metrics", "priors"}  # folders themselves


OTHERS = sorted(path for folder in ("tests", "benchmarks", "notebooks") for path in (PACKAGE.parent / folder).rglob("*.py"))


@pytest.mark.parametrize("path", OTHERS, ids=lambda p: str(p.relative_to(PACKAGE.parent)))
def test_whoever_stands_outside_asks_the_face_of_a_folder(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bayesreg."):
            assert node.module.count(".") == 1, (
                f"line {node.lineno}: from {node.module}: a file may move, its folder's face stays"
            )


def test_every_name_comes_from_where_type_checkers_see_it():
    import bayesreg

    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    imports = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bayesreg")
    ]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    assert sorted(seen) == sorted(bayesreg.__all__)
    for name, home in seen.items():
        assert getattr(bayesreg, name) is getattr(importlib.import_module(home), name)
        assert name in dir(bayesreg)
    with pytest.raises(AttributeError, match="module 'bayesreg' has no attribute 'fti'"):
        _ = bayesreg.fti


def test_a_file_is_read_back_by_whoever_loads_only_the_reader():
    kinds = "sorted(c.__name__ for c in concrete(AbstractPosterior))"
    head = "from bayesreg._catalog import concrete; from bayesreg.posteriors import AbstractPosterior; import bayesreg"
    code = (
        f"{head}; import bayesreg.io; few = {kinds}; {EVERYTHING}; assert few == {kinds}, (few, {kinds}); print(len(few) > 4)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_import_is_light():
    heavy = ["matplotlib", "arviz", "scipy.stats", "sklearn", "pandas", "jinja2", "typer", "rich", "pyarrow"]
    code = f"import sys, bayesreg; {EVERYTHING}; bayesreg.arviz.to_arviz; print([m for m in {heavy} if m in sys.modules])"
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
        f"{EVERYTHING};"
        "assert list(warnings.filters) == f and torch.get_default_dtype() == d and torch.get_rng_state().equal(s)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def runtime(tree):
    """Nodes of a file, without what only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")):
            yield node
            yield from runtime(node)


def needs():
    """File by file, the files of the package that it imports."""
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in FILES}
    for name, path in names.items():
        found = set()
        for node in runtime(TREES[path]):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bayesreg"):
                found |= {m for m in (node.module, *(f"{node.module}.{a.name}" for a in node.names)) if m in names}
        yield name, found - {name}


def test_no_file_imports_itself_by_a_detour():
    graph = dict(needs())
    while ready := [name for name, wanted in graph.items() if not wanted & graph.keys()]:
        for name in ready:
            del graph[name]
    assert not graph


def test_inference_holds_one_file_a_method():
    from bayesreg import _catalog
    from bayesreg.inference import AbstractMethod

    files = {path.stem for path in (PACKAGE / "inference").glob("*.py")} - {"__init__", "base"}
    assert files == {
        cls.__module__.rpartition(".")[2] for cls in _catalog.concrete(AbstractMethod) if "bayesreg" in cls.__module__
    }


def test_no_private_attribute_is_read_from_another_file():
    """Of this package; those of torch that have no public name are another matter."""
    ours, read = {}, []
    for path, tree in TREES.items():
        own = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        own |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) in ("self", "cls")}
        own |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        ours[path] = {name for name in own if name.startswith("_") and not name.startswith("__")}
    everything = set().union(*ours.values())
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            private = isinstance(node, ast.Attribute) and node.attr in everything - ours[path] - TORCHS
            if private and ast.unparse(node.value) not in ("self", "cls", "super()"):
                read.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {ast.unparse(node)}")
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bayesreg."):
                read += [f"{path.relative_to(PACKAGE)}:{node.lineno} {a.name}" for a in node.names if a.name.startswith("_")]
    assert not read


TORCHS = {
    "_modules",
    "_buffers",
    "_parameters",
    "_apply",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_version",
}
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def from_folder(tree, folder):
    """Names that a file takes from a folder of the package, by themselves or through the folder's own name."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    taken = {a.name for node in found if (node.module or "").startswith(f"bayesreg.{folder}") for a in node.names}
    whole = any(node.module == "bayesreg" and folder in {a.name for a in node.names} for node in found)
    return taken | (set(vars(sys.modules[f"bayesreg.{folder}"])) if whole else set())


def bases(base):
    from bayesreg import _catalog

    return {cls.__name__ for cls in _catalog.concrete(base) if cls.__module__.startswith("bayesreg.")}


@pytest.mark.parametrize("folder", ["priors", "posteriors", "likelihoods", "layers"])
def test_nobody_outside_asks_which_concrete_class_it_is(folder):
    import bayesreg as br

    base = {
        "priors": br.priors.AbstractPrior,
        "posteriors": br.AbstractPosterior,
        "likelihoods": br.likelihoods.AbstractLikelihood,
        "layers": br.layers.AbstractMask,
    }[folder]
    names = bases(base)
    asked = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if part(path) != folder and isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
                kinds = {n.attr if isinstance(n, ast.Attribute) else getattr(n, "id", "") for n in ast.walk(node.args[1])}
                kinds &= from_folder(tree, folder)
                asked += [f"{path.relative_to(PACKAGE)}:{node.lineno} {kind}" for kind in kinds & names]
    assert not asked


def test_rows_are_summed_in_the_objective_alone():
    callers = {
        str(path.relative_to(PACKAGE))
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "log_prob_sum" and part(path) not in ("likelihoods", "objective")
    }
    assert callers == {"model/model.py"}


@pytest.mark.parametrize("folder", ["priors", "likelihoods", "layers", "solvers", "posteriors", "inference"])
def test_a_class_is_abstract_or_final(folder):
    """Nobody inherits from a class that can be used as it is; what several share has a name of its own, Abstract..."""
    classes = {
        n.name: n for path, tree in TREES.items() if part(path) == folder for n in tree.body if isinstance(n, ast.ClassDef)
    }
    inherited = {ast.unparse(b).split("[")[0] for node in classes.values() for b in node.bases} & classes.keys()
    assert not {name for name in inherited if not name.lstrip("_").startswith("Abstract")}
