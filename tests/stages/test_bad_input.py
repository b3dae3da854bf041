"""What the user got wrong: one line that names the flag or the line, status 2, nothing written.

The programs are called as a launcher calls them, by their `main`. No model may have been made by
then: a mistake must not cost the minutes that loading one takes.
"""

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, PreTrainedModel

from tests import tiny_models
from tests.stages import material as m
from tests.stages import mistakes
from training.arguments.parsing import UserError
from training.arguments.ppo import PPOArgs
from training.models.loading import load_causal_lm, save_causal_lm
from training.models.scalar import ScalarSettings, build_scalar_model, save_scalar_model
from training.models.tokenizers import load_tokenizer
from training.runtime import engine
from training.runtime.distributed import World
from training.trainers.ppo.setup import check_stages

PROGRAMS = {"sft": "step1_sft", "reward": "step2_reward", "ppo": "step3_ppo"}
CPU = torch.device("cpu")
GOOD = {
    "sft": {"prompt": "tell me", "response": " the fox"},
    "reward": {"prompt": "tell me", "chosen": " the fox", "rejected": " a boat"},
    "ppo": {"prompt": "tell me about the fox ."},
}


@dataclass(frozen=True)
class Place:
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
        """A copy of a stage's folder without a file, or with others in their place."""
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


def finish(folder: Path) -> None:
    (folder / "args.json").write_text("{}")
    (folder / "complete.json").write_text("{}")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path, Path]:
    """A base model, and what stages 1 and 2 leave of it, untrained."""
    root = tmp_path_factory.mktemp("finished")
    base = m.write_base(root / "base")
    tokenizer = load_tokenizer(str(base), flag="")
    lm: Any = load_causal_lm(str(base), tokenizer, device=CPU, dropout=None)
    save_causal_lm(lm, dict(lm.named_parameters()), tokenizer, root / "sft")
    reward = build_scalar_model(
        str(root / "sft"), ScalarSettings(), device=CPU, compute_dtype=torch.float32
    )
    save_scalar_model(reward, dict(reward.named_parameters()), tokenizer, root / "reward")
    finish(root / "sft")
    finish(root / "reward")
    return base, root / "sft", root / "reward"


@pytest.fixture
def place(folders, tmp_path) -> Place:
    base, sft, reward = folders
    return Place(base, sft, reward, tmp_path)


@pytest.fixture
def said(monkeypatch, capsys, tmp_path, as_one_process) -> Callable[..., str]:
    """Runs a stage that must refuse; the line it says."""
    made: list[type] = []
    original = PreTrainedModel.__init__

    def counted(self: Any, *inputs: Any, **options: Any) -> None:
        if torch.get_default_device().type != "meta":  # there is no memory behind those
            made.append(type(self))
        original(self, *inputs, **options)

    def run(stage: str, flags: list[str], *, may_load: bool = False) -> str:
        monkeypatch.setattr(PreTrainedModel, "__init__", counted)
        monkeypatch.setattr(sys, "argv", [f"{PROGRAMS[stage]}/main.py", *flags])
        monkeypatch.chdir(tmp_path)  # so that the default paths lead nowhere
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(f"{PROGRAMS[stage]}.main").main()
        lines = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2
        assert len(lines) == 1, lines
        assert lines[0].startswith("main.py: error: ")
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
        assert may_load or not made, "a model was made before the mistake was found"
        line: str = lines[0].removeprefix("main.py: error: ")
        return line

    return run


