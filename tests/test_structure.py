"""The shape of the package: imports point one way, files stay small, `import bayesreg` stays light."""

import ast
import functools
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bayesreg"
# from what everything stands on to what a person meets; a file imports from its own folder and those above it only
ORDER = [
    *["_check", "_text", "storage", "_threads", "_memory", "_catalog"],
    *["data", "priors", "likelihoods", "layers", "operators", "datasets"],
    *["behaviour", "dictionary", "predictive", "model"],
    *["objective", "solvers", "samplers", "certificates", "posteriors", "inference", "selection", "inverse"],
    *["metrics", "baselines", "comparison", "plots", "reports"],
    *["arviz", "io", "sklearn", "cli", "__main__"],
]
RANK = {name: rank for rank, name in enumerate(ORDER)}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@functools.cache
def tree_of(path):
    """A file's syntax, read once for all tests."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def nodes_of(path):
    """All nodes of a file, in `ast.walk`'s order."""
    return tuple(ast.walk(tree_of(path)))


def by_file(found):
    """What was found, file by file: all that is wrong is seen at once."""
    return {str(path.relative_to(PACKAGE.parent)): what for path in FILES if (what := found(path))}


def part(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """Parts of the package that a file imports, anywhere in it; its own class tree apart."""
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bayesreg":
            rest = node.module.split(".")[1:]
            yield from [rest[0]] if rest else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("bayesreg."))


def test_imports_point_one_way():
    assert {part(path) for path in FILES} <= set(RANK), "a part has no place in the order of the package; give it one"
    below = by_file(lambda path: [other for other in imported(path) if other in RANK and RANK[other] > RANK[part(path)]])
    assert not below, "a file imports what stands below it"


def test_files_stay_small_and_say_what_they_are():
    assert not by_file(lambda path: max(0, len(path.read_text(encoding="utf-8").splitlines()) - 450))
    assert not by_file(lambda path: not ast.get_docstring(tree_of(path))), "the first lines say the file's idea"


PROSE = {"sentence", "notes", "details", "said", "of_statistics"}
READERS = {"startswith", "endswith", "removesuffix", "removeprefix", "split", "partition", "rpartition", "find", "replace"}


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


