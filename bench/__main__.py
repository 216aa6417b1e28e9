"""`python -m bench SUITE`: measure, print tables, save JSON and charts. The suites are in `bench/suites.py`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from bench.charts import FOLDER, write_charts
from bench.client import HERE, build_loadgen
from bench.figures import judge
from bench.machine import choose_cores, raise_file_limit
from bench.measure import measure
from bench.page import write_page
from bench.suites import SUITES
from bench.tables import tables

DESCRIPTORS_SPARE = 500


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("suite", nargs="?", default="default", choices=SUITES)
    parser.add_argument("--build", action="store_true", help="only build the load generator")
    parser.add_argument("--rounds", type=int, help="instead of the suite's")
    parser.add_argument("--seconds", type=float, help="per measurement, instead of the suite's")
    parser.add_argument("--server", action="append", help="only these (repeatable)")
    parser.add_argument("--json", type=Path, help="where to save; default bench/results/")
    parser.add_argument("--charts", type=Path, help="draw there; without, only the report draws: in docs/")
    return parser.parse_args()


def main() -> None:
    """Run a suite."""
    options = arguments()
    build_loadgen()
    if options.build:
        return
    suite = SUITES[options.suite]
    descriptors = raise_file_limit() - DESCRIPTORS_SPARE
    suite = dataclasses.replace(
        suite,
        rounds=options.rounds or suite.rounds,
        seconds=options.seconds or suite.seconds,
        idle_connections=min(suite.idle_connections, descriptors),
        wheel_connections=min(suite.wheel_connections, descriptors),
    )
    if options.server:
        suite = suite.only(options.server)
    if choose_cores().server is None:
        sys.stderr.write("one core only: server and client share it, so these figures mean little\n")
    results = measure(suite)
    results.figures = judge(results)
    stamp = results.started.replace("-", "").replace(":", "")[:13]
    path = options.json or HERE / "results" / f"{suite.name}-{stamp}.json"
    results.save(path)
    if suite.name == "report" and options.json is None:
        results.save(HERE / "results" / "report.json")
    text = tables(results)
    print(text)
    print(f"\nsaved as {path}")
    folder = options.charts or (FOLDER if suite.name == "report" else None)
    if folder is not None:
        charts = write_charts(results.as_dict(), folder)
        print(f"charts drawn in {folder}")
        if folder == FOLDER and suite.name == "report":  # a trial that draws elsewhere leaves the page alone
            write_page(text, charts)


if __name__ == "__main__":
    main()