Flags = Callable[[Place], list[str]]
# A row that any stage can read.
EVERY_STAGE = '{"prompt": "a", "response": "b", "chosen": "c", "rejected": "d"}\n'
ANY_STAGE: dict[str, tuple[Flags, list[str]]] = {
    "unknown flag": (lambda p: ["--learning_rat", "1"], ["--learning_rat", "--help"]),
    "prefix of a flag": (
        lambda p: ["--output", "x"],
        ["unknown flags: --output x; did you mean --output_dir?"],
    ),
    "unknown ZeRO stage": (lambda p: ["--zero_stage", "4"], ["--zero_stage", "4"]),
    "two that are none": (
        lambda p: ["--dtyp=fp32", "--qqq", "--data-pth", "x"],
        ["--dtyp=fp32 --qqq --data-pth x; did you mean --dtype --data_path?"],
    ),
    "no number": (lambda p: ["--seed", "one"], ["--seed", "one"]),
    "offload and stage": (
        lambda p: ["--offload_optimizer", "true", "--zero_stage", "1"],
        ["--offload_optimizer needs --zero_stage 2 or 3", "--zero_stage 1"],
    ),
    "offloaded weights and stage": (
        lambda p: ["--offload_param", "true", "--zero_stage", "2", "--offload_optimizer", "true"],
        ["--offload_param needs --zero_stage 3 and --offload_optimizer true", "--zero_stage 2 and"],
    ),
    "offloaded weights alone": (
        lambda p: ["--offload_param", "true", "--zero_stage", "3"],
        ["--offload_param needs", "got --zero_stage 3 and --offload_optimizer false"],
    ),
    "LoRA of negative rank": (lambda p: ["--lora_rank", "-1"], ["--lora_rank", "-1"]),
    "alpha without LoRA": (lambda p: ["--lora_alpha", "8"], ["--lora_alpha 8", "--lora_rank"]),
    "no micro-batch": (lambda p: ["--micro_batch_tokens", "0"], ["--micro_batch_tokens"]),
    "no share": (lambda p: ["--eval_fraction", "1.5"], ["--eval_fraction", "1.5"]),
    "number of weights": (
        lambda p: ["--data_weights", "1", "2"],
        ["--data_weights", "1 path", "got 2"],
    ),
    "template without a prompt": (
        lambda p: ["--prompt_template", "Q:"],
        ["--prompt_template", "{prompt}", "'Q:'"],
    ),
    "no such config": (lambda p: ["--deepspeed_config", "x.json"], ["--deepspeed_config", "x.js"]),
    "config that is no JSON": (
        lambda p: ["--deepspeed_config", p.file("{,}", "own.json")],
        ["--deepspeed_config", "own.json", "not JSON"],
    ),
    "config of another stage": (
        lambda p: ["--deepspeed_config", p.config(zero_optimization={"stage": 3})],
        ["own.json", "stage is 3 but --zero_stage is 2", "pass --zero_stage 3"],
    ),
    "config with an optimizer": (
        lambda p: ["--deepspeed_config", p.config(optimizer={}, zero_optimization={"stage": 2})],
        ["own.json", "remove 'optimizer'", "--learning_rate"],
    ),
    "config with a batch size": (
        lambda p: [
            "--deepspeed_config",
            p.config(train_micro_batch_size_per_gpu=8, zero_optimization={"stage": 2}),
        ],
        ["own.json", "train_micro_batch_size_per_gpu", "8"],
    ),
    "output_dir is a file": (
        lambda p: ["--output_dir", p.file("mine", "taken")],
        ["--output_dir", "taken"],
    ),
    "output_dir below a file": (
        lambda p: ["--output_dir", p.file("mine", "taken") + "/out"],
        ["--output_dir", "taken"],
    ),
    "no data": (lambda p: ["--data_path", "no.jsonl"], ["no.jsonl: no such file"]),
    "empty data": (lambda p: ["--data_path", p.file("")], ["data.jsonl", "no rows"]),
    "unknown kind of data": (lambda p: ["--data_path", p.file("", "a.docx")], ["a.docx", ".jsonl"]),
    "broken JSON": (
        lambda p: ["--data_path", p.file(EVERY_STAGE + '{"prompt": \n')],
        ["data.jsonl:2", "not valid JSON"],
    ),
    "a row that is no object": (lambda p: ["--data_path", p.file("[1]\n")], ["data.jsonl:1"]),
    "not UTF-8": (
        lambda p: ["--data_path", p.file(b'{"prompt": "\xff"}')],
        ["data.jsonl:1", "UTF-8"],
    ),
    "missing keys": (
        lambda p: ["--data_path", p.file([{"text": "a"}, {"question": "b"}])],
        ["data.jsonl:1", "'prompt'", "'text'"],
    ),
    "an example that is not prepared": (
        lambda p: ["--data_path", "example:none"],
        ["example:none is not prepared; run: ", "python examples/none/prepare.py"],
    ),
}

ANY_STAGE.update(mistakes.ANY_STAGE)


