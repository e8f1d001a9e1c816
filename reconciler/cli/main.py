"""The command `reconciler`: finds the module of the chosen command and runs it.

Every command module has `configure(parser)` and `run(args) -> exit code`. `--help` is answered from the table below, so
it costs no import of a command.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import NoReturn

from reconciler.cli.names import meant

COMMANDS = {
    "init": "write a starter repository",
    "validate": "report every finding in the manifests of a folder",
    "plan": "show what a revision would change",
    "apply": "do one pass over everything that is due, then exit",
    "run": "run the daemon",
    "status": "show integrations and how they fare",
    "connect": "write a new manifest, over the API",
    "disconnect": "disconnect an integration; its manifest stays",
    "enable": "connect one again that was disconnected",
    "patch": "change some fields of a manifest, over the API",
    "edit": "change a manifest in your editor, over the API",
    "remove": "remove a manifest, over the API",
    "api": "any call of the API",
    "sync": "start a sync, or cancel one",
    "dataset": "show, compare, export, roll back or erase what was synced",
    "rejects": "list records that could not be taken; try them again",
    "logs": "show the log of an integration",
    "events": "list events; show, publish, retry, cancel or replay them",
    "deliveries": "list deliveries; show, retry or cancel one",
    "reconcile": "look at one integration, or all of Git, now",
    "authorize": "send a person to the remote, to allow what an integration does there",
    "credentials": "show what an integration signs in with; renew it",
    "suspend": "stop touching an integration, with a reason",
    "resume": "end a suspension",
    "approve": "allow a prune that the guard blocked",
    "test": "probe an integration: who are we, what is missing",
    "token": "make, list and revoke tokens for the API",
    "audit": "show who changed what, and who was refused",
    "key": "make, replace, list and revoke keys to push to an integration",
    "connectors": "list connectors and what they can do",
    "migrate": "bring the database to this release's schema",
    "database": "move it to PostgreSQL, back it up, restore it",
    "schema": "print or write the JSON Schemas",
    "keys": "show and rotate the master key of stored credentials",
    "secrets": "make keys; encrypt, decrypt and rotate SOPS files",
}
_MODULES = {"test": "probe"}


class _Parser(argparse.ArgumentParser):
    """Usage errors exit with 1, as plan's exit codes promise (2 means changes), and come with what was meant."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {message}\n")

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"there is no {value}{meant(str(value), map(str, action.choices))}")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """For words that nobody asked for; raises SystemExit."""
        word = unknown[0].partition("=")[0]
        said = f"there is no option {word}{meant(word, self.known_options())}"
        self.error(said if word.startswith("-") else f"unexpected: {word}")

    def known_options(self) -> Iterator[str]:
        for action in self._actions:
            yield from (word for word in action.option_strings if word.startswith("--"))
            if isinstance(action.choices, dict):  # a command with commands of its own
                yield from (w for one in action.choices.values() for w in one.known_options())


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code. A broken pipe ends quietly, Ctrl-C with 130."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be Unicode
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["help"] and len(words) > 1:
        words = [words[1], "--help"]
    if not words or words[0] in {"-h", "--help", "help"}:
        print(_help())
        return 0
    if words[0] in {"-V", "--version", "version"}:
        from reconciler import __version__

        print(f"reconciler {__version__}")
        return 0
    if words[0] not in COMMANDS:
        print(f"reconciler: no command {words[0]}{meant(words[0], COMMANDS)}; see: reconciler --help", file=sys.stderr)
        return 1
    return _run(words[0], words[1:])


def _run(name: str, words: list[str]) -> int:
    module = import_module(f"reconciler.cli.{_MODULES.get(name, name)}")
    parser = _Parser(prog=f"reconciler {name}", description=_sentence(COMMANDS[name]))
    module.configure(parser)
    args, unknown = parser.parse_known_args(words)
    if unknown:
        parser.refuse(unknown)
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


if __name__ == "__main__":
    sys.exit(main())
