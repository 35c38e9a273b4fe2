"""Tables as GitHub's Markdown."""

from collections.abc import Sequence


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    r"""Write a table: the first row is the heading, the first column text, and the other columns figures.

    >>> print(markdown_table([["model", "hit"], ["a|b", "0.5"]]), end="")
    | model | hit |
    | --- | ---: |
    | a\|b | 0.5 |
    """
    heading, *others = rows
    aligned = [heading, ["---", *["---:"] * (len(heading) - 1)], *others]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in aligned)
