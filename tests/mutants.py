"""Print how many mutants of each module the tests kill, from the results of `make mutants`.

python tests/mutants.py
"""

import json
import sys
from pathlib import Path

WANTED = 0.85
SURVIVED, UNTESTED = 0, (5, 33)
"""Exit codes of pytest as mutmut keeps them: all tests passed; no test reaches the mutant."""


def by_module(folder: Path) -> dict[str, tuple[int, list[str]]]:
    """Return, by module, the number of mutants and the names of those that live.

    Raises:
        SystemExit: if a mutant has not been tried, which would pass for killed.
    """
    found = {}
    for file in sorted(folder.rglob("*.meta")):
        codes: dict[str, int | None] = json.loads(file.read_text())["exit_code_by_key"]
        if missing := [name for name, code in codes.items() if code is None]:
            sys.exit(f"error: {len(missing)} mutants of {file} were not tried: run make mutants")
        alive = [name for name, code in codes.items() if code == SURVIVED or code in UNTESTED]
        if codes:
            name = str(file.relative_to(folder)).removesuffix(".meta")
            found[name] = (len(codes), sorted(alive))
    return found


def main() -> None:
    """Print a Markdown table; end with status 1 below the wanted share."""
    modules = by_module(Path("mutants"))
    print("| module | mutants | killed | share |\n| --- | ---: | ---: | ---: |")
    rows = [(name, count, count - len(alive)) for name, (count, alive) in modules.items()]
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    for name, count, killed in rows:
        print(f"| {name} | {count} | {killed} | {killed / count:.1%} |")
    print("\nSurvivors:\n" + "\n".join(name for _, alive in modules.values() for name in alive))
    if rows[-1][2] < WANTED * rows[-1][1]:
        sys.exit(f"error: fewer than {WANTED:.0%} are killed")


if __name__ == "__main__":
    main()
