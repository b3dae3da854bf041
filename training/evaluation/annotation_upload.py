"""Send annotation tasks to a Label Studio server."""

import shlex
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from training.arguments.collect import CollectArgs
from training.arguments.parsing import UserError
from training.data.annotation.exchange import check_project, push
from training.data.annotation.server import Server
from training.evaluation.annotation_tasks import PAGES, list_task_files


class Upload:
    """Checks the server before anything is sampled; sends the tasks once they are written."""

    def __init__(self, args: CollectArgs) -> None:
        self._args = args
        self._files = list_task_files(args)
        if args.label_studio_url:
            self._server = Server(args.label_studio_url)
            for kind, file in self._files.items():
                check_project(self._server, self._name(file), PAGES[kind], f"the {kind} page")

    def run(self) -> Iterator[str]:
        """Send the tasks and yield a line per project; does nothing without --label_studio_url."""
        if not self._args.label_studio_url:
            return
        with closing(self._server) as server:
            for file in self._files.values():
                yield self._push(server, file)

    def _push(self, server: Server, file: Path) -> str:
        try:
            return push(
                server,
                str(file),
                str(file.with_suffix(".xml")),
                name=self._name(file),
                annotations_per_task=self._args.annotations_per_task,
            )
        except UserError as error:
            raise UserError(
                f"{error}; the tasks are in {file}: {self._format_push(file)}"
            ) from None

    def _format_push(self, file: Path) -> str:
        """Format the command that sends what is missing to the same project."""
        command = [
            *("python", "-m", "training.data.annotation", "push", str(file)),
            *("--label_studio_url", self._args.label_studio_url),
            *("--project", self._name(file)),
            *("--annotations_per_task", str(self._args.annotations_per_task)),
        ]
        return shlex.join(command)

    def _name(self, file: Path) -> str:
        return self._args.title(str(file))
