"""The verb ``compare``."""

from pathlib import Path
from typing import Annotated

import typer

from anystroke.commands.common import OK, ArgumentError, check_folder, complain
from anystroke.commands.evaluate import Debug, Output, split


def compare(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULTS...", help="Folders of evaluate, one a model or run."),
    ],
    output: Output,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,NAME]...",
            help="Columns of the tables.",
            show_default="dice, hausdorff95, volume_difference, lesion_count_difference, lesion_f1",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN[,COLUMN]...",
            help="Columns of metrics.tsv to sort cases by, beside lesion size.",
            show_default="sequence",
        ),
    ] = None,
    unit: Annotated[
        str, typer.Option(metavar="COLUMN", help="What is independent: its cases count as one in tests.")
    ] = "patient",
    centre: Annotated[str, typer.Option(metavar="median|mean", help="What tables show.")] = "median",
    interval: Annotated[
        str,
        typer.Option(metavar="t|bootstrap|none", help="The interval in brackets; t is the qATLAS paper's."),
    ] = "t",
    published: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE", help="A paper's figures to print beside, such as qatlas-atlas."),
    ] = None,
    worst: Annotated[int, typer.Option(min=1, max=40, help="Failures to picture.")] = 10,
    seed: Annotated[int, typer.Option(help="Of bootstrap and permutations.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier comparison.")] = False,
    _debug: Debug = False,
) -> int:
    """Compare evaluations: tables, intervals, tests, plots and the worst cases, on one page.

    Evaluations of one name count as runs of one model, such as with several seeds.

    Example: anystroke compare scores_a scores_b -o comparison
    """
    check_folder(output)
    if centre not in ("median", "mean"):
        raise ArgumentError(f"--centre must be median or mean, got {centre!r}")
    if interval not in ("t", "bootstrap", "none"):
        raise ArgumentError(f"--interval must be t, bootstrap or none, got {interval!r}")
    from anystroke.core.tables import TableError
    from anystroke.evaluation.results import ResultsError, load_results
    from anystroke.evaluation.summaries import MAIN_METRICS
    from anystroke.reports.comparison import PAGE, CompareSettings, compare_results
    from anystroke.reports.published import published_table

    if (output / PAGE).exists() and not overwrite:
        raise ArgumentError(f"{output / PAGE} exists already; name another folder or use --overwrite")
    try:
        beside = [published_table(name) for name in published or []]
    except ValueError as error:
        raise ArgumentError(f"--published: {error}") from error
    settings = CompareSettings(
        metrics=split(metric) or MAIN_METRICS,
        by=split(by) if by else None,
        unit=unit,
        centre="mean" if centre == "mean" else "median",
        interval="bootstrap" if interval == "bootstrap" else "none" if interval == "none" else "t",
        seed=seed,
        worst=worst,
    )
    try:
        made = compare_results([load_results(path) for path in results], output, settings, published=beside)
    except (ResultsError, TableError) as error:
        raise ArgumentError(str(error)) from error
    for text in made.notes:
        complain(f"note: {text}")
    typer.echo(made.table)
    typer.echo(f"report: {made.page}")
    return OK
