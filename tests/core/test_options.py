"""Options that are a count or a word."""

import pytest

from robustcls.core.errors import InputError
from robustcls.core.options import parse_batch_size, parse_n


@pytest.mark.parametrize("text", ["0", 0, "-1", "many", "", "1.5"])
def test_counts(text):
    with pytest.raises(InputError, match="`batch_size="):
        parse_batch_size(text)
    with pytest.raises(InputError, match="give 1 or more, or all"):
        parse_n(text)


def test_valid_counts():
    assert parse_batch_size(None) == parse_batch_size("auto") == "auto"
    assert parse_batch_size("12") == parse_batch_size(12) == 12
    assert parse_n("all") is None
    assert parse_n("5") == 5
