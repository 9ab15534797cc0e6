"""The report of a benchmark: tables, targets, and the machine it ran on."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path("build/benchmarks")

Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """Floats are printed with one digit after the point; None is a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def text(self) -> str:
        cells = [[_shown(cell) for cell in row] for row in self.rows]
        widths = [max(len(row[i]) for row in [list(self.columns), *cells]) for i in range(len(self.columns))]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in [list(self.columns), ["-" * width for width in widths], *cells]
        ]
        return "\n".join([self.title, *lines])


@dataclass(frozen=True)
class Target:
    """A bound on a figure: at least, or at most, `limit`."""

    name: str
    measured: float
    limit: float
    at_least: bool
    unit: str

    @property
    def met(self) -> bool:
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def text(self) -> str:
        wanted = f"{'at least' if self.at_least else 'at most'} {self.limit:g} {self.unit}"
        return f"{'met   ' if self.met else 'MISSED'}  {self.name}: {self.measured:.1f} {self.unit} ({wanted})"


@dataclass(frozen=True)
class Report:
    """`data`: the measurements behind the tables, for the JSON file."""

    tables: Sequence[Table]
    targets: Sequence[Target]
    data: Mapping[str, Any]
    notes: Sequence[str] = ()
    figure: Figure | None = field(default=None, compare=False)

    def text(self) -> str:
        parts = [table.text() + "\n" for table in self.tables]
        parts += [f"{target.text()}" for target in self.targets]
        return "\n".join([*parts, *self.notes])


def environment() -> str:
    """The machine and its load average, in one line. A high load means that the figures are not to be trusted."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return (
        f"{time.strftime('%Y-%m-%d %H:%M')}, {_cpu()} x {os.cpu_count()}, load average {load}, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, Ray {version('ray')}"
    )


def save(name: str, report: Report, machine: str) -> list[Path]:
    """Write NAME.json and, if there is a figure, NAME.png; returns their paths."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    paths = [FOLDER / f"{name}.json"]
    content = {
        "benchmark": name,
        "environment": machine,
        "targets": [
            {"name": t.name, "measured": t.measured, "limit": t.limit, "unit": t.unit, "met": t.met}
            for t in report.targets
        ],
        "tables": [{"title": t.title, "columns": list(t.columns), "rows": t.rows} for t in report.tables],
        "data": report.data,
    }
    paths[0].write_text(json.dumps(content, indent=1) + "\n")
    if report.figure is not None:
        paths.append(FOLDER / f"{name}.png")
        report.figure.savefig(paths[1], dpi=150)
    return paths


def _shown(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:,.1f}" if isinstance(cell, float) else str(cell)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
