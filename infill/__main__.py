"""Image inpainting on Ray: shard, train, sweep, evaluate, promote, serve, inpaint.

infill train spn smoke
infill inpaint photo.jpg mask.png --model spn@champion --out filled.png
infill evaluate --checkpoint runs/train --shards runs/shards/test

`infill COMMAND --help` explains a command and its options. For completion, add a line to ~/.bashrc,
~/.zshrc or ~/.config/fish/config.fish:

source <(infill --print-completion bash)
source <(infill --print-completion zsh)
infill --print-completion fish | source
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from typing import NoReturn

from infill.pipeline import commands
from infill.pipeline.completion import suggestions
from infill.pipeline.config import leave, run

COMPLETIONS = {
    "bash": """\
_infill() {
  local IFS=$'\\n'
  COMPREPLY=($(infill --complete "$COMP_CWORD" "${COMP_WORDS[@]}" 2> /dev/null))
}
complete -o default -F _infill infill
""",
}
COMPLETIONS["zsh"] = f"""\
(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit }}
autoload -U +X bashcompinit && bashcompinit
{COMPLETIONS["bash"]}"""
COMPLETIONS["fish"] = """\
function __infill
  set --local before (commandline -opc)
  set --local found (infill --complete (count $before) $before (commandline -ct) 2> /dev/null)
  if test (count $found) -gt 0
    printf '%s\\n' $found
  else
    __fish_complete_path (commandline -ct)
  end
end
complete --command infill --no-files --arguments '(__infill)'
"""
SHELLS = "bash, zsh or fish"


def command() -> NoReturn:
    """Be the console command ``infill``."""
    run(main)


def main(words: Sequence[str] | None = None) -> None:
    """Run one command; the process ends as the job's own would."""
    words = list(sys.argv[1:] if words is None else words)
    first = words[0] if words else "--help"
    if first in ("-h", "--help"):
        print(help_text())
    elif first == "--version":
        print(f"infill {importlib.metadata.version('infill')}")
    elif first == "--print-completion":
        print_completion(words[1:])
    elif first == "--complete":
        for word in complete(int(words[1]), words[2:]):
            print(word)
    else:
        _run_job(words)


def help_text() -> str:
    """Return the commands with the first line of each job's docstring."""
    lines = [(__doc__ or "").strip(), "", "usage: infill COMMAND ...", "", "commands:"]
    for command, job in commands.JOB_OF.items():
        about = commands.summary(job) if job != "train_" else _about_training()
        lines.append(f"  {command:<16}{about}")
    options = {
        "--version": "Show the version.",
        "--print-completion SHELL": f"Print the completion script for {SHELLS}.",
    }
    lines += ["", "options:", *(f"  {name:<26}{about}" for name, about in options.items())]
    return "\n".join(lines)


def _about_training() -> str:
    return f"Train an architecture: {', '.join(commands.architectures())}."


def print_completion(words: Sequence[str]) -> None:
    """Print the script that completes the words of ``infill`` in a shell."""
    if len(words) != 1 or words[0] not in COMPLETIONS:
        leave(f"--print-completion takes {SHELLS}")
    print(COMPLETIONS[words[0]], end="")


def _run_job(words: Sequence[str]) -> None:
    job, rest = _job_of(words)
    sys.argv = [f"infill {commands.command_of(job)}", *rest]
    run(importlib.import_module(f"infill.jobs.{job}").main)


def _job_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the job that the words ask for, and the words that are the job's own."""
    command, rest = words[0], list(words[1:])
    if command not in commands.JOB_OF:
        leave(f"there is no command {command!r}", command, list(commands.JOB_OF), "commands")
    if command != "train":
        return commands.JOB_OF[command], rest
    known = commands.architectures()
    if not rest or rest[0] in ("-h", "--help"):
        print(f"usage: infill train {{{','.join(known)}}} PRESET ...\n")
        print("\n".join(f"  {name:<12}{commands.summary(f'train_{name}')}" for name in known))
        raise SystemExit(0 if rest else 2)
    if rest[0] not in known:
        leave(f"there is no architecture {rest[0]!r}", rest[0], known, "architectures")
    return f"train_{rest[0]}", rest[1:]


def complete(index: int, words: Sequence[str]) -> list[str]:
    """Return what the word under the cursor can become.

    Args:
        index: of that word, in ``words``.
        words: of the command line, ``infill`` first.
    """
    part = words[index] if index < len(words) else ""
    before = list(words[1:index])
    if not before:
        known = [*commands.JOB_OF, "--help", "--version", "--print-completion"]
    elif before == ["train"]:
        known = commands.architectures()
    elif before[0] == "--print-completion":
        known = list(COMPLETIONS)
    else:
        job, rest = _job_of(before)
        known = suggestions(importlib.import_module(f"infill.jobs.{job}").main, rest)
    return [word for word in known if word.startswith(part)]


if __name__ == "__main__":
    command()
