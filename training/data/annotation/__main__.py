"""Convert a Label Studio export and account for it.

python -m training.data.annotation EXPORT --output pairs.jsonl --report report.json
"""

import json
import sys

from training.arguments.annotation import AnnotationArgs
from training.arguments.parsing import UserError, exit_with_user_error, parse_args, with_flag
from training.data.annotation.convert import convert
from training.data.annotation.export import read_export
from training.data.annotation.report import in_words
from training.data.files import as_text, write_text


def main() -> None:
    args = parse_args(AnnotationArgs, with_flag("--export", sys.argv[1:]))
    try:
        rows, report = convert(read_export(args.export), args.export, args)
        if args.output:
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row, _ in rows]
            write_text(args.output, "".join(lines), "--output")
        if args.report:
            write_text(args.report, as_text(report), "--report")
    except UserError as error:
        exit_with_user_error("annotation", str(error))
    sys.stdout.write("\n".join(in_words(report, report["pairs"])) + "\n")


if __name__ == "__main__":
    main()