@pytest.mark.parametrize("stage", PROGRAMS)
@pytest.mark.parametrize("case", ANY_STAGE)
def test_a_mistake_that_any_stage_may_meet(said, place, case, stage):
    flags, expected = ANY_STAGE[case]
    output = ["--output_dir", str(place.tmp / "out")]
    line = said(stage, [*place.good_flags(stage), *output, *flags(place)])
    assert all(part in line for part in expected), line


def data(rows: list[Any]) -> Flags:
    return lambda p: ["--data_path", p.file(rows)]


def reward_row(**changes: Any) -> list[Any]:
    return [GOOD["reward"], {**GOOD["reward"], **changes}]


LONG = " ".join(["fox"] * 300)
ACTOR, REWARD = "--actor_model_name_or_path", "--reward_model_name_or_path"
SFT_CASES: dict[str, tuple[Flags, list[str]]] = {
    "muon and ZeRO": (
        lambda p: ["--optimizer", "muon", "--zero_stage", "2"],
        ["--optimizer muon", "--zero_stage 0", "--zero_stage 2"],
    ),
    "two starting points": (
        lambda p: ["--init_from_scratch", str(p.base / "config.json")],
        ["--init_from_scratch", "--model_name_or_path"],
    ),
    "new tokens for an old model": (
        lambda p: ["--tokenizer", "sentencepiece"],
        ["--tokenizer sentencepiece", "--init_from_scratch"],
    ),
    "no such model": (
        lambda p: ["--model_name_or_path", "./no"],
        ["--model_name_or_path", "./no: there is no such folder; give a folder"],
    ),
    "a model's config alone": (
        lambda p: ["--model_name_or_path", bare_model(p)],
        ["--model_name_or_path: no tokenizer in", "give a folder of a model with its tokenizer"],
    ),
    "a model without weights of its own": (
        lambda p: ["--model_name_or_path", "", "--init_from_scratch", p.file("{}", "new.json")],
        ["--init_from_scratch", "new.json"],
    ),
    "no tokenizer": (
        lambda p: ["--model_name_or_path", p.copy(p.base, without="tokenizer.json")],
        ["tokenizer", "copy"],
    ),
    "too long for the model": (lambda p: ["--max_length", "257"], ["--max_length 257", "256 pos"]),
    "no length": (lambda p: ["--max_length", "1"], ["--max_length", "1"]),
    "dropout": (lambda p: ["--dropout", "1.5"], ["--dropout", "1.5"]),
    "empty response": (
        data([GOOD["sft"], {"prompt": "a", "response": " "}]),
        ["data.jsonl:2", "'response' is empty"],
    ),
    "a response that is no text": (
        data([GOOD["sft"], {"prompt": "a", "response": 3}]),
        ["data.jsonl:2", "'response'", "3"],
    ),
    "a chat without an answer": (
        data([{"messages": [{"role": "user", "content": "tell me"}]}]),
        ["data.jsonl:1", "no assistant turn"],
    ),
    "prompts that leave no room": (
        data([{"prompt": LONG, "response": " the fox"}] * 3),
        ["none of the", "--max_length 256"],
    ),
}
REWARD_CASES: dict[str, tuple[Flags, list[str]]] = {
    "stage 1 is missing": (
        lambda p: ["--model_name_or_path", "output/step1_sft"],
        ["no model in output/step1_sft: there is no such folder; run step1_sft/run.sh first"],
    ),
    "stage 1 is unfinished": (
        lambda p: ["--model_name_or_path", p.copy(p.sft, without="complete.json")],
        ["has not finished", "run step1_sft/run.sh first"],
    ),
    "chosen is rejected": (
        data(reward_row(rejected=" the fox")),
        ["data.jsonl:2", "'chosen' and 'rejected' are the same"],
    ),
    "nothing chosen": (data(reward_row(chosen="")), ["data.jsonl:2", "'chosen' is empty"]),
    "nothing rejected": (
        data([{"prompt": "a", "chosen": " b"}]),
        ["data.jsonl:1", "'rejected'", "['chosen', 'prompt']"],
    ),
    "label": (data(reward_row(label=2)), ["data.jsonl:2", "label", "2"]),
    "pair of nothing": (
        data([{"prompt": "a", "responses": [" b", " c"], "pairs": [[0, 2]]}]),
        ["data.jsonl:1", "pairs[0]", "2"],
    ),
    "too long for the model": (lambda p: ["--max_length", "257"], ["--max_length 257", "256 pos"]),
    "one sample has no variance": (
        lambda p: ["--normalization_samples", "1"],
        ["--normalization_samples 1"],
    ),
    "a share above the whole": (
        lambda p: ["--data_size_curve", "0.3", "1.5"],
        ["--data_size_curve", "at most 1", "0.3 1.5"],
    ),
    "a share twice": (lambda p: ["--data_size_curve", "0.3", "0.3"], ["--data_size_curve"]),
    "a vote for nobody": (
        data(reward_row(votes={"ann": 1, "bob": 2})),
        ["data.jsonl:2", "'votes' of 'bob'", "2"],
    ),
    "too small a group": (lambda p: ["--responses_per_group", "1"], ["--responses_per_group"]),
    "normalization data": (
        lambda p: ["--normalization_data_path", "no.jsonl"],
        ["no.jsonl: no such file"],
    ),
    "no room for a prompt to normalize with": (
        lambda p: ["--max_length", "40"],
        ["--normalization_new_tokens 40", "no prompt room", "--max_length 40"],
    ),
}
PPO_CASES: dict[str, tuple[Flags, list[str]]] = {
    "batch arithmetic": (
        lambda p: ["--rollout_batch_size", "10", "--samples_per_prompt", "3"],
        ["--rollout_batch_size (10) x --samples_per_prompt (3)", "--minibatch_size (96)"],
    ),
    "stage 1 is missing": (
        lambda p: [ACTOR, "output/step1_sft"],
        ["no model in output/step1_sft", "run step1_sft/run.sh first"],
    ),
    "stage 2 is missing": (
        lambda p: [REWARD, "output/step2_reward"],
        ["no reward model in output/step2_reward", "run step2_reward/run.sh first"],
    ),
    "stage 1 is unfinished": (
        lambda p: [ACTOR, p.copy(p.sft, without="complete.json")],
        ["has not finished", "run step1_sft/run.sh first"],
    ),
    "stage 2 is unfinished": (
        lambda p: [REWARD, p.copy(p.reward, without="complete.json")],
        ["has not finished", "run step2_reward/run.sh first"],
    ),
    "a language model for a reward model": (
        lambda p: [REWARD, str(p.sft)],
        [REWARD, "GPT2LMHeadModel", "not a reward model"],
    ),
    "a classifier of two classes": (
        lambda p: [REWARD, classifier(p.tmp / "two")],
        [REWARD, "two", "not a reward model"],
    ),
    "another tokenizer": (lambda p: [REWARD, other_words(p)], ["tokenizers", "differ"]),
    "too long for the model": (
        lambda p: ["--max_prompt_length", "250"],
        ["--max_prompt_length 250", "--max_new_tokens 40", "256 positions"],
    ),
    "a long prompt": (
        data([GOOD["ppo"], {"prompt": LONG}]),
        ["data.jsonl:2", "300 tokens", "--max_prompt_length 128", "--overlong_prompts"],
    ),
    "only long prompts": (
        lambda p: ["--data_path", p.file([{"prompt": LONG}]), "--overlong_prompts", "drop"],
        ["none of the 1 rows", "--max_prompt_length 128"],
    ),
    "a controller that cannot act": (
        lambda p: ["--kl_controller", "adaptive", "--kl_coef", "0"],
        ["--kl_controller adaptive", "--kl_coef 0"],
    ),
    "temperature": (lambda p: ["--temperature", "0"], ["--temperature", "0"]),
    "top_p": (lambda p: ["--top_p", "0"], ["--top_p"]),
    "an empty prompt": (data([{"prompt": ""}]), ["data.jsonl:1", "'prompt' is empty"]),
}


