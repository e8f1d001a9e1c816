"""Mistyped words: what was meant, said the same way by every command. Nothing is imported before somebody errs."""

from collections.abc import Iterable


def meant(word: str, known: Iterable[str]) -> str:
    """The end of a message: the nearest name, else the names there are, else nothing."""
    from reconciler.desired.problem import did_you_mean

    found = did_you_mean(word, known, "there are")
    return f"{',' if found.startswith('did') else ';'} {found}" if found else ""
