"""A chat: questions, commands, answers. Ctrl-C stops an answer, Ctrl-D leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from octavo.cli.chat.conversation import Conversation
from octavo.cli.chat.lines import line_reader, read_message
from octavo.cli.chat.screen import Screen
from octavo.cli.sources import Piece, Source, TooLongError
from octavo.cli.terminal import keys_unseen
from octavo.errors import OctavoError

HELP = '''\
/help            this list
/clear           forget the conversation, but for the system message
/system [TEXT]   set the system message, or remove it
/regenerate      answer the last question again
/save FILE       write the conversation as JSON, or as Markdown if FILE ends in .md
/quit            leave, as Ctrl-D does
A line that ends in \\ goes on in the next one; """ begins and ends a message of several lines.
Ctrl-C stops an answer; what there is of it stays in the conversation.'''


class Session:
    """One conversation with `source`."""

    def __init__(
        self, source: Source, runner: asyncio.Runner, screen: Screen, system: str | None, on_terminal: bool
    ) -> None:
        self._source, self._runner, self._screen = source, runner, screen
        self._on_terminal = on_terminal
        self._conversation = Conversation(system)
        self._read_line = line_reader(on_terminal)
        self._failed = False
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: screen.say(HELP),
            "/clear": self._clear,
            "/system": self._set_system,
            "/regenerate": self._regenerate,
            "/save": self._save,
        }

    def run(self) -> int:
        """Until the input ends; the exit code is 2 if there was no terminal and a question had no answer."""
        if self._on_terminal:
            self._screen.say(f"{self._source.name} · /help tells the commands, Ctrl-D leaves")
        while True:
            try:
                message = read_message(self._read_line)
            except EOFError:
                break
            except KeyboardInterrupt:
                if not self._on_terminal:
                    raise
                self._screen.say("\n(Ctrl-D leaves)")
                continue
            if message == "/quit":
                return self._code()
            if message:
                self._obey(message)
        if self._on_terminal:
            print()
        return self._code()

    def _code(self) -> int:
        return 2 if self._failed and not self._on_terminal else 0

    def _obey(self, message: str) -> None:
        """A command, or a question. Only one line can be a command: pasted text is none."""
        name, _, rest = message.partition(" ")
        if not message.startswith("/") or "\n" in message or "/" in name[1:]:
            self._conversation.ask(message)
            self._answer()
        elif name in self._commands:
            self._commands[name](rest.strip())
        else:
            self._screen.say(f"no such command: {name}; /help tells them")

    def _clear(self, _: str) -> None:
        self._conversation = Conversation(self._conversation.system)
        self._screen.say("the conversation is forgotten")

    def _set_system(self, text: str) -> None:
        self._conversation.system = text or None
        self._screen.say("the system message is set" if text else "there is no system message now")

    def _regenerate(self, _: str) -> None:
        if self._conversation.take_back_answer():
            self._answer()
        else:
            self._screen.say("there is no question yet")

    def _save(self, file: str) -> None:
        try:
            if not file:
                raise OctavoError("/save FILE needs a name")
            path = self._conversation.save(file, self._source.name)
        except OctavoError as error:
            self._complain(error)
        else:
            self._screen.say(f"{len(self._conversation.messages)} messages are in {path}")

    def _answer(self) -> None:
        """Answers the open question on the screen; a question that gets no answer is taken back."""
        answer: list[str] = []
        try:
            with keys_unseen():
                finish_reason = self._runner.run(self._stream(answer))
        except OctavoError as error:
            self._screen.end()
            self._complain(error)
            self._conversation.take_back_question()
            return
        except KeyboardInterrupt:
            self._screen.end()
            if not self._on_terminal:
                raise
            self._screen.say("(stopped)")
            finish_reason = "stopped"
            if not answer:
                self._conversation.take_back_question()
                return
        else:
            self._screen.end()
        self._conversation.answer("".join(answer))
        if finish_reason == "length" and self._on_terminal:
            self._screen.say("(cut off: --max-tokens allows longer answers)")

    async def _stream(self, answer: list[str]) -> str | None:
        """Shows the answer and collects it; the oldest turns are forgotten until there is room for it."""
        forgotten = 0
        while True:
            try:
                return await self._show(answer, forgotten)
            except TooLongError as error:
                if answer or not self._conversation.forget_oldest():
                    what = "system message and question are" if self._conversation.system else "the question is"
                    raise OctavoError(f"{what} too long: {error}") from None
                forgotten += 1

    async def _show(self, answer: list[str], forgotten: int) -> str | None:
        last = Piece("")
        async for piece in self._source.answer(self._conversation.messages):
            if forgotten:
                turns = "turn was" if forgotten == 1 else f"{forgotten} turns were"
                self._screen.say(f"(the conversation is too long: its oldest {turns} forgotten; /clear begins anew)")
                forgotten = 0
            last = piece
            answer.append(piece.text)
            self._screen.add(piece.text)
        return last.finish_reason

    def _complain(self, error: OctavoError) -> None:
        self._failed = True
        self._screen.say("octavo: " + " ".join(str(error).split()))