def test_nothing_parses_a_sentence():
    found = by_file(lambda path: [ast.unparse(node) for node in nodes_of(path) if reads_prose(node)])
    assert not found, "words are for people; ask the certificate's values"


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
    for node in nodes_of(path):
        for field in ("id", "attr", "name", "asname", "arg", "module"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield value


def test_kinds_of_layers_are_named_where_behaviour_is_told():
    def named_in(path):
        if part(path) in WHO_NAMES_THEM or path.relative_to(PACKAGE).as_posix() in THE_METHOD:
            return []
        return sorted({name for name in identifiers(path) if LAYERS_THEMSELVES.search(name)})

    assert not by_file(named_in), "ask model.behaviour, or Behaviour(module)"


HEAVY = ["matplotlib", "arviz", "scipy.stats", "sklearn", "pandas", "jinja2", "typer", "rich", "pyarrow"]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """What a new process finds, step by step, as it imports the package, what the package stands on, and all its names."""
    kinds = "sorted(c.__name__ for c in concrete(AbstractPosterior))"
    path = tmp_path_factory.mktemp("fresh") / "found.json"
    code = f"""
import json, sys, warnings
found, loaded = {{}}, lambda names: [m for m in names if m in sys.modules]
f = list(warnings.filters)
import bayesreg
dir(bayesreg)
found["kept"] = [list(warnings.filters) == f]
found["at import"] = loaded(["torch", "numpy", "pyro"])
import torch, pyro, pyro.infer, pyro.optim
found["theirs"] = loaded({HEAVY})
f, d, s = list(warnings.filters), torch.get_default_dtype(), torch.get_rng_state()
from bayesreg._catalog import concrete
from bayesreg.posteriors import AbstractPosterior
import bayesreg.io
found["few"] = {kinds}
{EVERYTHING}
found["all"] = {kinds}
bayesreg.arviz.to_arviz
found["ours"] = loaded({HEAVY})
found["kept"] += [list(warnings.filters) == f, torch.get_default_dtype() == d, torch.get_rng_state().equal(s)]
json.dump(found, open({str(path)!r}, "w"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {**json.loads(path.read_text()), "stdout": done.stdout}


def test_names_load_when_they_are_used(fresh):
    assert fresh["at import"] == []


def named(tree):
    """Names of the functions and classes at the top of a file."""
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def test_no_function_shares_its_name_with_a_file():
    assert not by_file(
        lambda path: ({file.stem for file in path.parent.iterdir()} | {path.parent.name}) & set(named(tree_of(path)))
    )


def test_no_public_name_is_that_of_a_file():
    import bayesreg

    parts = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()}
    assert parts & set(bayesreg.__all__) == {
        "datasets",
        "inference",
        "inverse",
        "layers",
        "likelihoods",
        "metrics",
        "operators",
        "priors",
    }  # folders themselves


OTHERS = sorted(path for folder in ("tests", "benchmarks", "notebooks") for path in (PACKAGE.parent / folder).rglob("*.py"))


def test_whoever_stands_outside_asks_the_face_of_a_folder():
    """A file may move, its folder's face stays."""
    deep = [
        f"{path.relative_to(PACKAGE.parent)}:{node.lineno} from {node.module}"
        for path in OTHERS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bayesreg.") and node.module.count(".") > 1
    ]
    assert not deep


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


def test_a_file_is_read_back_by_whoever_loads_only_the_reader(fresh):
    assert len(fresh["few"]) > 4
    assert fresh["few"] == fresh["all"]


def test_import_is_light(fresh):
    assert set(fresh["ours"]) <= set(fresh["theirs"])


def test_nothing_is_printed_or_configured_at_import(fresh):
    assert fresh["kept"] == [True] * 4
    assert fresh["stdout"] == ""


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
        for node in runtime(tree_of(path)):
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

    files = {path.stem for path in (PACKAGE / "inference").glob("*.py")} - {
        "__init__",
        "base",
        "variational",
        "guided",
        "empirical_bayes",
        "linear_part",
    }
    assert files == {
        cls.__module__.rpartition(".")[2] for cls in _catalog.concrete(AbstractMethod) if "bayesreg" in cls.__module__
    }


def test_no_private_attribute_is_read_from_another_file():
    """Of this package; those of torch that have no public name are another matter."""
    ours, read = {}, []
    for path in FILES:
        own = {n.name for n in nodes_of(path) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        own |= {n.attr for n in nodes_of(path) if isinstance(n, ast.Attribute) and called(n.value, "self", "cls")}
        own |= {n.id for n in nodes_of(path) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        ours[path] = {name for name in own if name.startswith("_") and not name.startswith("__")}
    everything = set().union(*ours.values())
    for path in FILES:
        others = everything - ours[path] - TORCHS
        for node in nodes_of(path):
            private = isinstance(node, ast.Attribute) and node.attr in others
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
    "_model",  # Pyro's
}


def from_folder(path, folder):
    """Names that a file takes from a folder of the package, by themselves or through the folder's own name."""
    found = [node for node in nodes_of(path) if isinstance(node, ast.ImportFrom)]
    taken = {a.name for node in found if (node.module or "").startswith(f"bayesreg.{folder}") for a in node.names}
    whole = any(node.module == "bayesreg" and folder in {a.name for a in node.names} for node in found)
    return taken | (set(vars(sys.modules[f"bayesreg.{folder}"])) if whole else set())


def called(node, *names):
    """Whether a node is one of these plain names."""
    return isinstance(node, ast.Name) and node.id in names


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
    for path in FILES:
        if part(path) == folder:
            continue
        taken = names & from_folder(path, folder)
        for node in nodes_of(path) if taken else ():
            if isinstance(node, ast.Call) and called(node.func, "isinstance", "issubclass"):
                kinds = {n.attr if isinstance(n, ast.Attribute) else getattr(n, "id", "") for n in ast.walk(node.args[1])}
                asked += [f"{path.relative_to(PACKAGE)}:{node.lineno} {kind}" for kind in kinds & taken]
    assert not asked


def test_rows_are_summed_in_the_objective_alone():
    callers = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        for node in nodes_of(path)
        if isinstance(node, ast.Attribute) and node.attr == "log_prob_sum" and part(path) not in ("likelihoods", "objective")
    }
    assert callers == {"model/model.py"}


@pytest.mark.parametrize("folder", ["priors", "likelihoods", "layers", "solvers", "posteriors", "inference"])
def test_a_class_is_abstract_or_final(folder):
    """Nobody inherits from a class that can be used as it is; what several share has a name of its own, Abstract..."""
    classes = {n.name: n for path in FILES if part(path) == folder for n in tree_of(path).body if isinstance(n, ast.ClassDef)}
    inherited = {ast.unparse(b).split("[")[0] for node in classes.values() for b in node.bases} & classes.keys()
    assert not {name for name in inherited if not name.lstrip("_").startswith("Abstract")}
