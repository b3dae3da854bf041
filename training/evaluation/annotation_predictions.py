"""What a reward model would choose in annotation tasks."""

from collections.abc import Sequence
from pathlib import Path

import torch

from training.arguments.collect import CollectArgs
from training.data.annotation.tasks import Task, add_prediction
from training.data.chat import tokenize_plain
from training.evaluation.sampling import TokenIds, response_scores
from training.models.loading import check_fits, load_config
from training.models.scalar import BACKBONE_FOLDER, load_scalar_model, read_settings
from training.models.tokenizers import Tokenizer, check_same_tokenizer, load_tokenizer
from training.runtime.engine import compute_dtype
from training.runtime.publish import check_complete


class Predictor:
    """Checks --reward_model by its files at once, and loads it when it is to predict."""

    def __init__(self, args: CollectArgs, tokenizer: Tokenizer, device: torch.device) -> None:
        path, flag, hint = args.reward_model, "--reward_model", "give a folder of stage 2"
        self._args, self._tokenizer, self._device = args, tokenizer, device
        self._settings = read_settings(path, flag=flag, hint=hint)
        check_complete(path, flag=flag, hint="wait for it, or start it again")
        check_same_tokenizer(tokenizer, load_tokenizer(path, flag=flag), args.model, path)
        folder = path if self._settings.is_plain else str(Path(path) / BACKBONE_FOLDER)
        check_fits(
            load_config(folder, flag=flag, hint=hint),
            args.max_prompt_length + args.max_new_tokens,
            flags=f"--max_prompt_length {args.max_prompt_length} and --max_new_tokens "
            f"{args.max_new_tokens} (for --reward_model) can",
        )

    def predict(self, prompts: Sequence[TokenIds], tasks: Sequence[Task]) -> list[Task]:
        """Pairwise tasks, each with its prompt's tokens, with the reward model's choices."""
        args, tokenizer = self._args, self._tokenizer
        scorer = load_scalar_model(
            args.reward_model,
            self._settings,
            device=self._device,
            compute_dtype=compute_dtype(args.dtype, self._device),
            tokens=len(tokenizer),
        ).eval()
        # As stage 2 will encode them once they are comparisons.
        texts = [task["data"][key] for task in tasks for key in ("answer1", "answer2")]
        responses = [[*ids, tokenizer.eos_token_id] for ids in tokenize_plain(tokenizer, texts)]
        scores = response_scores(
            scorer,
            [prompt for prompt in prompts for _ in range(2)],
            responses,
            pad_id=tokenizer.pad_token_id,
            token_budget=args.micro_batch_tokens,
        ).tolist()
        version = Path(args.reward_model).name
        return [
            add_prediction(task, (scores[2 * n], scores[2 * n + 1]), model_version=version)
            for n, task in enumerate(tasks)
        ]
