"""Print the time of each test file, from the JUnit files that `make test` writes to runs/.

python tests/durations.py runs/tests.xml runs/cluster-tests.xml
"""

import sys
from collections import defaultdict
from collections.abc import Iterable
from xml.etree import ElementTree

ROWS = 25


def by_file(reports: Iterable[str]) -> dict[str, tuple[int, float]]:
    """Return the number of tests and their seconds by file; setup and teardown count."""
    counts: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):
            name = case.get("classname", "").replace(".", "/")
            counts[name] += 1
            seconds[name] += float(case.get("time", 0))
    return {name: (counts[name], seconds[name]) for name in counts}


def main(reports: list[str]) -> None:
    """Print a Markdown table: the files that cost most, the rest as one row, and the sum."""
    files = sorted(by_file(reports).items(), key=lambda item: -item[1][1])
    print("| file | tests | seconds |\n| --- | ---: | ---: |")
    for name, (count, seconds) in files[:ROWS]:
        print(row(name, [(count, seconds)]))
    if rest := [value for _, value in files[ROWS:]]:
        print(row(f"{len(rest)} other files", rest))
    print(row("all", [value for _, value in files]))


def row(name: str, values: list[tuple[int, float]]) -> str:
    """Return one row of the table for files taken together."""
    return f"| {name} | {sum(n for n, _ in values)} | {sum(s for _, s in values):.0f} |"


if __name__ == "__main__":
    main(sys.argv[1:])
