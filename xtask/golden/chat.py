"""Chats rendered by Jinja2 as llama-cpp-python sets it up, for the templates of fixtures/chat.

smollm2 (Apache-2.0) is from the model's GGUF file; qwen2.5, qwen3, mistral-nemo (Apache-2.0) and phi3.5 (MIT)
are the models' own, by way of llama.cpp's models/templates. The *-format templates write the format of
their model in other words, and python.jinja is made for the test.

Writes fixtures/chat/expected.json.
"""

from datetime import datetime
from pathlib import Path

import jinja2
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from json_lines import dump

OUT = Path(__file__).resolve().parents[2] / "fixtures" / "chat"
NOW = datetime(2026, 3, 7, 9, 5, 2)  # 1772874302 seconds after 1970-01-01 00:00:00


class Formatter(Jinja2ChatFormatter):
    @staticmethod
    def strftime_now(f: str) -> str:
        return NOW.strftime(f)


SYSTEM = ("system", "  You are terse.\nAnswer in <b>one</b> line & \"quote\" 'well'.  ")
USER = ("user", "Why is the sky blue? \n")
ANSWER = ("assistant", "\n Rayleigh scattering. 🙂 ")
THOUGHT = ("assistant", "<think>\nlet me see\n</think>\n\nBecause of air.")
CHATS = [
    [USER],
    [("user", "")],
    [SYSTEM, USER],
    [USER, ANSWER, ("user", "漢字 {{ bos_token }} {% if %} <|im_end|>")],
    [SYSTEM, USER, ANSWER, USER, THOUGHT, ("user", "more\r\n\tplease")],
    [USER, THOUGHT],
    [USER, USER],
    [USER, SYSTEM],
    [("robot", "beep")],
    [],
]


def render(template: str, chat, prompt: bool) -> dict:
    formatter = Formatter(template, eos_token="</eos>", bos_token="<bos>", add_generation_prompt=prompt)
    try:
        return {"text": formatter(messages=[{"role": r, "content": c} for r, c in chat]).prompt}
    except ValueError as error:
        return {"raised": str(error)}
    except jinja2.TemplateError:
        return {"failed": True}


def main() -> None:
    expected = {
        path.stem: [render(path.read_text(encoding="utf-8"), chat, prompt) for chat in CHATS for prompt in (True, False)]
        for path in sorted(OUT.glob("*.jinja"))
    }
    dump(OUT / "expected.json", {"chats": CHATS, "expected": expected})
