"""The report of an experiment: per world a table beside the paper's, the claims with their labels, and a figure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from ...motion.plan import MOTION_FAMILIES
from .figure import Row, draw_curves, draw_figure
from .looks import looks_section, summarise_looks
from .measure import CONTROLS
from .protocol import Experiment, has_own_budget
from .statistics import MIN_ERRORS, MIN_POINTS, MIN_SEEDS, Estimate, decide, estimate, is_above_bound, paired
from .tables import KEYFRAMES, Claim
from .worlds import WORLDS

REPORT_FILE = "report.md"
SUMMARY_FILE = "summary.json"
_RULE = (
    f"Decided beforehand: a claim has *held* where the paired difference over initial weights is above {MIN_ERRORS:g} "
    f"standard errors and above {MIN_POINTS:g} points, is *refuted* where it is so the other way round, and "
    f"*undecided* otherwise, or with fewer than {MIN_SEEDS} initial weights."
)
_SMOKE = "**Smoke scale: these numbers show that everything runs. They say nothing about any claim.**"


def write_report(
    experiment: Experiment, results: Sequence[Mapping[str, Any]], out: Path, command: str, total: int | None = None
) -> dict[str, Any]:
    """Write `report.md`, its figures and `summary.json`, and return the summary.

    Args:
        experiment: what was run.
        results: of the runs of arms, as they were measured; maybe not all of them yet.
        out: the folder.
        command: that made them.
        total: runs of arms that there will be; None: as many as there are results.
    """
    total = len(results) if total is None else total
    worlds = {name: summarise(experiment, name, results) for name in experiment.worlds}
    runs = {"done": len(results), "total": total}
    steps = experiment.own_collage_steps if experiment.own_collages else 0
    what = {"table": experiment.table_name, "scale": experiment.scale, "own_collage_steps": steps}
    summary = {**what, "base": experiment.base or experiment.table_name, "runs": runs, "worlds": worlds}
    dates, machines = (sorted({str(each[key]) for each in results}) for key in ("date", "machine"))
    lines = [f"# {experiment.table.title}", "", *([_SMOKE, ""] if experiment.scale == "smoke" else [])]
    if len(results) < total:
        lines += [f"**Under way: {len(results)} of {total} runs. Each mean is over the seeds that are there.**", ""]
    lines += [f"`{command}`", "", f"{', '.join(machines)}; {' to '.join(dates[:1] + dates[1:][-1:])}. {_RULE}", ""]
    lines += [
        "Scores are macro averages in points, over what the right answer is and over families of questions, with the "
        "95 % interval over initial weights. Equal compute: as many floating-point operations (counted, forward and "
        "backward) as the reference at equal clips. The paper's accuracy is that on MSVD.",
        "",
    ]
    if experiment.base is not None:
        lines += [
            f"**The common weights are those of {experiment.base}: its stills and collages, in all its layouts.**",
            "",
        ]
    if steps:
        lines += [f"**Between the common weights and text, each arm had {steps} steps of collages of its own.**", ""]
    for name, world in worlds.items():
        figure = f"{experiment.table_name}_{name}.svg"
        (out / figure).write_text(_figure(experiment, name, world), encoding="utf-8")
        lines += [*_section(experiment, name, world), f"![{experiment.table.title}, world {name}]({figure})", ""]
        if any(len(points) > 1 for points in world["curves"].values()):
            figure = f"{experiment.table_name}_{name}_curves.svg"
            curves = {experiment.arms[arm].title: points for arm, points in world["curves"].items()}
            drawn = draw_curves(f"{experiment.table.title} ({name}, {experiment.scale})", curves)
            (out / figure).write_text(drawn, encoding="utf-8")
            lines += [f"![learning curves, world {name}]({figure})", ""]
    (out / REPORT_FILE).write_text("\n".join(lines), encoding="utf-8")
    (out / SUMMARY_FILE).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def summarise(experiment: Experiment, world: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise the results of one world: arms at both budgets, labels of the claims, and leaks that controls found."""
    plan = WORLDS[world].plan
    families = [family for family in plan.families if family in MOTION_FAMILIES]
    bound = None if WORLDS[world].shows_motion else 100 * fmean(plan.bound(family) for family in families)
    runs: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for each in sorted(results, key=lambda each: each["seed"]):
        if each["world"] == world:
            runs.setdefault((each["arm"], each["budget"]), []).append(each)
    arms = {arm: _arm(found) for (arm, budget), found in runs.items() if budget == "clips"}
    compute = {arm: _arm(found) for (arm, budget), found in runs.items() if budget == "compute"}

    def scores(arm: str, budget: str) -> dict[int, float]:
        found = runs.get((arm, budget), [])
        if not found and budget == "compute" and _is_both(experiment, runs, arm):
            found = runs[arm, "clips"]
        return {each["seed"]: each["score"] for each in found}

    def judged(claim: Claim, budget: str) -> dict[str, Any]:
        difference = paired(scores(claim.better, budget), scores(claim.worse, budget))
        return {"difference": None if difference is None else asdict(difference), "label": decide(difference)}

    claims = {
        claim.name: {"is_ours": claim.is_ours, **{budget: judged(claim, budget) for budget in ("clips", "compute")}}
        for claim in experiment.table.claims
        if claim.better in arms and claim.worse in arms
    }
    of_one_keyframe = {key: found for key, found in runs.items() if _num_dynimgs(experiment, world, key[0]) == 1}
    leaks = [] if bound is None else _leaks(of_one_keyframe, bound)
    curves = {arm: curve for (arm, budget), found in runs.items() if budget == "clips" and (curve := _curve(found))}
    looks = {
        arm: seen for (arm, budget), found in runs.items() if budget == "clips" and (seen := summarise_looks(found))
    }
    found = {"bound": bound, "arms": arms, "equal_compute": compute, "claims": claims, "leaks": leaks}
    return {**found, "mixed_starts": _mixed_starts(runs), "looks": looks, "curves": curves}


