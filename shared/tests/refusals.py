"""For tests: what a weight file is refused with."""

from pathlib import Path

import pytest

from shared import InputError
from shared.weights import read_weights


def refusal(path: Path, read=read_weights, **options) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    text = str(caught.value)
    assert text.startswith(str(path)) and "\n" not in text and len(text) < len(str(path)) + 300
    return text
