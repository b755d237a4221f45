"""The verb ``compare``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from anystroke.commands.common import OK, check_folder, check_new, complain
from anystroke.commands.evaluate import split
from anystroke.commands.options import Debug, Output, with_options


@dataclass(frozen=True)
class TableOptions:
    """What the tables show."""

    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,NAME]...",
            help="Columns of the tables.",
            show_default="dice, hausdorff95, volume_difference, lesion_count_difference, lesion_f1",
        ),
    ] = None
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN[,COLUMN]...",
            help="Columns of metrics.tsv to sort cases by, beside lesion size.",
            show_default="sequence",
        ),
    ] = None
    centre: Annotated[Literal["median", "mean"], typer.Option(help="What tables show.")] = "median"
    interval: Annotated[
        Literal["t", "bootstrap", "none"],
        typer.Option(help="The interval in brackets; t is the qATLAS paper's."),
    ] = "t"
    published: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE", help="A paper's figures to print beside, such as qatlas-atlas."),
    ] = None


@dataclass(frozen=True)
class CompareOptions:
    """What counts as one in tests, what is pictured, and what may be replaced."""

    unit: Annotated[
        str, typer.Option(metavar="COLUMN", help="What is independent: its cases count as one in tests.")
    ] = "patient"
    worst: Annotated[int, typer.Option(min=1, max=40, help="Failures to picture.")] = 10
    seed: Annotated[int, typer.Option(help="Of bootstrap and permutations.")] = 1
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier comparison.")] = False
    debug: Debug = False


@with_options
def compare(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULTS...", help="Folders of evaluate, one a model or run."),
    ],
    output: Output,
    tables: TableOptions,
    options: CompareOptions,
) -> int:
    """Compare evaluations: tables, intervals, tests, plots and the worst cases, on one page.

    Evaluations of one name count as runs of one model, such as with several seeds.

    Example: anystroke compare scores_a scores_b -o comparison
    """
    check_folder(output)
    from anystroke.evaluation.results import load_results
    from anystroke.evaluation.summaries import MAIN_METRICS
    from anystroke.reports.comparison import COMPARISON_PAGE, CompareSettings, compare_results
    from anystroke.reports.published import published_table

    check_new(output / COMPARISON_PAGE, options.overwrite)
    beside = [published_table(name) for name in tables.published or []]
    settings = CompareSettings(
        metrics=split(tables.metric) or MAIN_METRICS,
        by=split(tables.by) if tables.by else None,
        unit=options.unit,
        centre=tables.centre,
        interval=tables.interval,
        seed=options.seed,
        worst=options.worst,
    )
    made = compare_results([load_results(path) for path in results], output, settings, published=beside)
    for text in made.notes:
        complain(f"note: {text}")
    typer.echo(made.table)
    typer.echo(f"report: {made.page}")
    return OK