def _is_both(experiment: Experiment, runs: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]], arm: str) -> bool:
    # Whether the run at equal clips is that at equal compute, too; not known before the reference has been run.
    name = experiment.table.reference
    own, reference = runs[arm, "clips"], runs.get((name, "clips"))
    return reference is not None and not has_own_budget(own[0]["flops_per_clip"], reference[0]["flops_per_clip"])


def _num_dynimgs(experiment: Experiment, world: str, arm: str) -> int:
    # Several keyframes show some of the motion, also with a grey strip.
    return int({**WORLDS[world].model, **experiment.table.arms[arm].model}.get("num_dynimgs", 1))


def _curve(found: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    # Over the seeds that were looked at after as many clips; shares of all questions on motion, not macro averages.
    points: dict[float, list[float]] = {}
    for each in found:
        per_step = each["clips"] / each["steps"] if each.get("steps") else 1
        for row in each.get("curve", ()):
            shares = [row[name] for family in MOTION_FAMILIES if (name := f"eval_exact_{family}") in row]
            if shares:
                points.setdefault(row["step"] * per_step, []).append(100 * fmean(shares))
    return [(clips, fmean(values)) for clips, values in sorted(points.items())]


def _mixed_starts(runs: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]) -> list[int]:
    # Seeds whose arms are known not to share their initial weights.
    starts: dict[int, set[str]] = {}
    for each in (each for found in runs.values() for each in found):
        if each.get("start") is not None:
            starts.setdefault(each["seed"], set()).add(each["start"])
    return sorted(seed for seed, found in starts.items() if len(found) > 1)