def bare_model(place: Place) -> str:
    """A folder of which `transformers` would make a tokenizer without words."""
    folder = place.tmp / "bare"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    return str(folder)


def classifier(folder: Path) -> str:
    config = GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=2)
    config.num_labels = 2
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def other_words(place: Place) -> str:
    """The reward model with a tokenizer that swaps two words."""
    folder = place.copy(place.reward)
    swapped = [m.WORDS[0], m.WORDS[1], m.WORDS[3], m.WORDS[2], *m.WORDS[4:]]
    tiny_models.build_tokenizer(list(dict.fromkeys(swapped))).save_pretrained(folder)
    return folder


for cases, more in (
    (SFT_CASES, mistakes.SFT),
    (REWARD_CASES, mistakes.REWARD_STAGE),
    (PPO_CASES, mistakes.PPO),
):
    assert not cases.keys() & more.keys()
    cases.update(more)
OWN_STAGE = [
    pytest.param(stage, *case, id=f"{stage}-{name}")
    for stage, cases in (("sft", SFT_CASES), ("reward", REWARD_CASES), ("ppo", PPO_CASES))
    for name, case in cases.items()
]


@pytest.mark.parametrize(("stage", "flags", "expected"), OWN_STAGE)
def test_a_mistake_of_one_stage(said, place, stage, flags, expected):
    extra = flags(place)
    output = ["--output_dir", str(place.tmp / "out")]
    line = said(stage, [*place.good_flags(stage), *output, *extra])
    assert all(part in line for part in expected), line
    assert said(stage, [*place.good_flags(stage), *output, *extra, "--dry_run"]) == line


