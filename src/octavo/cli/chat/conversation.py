"""The messages of a conversation, and what is forgotten when they become too many."""

from __future__ import annotations

import json
from pathlib import Path

from octavo.errors import OctavoError

Message = dict[str, str]


class Conversation:
    """A system message, perhaps, and turns: a question and its answer each. The last one may lack its answer."""

    def __init__(self, system: str | None = None):
        self.system = system
        self.turns: list[list[Message]] = []

    @property
    def messages(self) -> list[Message]:
        first = [{"role": "system", "content": self.system}] if self.system else []
        return first + [message for turn in self.turns for message in turn]

    def ask(self, question: str) -> None:
        self.turns.append([{"role": "user", "content": question}])

    def answer(self, text: str) -> None:
        self.turns[-1].append({"role": "assistant", "content": text})

    def take_back_answer(self) -> bool:
        """Makes the last question open again; False if there is none."""
        if self.turns:
            del self.turns[-1][1:]
        return bool(self.turns)

    def take_back_question(self) -> None:
        del self.turns[-1:]

    def forget_oldest(self) -> bool:
        """Drops the oldest turn; False if only the newest is left."""
        if len(self.turns) < 2:
            return False
        del self.turns[0]
        return True

    def save(self, file: str, model: str) -> Path:
        """Writes the messages as JSON, or as Markdown if the name ends in .md. Raises OctavoError."""
        path = Path(file).expanduser()
        text = json.dumps({"model": model, "messages": self.messages}, ensure_ascii=False, indent=1) + "\n"
        if path.suffix == ".md":
            text = "".join(f"**{message['role']}**\n\n{message['content']}\n\n" for message in self.messages)
        try:
            with path.open("x", encoding="utf-8", errors="replace") as out:
                out.write(text)
        except FileExistsError:
            raise OctavoError(f"{path} is there already; give another name") from None
        except (OSError, ValueError) as error:
            raise OctavoError(f"{path} can't be written: {getattr(error, 'strerror', None) or error}") from None
        return path
