"""Prior rules in a TOML file, so that assumptions can be kept, reviewed and shared on their own.

[priors]
"*.weight" = "Normal(scale=1.0, fan_in=True)"
"0.weight" = { prior = "Normal", scale = { prior = "HalfCauchy", scale = 1.0 }, per = "column" }

[outputs]
"2" = "Laplace(scale=1.0)"
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayesreg import _check
from bayesreg.model.spec import PriorSpec
from bayesreg.priors import AbstractPrior

SECTIONS = ("priors", "outputs")
MAX_BYTES = 10**6  # of a file
MAX_RULES = 2000  # most rules; each is compared with each tensor
MAX_DOTS = 100  # most dots in a key: reading it takes quadratic time


@dataclasses.dataclass(frozen=True)
class RulesFile:
    """The rules of such a file.

    Attributes:
        priors: Rules over tensors.
        outputs: Rules over modules' outputs, as for `BayesianModel(outputs=...)`.
    """

    priors: PriorSpec
    outputs: dict[str, AbstractPrior] = dataclasses.field(default_factory=dict)


def dumps(priors: Any, outputs: Any = None) -> str:
    """Rules as the text of a TOML file, the inverse of `loads`.

    Raises:
        ValueError: If a rule is a module type or a callable, which text cannot carry.

    >>> from bayesreg.priors import HalfCauchy, Normal
    >>> print(dumps({"0.weight": Normal(HalfCauchy(1.0), per="column")}), end="")
    [priors]
    "0.weight" = "Normal(scale=HalfCauchy(scale=1.0), per='column')"
    """
    sections = [("priors", PriorSpec(priors).to_dict()), ("outputs", PriorSpec(outputs).to_dict())]
    return "\n".join(
        f"[{name}]\n" + "".join(f"{_quoted(pattern)} = {_quoted(prior)}\n" for pattern, prior in rules.items())
        for name, rules in sections
        if rules or name == "priors"
    )


def loads(text: str) -> RulesFile:
    r"""Rules from the text of a TOML file, sections [priors] and [outputs] with pattern = prior.

    Raises:
        ValueError: If the text is no TOML, or holds an unknown key, an unknown prior, a number out of its range, or more rules
            than a file may.

    >>> loads('[priors]\n"*.weight" = { prior = "Laplace", scale = 0.1 }').priors
    PriorSpec({'*.weight': Laplace(scale=0.1)})
    """
    text = text.removeprefix("\ufeff")
    if max(part.count(".") for part in re.split(r"[,=\[\]{}\n]", re.sub(r"(?m)^\s*#.*", "", text))) > MAX_DOTS:
        raise ValueError(f"a file of rules must have keys of at most {MAX_DOTS} dots, but one has more; put it in quotes.")
    try:
        content = tomllib.loads(text)
    except RecursionError:
        raise ValueError("a file of rules must be TOML, but brackets are nested a hundred deep in it; write priors.") from None
    except ValueError as error:  # TOML's error, or Python's for a number with thousands of digits
        raise ValueError(f"a file of rules must be TOML, but it cannot be read: {str(error).partition(';')[0]}.") from None
    for key, rules in content.items():
        if key not in SECTIONS:
            near = _check.closest(key, SECTIONS)
            raise ValueError(f"a file of rules must have sections [priors] and [outputs] only, but {key!r} came{near}.")
        if not isinstance(rules, Mapping):
            raise ValueError(f'[{key}] must hold lines of the form "pattern" = "prior", but {_check.said(rules)} came.')
    number = sum(map(len, content.values()))
    if number > MAX_RULES:
        raise ValueError(too_many(number))
    return RulesFile(*(_section(name, content.get(name, {})) for name in SECTIONS))


def too_many(number: int) -> str:
    """The message that refuses too many rules."""
    return f"there must be at most {MAX_RULES:,} rules, but {number:,} came; cover several by one glob, such as '*.weight'."


def read(path: str | os.PathLike[str]) -> RulesFile:
    """Rules from a TOML file.

    Raises:
        ValueError: If the file is not there or no ordinary one, is no UTF-8 text, is too large, or is refused by `loads`; the
            message names the file.
    """
    name = os.fspath(path)
    try:
        about = Path(path).stat()
        if not stat.S_ISREG(about.st_mode):  # a pipe or a device may have no end
            raise ValueError(
                f"{name!r} must be an ordinary file of rules, but a folder, pipe or device came; save it as a file."
            )
        if about.st_size > MAX_BYTES:
            came = f"it has {about.st_size:,}"
            raise ValueError(f"{name!r} must be a file of rules of at most {MAX_BYTES:,} bytes, but {came}; leave data out.")
        text = Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{name!r} must be a text file in UTF-8, but it holds other bytes; save it anew.") from None
    except FileNotFoundError:
        raise ValueError(f"there must be a file of rules, but {name!r} does not exist; check the path.") from None
    except OSError as error:
        raise ValueError(f"there must be a file of rules, but {name!r} cannot be read: {error.strerror}.") from None
    try:
        return loads(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _section(name: str, rules: Mapping[str, Any]) -> Any:
    try:
        spec = PriorSpec.from_dict(rules)
    except ValueError as error:
        raise ValueError(f"[{name}]: {error}") from None
    return spec if name == "priors" else dict(spec.rules)


def _quoted(text: str) -> str:
    """A TOML basic string, whose escapes are JSON's; DEL alone is one more that TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
