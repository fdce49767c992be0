"""JSON with lists of numbers on one line, so that a fixture stays readable and a diff small."""

import json
import re
from pathlib import Path

_NUMBERS = re.compile(r"\[\s+(-?[0-9][^\[\]{}\"]*?)\s+\]")


def dump(path: Path, value) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    text = _NUMBERS.sub(lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)
    path.write_text(text + "\n", encoding="utf-8")
