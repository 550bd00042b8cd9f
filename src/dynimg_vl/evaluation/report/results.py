"""All scores of a report, each computed once, and the comparisons of runs."""

import json
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from ..judges.prompts import DIMENSIONS
from .collect import Measured, Run
from .statistics import LEVEL, NUM_RESAMPLES, SEED, Comparison, Estimate, compare, estimate


def published() -> dict[str, Any]:
    """Give the rows of Tables 1 and 2 of the paper."""
    return json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))


class Results:
    """Hold runs, their scores and how they differ.

    Args:
        runs: what was collected.
    """

    def __init__(self, runs: Sequence[Run]):
        self.runs = runs
        self.measured = [one for run in runs for one in run.measured]
        self.claims = published()
        self._scores = {
            id(one): {name: estimate(found.scored, found.average) for name, found in one.values.items()}
            for one in self.measured
        }
        self.comparisons = list(self._compared())

    def score(self, one: Measured, metric: str) -> Estimate | None:
        """Give a score; None where it was not measured."""
        return self._scores[id(one)].get(metric)

    def by_judge(self, tasks: Sequence[str]) -> list[dict[str, Measured]]:
        """Group what belongs in one row of a table: a run under one judge, by task."""
        groups: dict[tuple[str, str], dict[str, Measured]] = {}
        for one in self.measured:
            if one.task.name in tasks:
                groups.setdefault((one.run, one.judge), {})[one.task.name] = one
        return list(groups.values())

    def describe(self) -> dict[str, Any]:
        """Give all numbers in values that JSON knows."""
        return {
            "bootstrap": {"num_resamples": NUM_RESAMPLES, "seed": SEED, "level": LEVEL, "cluster": "video"},
            "runs": [{"label": run.label, "folder": str(run.folder), "engine": dict(run.engine)} for run in self.runs],
            "measured": [self._describe(one) for one in self.measured],
            "comparisons": [
                {
                    "task": first.task.name, "metric": metric, "judge": first.judge, "first": first.run,
                    "second": second.run, **vars(found), "difference": vars(found.difference),
                }
                for first, second, metric, found in self.comparisons
            ],
            "claimed": self.claims,
        }  # fmt: skip

    def _describe(self, one: Measured) -> dict[str, Any]:
        scores = {name: None if found is None else vars(found) for name, found in self._scores[id(one)].items()}
        return {
            "run": one.run, "folder": str(one.folder), "task": one.task.name, "judge": dict(one.facts),
            "scores": scores, "counts": dict(one.counts), "official": one.official, "warnings": list(one.warnings),
            "visual_tokens": one.visual_tokens,
        }  # fmt: skip

    def _compared(self) -> Iterable[tuple[Measured, Measured, str, Comparison]]:
        for first, second in combinations(self.measured, 2):
            if first.run == second.run or not first.is_comparable(second):
                continue
            for metric, values in first.values.items():
                if metric in second.values and metric not in DIMENSIONS:
                    found = compare(values.scored, second.values[metric].scored, values.average)
                    if found is not None:
                        yield first, second, metric, found
