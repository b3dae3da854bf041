"""Talk to a model of stage 1 or 3 in a terminal, or send it prompts, one per line.

python step3_ppo/chat.py --model output/step3_ppo     # any flag of this program; see --help
python step3_ppo/chat.py --model output/step1_sft < prompts.txt

In a line, \\n means a line break. Ctrl-C stops a response, Ctrl-D ends.
"""

import sys
from typing import TYPE_CHECKING

from training.arguments.chat import ChatArgs
from training.arguments.parsing import INTERRUPTED, UserError, parse_args

if TYPE_CHECKING:
    from training.evaluation.conversation import Conversation

NEW = "/new"


def main() -> None:
    args = parse_args(ChatArgs)
    # Imported only now, so that --help and a mistyped flag are answered before torch is loaded.
    from training.evaluation.conversation import Conversation
    from training.runtime import process

    with process.run_tool(args) as device:
        for stream in (sys.stdin, sys.stdout):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
        conversation = Conversation(args, device)
        is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        if is_terminal:
            import readline  # noqa: F401  (its import gives `input` line editing)

            forget = f"{NEW} starts over, " if conversation.is_chat else ""
            print(f"{args.model}: {forget}Ctrl-C stops a response, Ctrl-D ends")
        while (line := read_line(is_terminal)) is not None:
            if line == NEW and conversation.is_chat:
                conversation.forget()
            elif line.strip():
                answer(conversation, line.replace("\\n", "\n"), is_terminal)


def read_line(is_terminal: bool) -> str | None:
    """Return the next line without its line break, or None at the end of the input."""
    if not is_terminal:
        line = sys.stdin.readline()
        return line.rstrip("\r\n") if line else None
    try:
        return input("> ")
    except (EOFError, KeyboardInterrupt):
        print()
        return None


def answer(conversation: "Conversation", line: str, is_terminal: bool) -> None:
    """Print the response token by token, or an error if the line cannot be answered."""

    def show(text: str) -> None:
        # Model output may hold control characters, which a terminal obeys.
        safe = (c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
        print("".join(safe) if is_terminal else text, end="", flush=True)

    try:
        conversation.reply(line, show)
        print(flush=True)
    except KeyboardInterrupt:
        print()
        if not is_terminal:
            raise
    except UserError as error:
        print(f"chat.py: {error}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
