"""The visible text of a report."""

import re
from html import unescape


def shown(path: str) -> str:
    """Return the text of a page without scripts and styles, on one line."""
    with open(path, encoding="utf-8") as file:
        page = re.sub(r"<(script|style)\b.*?</\1>", " ", file.read(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", "", page)))
