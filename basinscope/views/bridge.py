"""A bridge for reading and as JSON: its answers, the curve of log V against T, what holds them up, and other sets."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Group, RenderableType
from rich.padding import Padding

from basinscope.terminal import Text, written
from basinscope.views.layout import NONE, estimate_columns, finite, formatted, json_estimate, plain, table
from basinscope.views.sheet import Column, Sheet
from spectra.errors import UserError
from spectra.estimate import Estimate, independent
from spectra.files import counted
from spectra.interval import RULE, half_width, with_ends, with_error
from volume.bridge import ORIGIN, BridgeResult, BridgeVolume, SetMass, bridge_cautions, disorders, set_mass
from volume.chains import window_of
from volume.study import VolumeStudy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from volume.bridge import SandwichResult

# Of the curve in the table; the JSON has more.
SHOWN, STORED = 9, 60
# What two bridges have to share for their difference to be of the estimate alone.
_OF = ("checkpoint", "task", "cost", "prior")
# What bounds on a teacher's labels are of.
OF_THE_TEACHER = (
    "log Z(b) of the teacher's labels, above the teacher's own cost: it says whether such a ladder suffices for a "
    "posterior of this architecture, data and prior, and nothing of the checkpoint's own set beyond that"
)
# What bridges of several sets have to share to stand side by side.
_SAME = ("checkpoint_sha256", "checkpoint_weights", "task", "cost", "prior", "data_sha256")
_QUADRATIC = "quadratic-mass"


class OtherBridge(NamedTuple):
    """A bridge that one is held against.

    Attributes:
        name: name of its file.
        result: the bridge, complete.
        source: what it was made from.
    """

    name: str
    result: BridgeResult
    source: Mapping[str, str]


def bridge_table(
    result: BridgeResult,
    source: Mapping[str, str],
    files: Mapping[str, str],
    other: OtherBridge | None = None,
) -> Group:
    """A bridge, complete or not, laid out for a terminal; ``other`` is what it is held against where both reach."""
    parts: list[RenderableType] = [_heading(result, source)]
    unit = source.get("cost_unit", "cost")
    if not result.complete:
        parts.append(Text(_so_far(result), style="yellow"))
        if (partial := _partial(result)) is not None:
            parts.append(_curve(partial, unit))
            if other is not None:
                parts.append(_difference(partial, source, other, unit))
    else:
        parts += [_answers(result, unit), _curve(result, unit), _checks(result)]
        if other is not None:
            parts.append(_difference(result, source, other, unit))
        parts += [Text(f"! {caution}", style="yellow") for caution in bridge_cautions(result, noise=_noise(source))]
    parts += written(files)
    return Group(*parts)


def bridge_json(
    result: BridgeResult,
    source: Mapping[str, str],
    files: Mapping[str, str],
    other: OtherBridge | None = None,
) -> dict[str, Any]:
    """A bridge, complete or not, in plain values; ``files`` says what was written where, by kind."""
    found: dict[str, Any] = {
        "source": dict(source),
        "settings": plain(result.settings.as_dict()),
        "size": result.size,
        "complete": result.complete,
        "ended": result.ended,
        "rungs": result.rung_count,
        "gradient_evaluations": result.gradient_evaluations,
        "cost_evaluations": result.cost_evaluations,
        "diverged": result.diverged,
        "files": dict(files),
    }
    if not result.complete:
        partial = _partial(result)
        found["curve"] = [] if partial is None else [_volume_json(v) for v in partial.curve(STORED)]
        return found if partial is None or other is None else found | _against(partial, source, other)
    check, by_mbar, drift = result.integrated, result.multistate, result.drift
    found |= {
        "volumes": [_volume_json(volume) for volume in result.volumes],
        "curve": [_volume_json(volume) for volume in result.curve(STORED)],
        "largest_rhat": finite(result.diagnostics.largest_rhat),
        "least_effective": finite(result.diagnostics.least_effective),
        "least_overlap": finite(min(link.overlap for link in result.links)),
        "log_normaliser": {
            "links": finite(float(result.log_normalisers[0][-1])),
            "integration": None if check is None else plain([check.log_normaliser, check.standard_error]),
            "pymbar": plain(by_mbar),
        },
        "drift": plain(drift),
        "cautions": list(bridge_cautions(result, noise=_noise(source))),
    }
    return found if other is None else found | _against(result, source, other)


def bridge_rows(
    result: BridgeResult, source: Mapping[str, str], other: OtherBridge | None = None
) -> list[dict[str, Any]]:
    """A row for each cutoff, at full precision: those asked for, then those of the curve, or differences to another."""
    known = result if result.complete else _partial(result)
    if known is None:
        return []
    unit = source.get("cost_unit", "cost")
    if other is not None:
        found = _differences(known, other)
        return [
            {"cutoff": cutoff, "cutoff_unit": unit, **estimate_columns(one, "nat", "difference")}
            for cutoff, one in found
        ]
    volumes = [(True, one) for one in known.volumes] if result.complete else []
    volumes += [(False, one) for one in known.curve(STORED)]
    rows = []
    for asked, one in volumes:
        low, high = one.rise.interval()
        slopes = {"slope": one.slope, "slope_error": one.slope_error, "slope_low95": low, "slope_high95": high}
        where = {"cutoff": one.cutoff, "cutoff_unit": unit, "asked": asked}
        known_to = estimate_columns(one.mass, "nat", "log_volume")
        rows.append({**where, **known_to, **slopes, "share_below": one.share_below})
    return rows


def figure_of(result: BridgeResult, source: Mapping[str, str]) -> Figure:
    """The figure of a complete bridge."""
    from volume.bridge import bridge_figure

    return bridge_figure(result, checkpoint=source.get("checkpoint", ""), unit=source.get("cost_unit", "cost"))


def _noise(source: Mapping[str, str]) -> float:
    return float(source.get("noise", "0"))


def _heading(result: BridgeResult, source: Mapping[str, str]) -> RenderableType:
    name, settings = Path(source["checkpoint"]).name if "checkpoint" in source else "a checkpoint", result.settings
    way = f"{settings.target} from {ORIGIN[settings.origin]}"
    text = Text.assemble((f"Bridge of {name}", "bold"), f": {way}")
    cost = f"{source['cost']} cost, " if "cost" in source else ""
    text.append(f"\n{counted(result.size, 'parameter')}, {cost}prior {source.get('prior', 'unknown')}")
    text.append(
        f"\n{counted(result.rung_count - len(result.passes), 'rung')} of {counted(settings.chains, 'chain')} and "
        f"{counted(settings.draws, 'draw')}, {counted(result.gradient_evaluations, 'gradient')}, seed {settings.seed}"
    )
    return text.append(f", ended by {result.ended}" if result.ended else "")


def _so_far(result: BridgeResult) -> str:
    last = result.passes[-1][-1]
    return (
        f"not complete: inverse temperature {last.state.inverse_temperature:.4g}, localisation "
        f"{last.state.localisation:.4g}, mean cost {last.costs.mean():.4g} so far; go on with --resume"
    )


def _partial(result: BridgeResult) -> BridgeResult | None:
    """What an unfinished ladder says about larger cutoffs, if anything yet."""
    free = [rung for rung in result.passes[0][1:] if rung.state.free] if result.passes else []
    return result.so_far if len(free) > 1 else None


def _answers(result: BridgeResult, unit: str) -> Padding:
    titles = (f"cutoff T ({unit})", "log V (nat)", "log10 V", "bits", "slope d log V / d log T", "draws below")
    found = table(titles, of="log-volumes", padding=3)
    for volume in result.volumes:
        found.add_row(
            f"{volume.cutoff:g}",
            with_ends(volume.log_volume, volume.mass.interval()),
            f"{volume.log_volume / math.log(10.0):,.1f}",
            f"{-volume.log_volume / math.log(2.0):,.0f}",
            with_ends(volume.slope, volume.rise.interval()),
            f"{volume.share_below:.0%}",
        )
    return Padding(Group(found, Text(RULE, style="dim")), (1, 0, 1, 0))


def _curve(result: BridgeResult, unit: str) -> Padding:
    titles = (f"across cutoffs ({unit})", "log V (nat)", "slope")
    found = table(titles, of="log-volumes across cutoffs", padding=3, justify="right")
    for volume in result.curve(SHOWN):
        masses, slopes = volume.mass.interval(), volume.rise.interval()
        found.add_row(f"{volume.cutoff:.3g}", with_ends(volume.log_volume, masses), with_ends(volume.slope, slopes))
    return Padding(found, (0, 0, 1, 0))


def _checks(result: BridgeResult) -> RenderableType:
    found = Sheet("checks", [Column("check"), Column("value", words=True)], header=False, gap=3)
    for row in _check_rows(result):
        found.add_row(*row)
    return found


def _check_rows(result: BridgeResult) -> Iterator[tuple[str, str]]:
    def shown(value: float, error: float) -> str:
        return with_error(value, half_width(error, result.freedom))

    links = shown(float(result.log_normalisers[0][-1]), result.links_error)
    yield "log Z of the last rung", f"{links} nat by neighbours' acceptance ratios"
    if (check := result.integrated) is not None:
        yield "", f"{shown(check.log_normaliser, check.standard_error)} nat by thermodynamic integration"
    if result.multistate is not None:
        # pymbar takes the draws for independent: its error is not the chains' spread.
        value, error = result.multistate
        yield "", f"{with_error(value, half_width(error, math.inf))} nat by pymbar over all rungs"
    found = result.diagnostics
    rhat, least = formatted(found.largest_rhat, ".3f", "unknown"), formatted(found.least_effective, ".0f", "unknown")
    yield "largest R-hat", f"{rhat} over cost and distance of {counted(len(result.rungs) - 1, 'rung')}"
    yield "least effective sample", f"{least} of {result.rungs[1].costs.size} draws"
    yield "least overlap of neighbours", f"{min(link.overlap for link in result.links):.3f} of 1"
    if result.drift is not None:
        yield "second half less first", f"{shown(*result.drift)} nat of log V by halves of the draws"
    yield "diverged trajectories", f"{result.diverged}, all rejected"


def _volume_json(volume: BridgeVolume) -> dict[str, Any]:
    names = ("cutoff", "log_volume", "standard_error", "slope", "slope_error", "share_below")
    intervals = {"interval95": volume.mass.interval(), "slope_interval95": volume.rise.interval()}
    return {name: plain(value) for name, value in ({name: getattr(volume, name) for name in names} | intervals).items()}


def _against(result: BridgeResult, source: Mapping[str, str], other: OtherBridge) -> dict[str, Any]:
    """The differences as plain values."""
    differences = [
        {
            "cutoff": cutoff,
            "difference": finite(found.value),
            "standard_error": finite(found.standard_error),
            "interval95": plain(found.interval()),
        }
        for cutoff, found in _differences(result, other)
    ]
    return {"against": other.name, "unlike": _unlike(result, source, other), "differences": differences}


def _differences(result: BridgeResult, other: OtherBridge) -> Iterator[tuple[float, Estimate]]:
    """Cutoffs that both reach, and the difference there; the chains are independent."""
    reached = other.result.so_far
    asked = [one for one in result.settings.cutoffs if result.reaches(one)]
    for volume in (*result.curve(SHOWN), *map(result.volume, asked)):
        if not reached.reaches(volume.cutoff):
            continue
        yield volume.cutoff, independent(volume.mass, reached.volume(volume.cutoff).mass)


def _unlike(result: BridgeResult, source: Mapping[str, str], other: OtherBridge) -> dict[str, list[str]]:
    """What the two bridges are of, where that is not the same: this one's and the other's."""
    here = {name: source.get(name, "") for name in _OF} | {"target": result.settings.target}
    there = {name: other.source.get(name, "") for name in _OF} | {"target": other.result.settings.target}
    return {name: [here[name], there[name]] for name in here if here[name] != there[name]}


def _difference(result: BridgeResult, source: Mapping[str, str], other: OtherBridge, unit: str) -> Padding:
    titles = (f"cutoff T ({unit})", f"log V less that of {other.name} (nat)", "in standard errors")
    rows = table(titles, of=f"differences to {other.name}", padding=3)
    for cutoff, found in _differences(result, other):
        errors = f"{found.value / found.standard_error:+.1f}" if found.standard_error > 0.0 else NONE
        rows.add_row(f"{cutoff:.3g}", with_ends(found.value, found.interval()), errors)
    unlike = [f"{name} {a} here and {b} there" for name, (a, b) in _unlike(result, source, other).items()]
    words = f"they are not of the same: {'; '.join(unlike)}" if unlike else "both are of the same"
    return Padding(Group(rows, Text(words, style="yellow" if unlike else "dim")), (1, 0, 1, 0))


def sandwich_table(result: SandwichResult, files: Mapping[str, str]) -> Group:
    """The bounds from both sides, complete or not, laid out for a terminal."""
    ladder, source = result.ladder, result.source
    name = Path(source["checkpoint"]).name if "checkpoint" in source else "a checkpoint"
    heading = Text.assemble((f"Sandwich for {name}", "bold"), ": labels of a teacher drawn from the prior")
    heading.append(f"\n{counted(ladder.size, 'parameter')}, {source.get('cost', 'cost')}, prior {source.get('prior')}")
    heading.append(
        f"\nb {result.inverse_temperature:g}, {counted(ladder.rung_count, 'rung')} of "
        f"{counted(ladder.settings.chains, 'chain')}, {result.temperatures} temperatures from one to the next, "
        f"{counted(result.gradient_evaluations, 'gradient')}, seed {ladder.settings.seed}"
    )
    facts = Sheet("bounds", [Column("quantity"), Column("value", words=True)], header=False, gap=3)
    for row in result._facts().items():
        facts.add_row(*row)
    notes = [Text(f"! {caution}", style="yellow") for caution in result._cautions()]
    return Group(heading, Padding(facts, (1, 0, 1, 0)), Text(OF_THE_TEACHER, style="dim"), *notes, *written(files))


def sandwich_json(result: SandwichResult, files: Mapping[str, str]) -> dict[str, Any]:
    """The bounds from both sides, complete or not, in plain values."""
    found: dict[str, Any] = {
        "source": dict(result.source),
        "settings": plain(result.ladder.settings.as_dict()) | {"temperatures": result.temperatures},
        "size": result.ladder.size,
        "inverse_temperature": result.inverse_temperature,
        "complete": result.complete,
        "gradient_evaluations": result.gradient_evaluations,
        "files": dict(files),
    }
    if not result.complete:
        return found
    bounds = {name: json_estimate(getattr(result, name)) for name in ("lower", "by_ladder", "upper", "gap")}
    proven = {"proven95": plain(result.proven()), "largest_rhat": finite(result.ladder.diagnostics.largest_rhat)}
    return found | bounds | proven | {"chains": result.records(), "cautions": list(result._cautions())}


def sets_of(bridges: Sequence[OtherBridge], studies: Mapping[str, VolumeStudy]) -> dict[float, list[SetMass]]:
    """The masses of the sets that bridges of one checkpoint were aimed at, by cutoffs that at least two sets have.

    Args:
        bridges: complete, of one checkpoint, task, cost and prior, no two of one target.
        studies: volumes of the same, by file name, for their quadratic mass.

    Returns:
        By cutoff, the largest first: the sublevel set, one copy of it, windows, the star domain, the quadratic model.

    Raises:
        UserError: if one is not complete, they are of different things, two have one target, or no cutoff is common.
    """
    _refuse_incomparable(bridges, studies)
    ordered = sorted(bridges, key=lambda one: window_of(one.result.settings.target))
    found = {}
    for cutoff in sorted({cutoff for one in bridges for cutoff in one.result.settings.cutoffs}, reverse=True):
        masses = [set_mass(one.result, cutoff, one.name) for one in ordered if one.result.reaches(cutoff)]
        if masses and masses[0].window == 0.0 and (symmetry := symmetry_of(bridges)).get("units"):
            masses.insert(1, _copy(masses[0], symmetry))
        for name, study in studies.items():
            if study.settings.cutoff == cutoff and _QUADRATIC in study.results:
                known, words = study.results[_QUADRATIC].known, "all that cost less in the checkpoint's quadratic model"
                masses.append(SetMass("quadratic mass", words, known, None, name))
        if len({one.file for one in masses}) > 1:
            found[cutoff] = masses
    if not found:
        raise UserError("the files have no cutoff in common: give bridges that were asked for the same --cutoff")
    return found


def symmetry_of(bridges: Sequence[OtherBridge]) -> dict[str, Any]:
    """What the sublevel bridge's file says of the network's symmetries, or why it says nothing."""
    whole = next((one for one in bridges if one.result.settings.target == "sublevel"), None)
    if whole is None:
        return {"reason": "there is no sublevel bridge among the files"}
    if whole.result.settings.origin != "prior":
        return {"reason": f"{whole.name} began at the checkpoint, and its chains need not have come to all copies"}
    unsaid = '{"reason": "the file is from before symmetries were recorded; bridge --resume records them"}'
    return dict(json.loads(whole.source.get("symmetry", unsaid)))


def _copy(whole: SetMass, symmetry: Mapping[str, Any]) -> SetMass:
    """The sublevel set up to the network's symmetries."""
    mass = replace(whole.mass, value=whole.mass.value - symmetry["log_order"])
    words = f"the same, each network counted once of its exp({symmetry['log_order']:.1f}) copies: {symmetry['units']}"
    return SetMass("sublevel up to symmetry", words, mass, None, whole.file)


