"""How many values a JSON body may hold, judged before it is parsed.

`orjson.loads` and `numpy.array` hold the interpreter lock while they run. A body of 16 MiB
can hold eight million numbers or empty lists, which stops every other request (health
answers included) for about a second; the same bytes as one base64 picture take 10 ms. So
the number of values is what needs a limit. Counting two bytes runs at memory speed.
"""

from __future__ import annotations

from typing import Final

from predictor.errors import PayloadTooLarge

CONTAINER_COST: Final = 3
"""A list or an object takes as long to make as three numbers (measured with orjson)."""


def check_json_size(body: bytes, max_values: int) -> None:
    """Refuse a JSON body with more than `max_values` values.

    Every value but the first of its container follows a comma, and every container opens
    with a bracket or a brace, so counting these bounds the work from above. Those inside
    strings count too; base64 has none.

    Raises:
        PayloadTooLarge: naming the limit and the encodings that have none.
    """
    containers = body.count(b"[") + body.count(b"{")
    values = 1 + body.count(b",") + CONTAINER_COST * containers
    if values > max_values:
        raise PayloadTooLarge(
            f"the JSON body holds more than {max_values} values (limits.max_json_values); "
            "send numbers as binary tensors or over gRPC, or send encoded pictures"
        )
