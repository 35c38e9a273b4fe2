"""`heatline search`."""

import click

from heatline.edge.cli.output import json_option, print_facts, print_json, print_table, visible
from heatline.edge.util.extras import require_extra
from heatline.edge.util.process import sigterm_as_ctrl_c

EXAMPLES = """
Example:

\b
  heatline search data=hripcb truth=derived_masks split.group=board split.val=[08] \\
      split.test=[10,12] model=efficientnet_lite0_d recipe=study out=searches/hripcb
  heatline search ... search.trials=20 search.objective=average_precision \\
      search.batches=[16,32,64] search.lr=[1e-4,1e-2]
"""


@click.command(epilog=EXAMPLES)
@click.argument("overrides", nargs=-1, metavar="KEY=VALUE...")
@json_option
@sigterm_as_ctrl_c()
def search(overrides: tuple[str, ...], as_json: bool) -> None:
    """Search for the batch size and learning rate of a recipe.

    Takes the keys of `heatline train`, where the default is recipe=finetune, and these: search.trials,
    search.objective (accuracy or average_precision, on the validation groups), search.batches, search.lr,
    search.storage, search.name. Each trial is a run in
    out/trials; groups in split.test are not used.

    The same command, given again, continues a search that ended early; two such commands at a time share the
    trials. With search.storage, the URL of a database, many machines share one search. --json prints all trials.
    """
    require_extra("train")
    from heatline.train.search import search as run_search

    report = run_search(overrides, report_line=lambda line: click.echo(visible(line), err=True))
    if as_json:
        print_json(report)
        return
    best = report.best
    names = "trial", "lr", "batch", report.objective.replace("_", " "), "step", "s", "state"
    rows = [
        (
            str(row.trial),
            "" if row.lr is None else f"{row.lr:.2e}",
            str(row.batch or ""),
            "" if row.value is None else f"{row.value:.4f}",
            str(row.step or ""),
            "" if row.seconds is None else f"{row.seconds:.0f}",
            "best" if row == best else row.state + (f": {row.reason}" if row.reason else ""),
        )
        for row in report.trials
    ]
    print_table(names, rows, numbers=names[:-1])
    others = f", {report.running} running in other workers" if report.running else ""
    facts = {"trials": f"{report.finished} of {report.wanted} finished{others}"}
    if best is not None:
        facts["next"] = f"heatline export {best.run} --to BUNDLE"
    print_facts(f"search {report.name}", facts)
    if report.command is not None:
        click.echo(f"To train the best again: {report.command}")  # in one line, for copying
