"""Sample varied, distinct responses of a model to many prompts, as tasks for annotators.

Draws depend on the flags alone. Finished prompts are kept in a file beside the output, so a
stopped run continues where it was.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from training.arguments.collect import CollectArgs
from training.arguments.parsing import UserError
from training.data.annotation.tasks import (
    PAIRWISE_CONFIG,
    RANKER_CONFIG,
    Sampled,
    Task,
    add_prediction,
    make_pairwise_tasks,
    make_ranker_task,
    select_distinct,
    sort_by_certainty,
)
from training.data.chat import tokenize_plain
from training.data.encode import EncodedPrompt
from training.data.files import write_text
from training.data.records import Prompt, parse_prompt
from training.data.sources import read_rows
from training.evaluation import sampling
from training.evaluation.loading import check_positions, check_reward_model, tokenize_prompts
from training.hybrid_engine.engine import HybridEngine
from training.hybrid_engine.sampling import SampleKey
from training.models.scalar import load_scalar_model
from training.runtime.engine import compute_dtype

logger = logging.getLogger(__name__)

PAGES = {"pairwise": PAIRWISE_CONFIG, "ranker": RANKER_CONFIG}
# Candidates sampled for each response wanted: some will be too much alike.
CANDIDATES = 2
# Flags that do not change what is sampled for a prompt.
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
    skipped_prompts: int


class Collector:
    """Samples from --model and makes tasks."""

    def __init__(self, args: CollectArgs, device: torch.device) -> None:
        self._args = args
        self._device = device
        config, self._tokenizer = sampling.check_language_model(args.model, flag="--model")
        check_positions(args, config)
        if args.reward_model:
            self._reward_settings, config = check_reward_model(
                args.reward_model, {args.model: self._tokenizer}, flag="--reward_model"
            )
            check_positions(args, config, note=" (for --reward_model)")
        records: dict[str, Prompt] = {}  # distinct prompts
        for row, source in read_rows(args.prompts, stage="ppo", split="train"):
            record = parse_prompt(row, source)
            records.setdefault(record.text, record)
        numbered = dict(enumerate(records.values()))
        self._prompts = tokenize_prompts(args, numbered, self._tokenizer, name="prompts")
        self._progress = Path(f"{args.output}.progress.jsonl").expanduser()

    def run(self) -> Collection:
        """Make all tasks; responses sampled before a stop are used again."""
        args = self._args
        responses = self._read_progress()
        missing = [prompt for prompt in self._prompts if prompt.prompt_id not in responses]
        if missing:
            responses |= self._sample(missing)
        usable = [p for p in self._prompts if len(responses[p.prompt_id]) >= 2]
        if not usable:
            raise UserError(
                f"--model {args.model} gives no prompt two responses that differ; raise "
                "--temperatures or --most_alike"
            )
        tasks: dict[str, list[Task]] = {}
        if args.tasks != "ranker":
            tasks["pairwise"] = self._make_pairwise(usable, responses)
        if args.tasks != "pairwise":
            tasks["ranker"] = [
                make_ranker_task(prompt.text, responses[prompt.prompt_id], seed=self._seed(prompt))
                for prompt in usable
            ]
        return Collection(tasks, len(self._prompts) - len(usable))

    def delete_progress(self) -> None:
        """Delete the kept responses, once the tasks are written."""
        self._progress.unlink(missing_ok=True)

    def _seed(self, prompt: EncodedPrompt) -> str:
        return f"{self._args.seed} {prompt.prompt_id}"

    def _make_pairwise(self, prompts: Sequence[EncodedPrompt], responses: Responses) -> list[Task]:
        args, tasks, tokens = self._args, [], []
        for prompt in prompts:
            candidates = responses[prompt.prompt_id]
            pairs = args.pairs_per_prompt or len(candidates) // 2
            seed = self._seed(prompt)
            new = make_pairwise_tasks(prompt.text, candidates, pairs=pairs, seed=seed)
            tasks += new
            tokens += [prompt.input_ids] * len(new)
        if not args.reward_model:
            return tasks
        return sort_by_certainty(self._predict_choices(tasks, tokens))

    def _predict_choices(
        self, tasks: Sequence[Task], prompts: Sequence[sampling.TokenIds]
    ) -> list[Task]:
        """Add the choice of --reward_model to each pairwise task; one prompt per task."""
        args, tokenizer = self._args, self._tokenizer
        reward_model = load_scalar_model(
            args.reward_model,
            self._reward_settings,
            device=self._device,
            compute_dtype=compute_dtype(args.dtype, self._device),
            tokens=len(tokenizer),
        ).eval()
        # Encoded as stage 2 will encode them once they are comparisons.
        texts = [task["data"][key] for task in tasks for key in ("answer1", "answer2")]
        scores = sampling.score_responses(
            reward_model,
            [prompt for prompt in prompts for _ in range(2)],
            [[*ids, tokenizer.eos_token_id] for ids in tokenize_plain(tokenizer, texts)],
            pad_id=tokenizer.pad_token_id,
            token_budget=args.micro_batch_tokens,
        ).tolist()
        version = Path(args.reward_model).name
        pairs = zip(scores[::2], scores[1::2], strict=True)
        return [
            add_prediction(task, pair, model_version=version)
            for task, pair in zip(tasks, pairs, strict=True)
        ]

    def _read_progress(self) -> Responses:
        """Read what an earlier run with the same flags has sampled; else start a new file."""
        settings = {k: v for k, v in asdict(self._args).items() if k not in OTHER_FLAGS}
        weights = sorted(Path(self._args.model).expanduser().glob("*.safetensors"))
        stats = [(file.name, file.stat()) for file in weights]
        of_model = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
        header = json.dumps(
            {**settings, "weights": of_model, "texts": [p.text for p in self._prompts]}
        )
        responses: Responses = {}
        if self._progress.is_file():
            lines = self._progress.read_text(encoding="utf-8", errors="replace").splitlines()
            if lines and lines[0] == header:
                responses = dict(_parse_progress(lines[1:]))
                done, total = len(responses), len(self._prompts)
                logger.info("continuing: %d of %d prompts are sampled", done, total)
            else:
                logger.info("%s is of other flags or prompts: starting again", self._progress)
        self._write_progress("w", [header], responses)
        return responses

    def _write_progress(self, mode: str, header: list[str], responses: Responses) -> None:
        rows = ([key, [asdict(r) for r in kept]] for key, kept in responses.items())
        lines = [*header, *map(json.dumps, rows)]
        try:
            self._progress.parent.mkdir(parents=True, exist_ok=True)
            with self._progress.open(mode, encoding="utf-8") as file:
                file.write("".join(line + "\n" for line in lines))
        except OSError as error:
            raise UserError(
                f"--output: {self._progress} cannot be written: {error.strerror}"
            ) from error

    def _sample(self, prompts: Sequence[EncodedPrompt]) -> Responses:
        """Sample distinct responses of each prompt, saving them chunk by chunk."""
        args = self._args
        dtype = compute_dtype(args.dtype, self._device)
        policy = sampling.load_policy(
            args.model, self._tokenizer, flag="--model", device=self._device, dtype=dtype
        )
        batch_size = args.generation_batch_size
        engines = [
            sampling.make_hybrid_engine(
                policy,
                self._tokenizer,
                sampling.make_sampling(args, temperature=t),
                batch_size=batch_size,
            )
            for t in args.temperatures
        ]
        count = -(-CANDIDATES * args.samples_per_prompt // len(engines))
        size = max(batch_size // count, 1)
        responses: Responses = {}
        for start in range(0, len(prompts), size):
            chunk = prompts[start : start + size]
            candidates: Responses = {prompt.prompt_id: [] for prompt in chunk}
            for index, engine in enumerate(engines):
                for prompt, sampled in self._generate(engine, index, chunk, count):
                    candidates[prompt.prompt_id].append(sampled)
            kept = {
                prompt_id: select_distinct(
                    drawn, args.samples_per_prompt, most_alike=args.most_alike
                )
                for prompt_id, drawn in candidates.items()
            }
            self._write_progress("a", [], kept)
            responses |= kept
            logger.info("%d of %d prompts", start + len(chunk), len(prompts))
        return responses

    def _generate(
        self, engine: HybridEngine, index: int, prompts: Sequence[EncodedPrompt], count: int
    ) -> Iterator[tuple[EncodedPrompt, Sampled]]:
        """Generate `count` responses to each prompt at the temperature with this index."""
        jobs = [(prompt, sample) for prompt in prompts for sample in range(count)]
        keys = [SampleKey(self._args.seed, index, p.prompt_id, sample) for p, sample in jobs]
        inputs = [prompt.input_ids for prompt, _ in jobs]
        with engine.generation() as generate:
            drawn = generate(inputs, keys)
        texts = sampling.decode_responses(
            self._tokenizer, inputs, [drawn.row(n) for n in range(len(jobs))]
        )
        for (prompt, sample), text in zip(jobs, texts, strict=True):
            yield prompt, Sampled(text, self._args.temperatures[index], sample)


def _parse_progress(lines: Sequence[str]) -> Iterator[tuple[int, list[Sampled]]]:
    """Parse the finished prompts of a progress file; its last line may be cut off."""
    for line in lines:
        try:
            prompt_id, responses = json.loads(line)
            yield prompt_id, [Sampled(**response) for response in responses]
        except (ValueError, TypeError):
            return


def list_task_files(args: CollectArgs) -> dict[str, Path]:
    """Return the file of each kind of task; its labelling config has the same name with .xml."""
    first = Path(args.output).expanduser()
    if args.tasks == "both":
        return {"pairwise": first, "ranker": first.with_suffix(".ranker.json")}
    return {args.tasks: first}


def write_tasks(args: CollectArgs, collection: Collection) -> list[Path]:
    """Write the tasks of each kind and their labelling config; returns the files."""
    written = []
    for kind, path in list_task_files(args).items():
        page = path.with_suffix(".xml")
        tasks = json.dumps(collection.tasks[kind], indent=1, ensure_ascii=False)
        write_text(str(path), tasks + "\n", "--output")
        write_text(str(page), PAGES[kind], "--output")
        written += [path, page]
    return written
