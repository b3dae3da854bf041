"""Convert a Label Studio export and account for it.

python -m training.data.annotation EXPORT --output pairs.jsonl --report report.json
"""

import json
import sys
from pathlib import Path

from training.arguments.annotation import AnnotationArgs
from training.arguments.parsing import UserError, exit_with_user_error, parse_args
from training.data.annotation.convert import convert
from training.data.annotation.export import read_export
from training.data.annotation.report import in_words


def main() -> None:
    words = sys.argv[1:]
    is_named = bool(words) and not words[0].startswith("-")
    args = parse_args(AnnotationArgs, ["--export", *words] if is_named else words)
    try:
        rows, report = convert(read_export(args.export), args.export, args)
        if args.output:
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row, _ in rows]
            _write(args.output, "".join(lines), "--output")
        if args.report:
            text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
            _write(args.report, text, "--report")
    except UserError as error:
        exit_with_user_error("annotation", str(error))
    sys.stdout.write("\n".join(in_words(report, report["pairs"])) + "\n")


def _write(path: str, text: str, flag: str) -> None:
    target = Path(path).expanduser()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    main()
