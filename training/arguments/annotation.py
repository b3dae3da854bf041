"""Flags that say how annotations become comparisons, and where a Label Studio server is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from training.arguments.common import Flags, check_can_write
from training.arguments.parsing import arg, require


@dataclass(frozen=True, kw_only=True)
class VoteArgs(Flags):
    """Flags for reading a Label Studio export."""

    votes: Literal["soft", "majority", "all"] = arg(
        "soft",
        "Several annotators: share of votes as label, majority's label, or one pair per vote.",
        group="Label Studio annotations",
    )
    ties: Literal["drop", "half"] = arg("drop", "A tie or empty choice: skipped, or label 0.5.")
    annotator_error: str = arg("0", "Chance of a wrong vote, for softer labels; auto: estimated.")
    label_config: str = arg("", "The project's labelling config (XML), if it has its own names.")
    label_control: str = arg("", "Control whose choice counts, if there are several.")

    def check_votes(self) -> None:
        self.check_file("label_config")
        if self.annotator_error == "auto":
            return
        try:
            error = float(self.annotator_error)
        except ValueError:
            error = -1.0
        require(
            0.0 <= error < 0.5,
            f"--annotator_error takes auto or a number in [0, 0.5), got {self.annotator_error!r}",
        )


@dataclass(frozen=True, kw_only=True)
class AnnotationArgs(VoteArgs):
    """Convert a Label Studio export to comparisons, and account for every annotation."""

    export: str = arg("", "Exported file: JSON, JSON_MIN or CSV.", group="files")
    output: str = arg("", "File for the comparisons as JSON Lines; default: none is written.")
    report: str = arg("", "File for the account as JSON; it is printed as well.")

    def __post_init__(self) -> None:
        require(bool(self.export), "name the exported file")
        self.check_file("export")
        named = [path for path in (self.export, self.output, self.report) if path]
        require(
            len({Path(path).expanduser().resolve() for path in named}) == len(named),
            f"--export, --output and --report must be different files, got {', '.join(named)}",
        )
        self.check_votes()


@dataclass(frozen=True, kw_only=True)
class ServerArgs(Flags):
    """A Label Studio server. Its token is no flag: the environment's LABEL_STUDIO_API_KEY."""

    label_studio_url: str = arg(
        "", "Your Label Studio; LABEL_STUDIO_API_KEY holds its token.", group="Label Studio server"
    )

    def check_server(self) -> None:
        flag, url = "--label_studio_url", self.label_studio_url
        try:
            parts = urlsplit(url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
            is_address = is_address and parts.port != 0 and url.isascii() and url.isprintable()
            is_address = is_address and " " not in url
        except ValueError:
            is_address = False
        require(is_address, f"{flag} must be like http://localhost:8080, got {url!r}")
        require(
            parts.username is None and parts.password is None,
            f"{flag} must hold no user and no password; put a token in LABEL_STUDIO_API_KEY",
        )
        require(
            not (parts.query or parts.fragment),
            f"{flag} is the server's address without what follows a ? or #, got {url!r}",
        )


@dataclass(frozen=True, kw_only=True)
class PushTargetArgs(ServerArgs):
    """The project that gets the tasks."""

    project: str = arg(
        "", "Title (may be new) or number; default: the file's name.", group="Label Studio server"
    )
    annotations_per_task: int = arg(1, "People who see each task, in a new project.")

    def check_target(self, tasks: str) -> None:
        """`tasks` names the project unless --project does."""
        self.check_server()
        self.check_positive("annotations_per_task")
        title = self.title(tasks)
        require(
            title.isdecimal() or 3 <= len(title) <= 50,
            f"--project: Label Studio takes titles of 3 to 50 characters, got {title!r}",
        )

    def title(self, tasks: str) -> str:
        """The project's title or number; Label Studio keeps no spaces around a title."""
        return self.project.strip() or Path(tasks).stem.strip()


@dataclass(frozen=True, kw_only=True)
class PushArgs(PushTargetArgs):
    """Add tasks to a Label Studio project; tasks that it has already are skipped."""

    tasks: str = arg("", "Tasks that collect.sh has written.", group="tasks")
    label_config: str = arg("", "Their labelling config (XML); default: the one beside them.")
    label_control: str = arg("", "Control whose choice counts, if there are several.")

    def __post_init__(self) -> None:
        require(bool(self.tasks), "name the file of tasks")
        self.check_file("tasks label_config")
        require(
            Path(self.page).is_file(),
            f"no labelling config at {self.page}; name it with --label_config",
        )
        self.check_target(self.tasks)

    @property
    def page(self) -> str:
        return self.label_config or str(Path(self.tasks).with_suffix(".xml"))


@dataclass(frozen=True, kw_only=True)
class PullArgs(ServerArgs):
    """Export the annotations of a Label Studio project to a file for stage 2."""

    project: str = arg("", "Title or number of the project.", group="export")
    output: str = arg("export.json", "File to write: .json, or .csv for CSV.")
    format: Literal["JSON", "JSON_MIN", "CSV"] = arg("JSON", "Only JSON keeps skipped tasks.")

    def __post_init__(self) -> None:
        self.check_server()
        require(bool(self.project), "--project: name the project to pull, its title or number")
        suffix = ".csv" if self.format == "CSV" else ".json"
        require(
            self.output.endswith(suffix),
            f"--output must name a {suffix} file for --format {self.format}, got {self.output}",
        )
        check_can_write(self, "output", is_file=True)
