"""A report as one self-contained HTML file: the assumptions, the results and what the mode hid."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pyro
import torch

from bayesreg import _check, _text
from bayesreg.comparison import Comparison, compare
from bayesreg.data.rows import all_rows, as_inputs, names_of, order_by_name
from bayesreg.inference import Auto
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.reports.base import WORDS, AbstractSection, Material, all_sections
from bayesreg.reports.sections.worst import row_names as rows_of
from bayesreg.reports.svg import THEME
from bayesreg.storage.files import replacing

FORMAT = 1
_MACROS = '{% from "macros.html" import gallery, badge, dot, sheet with context %}\n'


@final
@dataclass(frozen=True, repr=False)
class Report:
    """The result of `report`. A notebook shows its verdict; `save` writes the whole page.

    Attributes:
        html: The page, self-contained: no script, no request.
        data: The same facts as plain values, ready for JSON.
        comparison: The scores behind it.
    """

    html: str
    data: dict[str, Any]
    comparison: Comparison

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> tuple[Path, Path]:
        """Write the page and, beside it, its facts: both or neither.

        Args:
            path: Path ending in .html; the facts go to the same name ending in .json.
            force: Replace existing files.

        Returns:
            Both paths.

        Raises:
            ValueError: If the name does not end in .html, the folder is not there, or a file exists and `force` is not given.
        """
        page = Path(path)
        if page.suffix != ".html" or page.is_dir():
            raise ValueError(
                f"a report's path must be a file ending in .html, but {os.fspath(path)!r} came; write report.html."
            )
        beside = page.with_suffix(".json")
        if beside.is_dir():
            raise ValueError(f"{os.fspath(beside)!r} must be free for the facts, but it is a folder; choose another name.")
        facts = json.dumps(self.data, indent=1, ensure_ascii=False, allow_nan=False)
        with replacing([page, beside], force=force) as files:
            for file, content in zip(files, (self.html, facts), strict=True):
                file.write(content.encode(errors="backslashreplace"))  # half a character (a surrogate), as from a file name
        return page, beside

    def _repr_html_(self) -> str:
        return _environment().get_template("summary.html").render(data=self.data, words=WORDS)

    def __repr__(self) -> str:
        return f"Report({self.data['title']!r}, {', '.join(self.data['fits'])}; {self.comparison.num_data:,} rows)"


def report(
    posteriors: Mapping[str, AbstractPosterior],
    X: Any,
    y: Any = None,
    *,
    num_samples: int | None = None,
    seed: int = 0,
    title: str = "What the mode hid",
    notes: Sequence[str] = (),
    source: str | None = None,
    feature_names: Sequence[str] | None = None,
    target_name: str | None = None,
    classes: Sequence[str] | None = None,
    row_names: Sequence[str | int] | None = None,
    missing: Mapping[str, str] | None = None,
    baselines: Mapping[str, AbstractPosterior] | tuple[Any, ...] | None = None,
    offset: Any = None,
    truth: Any = None,
) -> Report:
    """One page that explains and shows how good several posteriors are on held-out rows.

    Args:
        posteriors: Name to posterior, of one or of several models, all of one likelihood kind; a mode among them is compared
            with the others parameter by parameter.
        X: Inputs (N, ...) in the data's own units, not used in the fits; or a `Dataset` or `DataLoader` of pairs.
        y: Targets there: (N,) or (N, K), or class labels (N,); None for a data set or loader, which brings its own.
        num_samples: Draws from each posterior; None for as many as their comparison needs, see `compare`.
        seed: Seed of all draws; same posteriors, rows and seed, same page but for its date.
        title: Heading of the page.
        notes: How the data were encoded, one sentence each.
        source: Where the data come from.
        feature_names: Names of the D inputs; a data frame brings its own.
        target_name: Name of the target.
        classes: Names of the classes, in label order.
        row_names: Names of the rows; None for a data frame's index, or 1 … N.
        missing: Fits that failed, by name, each with the reason.
        baselines: The training rows (X, y), with sample_weight and offset where the fits have them, or fits of
            `baselines.fit_baselines`, as for `compare`.
        offset: A known part of each row's output, as for `compare`.
        truth: The unknown x of an inverse problem, where it is known; X is then None and y its measurements.

    Returns:
        The report; `.save("report.html")` writes it.

    Raises:
        ValueError: If the posteriors or the data do not fit (see `compare`), names are no list, not as many as what they
            name, or given twice, or a truth came that is none of an inverse problem.

    >>> import torch, bayesreg as br
    >>> x = torch.linspace(-1, 1, 40)[:, None]
    >>> model = br.BayesianModel(torch.nn.Linear(1, 1), likelihood=br.likelihoods.Gaussian(0.5))
    >>> found = report({"exact": br.fit(model, x, x[:, 0], method="exact")}, x, x[:, 0])
    >>> found, found.html.startswith("<!DOCTYPE html>"), found.data["fits"]["exact"]["converged"]
    (Report('What the mode hid', exact; 40 rows), True, True)
    """
    X, y = all_rows(X, y)
    seed = _check.seed(seed)
    comparison = compare(posteriors, X, y, num_samples=num_samples, seed=seed, baselines=baselines, offset=offset)
    X, y = next(iter(posteriors.values())).model.all_measurements(X, y)
    named_rows, rows_are = rows_of(X, comparison.num_data, row_names)
    X, y, feature_names = _as_fitted(posteriors, X, y, feature_names)
    given = {
        "source": source,
        "feature_names": feature_names,
        "target_name": target_name,
        "classes": classes,
        "notes": notes,
        "row_names": named_rows,
        "rows_are": rows_are,
        "num_samples": num_samples,
        "truth": truth,
    }
    made = Material(posteriors, comparison, X, y, given, seed)
    made.data |= {
        "format": FORMAT,
        "title": str(title),
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": _versions(),
        "missing": _missing(missing, posteriors),
        "num_samples": {name: p.num_samples for name, p in comparison.predictives.items()},
        "seed": seed,
        "verdict": [],
    }
    if truth is not None and not made.inverse:
        raise ValueError("truth must be the unknown of an inverse problem, but these are fits of a network; leave it out.")
    parts = all_sections()
    for section in parts:
        made.data |= section.facts(made)
    parts = [section for section in parts if not (section.tests and made.inverse)]
    cards = sorted((card for section in parts for card in section.cards(made)), key=lambda card: card.order)
    made.data["verdict"] = [card.to_dict() for card in cards]
    made.data = json.loads(json.dumps(made.data, allow_nan=False))  # saved as shown
    return Report(_render(made, [part for part in parts if part.says(made)]), made.data, comparison)


def _versions() -> dict[str, str]:
    """Versions of this package and of what computed the numbers."""
    import bayesreg

    found = {"bayesreg": bayesreg.__version__, "torch": torch.__version__, "pyro": pyro.__version__}
    return {name: str(version) for name, version in found.items()} | {"python": platform.python_version()}


def _missing(missing: Mapping[str, str] | None, posteriors: Mapping[str, AbstractPosterior]) -> dict[str, str]:
    """Fits that failed, by name, each with the reason.

    Raises:
        ValueError: If these are no names with reasons, or one of them is there.
    """
    for name, reason in ({} if missing is None else missing).items():
        if not isinstance(name, str) or not isinstance(reason, str) or name in posteriors:
            came = f"{name!r}: {reason!r} came" + ", though a posterior has that name" * (name in posteriors)
            raise ValueError(f"missing must hold names of fits that failed, each with a reason, but {came}; correct it.")
    return dict(missing or {})


def _as_fitted(posteriors: Mapping[str, AbstractPosterior], X: Any, y: Any, names: Any) -> tuple[Any, Any, Any]:
    """Columns in the order of the first fit, which its weights have too, with their names where only the fit has them."""
    model = next(iter(posteriors.values())).model
    order = order_by_name("X", names_of(X), model.feature_names)
    if order is not None:
        import pandas as pd

        X = X.iloc[:, order] if isinstance(X, pd.DataFrame) else as_inputs(X)[:, order]
    if names is None and names_of(X) is None:
        names = model.feature_names
    return X, model.targets(y), names


def _render(made: Material, parts: Sequence[AbstractSection]) -> str:
    environment, data = _environment(), made.data
    seen = {
        "data": data,
        "words": WORDS,
        "regression": made.regression,
        "series": {name: i % 6 for name, i in made.series.items()},
        "inverse": made.inverse,
    }
    bodies = [environment.from_string(_MACROS + part.template).render(**seen, **part.shown(made)) for part in parts]
    linked = [(part.id, part.title) for part in parts]
    named = [f"{name} ({one.method})" if name == Auto.name else name for name, one in made.posteriors.items()]
    page = environment.get_template("template.html")
    return page.render(**seen, theme=THEME, sections=linked, named=named, body="\n\n".join(bodies))


def _environment() -> Any:
    import jinja2
    from markupsafe import Markup, escape

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bayesreg.reports", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value, digits=4: "–" if value is None else _text.number(value, digits)
    environment.filters["breaking"] = lambda text: escape(text).replace("(", Markup("(<wbr>")).replace("=", Markup("=<wbr>"))
    environment.filters["column"] = lambda values: _text.column(list(values))
    environment.filters["percent"] = _text.percent
    environment.filters["seconds"] = lambda value: "–" if value is None else _text.seconds(value)
    environment.filters["listing"] = lambda names: _text.listing(list(names))
    environment.filters["plus_minus"] = _text.plus_minus
    environment.filters["bounds"] = _text.bounds
    environment.filters["name"] = _text.name_of
    environment.filters["words"] = _text.unbroken
    return environment
