"""Walks the protobuf wire format of a model: finds the raw data of tensors without decoding it.

A model is messages within messages, and a tensor's bytes are one length-delimited field of the
innermost. Taking them out, or putting them back, changes that field and the lengths of the messages
around it; every other byte stays, known field or not. Knows nothing of onnx's classes and imports
nothing of bnfold.

Field numbers: onnx.proto. Wire format: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import TypeAlias

_VARINT, _FIXED64, _DELIMITED, _GROUP, _GROUP_END, _FIXED32 = range(6)
_DEEPEST = 100  # messages within messages; protobuf's own parsers stop there, too

# the fields by which a message leads to the raw data of tensors, and what they hold
_MODEL: dict[int, str] = {7: "graph", 20: "training", 25: "function"}
_LEADS: dict[str, dict[int, str]] = {
    "model": _MODEL,
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {9: "raw data"},
}

Buffer: TypeAlias = "bytes | memoryview"
Inside: TypeAlias = Callable[[int, int], bool]
Instead: TypeAlias = Callable[[int, int], "Sized | None"]


class WireError(ValueError):
    """The bytes are no protobuf message."""


def replaced(model: Buffer, inside: Inside, instead: Instead) -> list[Sized]:
    """A serialised ModelProto in parts: its own bytes, and what stands instead of raw data.

    `inside(start, end)` says whether to look into the message that lies there; `instead(start,
    end)` gives what takes the place of the raw data there, None to leave it. What has a length can
    take its place; the lengths of the messages around it are set accordingly.

    Raises WireError where lengths point outside of what holds them, or messages nest too deep.
    """
    found = _Walk(model, inside, instead).message(0, len(model), "model", 0)
    return [model] if found is None else found[0]


class _Walk:
    def __init__(self, data: Buffer, inside: Inside, instead: Instead) -> None:
        self.data = data
        self.inside = inside
        self.instead = instead

    def message(
        self, start: int, end: int, kind: str, depth: int
    ) -> tuple[list[Sized], int] | None:
        """The message as parts and its new length; None where it stays as it is."""
        if depth > _DEEPEST:
            raise WireError("messages within messages, too deep")
        leads = _LEADS[kind]
        parts: list[Sized] = []
        length = 0
        kept = at = start
        while at < end:
            key, value = self.varint(at, end)
            if key & 7 != _DELIMITED:
                at = self.skipped(key, value, end, depth)
                continue
            size, body = self.varint(value, end)
            at = body + size
            if at > end:
                raise WireError(f"a length of {size} points outside")
            new = None
            if what := leads.get(key >> 3):
                new = self.field(body, at, what, depth)
            if new is not None:
                head = [self.data[kept:value], _encoded(new[1])]
                parts += [*head, *new[0]]
                length += sum(map(len, head)) + new[1]
                kept = at
        if not parts:
            return None
        return [*parts, self.data[kept:end]], length + end - kept

    def field(self, start: int, end: int, what: str, depth: int) -> tuple[list[Sized], int] | None:
        if what == "raw data":
            part = self.instead(start, end)
            return None if part is None else ([part], len(part))
        return self.message(start, end, what, depth + 1) if self.inside(start, end) else None

    def skipped(self, key: int, at: int, end: int, depth: int) -> int:
        """The end of a field that is not length-delimited."""
        wire = key & 7
        if wire == _VARINT:
            at = self.varint(at, end)[1]
        elif wire == _FIXED64:
            at += 8
        elif wire == _FIXED32:
            at += 4
        elif wire == _GROUP:
            at = self.group(at, end, depth + 1)
        else:
            raise WireError(f"wire type {wire} begins no field")
        if at > end:
            raise WireError("a field ends outside of its message")
        return at

    def group(self, at: int, end: int, depth: int) -> int:
        """The end of a group: an unknown field in a style that nobody writes any more."""
        if depth > _DEEPEST:
            raise WireError("groups within groups, too deep")
        while True:
            key, at = self.varint(at, end)
            if key & 7 == _GROUP_END:
                return at
            if key & 7 == _DELIMITED:
                size, at = self.varint(at, end)
                at += size
            else:
                at = self.skipped(key, at, end, depth)

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """The number that begins at `at`, and where it ends."""
        if at < end and (first := self.data[at]) < 128:  # as nearly all are
            return first, at + 1
        number = shift = 0
        while at < end and shift < 70:
            byte = self.data[at]
            at += 1
            number |= (byte & 127) << shift
            if byte < 128:
                return number, at
            shift += 7
        raise WireError("a number has no end")


def _encoded(number: int) -> bytes:
    """The number as a varint."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
