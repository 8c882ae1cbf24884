"""Names, numbers and sizes as words, the same in every report. Imports nothing of bnfold."""

from __future__ import annotations

_MOST, _END = 1000, 200  # letters of a text that are shown, and of these from its end


def plain(name: str | bytes) -> str:
    """The name with every control character written as an escape, so that it can do no harm.

    One of millions of letters, which a hostile model may have, is cut in the middle. A name that is
    no UTF-8 comes as bytes from protobuf.
    """
    if isinstance(name, bytes):
        name = name.decode(errors="backslashreplace")
    if len(name) > _MOST:
        name = f"{name[: _MOST - _END]} … {name[-_END:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def number(value: float) -> str:
    """Three digits; 0 as it is."""
    return "0" if value == 0 else f"{value:.2e}"


def count(amount: int, noun: str) -> str:
    """The amount and the noun, in the plural where it must be."""
    return f"{amount} {noun}{'' if amount == 1 else 's'}"


def times(amount: int) -> str:
    """How often: "once", "3 times"."""
    return "once" if amount == 1 else count(amount, "time")


def size(amount: float) -> str:
    """Bytes in the unit that fits."""
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.2f} GB"
