"""What a report shows."""

import re
from html import unescape


def shown(path: str) -> str:
    """The text of a page, without its scripts, on one line."""
    with open(path, encoding="utf-8") as file:
        page = re.sub(r"<(script|style)\b.*?</\1>", " ", file.read(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", "", page)))
