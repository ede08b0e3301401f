"""Markdown tables of the speed benchmark: what was measured, and the goals beside it with a verdict."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

OURS = "basinscope"
PYHESSIAN = "PyHessian 0.1"
CURVLINOPS = "curvlinops 3.0.1"
# Competitors whose product is further from double backward than this compute something else.
WRONG = 1e-4
Row = dict[str, Any]


def per_vector(row: Row, vectors: int) -> list[float]:
    """Gradients a vector, one value a round."""
    return [seconds / vectors / gradient for seconds, gradient in row["rounds"]]


def find(run: dict[str, Any], name: str, matrix: str, several: bool) -> list[Row]:
    """Rows of competitors whose name starts so, without those that failed."""
    return [
        row
        for row in run["rows"]
        if row["competitor"].startswith(name)
        and (row["matrix"], row["several"]) == (matrix, several)
        and "failure" not in row
    ]


def peers(run: dict[str, Any], matrix: str, several: bool) -> list[Row]:
    """Rows of everybody else."""
    return [row for row in find(run, "", matrix, several) if row["competitor"] != OURS]


def cell(row: Row, vectors: int) -> str:
    """Median and range of gradients a vector, or why there is none."""
    if "failure" in row:
        return row["failure"].splitlines()[0][:90].replace("|", "/")
    values = per_vector(row, vectors)
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def measured_table(runs: list[dict[str, Any]], vectors: int) -> list[str]:
    """A line for each competitor, matrix and arrangement of the data, a column for each number of threads."""
    threads = sorted({run["threads"] for run in runs})
    head = ["workload", "matrix", "data", "competitor"]
    head += [f"gradients a vector, {t} thread{'s' if t > 1 else ''}" for t in threads]
    head += ["seconds in all", "product off by"]
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    for workload in dict.fromkeys(run["workload"] for run in runs):
        mine = {run["threads"]: run for run in runs if run["workload"] == workload}
        first = next(iter(mine.values()))
        for position, row in enumerate(first["rows"]):
            data = "several batches" if row["several"] else "one batch"
            cells = [cell(mine[t]["rows"][position], vectors) if t in mine else "" for t in threads]
            seconds = f"{statistics.median(s for s, _ in row['rounds']):.3g}" if row["rounds"] else ""
            off = f"{row['difference']:.1e}" if "difference" in row else ""
            off += " (wrong)" if row.get("difference", 0.0) > WRONG else ""
            lines.append(" | ".join([first["title"], row["matrix"], data, row["competitor"], *cells, seconds, off]))
    return [f"| {line} |" for line in lines]


@dataclass(frozen=True)
class Goal:
    """What is aimed at: a measured value (None if it could not be) and its bound, upper or lower."""

    sentence: str
    value: float | None
    bound: float
    upper: bool

    def cells(self) -> list[str]:
        """The goal, its bound, the value and the verdict."""
        limit = f"{'at most' if self.upper else 'at least'} {self.bound:g}"
        if self.value is None:
            return [self.sentence, limit, "", "not measured"]
        met = self.value <= self.bound if self.upper else self.value >= self.bound
        return [self.sentence, limit, f"{self.value:.2f}", "met" if met else "**not met**"]


def goals(run: dict[str, Any], vectors: int) -> Iterator[Goal]:
    """The goals of a workload."""
    for matrix, bound in run["goals"].items():
        found = find(run, OURS, matrix, False)
        value = statistics.median(per_vector(found[0], vectors)) if found else None
        yield Goal(f"{matrix}: gradients a vector, all included", value, bound, upper=True)
    one, several = peers(run, "hessian", False), peers(run, "hessian", True)
    if run["workload"] == "mlp":
        for name, bound in ((PYHESSIAN, 2.0), (CURVLINOPS, 4.0)):
            named = [row for row in one if row["competitor"] == name]
            yield Goal(f"hessian: times faster than {name}", ratio(run, named, False), bound, upper=False)
        return
    blocks = "fastest peer, products of curvlinops in our blocks counted too"
    for who, kept in (("fastest peer by its own SLQ", own), (blocks, lambda rows: rows)):
        value = ratio(run, kept(one), False)
        yield Goal(f"hessian: times faster than the {who}", value, 1.0, upper=False)
        value = ratio(run, kept(several), True)
        yield Goal(f"hessian, several batches: times faster than the {who}", value, 1.5, upper=False)


def own(rows: list[Row]) -> list[Row]:
    """Without the recurrence in blocks, which curvlinops does not have: the benchmark lends it one."""
    return [row for row in rows if not row["competitor"].startswith(f"{CURVLINOPS},")]


def ratio(run: dict[str, Any], others: list[Row], several: bool) -> float | None:
    """Median over rounds of the least of the others' gradients a vector over ours."""
    found = find(run, OURS, "hessian", several)
    if not found or not others:
        return None
    by_round = zip(per_vector(found[0], 1), *(per_vector(row, 1) for row in others), strict=True)
    return statistics.median(min(rest) / mine for mine, *rest in by_round)


def goals_table(runs: list[dict[str, Any]], vectors: int) -> list[str]:
    """The goals, what was measured, and a verdict."""
    lines = ["workload | threads | goal | bound | measured | verdict", " | ".join(["---"] * 6)]
    for run in runs:
        for goal in goals(run, vectors):
            lines.append(" | ".join([run["title"], str(run["threads"]), *goal.cells()]))
    return [f"| {line} |" for line in lines]


def plain_gradient(run: dict[str, Any]) -> float:
    """Median seconds of one gradient."""
    return statistics.median(gradient for row in run["rows"] for _, gradient in row["rounds"])


def rounds(run: dict[str, Any]) -> int:
    """Rounds that were finished."""
    return max(len(row["rounds"]) for row in run["rows"])


def tables(measured: dict[str, Any]) -> str:
    """Both tables with what they were measured on."""
    about, runs = measured["about"], measured["runs"]
    vectors = about["probes"] * about["steps"]
    units = "; ".join(
        f"{run['workload']}, {run['threads']} thread(s): {1e3 * plain_gradient(run):.3g} ms, {rounds(run)} rounds"
        for run in runs
    )
    sizes = "; ".join(dict.fromkeys(f"{run['title']}: {run['size']:,} parameters" for run in runs))
    lines = [
        f"# Speed of {about['probes']} x {about['steps']} stochastic Lanczos quadrature",
        "",
        f"Python {about['python']}, torch {about['torch']}, {about['cores']} cores, float32; medians "
        f"(and range) over interleaved rounds. {sizes}. One plain gradient and number of rounds: {units}. "
        "Seconds are for the first number of threads. `product off by` is the relative difference of one product "
        "from double backward. Every competitor runs inside `sdpa_kernel(MATH)`. How rounds are sampled is written in "
        "benchmarks/spectra_speed.py.",
        "",
        *measured_table(runs, vectors),
        "",
        "## Goals",
        "",
        *goals_table(runs, vectors),
        "",
    ]
    return "\n".join(lines)
