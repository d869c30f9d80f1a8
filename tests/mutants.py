"""Print how many mutants of each module the tests notice, from the results of `make mutants`.

python tests/mutants.py

Survivors stand in docs/testing.md with the reason that nothing notices them. One that does not is
printed with its change, and ends this with status 1, as does a share below what is wanted.
"""

import difflib
import json
import re
import sys
from collections import Counter
from pathlib import Path

WANTED = 0.85
SURVIVED, UNTESTED = 0, (5, 33)
"""Exit codes of pytest as mutmut keeps them: all tests passed; no test reaches the mutant."""
PAGE = Path(__file__).parent.parent / "docs" / "testing.md"
ROW = re.compile(r"^\| `([\w.]+)` \| (\d+) \| .+ \|$", re.MULTILINE)


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


def function_of(mutant: str) -> str:
    """Return module and function, such as "codec.decode", of a mutant's name."""
    *_, module, function = mutant.partition("__mutmut_")[0].split(".")
    return f"{module}.{function.removeprefix('x_').removeprefix('xǁ').replace('ǁ', '.')}"


def explained(page: str) -> Counter[str]:
    """Return the number of survivors of each function that a page gives a reason for."""
    found: Counter[str] = Counter()
    for function, count in ROW.findall(page):
        found[function] += int(count)
    return found


def change(folder: Path, module: str, mutant: str) -> str:
    """Return the lines that a mutant removes and adds."""
    lines = (folder / module).read_text().splitlines()
    name = mutant.rpartition(".")[2]
    before, after = (
        body(lines, f"{name.partition('__mutmut_')[0]}__mutmut_orig"),
        body(lines, name),
    )
    changed = difflib.unified_diff(before, after, lineterm="", n=0)
    return " ".join(
        line[0] + " " + line[1:].strip() for line in changed if line[:2] in ("- ", "+ ")
    )


def body(lines: list[str], function: str) -> list[str]:
    """Return the lines of a function below its name."""
    at = next(i for i, line in enumerate(lines) if re.match(rf" *(async )?def {function}\(", line))
    margin = len(lines[at]) - len(lines[at].lstrip())
    ends = (
        i
        for i in range(at + 1, len(lines))
        if lines[i].strip()
        and len(lines[i]) - len(lines[i].lstrip()) <= margin
        and not lines[i].lstrip().startswith(")")
    )
    return lines[at + 1 : next(ends, len(lines))]


def main() -> None:
    """Print a Markdown table, and the survivors without a reason."""
    folder = Path("mutants")
    modules = by_module(folder)
    print("| module | mutants | noticed | share |\n| --- | ---: | ---: | ---: |")
    rows = [(name, count, count - len(alive)) for name, (count, alive) in modules.items()]
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    for name, count, killed in rows:
        print(f"| {name} | {count} | {killed} | {killed / count:.1%} |")
    reasons = explained(PAGE.read_text())
    alive = Counter(function_of(name) for _, names in modules.values() for name in names)
    unexplained = [function for function in alive if alive[function] > reasons[function]]
    for module, (_, names) in modules.items():
        for name in names:
            if function_of(name) in unexplained:
                print(f"{name}: {change(folder, module, name)}")
    if rows[-1][2] < WANTED * rows[-1][1]:
        sys.exit(f"error: fewer than {WANTED:.0%} are noticed")
    if unexplained:
        sys.exit(f"error: {PAGE.name} does not explain the survivors of {', '.join(unexplained)}")


if __name__ == "__main__":
    main()
