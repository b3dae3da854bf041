"""Responses of a model to many prompts, varied and distinct, as tasks for annotators.

What is drawn depends on the flags alone, prompt by prompt; finished prompts are kept in a file
beside the output, so that a run that was stopped goes on where it was.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from training.arguments.collect import CollectArgs
from training.arguments.parsing import UserError
from training.data.annotation.tasks import (
    PAIRWISE_CONFIG,
    RANKER_CONFIG,
    Sampled,
    Task,
    distinct,
    make_pairwise_tasks,
    make_ranker_task,
    sort_by_certainty,
)
from training.data.chat import load_chat_template
from training.data.encode import EncodedPrompt, check_prompt_template, encode_prompts
from training.data.files import write_text
from training.data.outcomes import collect_rows
from training.data.records import Prompt, parse_prompt
from training.data.sources import read_rows
from training.evaluation.annotation_predictions import Predictor
from training.evaluation.sampling import (
    check_language_model,
    hybrid_engine,
    load_policy,
    response_texts,
    sampling_of,
)
from training.hybrid_engine.engine import HybridEngine
from training.hybrid_engine.sampling import SampleKey
from training.models.loading import check_fits
from training.models.tokenizers import Tokenizer
from training.runtime.engine import compute_dtype

logger = logging.getLogger(__name__)

# Candidates for each response that is wanted: some will be too much alike.
SPARE = 2
# Flags that do not change what is drawn for a prompt.
OTHER_FLAGS = {
    "output",
    "reward_model",
    "tasks",
    "pairs_per_prompt",
    "generation_batch_size",
    "micro_batch_tokens",
    "prompts",  # their texts count, not the file's name
    "label_studio_url",
    "project",
    "annotations_per_task",
}

Responses = dict[int, list[Sampled]]  # by prompt id


@dataclass(frozen=True)
class Collection:
    """The tasks of each kind, and how many prompts gave too few responses to compare."""

    tasks: dict[str, list[Task]]  # "pairwise", "ranker"
    left_out: int


class Collector:
    """Samples from --model and makes tasks."""

    def __init__(self, args: CollectArgs, device: torch.device) -> None:
        self._args = args
        self._device = device
        config, self._tokenizer = check_language_model(args.model, flag="--model")
        check_fits(
            config,
            args.max_prompt_length + args.max_new_tokens,
            flags=f"--max_prompt_length {args.max_prompt_length} and --max_new_tokens "
            f"{args.max_new_tokens} can",
        )
        if args.reward_model:
            self._predictor = Predictor(args, self._tokenizer, device)
        self._prompts = _prompts(args, self._tokenizer)
        self._progress = Path(f"{args.output}.progress.jsonl").expanduser()

    def run(self) -> Collection:
        """All tasks; what was drawn before a stop is not drawn again."""
        args = self._args
        found = self._known()
        missing = [prompt for prompt in self._prompts if prompt.prompt_id not in found]
        if missing:
            found |= self._sample(missing)
        usable = [p for p in self._prompts if len(found[p.prompt_id]) >= 2]
        if not usable:
            raise UserError(
                f"--model {args.model} gives no prompt two responses that differ; raise "
                "--temperatures or --most_alike"
            )
        tasks: dict[str, list[Task]] = {}
        if args.tasks != "ranker":
            tasks["pairwise"] = self._pairwise(usable, found)
        if args.tasks != "pairwise":
            tasks["ranker"] = [
                make_ranker_task(p.text, found[p.prompt_id], seed=self._seed(p)) for p in usable
            ]
        return Collection(tasks, len(self._prompts) - len(usable))

    def forget(self) -> None:
        """The tasks are written: the next run begins anew."""
        self._progress.unlink(missing_ok=True)

    def _seed(self, prompt: EncodedPrompt) -> str:
        return f"{self._args.seed} {prompt.prompt_id}"

    def _pairwise(self, prompts: Sequence[EncodedPrompt], found: Responses) -> list[Task]:
        pairs = self._args.pairs_per_prompt
        by_prompt = [
            make_pairwise_tasks(
                prompt.text,
                found[prompt.prompt_id],
                pairs=pairs or len(found[prompt.prompt_id]) // 2,
                seed=self._seed(prompt),
            )
            for prompt in prompts
        ]
        if self._args.reward_model:
            pairs_of = list(zip(prompts, by_prompt, strict=True))
            tokens = [prompt.input_ids for prompt, tasks in pairs_of for _ in tasks]
            flat = [task for tasks in by_prompt for task in tasks]
            return sort_by_certainty(self._predictor.predict(tokens, flat))
        return [task for tasks in by_prompt for task in tasks]

    def _known(self) -> Responses:
        """What an earlier run with the same flags has drawn."""
        settings = {k: v for k, v in asdict(self._args).items() if k not in OTHER_FLAGS}
        weights = sorted(Path(self._args.model).expanduser().glob("*.safetensors"))
        of_model = [[file.name, *_stamp(file)] for file in weights]
        header = json.dumps(
            {**settings, "weights": of_model, "texts": [p.text for p in self._prompts]}
        )
        if self._progress.is_file():
            lines = self._progress.read_text(encoding="utf-8", errors="replace").splitlines()
            if lines and lines[0] == header:
                found = dict(_kept(lines[1:]))
                logger.info("going on: %d of %d prompts are drawn", len(found), len(self._prompts))
                self._write_progress("w", header, found)
                return found
            logger.info("%s is of other flags or prompts: begun anew", self._progress)
        self._write_progress("w", header, {})
        return {}

    def _write_progress(self, mode: str, header: str, found: Responses) -> None:
        lines = [header] if header else []
        lines += [json.dumps([key, [asdict(r) for r in kept]]) for key, kept in found.items()]
        try:
            self._progress.parent.mkdir(parents=True, exist_ok=True)
            with self._progress.open(mode, encoding="utf-8") as file:
                file.write("".join(line + "\n" for line in lines))
        except OSError as error:
            raise UserError(
                f"--output: {self._progress} cannot be written: {error.strerror}"
            ) from error

    def _sample(self, prompts: Sequence[EncodedPrompt]) -> Responses:
        """Distinct responses of each prompt, kept in the progress file chunk by chunk."""
        args = self._args
        dtype = compute_dtype(args.dtype, self._device)
        policy = load_policy(
            args.model, self._tokenizer, flag="--model", device=self._device, dtype=dtype
        )
        batch_size = args.generation_batch_size
        engines = [
            hybrid_engine(
                policy, self._tokenizer, sampling_of(args, temperature=t), batch_size=batch_size
            )
            for t in args.temperatures
        ]
        each = -(-SPARE * args.samples_per_prompt // len(engines))
        size = max(batch_size // each, 1)
        found: Responses = {}
        for start in range(0, len(prompts), size):
            chunk = prompts[start : start + size]
            candidates: Responses = {prompt.prompt_id: [] for prompt in chunk}
            for place, engine in enumerate(engines):
                for prompt, sampled in self._drawn(engine, place, chunk, each):
                    candidates[prompt.prompt_id].append(sampled)
            kept = {
                prompt_id: distinct(drawn, args.samples_per_prompt, most_alike=args.most_alike)
                for prompt_id, drawn in candidates.items()
            }
            self._write_progress("a", "", kept)
            found |= kept
            logger.info("%d of %d prompts", start + len(chunk), len(prompts))
        return found

    def _drawn(
        self, engine: HybridEngine, place: int, prompts: Sequence[EncodedPrompt], each: int
    ) -> Iterator[tuple[EncodedPrompt, Sampled]]:
        """`each` responses to each prompt at the temperature with this place in the flag."""
        jobs = [(prompt, sample) for prompt in prompts for sample in range(each)]
        keys = [SampleKey(self._args.seed, place, p.prompt_id, sample) for p, sample in jobs]
        inputs = [prompt.input_ids for prompt, _ in jobs]
        with engine.generation() as generate:
            drawn = generate(inputs, keys)
        rows = [drawn.row(index) for index in range(len(jobs))]
        texts = response_texts(self._tokenizer, inputs, rows)
        for (prompt, sample), text in zip(jobs, texts, strict=True):
            yield prompt, Sampled(text, self._args.temperatures[place], sample)


def _stamp(file: Path) -> tuple[int, int]:
    """Tells a file from a later one of its name."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _prompts(args: CollectArgs, tokenizer: Tokenizer) -> list[EncodedPrompt]:
    """Distinct prompts, in their order."""
    records: dict[str, Prompt] = {}
    for row, source in read_rows(args.prompts, stage="ppo", split="train"):
        record = parse_prompt(row, source, len(records))
        records.setdefault(record.text, record)
    outcomes = encode_prompts(
        list(records.values()),
        tokenizer,
        max_prompt_length=args.max_prompt_length,
        prompt_template=check_prompt_template(args.prompt_template),
        chat_template=load_chat_template(args.chat_template),
        overlong=args.overlong_prompts,
    )
    prompts, report = collect_rows(outcomes, f"--max_prompt_length {args.max_prompt_length}")
    logger.info("prompts: %s", report.summary())
    return prompts


def _kept(lines: Sequence[str]) -> Iterator[tuple[int, list[Sampled]]]:
    """Finished prompts of a progress file, whose last line a stop may have cut."""
    for line in lines:
        try:
            prompt_id, responses = json.loads(line)
            yield prompt_id, [Sampled(**response) for response in responses]
        except (ValueError, TypeError):
            return


PAGES = {"pairwise": PAIRWISE_CONFIG, "ranker": RANKER_CONFIG}


def task_files(args: CollectArgs) -> dict[str, Path]:
    """Where the tasks of each kind go; their labelling config has the same name with .xml."""
    first = Path(args.output).expanduser()
    if args.tasks == "both":
        return {"pairwise": first, "ranker": first.with_suffix(".ranker.json")}
    return {args.tasks: first}


def write_tasks(args: CollectArgs, collection: Collection) -> list[Path]:
    """The files of each kind of task, tasks and labelling config; what was written."""
    written = []
    for kind, path in task_files(args).items():
        page = path.with_suffix(".xml")
        write_text(str(path), _json(collection.tasks[kind]), "--output")
        write_text(str(page), PAGES[kind], "--output")
        written += [path, page]
    return written


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
