"""Files and folders that hold a mistake, and the good ones beside them."""

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from tests import tiny_models
from tests.stages import material as m

GOOD = {
    "sft": {"prompt": "tell me", "response": " the fox"},
    "reward": {"prompt": "tell me", "chosen": " the fox", "rejected": " a boat"},
    "ppo": {"prompt": "tell me about the fox ."},
}
ACTOR, REWARD = "--actor_model_name_or_path", "--reward_model_name_or_path"
MODEL = "--model_name_or_path"
CUSTOM = {"auto_map": {"AutoConfig": "own.OwnConfig"}, "model_type": "own_model"}
FAST = '{"tokenizer_class": "PreTrainedTokenizerFast"}'
TWO = [{"prompt": "a", "n": 1}, {"prompt": "b", "n": 2}]
MESSAGE = {"role": "user", "content": "tell me"}
# A row that any stage can read.
EVERY_STAGE = '{"prompt": "a", "response": "b", "chosen": "c", "rejected": "d"}\n'
LONG = " ".join(["fox"] * 300)


@dataclass(frozen=True)
class Inputs:
    """Folders of finished stages, and a folder to write to."""

    base: Path
    sft: Path
    reward: Path
    tmp: Path

    def file(self, content: str | bytes | list[Any], name: str = "data.jsonl") -> str:
        """A file of rows or of anything else."""
        path = self.tmp / name
        if isinstance(content, list):
            return str(m.write_jsonl(path, content))
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def config(self, **fields: Any) -> str:
        return self.file(json.dumps(fields), "own.json")

    def copy(self, folder: Path, *, without: str = "", **files: str) -> str:
        """A copy of a stage's folder without a file, or with others in its place."""
        target = self.tmp / "copy"
        target.mkdir()
        for file in folder.iterdir():
            if file.is_file() and file.name != without:
                (target / file.name).write_bytes(file.read_bytes())
        return str(target)

    def good_flags(self, stage: str) -> list[str]:
        data = self.file([{**GOOD[stage], "n": n} for n in range(3)], "good.jsonl")
        flags = ["--data_path", data, "--max_steps", "1"]  # a failing test ends soon
        if stage == "sft":
            return [*flags, "--model_name_or_path", str(self.base)]
        if stage == "reward":
            samples = ["--normalization_samples", "4", "--learning_rate", "1e-3"]
            return [*flags, *samples, "--model_name_or_path", str(self.sft)]
        actor, reward = "--actor_model_name_or_path", "--reward_model_name_or_path"
        return [*flags, actor, str(self.sft), reward, str(self.reward)]


Flags = Callable[[Inputs], list[str]]
Cases = dict[str, tuple[Flags, list[str]]]  # a name -> flags, and parts of the line that is printed


def use_data(rows: list[Any] | str, name: str = "data.jsonl") -> Flags:
    return lambda p: ["--data_path", p.file(rows, name)]


def use_flags(*words: str) -> Flags:
    return lambda p: list(words)


def list_bad_values(**values: str) -> Cases:
    """Flags with a value that they do not take."""
    return {
        f"{name} {value}": (
            use_flags(f"--{name}", *value.split()),
            [f"--{name}", value.split()[-1]],
        )
        for name, value in values.items()
    }


def copy_folder(p: Inputs, source: Path, **files: str | bytes | None) -> str:
    """A copy of a model's folder with some files replaced; None drops one."""
    target = Path(p.copy(source))
    for name, content in files.items():
        file = target / f"{name}.json" if not name.startswith("model_") else target / name[6:]
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(target)


def edit_config(source: Path, **changes: Any) -> str:
    """The folder's config with other fields."""
    return json.dumps(json.loads((source / "config.json").read_text()) | changes)


def use_new_model(config: str) -> Flags:
    return lambda p: [
        *(MODEL, "", "--tokenizer_name_or_path", str(p.base)),
        *("--init_from_scratch", p.file(config, "new.json")),
    ]


def use_pair(**changes: Any) -> Flags:
    good = {"prompt": "tell me", "chosen": " the fox", "rejected": " a boat"}
    return use_data([good, {**good, **changes}])


def use_group(**changes: Any) -> Flags:
    good = {"prompt": "a", "responses": [" b", " c"], "pairs": [[0, 1]]}
    return use_data([{**good, **changes}])


def make_reward_rows(**changes: Any) -> list[Any]:
    return [GOOD["reward"], {**GOOD["reward"], **changes}]


def use_scalar_settings(**fields: Any) -> Flags:
    return lambda p: [REWARD, copy_folder(p, p.reward, scalar_model=json.dumps(fields))]


def write_pickled_weights(p: Inputs) -> str:
    """A model's folder whose only weights are a pickle of no tensors."""
    target = Path(p.copy(p.sft, without="model.safetensors"))
    (target / "pytorch_model.bin").write_bytes(pickle.dumps({"a": torch.zeros}))
    return str(target)


def write_short_reward_model(p: Inputs) -> str:
    """The reward model with fewer positions than the actor."""
    config = edit_config(p.reward, n_positions=64, max_position_embeddings=64)
    return copy_folder(p, p.reward, config=config)


def write_bare_model(inputs: Inputs) -> str:
    """A folder of which `transformers` would make a tokenizer without words."""
    folder = inputs.tmp / "bare"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    return str(folder)


def write_classifier(folder: Path) -> str:
    config = GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=2)
    config.num_labels = 2
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def write_other_words(inputs: Inputs) -> str:
    """The reward model with a tokenizer that swaps two words."""
    folder = inputs.copy(inputs.reward)
    swapped = [m.WORDS[0], m.WORDS[1], m.WORDS[3], m.WORDS[2], *m.WORDS[4:]]
    tiny_models.build_tokenizer(list(dict.fromkeys(swapped))).save_pretrained(folder)
    return folder
