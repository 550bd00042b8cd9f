"""A report as blocks, and the blocks as Markdown or HTML; every text in it is taken for hostile."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias
from xml.etree.ElementTree import Element, SubElement, tostring

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 110em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 0.5em 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: 0.2em 0.6em; text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .text td { text-align: left; }
.text td { white-space: pre-wrap; overflow-wrap: anywhere; }
.claimed td { color: #666; font-style: italic; }
.note { color: #555; max-width: 60em; }
svg { max-width: 100%; height: auto; }
"""
# Marks that turn Markdown or HTML on, and what GitHub makes a link of.
_MARKDOWN = re.compile(r"[\\`*_\[\]<>|#~$]|://|www\.|@")
_LINK_BREAKS = {"://": ":\\//", "www.": "www\\.", "<": "&lt;", ">": "&gt;"}


@dataclass(frozen=True)
class Row:
    """Hold one row of a table; `is_claimed` marks a published one."""

    cells: Sequence[str]
    is_claimed: bool = False


@dataclass(frozen=True)
class Table:
    """Hold a table; `is_text` where its cells are words rather than numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Row]
    note: str = ""
    is_text: bool = False


@dataclass(frozen=True)
class Chart:
    """Hold a picture: an SVG element, and the name of its file where it cannot stand in the text."""

    title: str
    name: str
    svg: Element
    note: str = ""


Block: TypeAlias = Table | Chart


@dataclass(frozen=True)
class Document:
    """Hold a report."""

    title: str
    intro: str
    blocks: Sequence[Block]


def to_markdown(document: Document, picture_prefix: str = "") -> tuple[str, dict[str, bytes]]:
    """Write Markdown, and the pictures that lie beside it: file name -> SVG."""
    parts = [f"# {escape_markdown(document.title)}", escape_markdown(document.intro)]
    pictures = {}
    for block in document.blocks:
        parts.append(f"## {escape_markdown(block.title)}")
        if block.note:
            parts.append(escape_markdown(block.note))
        if isinstance(block, Chart):
            name = f"{picture_prefix}{block.name}.svg"
            pictures[name] = tostring(block.svg, encoding="utf-8", xml_declaration=True)
            parts.append(f"![{escape_markdown(block.title)}](<{name}>)")
            continue
        lines = [
            _line(block.columns),
            _line(["---"] + ["---" if block.is_text else "--:"] * (len(block.columns) - 1), str),
        ]
        lines += [_line(row.cells) for row in block.rows]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n", pictures


def to_html(document: Document) -> str:
    """Write one HTML file that needs no other."""
    html = Element("html", lang="en")
    head = SubElement(html, "head")
    SubElement(head, "meta", charset="utf-8")
    # Nothing is loaded from anywhere, and no script runs, whatever a model has answered.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": policy})
    _add(head, "title", document.title)
    SubElement(head, "style").text = _STYLE
    body = SubElement(html, "body")
    _add(body, "h1", document.title)
    _add(body, "p", document.intro)
    for block in document.blocks:
        _add(body, "h2", block.title)
        if block.note:
            _add(body, "p", block.note).set("class", "note")
        if isinstance(block, Chart):
            body.append(block.svg)
        else:
            _add_table(body, block)
    return "<!doctype html>\n" + tostring(html, encoding="unicode", method="html") + "\n"


def shown(text: str) -> str:
    """Replace what cannot be shown, or turns the writing around: controls, lone surrogates, marks of direction."""
    return "".join(
        letter if unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Co", "Cn") or letter in "\n\t" else "\ufffd"
        for letter in text
    )


def escape_markdown(text: str) -> str:
    """Make a text stand in a line or cell of Markdown as it is."""
    flat = " ".join(shown(text).split()).replace("&", "&amp;")
    return _MARKDOWN.sub(lambda found: _LINK_BREAKS.get(found[0], "\\" + found[0]), flat)


def _line(cells: Sequence[str], escape=escape_markdown) -> str:
    return "| " + " | ".join(escape(cell) for cell in cells) + " |"


def _add_table(body: Element, block: Table) -> None:
    table = SubElement(body, "table", {"class": "text"} if block.is_text else {})
    titles = SubElement(SubElement(table, "thead"), "tr")
    for column in block.columns:
        _add(titles, "th", column)
    rows = SubElement(table, "tbody")
    for row in block.rows:
        line = SubElement(rows, "tr", {"class": "claimed"} if row.is_claimed else {})
        for cell in row.cells:
            _add(line, "td", cell)


def _add(parent: Element, tag: str, text: str) -> Element:
    element = SubElement(parent, tag)
    element.text = shown(text)
    return element
