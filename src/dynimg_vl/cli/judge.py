"""`judge`: give verdicts on the answers of an evaluation."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import date
from pathlib import Path
from typing import Any

import click

from ..errors import InputError
from .options import counted, emit_json, json_option
from .progress import progress_bar

_OWN_ENDPOINT = "https://api.openai.com/v1"
_CACHE = ".judge-cache.sqlite3"


@click.command()
@click.argument("outs", metavar="OUT...", nargs=-1, required=True, type=Path)
@click.option(
    "--judge",
    "kind",
    type=click.Choice(["endpoint", "exact", "containment"]),
    default="endpoint",
    show_default=True,
    help="A language model behind an endpoint, or a rule that needs no network.",
)
@click.option("--judge-model", default="gpt-3.5-turbo-0125", show_default=True, help="As the endpoint names it.")
@click.option(
    "--base-url", envvar="OPENAI_BASE_URL", help=f"Of an OpenAI-compatible endpoint.  [default: {_OWN_ENDPOINT}]"
)
@click.option("--judge-prompt", type=Path, help="File with another wording, see docs/evaluation.md.")
@click.option("--concurrency", type=click.IntRange(1, 256), default=8, show_default=True, help="Requests at a time.")
@click.option("--timeout", type=click.FloatRange(0.1), default=60.0, show_default=True, help="Seconds for one request.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(8),
    default=256,
    show_default=True,
    help="Longest reply; more for one that thinks.",
)
@click.option("--price", metavar="IN/OUT", help="US dollars for a million prompt and new tokens, as in 0.5/1.5.")
@click.option("--cache", type=Path, help=f"File that keeps what the judge said.  [default: OUT/{_CACHE}]")
@click.option("--yes", is_flag=True, help="Do not ask before money is spent.")
@json_option
def judge(outs: tuple[Path, ...], kind: str, judge_prompt: Path | None, as_json: bool, **options: Any) -> None:
    """Judge the open-ended answers in OUT, the folder of an evaluation, or one task's folder in it.

    The key of an endpoint is read from OPENAI_API_KEY. What was judged once is kept: stopped and started again, it goes
    on where it was. Tasks with lettered options need no judge.
    """
    from ..evaluation.judges.run import JudgePlan, plan_judging, task_folders

    plans: list[tuple[Path, JudgePlan]] = []
    for out in outs:
        for folder in task_folders(out):
            plan = plan_judging(folder)
            if plan is not None:
                plans.append((out, plan))
    if not plans:
        raise InputError("nothing here needs a judge; dynimg-vl report shows the results")
    results = _with_endpoint(plans, judge_prompt, **options) if kind == "endpoint" else _with_rule(plans, kind)
    if as_json:
        emit_json(results)
        return
    for result in results:
        click.echo("\n".join(_lines(result)))


def _with_rule(plans: list[Any], kind: str) -> list[dict[str, Any]]:
    from ..evaluation.judges.judge import RuleJudge
    from ..evaluation.judges.run import judge_plan

    results = []
    for _, plan in plans:
        if plan.is_dialogue:
            click.echo(f"left out: {plan.folder}, whose five dimensions only a language model can judge", err=True)
            continue
        with progress_bar(plan.task) as progress:
            result = judge_plan(plan, RuleJudge(kind), progress=progress)
        results.append({"folder": str(plan.folder), **result})
    if not results:
        raise InputError(f"the judge {kind} can judge none of this; use --judge endpoint")
    return results


def _with_endpoint(
    plans: list[Any],
    judge_prompt: Path | None,
    *,
    judge_model: str,
    base_url: str | None,
    concurrency: int,
    timeout: float,
    max_new_tokens: int,
    price: str | None,
    cache: Path | None,
    yes: bool,
) -> list[dict[str, Any]]:
    from ..evaluation.judges.cache import JudgeCache
    from ..evaluation.judges.judge import KNOWN_PRICES, EndpointJudge, Price
    from ..evaluation.judges.prompts import read_prompts
    from ..evaluation.judges.run import judge_plan
    from ..inference.chat_client import ChatClient, Patience

    known = KNOWN_PRICES.get(judge_model) if base_url is None else None
    paid = known if price is None else Price(*_parse_price(price), date.today().isoformat())
    prompts = read_prompts(judge_prompt)
    client = ChatClient(judge_model, _key(base_url), base_url, Patience(timeout_seconds=timeout))
    # By absolute paths: `.` has no parent of its own. Links are left, as what lies beside them is meant.
    folders = [(Path(os.path.abspath(out)), Path(os.path.abspath(plan.folder))) for out, plan in plans]
    paths = [cache or (folder.parent if out == folder else out) / _CACHE for out, folder in folders]
    results = []
    with ExitStack() as stack:
        caches = {path: stack.enter_context(closing(JudgeCache(path))) for path in dict.fromkeys(paths)}
        judges = {path: EndpointJudge(client, prompts, kept, max_new_tokens) for path, kept in caches.items()}
        work = [(judges[path], plan) for path, (_, plan) in zip(paths, plans, strict=True)]
        _agree(work, paid, yes)
        for judge_of, plan in work:
            with progress_bar(plan.task) as progress:
                result = judge_plan(plan, judge_of, concurrency=concurrency, price=paid, progress=progress)
            results.append({"folder": str(plan.folder), **result})
    return results


def _key(base_url: str | None) -> str:
    from ..inference.chat_client import NO_KEY

    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key and base_url is None:
        raise InputError(
            "no key for the judge: set OPENAI_API_KEY, name a server of your own with --base-url, "
            "or use --judge containment"
        )
    return key or NO_KEY


def _parse_price(text: str) -> tuple[float, float]:
    try:
        prompt, new = (float(part) for part in text.split("/"))
    except ValueError as error:
        raise InputError(f"--price {text}: give two numbers, as in 0.5/1.5") from error
    if not (0 <= prompt < 1e6 and 0 <= new < 1e6):
        raise InputError(f"--price {text}: prices are dollars for a million tokens, from 0 on")
    return prompt, new


def _agree(work: list[tuple[Any, Any]], price: Any, yes: bool) -> None:
    """Say what is about to be asked and what it may cost; on a terminal, ask whether to go on."""
    from ..evaluation.judges.judge import estimate

    with progress_bar("look-ups") as progress:
        estimates = [estimate(judge, plan.cases, progress) for judge, plan in work]
    total = {name: sum(part[name] for part in estimates) for name in ("num_requests", "prompt_tokens", "new_tokens")}
    if not total["num_requests"]:
        return
    cost = "the price of this judge is not known here (--price)"
    if price is not None:
        dollars = price.cost(total["prompt_tokens"], total["new_tokens"])
        cost = f"about {dollars:.2f} US dollars at the price of {price.date}"
    judge = work[0][0]
    click.echo(
        f"{counted(total['num_requests'], 'request')} to {judge.client.model} at {judge.client.endpoint}, about "
        f"{total['prompt_tokens']:,} prompt and {total['new_tokens']:,} new tokens: {cost}",
        err=True,
    )
    if not yes and sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty():
        click.confirm("go on?", abort=True, err=True)


def _lines(result: dict[str, Any]) -> Iterator[str]:
    counts, judge = result["counts"], result["judge"]
    scores = ", ".join(
        f"{name} {value:.2f}" for name, value in result["metrics"].items() if isinstance(value, int | float)
    )
    yield f"{result['folder']}: {scores or 'no scores'} (judge {judge['name']})"
    others = ", ".join(f"{count:,} {state}" for state, count in counts.items() if state not in ("total", "judged"))
    yield f"  judged {counts['judged']:,} of {counts['total']:,}" + (f"; in no score: {others}" if others else "")
    spending = result.get("spending")
    if spending is not None:
        cost = "cost not known" if spending["cost_usd"] is None else f"{spending['cost_usd']:.4f} US dollars"
        yield (
            f"  {counted(spending['num_requests'], 'request')}, {spending['num_cached']:,} from the cache, "
            f"{spending['prompt_tokens']:,} prompt and {spending['new_tokens']:,} new tokens, {cost}"
        )
