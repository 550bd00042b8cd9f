"""`data check` and `data build`: look through training data, and decode it once."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from ..errors import InputError
from ..text_formats import json_bytes
from .options import (
    counted,
    emit_json,
    given,
    json_option,
    num_dynimgs_option,
    num_prompts_option,
    policy_option,
    written_whole,
)
from .progress import progress_bar

_root_options = [
    click.option("--annotation-root", type=Path, help="Folder of the annotation files, instead of the recipe's."),
    click.option("--video-root", type=Path, help="Folder of the videos, instead of the recipe's."),
    num_dynimgs_option,
    num_prompts_option,
]


def _mixture_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_root_options):
        verb = option(verb)
    return click.argument("recipe", type=Path)(verb)


@click.group()
def data() -> None:
    """Check and prepare training data."""


@data.command()
@_mixture_options
@click.option("--decode", is_flag=True, help="Decode every frame of every video, not only read the packets.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("-o", "--output", type=Path, help="Also write the report to this file, as JSON.")
@json_option
@click.pass_context
def check(
    context: click.Context, recipe: Path, decode: bool, workers: int, output: Path | None, as_json: bool, **options: Any
) -> None:
    """Look through all that RECIPE (a mixture of sources) names: counts, videos, lengths.

    Exits with 1 where the mixture differs from what the recipe expects.
    """
    from ..training.data.check import check_mixture
    from ..training.data.mixture import read_mixture

    request = _request(options)
    mixture = read_mixture(recipe, **given(**options))
    with progress_bar("videos") as progress:
        report = check_mixture(mixture, decode=decode, request=request, workers=workers, progress=progress)
    facts = {"recipe": str(recipe), **report.describe()}
    if output is not None:
        with written_whole(output) as temporary:
            temporary.write_bytes(json_bytes(facts, 2) + b"\n")
    if as_json:
        emit_json(facts)
    else:
        click.echo("\n".join(_table(facts["sources"])))
        for difference in report.differences:
            click.echo(f"differs: {difference}")
        if not report.differences:
            click.echo(f"{recipe}: {counted(facts['num_samples'], 'sample')}, as expected")
    if report.differences:
        context.exit(1)


@data.command()
@_mixture_options
@click.option("-o", "--output", type=Path, required=True, help="The folder of the shards.")
@click.option("--shard-index", type=click.IntRange(0), default=0, help="Which part of the shards is this job's.")
@click.option("--num-shards", type=click.IntRange(1), default=1, help="Into how many parts (jobs) they are divided.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--ray", "on_ray", is_flag=True, help="On a Ray cluster whose machines share videos and folder.")
@policy_option
@click.option("--short-side", type=click.IntRange(16), help="Cap on the shorter side of frames, in pixels.")
@click.option("--per-gap", type=click.IntRange(1), help="Candidates kept between two keyframes.")
@click.option("--format", "picture", type=click.Choice(["jpeg", "webp"]), default="jpeg", show_default=True)
@click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True, help="Of the stored frames.")
@click.option("--records-per-shard", type=click.IntRange(1), help="Clips in a shard.")
@json_option
def build(
    recipe: Path,
    output: Path,
    shard_index: int,
    num_shards: int,
    workers: int,
    on_ray: bool,
    picture: str,
    quality: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Decode the clips of RECIPE once, into shards that training reads instead of videos.

    Killed and started again, it goes on where it stopped. Several jobs may work on one folder: job I of N takes
    --shard-index I --num-shards N.
    """
    from ..training.data.mixture import read_mixture
    from ..training.data.shard_building import BuildOptions, ShardPlan, build_on_ray, build_shards
    from ..training.data.shard_format import PictureFormat

    if on_ray and (workers, num_shards) != (1, 1):
        raise InputError("--ray divides the work by itself; leave --workers, --shard-index and --num-shards out")
    request = _request(options)
    shapes = {name: options.pop(name) for name in ("per_gap", "records_per_shard")}
    chosen = BuildOptions(request=request, picture=PictureFormat(picture, quality), **given(**shapes))
    plan = ShardPlan(read_mixture(recipe, **given(**options)), chosen)
    with progress_bar("shards") as progress:
        if on_ray:
            report = build_on_ray(plan, output, progress)
        else:
            report = build_shards(
                plan, output, shard_index=shard_index, num_shards=num_shards, workers=workers, progress=progress
            )
    if as_json:
        skipped = list(report.skipped)
        emit_json({"num_shards": report.num_shards, "num_clips": report.num_records, "skipped": skipped})
        return
    click.echo(f"{output}: {counted(report.num_shards, 'shard')} of {counted(report.num_records, 'clip')}")
    for row in report.skipped:
        click.echo(f"left out, {row['reason']}: {', '.join(row['videos'])} ({row['source']})")


def _request(options: dict[str, Any]) -> Any:
    from ..training.data.frame_groups import FrameRequest

    values = {name: options.pop(name, None) for name in ("num_dynimgs", "policy", "short_side")}
    return FrameRequest(**given(num_prompt_frames=options.pop("num_prompts", None), **values))


def _table(sources: list[dict[str, Any]]) -> Iterator[str]:
    columns = {
        "samples": "num_samples",
        "expected": "expected",
        "videos": "num_videos",
        "found": "num_found",
        "missing": "num_missing",
        "unreadable": "num_unreadable",
        "damaged": "num_damaged",
        "few I": "num_few_iframes",
        "median s": "median_seconds",
    }
    width = max(len(source["name"]) for source in sources)
    yield " " * width + "".join(f"{title:>11}" for title in columns)
    for source in sources:
        if source["is_off"]:
            yield f"{source['name']:{width}}        off (weight 0)"
            continue
        values = ("-" if source[key] is None else source[key] for key in columns.values())
        yield f"{source['name']:{width}}" + "".join(f"{value:>11}" for value in values)
