"""Write the durations of the last test run into one file, the longest first, and print the sums and the slowest tests."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

SLOWEST = 5


def durations(report: Path) -> list[tuple[float, str]]:
    """Seconds and name of each test of a JUnit report."""
    # The report is this project's own, written by pytest a moment ago.
    cases = ElementTree.parse(report).iter("testcase")  # noqa: S314
    return [(float(case.get("time", 0)), f"{case.get('classname')}::{case.get('name')}") for case in cases]


def main() -> None:
    folder = Path(sys.argv[1])
    reports = {report.stem: durations(report) for report in sorted(folder.glob("*.xml"))}
    tests = sorted((test for report in reports.values() for test in report), reverse=True)
    (folder / "durations.txt").write_text("".join(f"{seconds:8.2f} s  {name}\n" for seconds, name in tests))
    for name, report in reports.items():
        print(f"Tests {name}: {len(report)}, {sum(seconds for seconds, _ in report):.0f} s in all")
    print("Slowest:", ", ".join(f"{name.rpartition('::')[2]} {seconds:.0f} s" for seconds, name in tests[:SLOWEST]))


if __name__ == "__main__":
    main()
