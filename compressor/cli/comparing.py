"""`compress compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from compressor.comparing import compare
from compressor.comparison import Comparison
from compressor.comparison_html import render_comparison
from compressor.comparison_view import FigureRow, cost_rows, limit_rows, option_rows, quality_rows
from compressor.console import print_table
from compressor.errors import CompressorError
from compressor.run_folder import write_atomically
from compressor.run_reading import read_runs


def show_comparison(first: Path, second: Path, page: Path | None, *, as_json: bool) -> None:
    """Print two finished runs beside each other, and write a page of them.

    Raises:
        CompressorError: a folder holds no finished run that can be read, or the page cannot be written.
    """
    if page is not None and page.suffix.lower() not in (".html", ".htm"):
        raise CompressorError(f"{page}: expected a name that ends in .html")
    a, b = read_runs((first, second))
    found = compare(a, b)
    if as_json:
        click.echo(found.model_dump_json(indent=2))
    else:
        _print(found)
    if page is not None:
        write_atomically(page, render_comparison(found, a, b).encode())
        click.echo(f"look and listen: {page}", err=True)


def _print(found: Comparison) -> None:
    for name, run in (("A", found.a), ("B", found.b)):
        click.echo(f"{name}: {run.folder} ({run.name}, {run.created})")
    for note in found.notes:
        click.echo(f"note: {note}")
    options = [[row.key, row.a, row.b] for row in option_rows(found)]
    if options:
        _print_table(["recipe", "A", "B"], options)
    else:
        click.echo("\nthe recipes are the same")
    _print_figures("cost", cost_rows(found))
    _print_figures("quality", quality_rows(found))
    _print_table(["limit", "A", "B"], [[row.name, row.a, row.b] for row in limit_rows(found)])


def _print_figures(what: str, rows: Sequence[FigureRow]) -> None:
    cells = [[row.metric, row.teacher, row.a, row.b, row.difference, row.verdict] for row in rows]
    _print_table([what, "teacher", "A", "B", "B against A", ""], cells)


def _print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        click.echo()
        print_table(headers, rows)
