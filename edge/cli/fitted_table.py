"""A table with one line per row that fits a terminal. If it is too narrow, columns are left out and texts are cut."""

from collections.abc import Collection, Mapping, Sequence

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

Row = Sequence[Text | str]


def fitted_table(
    headings: Sequence[str],
    rows: Sequence[Row],
    width: int,
    *,
    numbers: Collection[str] = (),
    go_first: Sequence[str] = (),
    may_be_cut: Mapping[str, int],
) -> Table:
    """Make a table in which no row wraps.

    Args:
        headings: of all columns.
        width: width of the terminal in characters.
        numbers: columns that are aligned to the right.
        go_first: columns that are left out if the terminal is too narrow, in this order.
        may_be_cut: columns whose texts may be cut, and to how many characters at most. Spare room goes to the first of
            them first.
    """
    wanted = {
        heading: max([cell_len(heading), *(_text(row[at]).cell_len for row in rows)])
        for at, heading in enumerate(headings)
    }
    widths = {heading: min(wide, may_be_cut.get(heading, wide)) for heading, wide in wanted.items()}
    for heading in go_first:
        if _total(widths) <= width:
            break
        del widths[heading]
    spare = max(width - _total(widths), 0)
    for heading in filter(widths.__contains__, may_be_cut):
        more = min(spare, wanted[heading] - widths[heading])
        widths[heading] += more
        spare -= more
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading, wide in widths.items():
        table.add_column(heading, justify="right" if heading in numbers else "left", no_wrap=True, width=wide)
    for row in rows:
        cells = [_text(cell) for heading, cell in zip(headings, row, strict=True) if heading in widths]
        for cell, wide in zip(cells, widths.values(), strict=True):
            cell.truncate(wide, overflow="ellipsis")
        table.add_row(*cells)
    return table


def _total(widths: Mapping[str, int]) -> int:
    """Return the characters of a row: each column has a blank behind it, and a divider or an edge on either side."""
    return sum(widths.values()) + 2 * len(widths) + 1


def _text(cell: Text | str) -> Text:
    return cell.copy() if isinstance(cell, Text) else Text(cell)