@pytest.mark.parametrize("case", mistakes.UNREADABLE)
def test_weights_that_cannot_be_read_are_one_line(said, place, case):
    flags, expected = mistakes.UNREADABLE[case]
    given = flags(place)
    line = said("ppo", [*place.good_flags("ppo"), *given], may_load=True)
    assert all(part in line for part in expected), line


@pytest.mark.parametrize("stage", PROGRAMS)
def test_a_folder_that_may_not_be_written_to(said, place, stage, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    line = said(stage, [*place.good_flags(stage), "--output_dir", str(place.tmp / "out")])
    assert f"--output_dir {place.tmp / 'out'}" in line
    assert "may not be written to" in line


def test_the_tables_hold_at_least_120_mistakes():
    tools = importlib.import_module("tests.stages.test_bad_input_tools").TOOLS
    assert len(PROGRAMS) * len(ANY_STAGE) + len(OWN_STAGE) + len(tools) >= 400
    assert len(ANY_STAGE) + len(OWN_STAGE) + len(tools) >= 300


@pytest.mark.parametrize("stage", PROGRAMS)
def test_bf16_on_a_processor_without_it_is_refused(said, place, stage, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(engine, "has_cpu_bf16", lambda: False)
    line = said(stage, [*place.good_flags(stage), "--dtype", "bf16"])
    assert "--dtype bf16" in line
    assert "--dtype auto or fp32" in line


@pytest.mark.parametrize(
    ("stage", "first"),
    [("reward", "step1_sft/run.sh"), ("ppo", "step1_sft/run.sh")],
)
def test_a_stage_without_flags_says_what_to_run_first(said, place, stage, first):
    assert f"run {first} first" in said(stage, [])


def test_stage_1_without_flags_says_how_to_prepare_the_example(said, place, monkeypatch):
    monkeypatch.setenv("CLASSIC_RLHF_CACHE", str(place.tmp / "cache"))
    monkeypatch.setattr("training.trainers.sft.setup.QUICKSTART_BASE", place.tmp / "none")
    assert "python examples/movie_reviews/prepare.py" in said("sft", [])


@pytest.mark.parametrize("name", ["rollout_batch_size", "minibatch_size"])
def test_a_batch_that_does_not_go_into_the_ranks_is_refused(place, name):
    sizes: dict[str, Any] = {"rollout_batch_size": 6, "minibatch_size": 6, name: 3}
    args = PPOArgs(
        actor_model_name_or_path=str(place.sft),
        reward_model_name_or_path=str(place.reward),
        samples_per_prompt=2,
        **sizes,
    )
    with pytest.raises(UserError, match=f"--{name} .3. must be a multiple of the 2 ranks"):
        check_stages(args, World(0, 2, CPU))


BRIEFLY = {
    "sft": "",
    "reward": "",
    "ppo": "--rollout_batch_size 2 --minibatch_size 2 --max_new_tokens 4",
}


@pytest.mark.parametrize("stage", PROGRAMS)
def test_the_flags_that_all_cases_start_from_are_good(place, monkeypatch, as_one_process, stage):
    """Else a case might be refused for another reason than its own."""
    flags = ["--output_dir", str(place.tmp / "out"), *BRIEFLY[stage].split()]
    monkeypatch.setattr(sys, "argv", ["main.py", *place.good_flags(stage), *flags])
    importlib.import_module(f"{PROGRAMS[stage]}.main").main()
    assert (place.tmp / "out" / "complete.json").is_file()