def _refuse_incomparable(bridges: Sequence[OtherBridge], studies: Mapping[str, VolumeStudy]) -> None:
    first, targets = bridges[0], [one.result.settings.target for one in bridges]
    for one, target in zip(bridges, targets, strict=True):
        if not one.result.complete:
            raise UserError(f"{one.name} is not complete: go on with it by --resume, then show it beside others")
        if targets.count(target) > 1:
            raise UserError(f"two of the files are bridges of {target}: one is shown against the other by --against")
    sources = {one.name: dict(one.source) | {"size": f"{one.result.size}"} for one in bridges}
    for name, study in studies.items():
        made = {key: str(getattr(study.provenance, key, "")) for key in _SAME}
        prior = study.results[_QUADRATIC].measure if _QUADRATIC in study.results else ""
        sources[name] = made | {"data_sha256": study.data_sha256, "prior": prior, "size": f"{study.size}"}
    for name, source in sources.items():
        pairs = [(key, source.get(key), sources[first.name].get(key)) for key in (*_SAME, "size")]
        unlike = [f"{key} is {here} and not {there}" for key, here, there in pairs if here and there and here != there]
        if unlike:
            raise UserError(f"{name} is of something else than {first.name}: {'; '.join(unlike)}")


def sets_table(found: Mapping[float, list[SetMass]], symmetry: Mapping[str, Any], unit: str) -> Group:
    """What ``sets_of`` and ``symmetry_of`` say, laid out for a terminal; ``unit`` is the cost's."""
    parts: list[RenderableType] = [Text("Whose volume: sets around one checkpoint", style="bold")]
    for cutoff, masses in found.items():
        columns = [Column(f"below {cutoff:g} {unit}"), Column("log V (nat)"), Column("which parameters", words=True)]
        rows = Sheet(f"sets below {cutoff:g}", [*columns, Column("file")], spaced=True)
        for one in masses:
            rows.add_row(one.name, with_ends(one.mass.value, one.mass.interval()), one.definition, one.file)
        parts += ["", rows, *(Text(f"! {words}", style="yellow") for words in disorders(masses))]
    parts += ["", Text(RULE, style="dim"), Text(_of_copies(symmetry), style="dim")]
    return Group(*parts)


