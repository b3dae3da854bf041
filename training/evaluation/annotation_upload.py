"""Collected tasks to the user's Label Studio, if there is one."""

import shlex
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from training.arguments.collect import CollectArgs
from training.arguments.parsing import UserError
from training.data.annotation.exchange import Pushed, check_project, push
from training.data.annotation.server import Server
from training.evaluation.annotation_tasks import PAGES, task_files


class Upload:
    """Asks the server before anything is sampled, and sends the tasks once they are written."""

    def __init__(self, args: CollectArgs) -> None:
        self._args = args
        self._files = task_files(args)
        if args.label_studio_url:
            self._server = Server(args.label_studio_url)
            for kind, file in self._files.items():
                check_project(self._server, self._name(file), PAGES[kind], f"the {kind} page")

    def run(self) -> Iterator[str]:
        """A line for each project; nothing without --label_studio_url."""
        if not self._args.label_studio_url:
            return
        with closing(self._server) as server:
            for file in self._files.values():
                yield self._push(server, file).in_words(server)

    def _push(self, server: Server, file: Path) -> Pushed:
        try:
            return push(
                server,
                str(file),
                str(file.with_suffix(".xml")),
                name=self._name(file),
                annotations_per_task=self._args.annotations_per_task,
            )
        except UserError as error:
            raise UserError(f"{error}; the tasks are in {file}: {self._again(file)}") from None

    def _again(self, file: Path) -> str:
        """The command that sends what is missing to the same project."""
        command = [
            *("python", "-m", "training.data.annotation", "push", str(file)),
            *("--label_studio_url", self._args.label_studio_url),
            *("--project", self._name(file)),
            *("--annotations_per_task", str(self._args.annotations_per_task)),
        ]
        return shlex.join(command)

    def _name(self, file: Path) -> str:
        return self._args.title(str(file))
