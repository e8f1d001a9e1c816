"""Options that several commands have, with one wording."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NAME = "an integration: name, or workspace/name where several workspaces have it"
_STATE_DIR = "the daemon's state directory (default: $RECONCILER_STATE_DIR, else where `reconciler run` keeps it)"


def add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help=NAME)


def add_state_dir(parser: argparse.ArgumentParser, default: Any = None) -> None:
    parser.add_argument("--state-dir", type=Path, metavar="DIR", default=default, help=_STATE_DIR)


def add_output(parser: argparse.ArgumentParser, forms: Iterable[str] = ("text", "json"), default: Any = None) -> None:
    """The first form is the default, unless another is given."""
    first, *others = choices = tuple(forms)
    form = f"{', '.join([f'{first} (default)', *others[:-1]])} or {others[-1]}"
    parser.add_argument("--output", choices=choices, metavar="FORM", default=default or first, help=form)


def examples(parser: argparse.ArgumentParser, *lines: str, exits: str = "") -> None:
    """Shown at the end of the help, as they are typed; before them what the exit codes mean, where they say something."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(
        [*([f"exit code: {exits}\n"] if exits else []), "examples:", *(f"  {line}" for line in lines)]
    )
