"""`report`: measured results beside published ones."""

from pathlib import Path

import click

from ..errors import InputError
from .options import emit_json, json_option, written_whole


@click.command()
@click.argument("outs", metavar="OUT...", nargs=-1, required=True, type=Path)
@click.option("-o", "--output", type=Path, metavar="FILE.md|FILE.html", help="Without it, Markdown goes to stdout.")
@json_option
def report(outs: tuple[Path, ...], output: Path | None, as_json: bool) -> None:
    """Show the results in OUT, the folders of evaluations, beside those that the paper prints.

    Markdown keeps its pictures in files beside it; HTML is one file.
    """
    from ..evaluation.report.build import build_document
    from ..evaluation.report.collect import collect_runs
    from ..evaluation.report.document import to_html, to_markdown
    from ..evaluation.report.results import Results

    if output is not None and output.suffix not in (".md", ".html"):
        raise InputError(f"cannot tell the form of {output}; name a file that ends in .md or .html")
    results = Results(collect_runs(outs))
    document = build_document(results)
    if output is None:
        if not as_json:
            click.echo(to_markdown(document)[0], nl=False)
    elif output.suffix == ".html":
        _write(output, to_html(document).encode())
    else:
        text, pictures = to_markdown(document, picture_prefix=f"{output.stem}-")
        for name, picture in pictures.items():
            _write(output.with_name(name), picture)
        _write(output, text.encode())
    if as_json:
        emit_json(results.describe())


def _write(path: Path, content: bytes) -> None:
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
