"""The command `reconciler`: finds the module of the chosen command and runs it. Imports nothing else.

Every command module has `configure(parser)` and `run(args) -> exit code`. `--help` is answered from the table below, so
it costs no import of a command.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

COMMANDS = {
    "init": "write a starter repository",
    "validate": "report every finding in the manifests of a folder",
    "plan": "show what a revision would change",
    "apply": "do one pass over everything that is due, then exit",
    "run": "run the daemon",
    "status": "show integrations and how they fare",
    "sync": "start a sync, or cancel one",
    "logs": "show the log of an integration",
    "deliveries": "list, retry or cancel deliveries",
    "reconcile": "look at one integration, or all of Git, now",
    "suspend": "stop touching an integration, with a reason",
    "resume": "end a suspension",
    "approve": "allow a prune that the guard blocked",
    "test": "probe an integration: who are we, what is missing",
    "connectors": "list connectors and what they can do",
    "schema": "print or write the JSON Schemas",
    "secrets": "make keys; encrypt, decrypt and rotate SOPS files",
}
_MODULES = {"test": "probe"}


class _Parser(argparse.ArgumentParser):
    """Usage errors exit with 1, as plan's exit codes promise: 2 means changes."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code. A broken pipe ends quietly, Ctrl-C with 130."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in {"-h", "--help", "help"}:
        print(_help())
        return 0
    if words[0] in {"-V", "--version", "version"}:
        from reconciler import __version__

        print(f"reconciler {__version__}")
        return 0
    if words[0] not in COMMANDS:
        print(f"reconciler: no command {words[0]!r}{_suggestion(words[0])}; see reconciler --help", file=sys.stderr)
        return 1
    return _run(words[0], words[1:])


def _run(name: str, words: list[str]) -> int:
    module = import_module(f"reconciler.cli.{_MODULES.get(name, name)}")
    parser = _Parser(prog=f"reconciler {name}", description=_sentence(COMMANDS[name]))
    module.configure(parser)
    args = parser.parse_args(words)
    try:
        return int(module.run(args))
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        return 130


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."  # str.capitalize would write "json" and "sops"


def _help() -> str:
    from reconciler import __doc__ as about

    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: reconciler COMMAND [...]\n\n{about}\n\ncommands:",
            *lines,
            "\n`reconciler COMMAND --help` says more. `reconciler --version` prints the version.",
        ]
    )


def _suggestion(word: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(word, COMMANDS, 1)
    return f", did you mean {close[0]!r}?" if close else ""


if __name__ == "__main__":
    sys.exit(main())
