"""A Matplotlib figure as SVG inside a page: text stays text, colours follow the page's theme, ids are unique."""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING

from bayesreg import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# CSS variable → colour in light and in dark mode; figures are drawn with the light ones
THEME: dict[str, tuple[str, str]] = {
    "ink": (plots.INK, "#e7ebf1"),
    "muted": (plots.MUTED, "#a3afbe"),
    "grid": (plots.GRID, "#333c49"),
    "paper": (plots.PAPER, "#161b22"),
    "bad": (plots.BAD, "#ff8a80"),
    "aleatoric": (plots.ALEATORIC, "#4d627d"),
    "epistemic": (plots.EPISTEMIC, "#f08a4b"),
    **{
        f"series-{i}": pair
        for i, pair in enumerate(
            zip(plots.SERIES, ("#6cb2f0", "#f0a35c", "#4fc7a4", "#c39be6", "#d8b53d", "#a9b8cc"), strict=True)
        )
    },
}
_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_VARIABLES = {light: f"var(--{name})" for name, (light, _) in THEME.items()}


def inline(figure: Figure, prefix: str, label: str) -> str:
    """The figure as one `<svg>` element, the same text for figures made alike.

    It must be drawn with the colours of `bayesreg.plots`. `prefix` begins every id in it, so that several figures can share a
    page; `label` is the id of the element that describes the figure in words.
    """
    import matplotlib

    stream = io.StringIO()
    with plots.styled(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bayesreg"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the page's fonts know more letters than Matplotlib's
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    box = re.search(r'viewBox="([^"]*)"', text)
    body = text[text.index("</metadata>") + len("</metadata>") : text.rindex("</svg>")]
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)  # its style rules would apply to the whole page
    body = _hoist(re.sub(r"<[^>]*>", _tidy, body))
    used = dict.fromkeys(re.findall(r'(?:url\(|href=")#([^")]+)', body))
    names = {name: f"{prefix}-{i}" for i, name in enumerate(used)}  # Matplotlib's own depend on last digits
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{names[m[1]]}"' if m[1] in names else "", body)
    body = re.sub(r'(url\(|href=")#([^")]+)', lambda m: f"{m[1]}#{names[m[2]]}", body)
    body = re.sub(r'<path d="[^"]*" style="fill: none"/>', "", body)
    body = re.sub(r"<defs>\s*</defs>|<g>\s*</g>|<g/>", "", body)
    body = re.sub(r">\s+<", "><", body).strip()
    return f'<svg viewBox="{box[1] if box else "0 0 340 240"}" role="img" aria-labelledby="{label}">{body}</svg>'


def _tidy(tag: re.Match[str]) -> str:
    """One tag with rounded numbers and named colours, without settings that the page makes for all."""
    text = re.sub(r"\s+", " ", tag[0]).replace("xlink:href", "href").replace(' "', '"')
    text = re.sub(r"(?<=base64,)[^\"]*", lambda m: m[0].replace(" ", ""), text)
    text = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", text)
    text = re.sub(r"font-family: [^;]*; ?", "", text)
    text = re.sub(r' (?:d|x|y|width|height|transform)="[^"]*"', lambda m: _NUMBER.sub(_rounded, m[0]), text)
    return re.sub(r"#[0-9a-f]{6}\b", lambda m: _VARIABLES.get(m[0], m[0]), text)


def _rounded(found: re.Match[str]) -> str:
    """A tenth of a pixel is enough."""
    return f"{round(float(found[0]), 1) + 0.0:g}"  # + 0.0 makes a zero of minus zero


def _hoist(body: str) -> str:
    """A marker's style moved to its definition, instead of repeated at each of its places."""
    for name in set(re.findall(r'<use href="#([^"]+)"', body)):
        styles = set(re.findall(rf'<use href="#{name}"[^>]* style="([^"]*)"', body))
        if len(styles) == 1:
            style = styles.pop()
            body = re.sub(rf'(<use href="#{name}"[^>]*) style="[^"]*"', r"\1", body)
            body = re.sub(rf'(<path id="{name}"[^>]*?)(?: style="[^"]*")?/>', rf'\1 style="{style}"/>', body)
    return body
