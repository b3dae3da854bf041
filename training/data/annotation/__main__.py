"""Convert a Label Studio export and account for it; push tasks to a server and pull its export.

python -m training.data.annotation EXPORT --output pairs.jsonl --report report.json
python -m training.data.annotation push tasks.json --label_studio_url http://localhost:8080
python -m training.data.annotation pull --label_studio_url http://localhost:8080 --project tasks
"""

import json
import sys
from contextlib import closing

from training.arguments.annotation import AnnotationArgs, PullArgs, PushArgs
from training.arguments.parsing import UserError, add_first_flag, exit_with_user_error, parse_args
from training.data.annotation.convert import convert_tasks
from training.data.annotation.exchange import pull, push
from training.data.annotation.export import read_export
from training.data.annotation.report import format_report
from training.data.annotation.server import Server
from training.data.files import format_json, write_text

OTHERS = "Instead of an export: push (tasks to a server) or pull (its export); each has --help."


def convert_file(args: AnnotationArgs) -> list[str]:
    rows, report = convert_tasks(read_export(args.export), args.export, args)
    if args.output:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row, _ in rows]
        write_text(args.output, "".join(lines), "--output")
    if args.report:
        write_text(args.report, format_json(report), "--report")
    return format_report(report)


def push_file(args: PushArgs) -> str:
    with closing(Server(args.label_studio_url)) as server:
        return push(
            server,
            args.tasks,
            args.page,
            name=args.title(args.tasks),
            annotations_per_task=args.annotations_per_task,
            control=args.label_control,
        )


def run(words: list[str]) -> list[str]:
    """Do what the command line asks for, and return the lines to print."""
    if words[:1] == ["push"]:
        return [push_file(parse_args(PushArgs, add_first_flag("--tasks", words[1:])))]
    if words[:1] == ["pull"]:
        args = parse_args(PullArgs, words[1:])
        with closing(Server(args.label_studio_url)) as server:
            return list(pull(server, args))
    return convert_file(parse_args(AnnotationArgs, add_first_flag("--export", words), about=OTHERS))


def main() -> None:
    try:
        lines = run(sys.argv[1:])
    except UserError as error:
        exit_with_user_error("annotation", str(error))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
