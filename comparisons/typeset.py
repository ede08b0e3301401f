"""A table as text of another program: Markdown, LaTeX (a plain tabular, which needs no package) and CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "±": r"$\pm$",
    "–": "--",
    "…": r"\dots{}",
    "²": r"$^2$",
    "³": r"$^3$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "→": r"$\rightarrow$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "∞": r"$\infty$",
    "σ": r"$\sigma$",
    "λ": r"$\lambda$",
    "θ": r"$\theta$",
    "τ": r"$\tau$",
    "ρ": r"$\rho$",
}
# A sign of a number, and a power of ten behind a number or the bracket of one with its error.
_MINUS, _POWER = re.compile(r"(?<![\w.)])-(?=\.?\d)"), re.compile(r"(?<=[\d)])e([-+]?)0*(\d+)\b")


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    r"""A table of Markdown.

    >>> print(markdown(("a", "b"), [("1", "x|y")]))
    | a | b |
    | --- | --- |
    | 1 | x\|y |
    """
    lines = [head, ["---"] * len(head), *body]
    escaped = ([" ".join(text.replace("\\", "\\\\").replace("|", "\\|").split()) for text in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def latex(head: Sequence[str], body: Sequence[Sequence[str]], *, left: int = 1) -> str:
    r"""A tabular of LaTeX, without a package: the first ``left`` columns stand to the left, the others to the right.

    >>> print(latex(("a_b", "T"), [("50 %", "-1.0 ± 0.2"), ("x", "(3.0 ± 0.2)e-07")]))
    \begin{tabular}{lr}
    a\_b & T \\
    \hline
    50 \% & $-$1.0 $\pm$ 0.2 \\
    x & (3.0 $\pm$ 0.2)$\times10^{-7}$ \\
    \end{tabular}
    """

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(_latex, cells)) + r" \\"

    columns = "l" * left + "r" * (len(head) - left)
    inner = [line(head), r"\hline", *(line(cells) for cells in body)]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *inner, r"\end{tabular}"])


def _latex(text: str) -> str:
    found = "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))
    return _POWER.sub(_power, _MINUS.sub("$-$", found))


def _power(found: re.Match[str]) -> str:
    return rf"$\times10^{{{'-' if found[1] == '-' else ''}{found[2]}}}$"


def comma_separated(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header: numbers at full precision, what is undefined is empty.

    >>> print(comma_separated([{"value": 0.1, "unit": "nat"}, {"value": math.nan, "unit": "a,b"}]))
    value,unit
    0.1,nat
    ,"a,b"
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
    return text.getvalue().rstrip("\n")


def _plain(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(float(value))
    return value