def sets_rows(found: Mapping[float, list[SetMass]]) -> list[dict[str, Any]]:
    """A row for each cutoff and set, at full precision."""
    return [
        {
            "cutoff": cutoff,
            "set": one.name,
            **estimate_columns(one.mass, "nat", "log_volume"),
            "definition": one.definition,
            "file": one.file,
        }
        for cutoff, masses in found.items()
        for one in masses
    ]


def sets_json(found: Mapping[float, list[SetMass]], symmetry: Mapping[str, Any]) -> dict[str, Any]:
    """The same in plain values, with what is known of copies, and what is out of order."""
    cautions = [words for masses in found.values() for words in disorders(masses)]
    rows = [{name: plain(value) for name, value in row.items()} for row in sets_rows(found)]
    return {"sets": rows, "symmetry": {**symmetry, "says": _of_copies(symmetry)}, "cautions": cautions}


def _of_copies(symmetry: Mapping[str, Any]) -> str:
    """What the mass up to symmetry is, and what the chains say of it."""
    if not symmetry.get("units"):
        return f"The mass up to symmetry is not known: {symmetry['reason']}."
    head = "Up to symmetry: the mass of one copy, exact only if copies do not touch at that cutoff. "
    pairs, joined, aligned = symmetry["pairs"], symmetry["joined"], symmetry["aligned"]
    if not pairs:
        return f"{head}Whether they do was not looked at: the last points of the chains are not kept."
    seen = (
        f"Of {counted(pairs, 'pair')} of chains at the smallest cutoff, straight lines below it join {joined} as they "
        f"are and {aligned} with hidden units aligned"
    )
    if symmetry["both"]:
        return f"{head}{seen}: {symmetry['both']} in both ways, so copies do touch."
    if 2 * aligned > pairs:
        return f"{head}{seen}: no line joins two copies, so they are apart as far as straight lines can tell."
    return (
        f"{head}{seen}: no line joins two copies, which tells little where most aligned chains are not joined either."
    )
