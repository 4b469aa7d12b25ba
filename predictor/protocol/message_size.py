"""How much work it is to parse a protobuf message, judged before it is parsed.

The parser holds the interpreter lock, and makes an object of each field: 32 MiB of empty
tensors stop every other request for seconds and take gigabytes. Fields are found without parsing,
by their tags (protobuf.dev/programming-guides/encoding), so an honest message, which has few
however large its pictures are, costs microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from google.protobuf.descriptor import FieldDescriptor as Field

from predictor.errors import PayloadTooLarge

MAX_FIELDS: Final = 10_000
"""Ten milliseconds of looking; `limits.max_pictures` allows a tenth as many pictures."""
_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
_ENCODED: Final = {
    **dict.fromkeys((Field.TYPE_FLOAT, Field.TYPE_FIXED32, Field.TYPE_SFIXED32), _FIXED32),
    **dict.fromkeys((Field.TYPE_DOUBLE, Field.TYPE_FIXED64, Field.TYPE_SFIXED64), _FIXED64),
}
_64_BITS: Final = 2**64 - 1
_LOW_BYTES: Final = bytes(range(128))

Shape: TypeAlias = "dict[int, Shape | int]"
"""Of a message, by field number: the shape of a message in it, or how its repeated numbers are
encoded. Other fields are left out: what is in them is not looked at."""


def shape_of(descriptor: Any) -> Shape:
    """The shape of a protobuf `Descriptor`; it must not contain itself."""
    found: Shape = {}
    for field in descriptor.fields:
        if field.message_type is not None:
            found[field.number] = shape_of(field.message_type)
        elif field.is_repeated and field.type not in (Field.TYPE_STRING, Field.TYPE_BYTES):
            found[field.number] = _ENCODED.get(field.type, _VARINT)
    return found


def check_message_size(message: bytes, shape: Shape, max_values: int) -> None:
    """Refuse a message with more than `MAX_FIELDS` fields, or `max_values` numbers in its lists.

    What is no message is left to the parser: whatever comes before its error is counted.

    Raises:
        PayloadTooLarge: naming the limit and the encoding that has none.
    """
    fields = values = 0
    waiting = [(0, len(message), shape)]
    while waiting:
        begin, end, inside = waiting.pop()
        for number, start, stop in _fields(message, begin, end):
            fields += 1
            inner = inside.get(number) if stop else None
            if isinstance(inner, dict):
                waiting.append((start, stop, inner))
            elif inner is not None:
                values += _numbers(message[start:stop], inner)
            if fields > MAX_FIELDS or values > max_values:
                raise PayloadTooLarge(
                    f"the message holds more than {MAX_FIELDS} fields or {max_values} numbers "
                    "(limits.max_json_values); send tensors in raw_input_contents"
                )


def _fields(message: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number of each field, and from where to where its bytes are; 0 to 0 for a number.

    Ends where the parser would stop with an error.
    """
    try:
        while at < end:
            tag, at = _varint(message, at)
            kind = tag & 7
            start = stop = 0
            if kind == _VARINT:
                _, at = _varint(message, at)
            elif kind == _BYTES:
                length, start = _varint(message, at)
                at = stop = start + length
            elif kind in (_FIXED32, _FIXED64):
                at += 4 if kind == _FIXED32 else 8
            elif kind not in (_GROUP, _GROUP_END):
                return
            if at <= end:
                yield tag >> 3, start, stop
    except IndexError:
        return


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Modulo 2**64, as the parser has it, and where it ends.

    Raises:
        IndexError: it does not, within the ten bytes it may have.
    """
    value = shift = 0
    while (byte := message[at]) & 0x80:
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        if shift == 70:
            raise IndexError
    return (value | byte << shift) & _64_BITS, at + 1


def _numbers(packed: bytes, kind: int) -> int:
    if kind == _VARINT:  # its last byte has no high bit
        return len(packed) - len(packed.translate(None, _LOW_BYTES))
    return len(packed) // (4 if kind == _FIXED32 else 8)
