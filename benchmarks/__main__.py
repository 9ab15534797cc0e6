"""`python -m benchmarks NAME`: runs one benchmark, prints its table, writes its files to build/benchmarks/."""

from __future__ import annotations

import argparse
from importlib import import_module

from benchmarks.report import environment, save

BENCHMARKS = (
    "accuracy",
    "batching",
    "crooked",
    "documents",
    "one_page",
    "overhead",
    "paddleocr_vl",
    "paddlex",
    "scale",
    "start",
    "store_away",
    "upload",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks of the service")
    names = parser.add_subparsers(required=True)
    for name in BENCHMARKS:
        benchmark = import_module(f"benchmarks.{name}")
        command = names.add_parser(name, help=benchmark.SUMMARY, description=benchmark.SUMMARY)
        benchmark.add_arguments(command)
        command.set_defaults(name=name, run=benchmark.run)
    arguments = parser.parse_args()
    before = environment()
    report = arguments.run(arguments)
    print(f"\n{report.text()}\nBefore: {before}\nAfter:  {environment()}")
    for path in save(arguments.name, report, before):
        print(f"Written: {path}")


if __name__ == "__main__":
    main()
