"""Every example in the documentation works as it stands."""

from __future__ import annotations

import re

import pytest

from tests.documentation import Block, examples, run_block
from tests.server.process import ServerProcess

# JSON names the output; the Python examples print the arrays.
ANSWER = re.compile(r"fake_prob|\[b'(?:real|fake|uncertain)'\]")


@pytest.mark.parametrize("block", examples(), ids=lambda block: block.place)
def test_an_example_works(block: Block, server: ServerProcess) -> None:
    output = run_block(
        block,
        {
            "SERVER_URL": server.url,
            "SERVER_GRPC": server.grpc,
            "API_KEY": server.api_key,
        },
    )
    if "/samples" in block.code:
        assert ANSWER.search(output), output
