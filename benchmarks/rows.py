"""Rows of the result: one figure, what it is compared with, and the limit it is held to; as JSON and as a table."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

HEAD = ("NAME", "FIGURE", "COMPARED WITH", "THAT", "RATIO", "LIMIT", "MET", "AT REFERENCE SPEED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`limit` is for the figure, in its unit, or for the ratio; None where the size is not the one that has a limit.

    `scales` says whether a slower machine has a larger figure, so that it may be shown at reference speed.
    """

    name: str
    figure: float
    unit: str
    compared_with: str
    compared: float
    limit: float | None = None
    limit_on: Literal["figure", "ratio"] = "figure"
    scales: bool = True
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.figure / self.compared if self.compared else math.inf

    @property
    def is_met(self) -> bool | None:
        if self.limit is None:
            return None
        return (self.ratio if self.limit_on == "ratio" else self.figure) <= self.limit

    def at_reference(self, slowdown: float) -> float | None:
        """The figure divided by how much slower this machine is than the one the limits were set on."""
        return self.figure / slowdown if self.scales and self.limit_on == "figure" else None

    def as_json(self, slowdown: float) -> dict[str, Any]:
        scaled = self.at_reference(slowdown)
        return {
            **{key: _short(value) for key, value in asdict(self).items() if key != "scales"},
            "ratio": _short(self.ratio),
            "is_met": self.is_met,
            "at_reference_speed": None if scaled is None else _short(scaled),
        }

    def cells(self, slowdown: float) -> tuple[str, ...]:
        """The line of the table, as HEAD names its columns."""
        scaled = self.at_reference(slowdown)
        limit = "-" if self.limit is None else f"{self.limit:g} {'times' if self.limit_on == 'ratio' else self.unit}"
        return (
            self.name,
            f"{_shown(self.figure)} {self.unit}",
            self.compared_with,
            f"{_shown(self.compared)} {self.unit}",
            _shown(self.ratio),
            limit,
            {None: "-", True: "yes", False: "no"}[self.is_met],
            "-" if scaled is None else f"{_shown(scaled)} {self.unit}",
        )


def table(lines: Iterable[Sequence[str]]) -> str:
    """Aligned columns, numbers to the right."""
    every = [HEAD, *lines]
    widths = [max(len(line[index]) for line in every) for index in range(len(HEAD))]
    return "\n".join(_aligned(line, widths) for line in every)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    left = (0, 2)
    return "  ".join(
        cell.ljust(width) if index in left else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()


def _shown(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
