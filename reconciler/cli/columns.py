"""A table as aligned text: what lists of all commands look like."""

from collections.abc import Sequence


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The last column is not padded and may be long."""
    every = [tuple(head), *map(tuple, rows)]
    widths = [max(len(row[i]) for row in every) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in every
    )


def one_line(text: str, most: int = 120) -> str:
    """The first line, cut where it is long."""
    line = text.split("\n", 1)[0]
    return line if len(line) <= most else f"{line[: most - 3]}..."