def _arm(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    controls = {
        name: fmean(each["controls"][name] for each in found) for name in CONTROLS if name in found[0]["controls"]
    }
    keyframe = [each["keyframe_score"] for each in found if each["keyframe_score"] is not None]
    score = estimate([each["score"] for each in found])
    assert score is not None
    return {
        "score": asdict(score),
        "seeds": {each["seed"]: each["score"] for each in found},
        "keyframe_score": fmean(keyframe) if keyframe else None,
        "controls": controls,
        "clips": found[0]["clips"],
        "flops_per_clip": found[0]["flops_per_clip"],
    }


def _leaks(runs: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]], bound: float) -> list[str]:
    # Whatever knows of motion what it cannot see: keyframes alone, and any arm whose strip is grey.
    found = []
    for (arm, budget), results in runs.items():
        errors = [each["sampling_error"] for each in results]
        blind = [each["score"] for each in results] if arm == KEYFRAMES else None
        if blind is None and all("grey" in each["controls"] for each in results):
            blind = [each["controls"]["grey"] for each in results]
            # A result of an earlier version has the error of the score only.
            errors = [each.get("control_errors", {}).get("grey", each["sampling_error"]) for each in results]
        if blind is not None and is_above_bound(blind, errors, bound):
            what = "keyframes only" if arm == KEYFRAMES else f"{arm} with a grey strip"
            budget_note = "" if budget == "clips" else " (equal compute)"
            found.append(f"{what}{budget_note}: {fmean(blind):.1f}, and a guess gets {bound:.1f}")
    return found


def _section(experiment: Experiment, name: str, world: Mapping[str, Any]) -> list[str]:
    lines = [f"## World `{name}`: {WORLDS[name].purpose}", ""]
    if world["bound"] is None:
        lines += ["Several keyframes show some of the motion: keyframes only have no bound here.", ""]
    elif world["leaks"]:
        lines += [
            f"**Leak: this world tells its answers without motion; its table is void.** {'; '.join(world['leaks'])}.",
            "",
        ]
    else:
        lines += [f"A guess without motion gets {world['bound']:.1f}; no control is above it.", ""]
    if world["mixed_starts"]:
        seeds = ", ".join(map(str, world["mixed_starts"]))
        lines += [
            f"**Not all arms share their initial weights (seeds: {seeds}): stages A and B ran more than once.** "
            "Such differences are less sure than those of pairs.",
            "",
        ]
    lines += [
        "| arm | paper | equal clips | equal compute | of the keyframe | shuffled | repeated | grey | MFLOP a clip |",
        "|---" * 9 + "|",
    ]
    for arm, found in world["arms"].items():
        described = experiment.arms[arm]
        other = world["equal_compute"].get(arm)
        cells = [
            described.title,
            _number(described.paper),
            _interval(found["score"]),
            "" if other is None else _interval(other["score"]),
            _number(found["keyframe_score"]),
            *(_number(found["controls"].get(control)) for control in CONTROLS),
            _number(found["flops_per_clip"] / 1e6, 0),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| claim | difference, equal clips | label | difference, equal compute | label |", "|---" * 5 + "|"]
    for claim, found in world["claims"].items():
        ours = " (ours)" if found["is_ours"] else ""
        parts = [
            f"{_interval(found[budget]['difference'])} | {found[budget]['label']}" for budget in ("clips", "compute")
        ]
        lines.append(f"| {claim}{ours} | {' | '.join(parts)} |")
    titles = {arm: described.title for arm, described in experiment.arms.items()}
    return [*lines, "", *looks_section(titles, world["looks"])]


def _figure(experiment: Experiment, name: str, world: Mapping[str, Any]) -> str:
    rows = [
        Row(
            experiment.arms[arm].title,
            Estimate(**found["score"]),
            tuple(found["seeds"].values()),
            found["controls"].get("shuffled"),
        )
        for arm, found in world["arms"].items()
    ]
    return draw_figure(f"{experiment.table.title} ({name}, {experiment.scale})", rows, world["bound"])


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _interval(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    if found["low"] is None:
        return f"{found['mean']:.1f} (one seed)"
    return f"{found['mean']:.1f} ({found['low']:.1f} to {found['high']:.1f})"
