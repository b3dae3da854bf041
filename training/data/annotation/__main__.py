"""Convert a Label Studio export and account for it; push tasks to a server and pull its export.

python -m training.data.annotation EXPORT --output pairs.jsonl --report report.json
python -m training.data.annotation push tasks.json --label_studio_url http://localhost:8080
python -m training.data.annotation pull --label_studio_url http://localhost:8080 --project tasks
"""

import json
import sys
from collections.abc import Iterator
from contextlib import closing

from training.arguments.annotation import AnnotationArgs, PullArgs, PushArgs
from training.arguments.parsing import UserError, exit_with_user_error, parse_args, with_flag
from training.data.annotation.convert import convert
from training.data.annotation.exchange import pull, push
from training.data.annotation.export import read_export
from training.data.annotation.report import in_words
from training.data.annotation.server import Server
from training.data.files import format_json, write_text

OTHERS = "Instead of an export: push (tasks to a server) or pull (its export); each has --help."


def converted(args: AnnotationArgs) -> Iterator[str]:
    rows, report = convert(read_export(args.export), args.export, args)
    if args.output:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row, _ in rows]
        write_text(args.output, "".join(lines), "--output")
    if args.report:
        write_text(args.report, format_json(report), "--report")
    yield from in_words(report, report["pairs"])


def pushed(args: PushArgs) -> Iterator[str]:
    with closing(Server(args.label_studio_url)) as server:
        found = push(
            server,
            args.tasks,
            args.page,
            name=args.title(args.tasks),
            annotations_per_task=args.annotations_per_task,
            control=args.label_control,
        )
        yield found.in_words(server)


def pulled(args: PullArgs) -> Iterator[str]:
    with closing(Server(args.label_studio_url)) as server:
        yield from pull(server, args)


def lines_of(words: list[str]) -> Iterator[str]:
    """What the command line asks for, done."""
    if words[:1] == ["push"]:
        return pushed(parse_args(PushArgs, with_flag("--tasks", words[1:])))
    if words[:1] == ["pull"]:
        return pulled(parse_args(PullArgs, words[1:]))
    return converted(parse_args(AnnotationArgs, with_flag("--export", words), about=OTHERS))


def main() -> None:
    lines = lines_of(sys.argv[1:])
    try:
        text = "\n".join(lines)
    except UserError as error:
        exit_with_user_error("annotation", str(error))
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
