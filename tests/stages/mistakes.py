"""What users get wrong in the stages' flags, data, configs and model folders; and what is said.

Tables of test_bad_input.py: a name, what a `Place` makes of it, the parts of the line.
"""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Cases = dict[str, tuple[Callable[[Any], list[str]], list[str]]]
ACTOR, REWARD = "--actor_model_name_or_path", "--reward_model_name_or_path"
MODEL = "--model_name_or_path"


def data(rows: list[Any] | str, name: str = "data.jsonl") -> Callable[[Any], list[str]]:
    return lambda p: ["--data_path", p.file(rows, name)]


def flags(*words: str) -> Callable[[Any], list[str]]:
    return lambda p: list(words)


def ranges(**values: str) -> Cases:
    """Flags with a value that they do not take."""
    return {
        f"{name} {value}": (flags(f"--{name}", *value.split()), [f"--{name}", value.split()[-1]])
        for name, value in values.items()
    }


def folder_of(p: Any, source: Path, **files: str | bytes | None) -> str:
    """A copy of a model's folder with some files replaced; None leaves one out."""
    target = Path(p.copy(source))
    for name, content in files.items():
        file = target / f"{name}.json" if not name.startswith("model_") else target / name[6:]
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(target)


def edited(source: Path, **changes: Any) -> str:
    """The folder's config with other fields."""
    return json.dumps(json.loads((source / "config.json").read_text()) | changes)


def new_model(config: str) -> Callable[[Any], list[str]]:
    return lambda p: [
        *(MODEL, "", "--tokenizer_name_or_path", str(p.base)),
        *("--init_from_scratch", p.file(config, "new.json")),
    ]


CUSTOM = {"auto_map": {"AutoConfig": "own.OwnConfig"}, "model_type": "own_model"}
FAST = '{"tokenizer_class": "PreTrainedTokenizerFast"}'
TWO = [{"prompt": "a", "n": 1}, {"prompt": "b", "n": 2}]
MESSAGE = {"role": "user", "content": "tell me"}

ANY_STAGE: Cases = {
    **ranges(
        seed="-1",
        dtype="fp16",
        timeout_minutes="0",
        host_timeout_minutes="0",
        micro_batch_tokens="-5",
        weight_decay="nan",
        adam_eps="inf",
        max_grad_norm="-1",
        max_eval_rows="-1",
        warmup_ratio="2",
        min_lr_ratio="-0.5",
        lr_scheduler="step",
        log_every="0",
        profile_step="-1",
        lora_alpha="-2",
        data_weights="0",
        gradient_checkpointing="maybe",
    ),
    "one beta": (flags("--adam_betas", "0.9"), ["--adam_betas", "two numbers", "[0.9]"]),
    "beta of one": (flags("--adam_betas", "0.9", "1.0"), ["--adam_betas", "1.0"]),
    "a flag without its value": (flags("--zero_stage"), ["--zero_stage"]),
    "a word without a flag": (flags("stray"), ["stray"]),
    "ranks of no dry run": (flags("--dry_run_ranks", "4"), ["--dry_run_ranks 4", "--dry_run"]),
    "template twice": (
        flags("--prompt_template", "{prompt}{prompt}"),
        ["--prompt_template", "{prompt}{prompt}"],
    ),
    "no chat template": (flags("--chat_template", "no.jinja"), ["--chat_template", "no.jinja"]),
    "config that is a list": (
        lambda p: ["--deepspeed_config", p.file("[]", "own.json")],
        ["own.json", "JSON object"],
    ),
    "config of a section that is none": (
        lambda p: ["--deepspeed_config", p.config(zero_optimization=2)],
        ["own.json", "JSON object"],
    ),
    "config with an unknown ZeRO key": (
        lambda p: [
            "--deepspeed_config",
            p.config(zero_optimization={"stage": 2, "overlap_com": False}),
        ],
        ["own.json", "zero_optimization", "overlap_com"],
    ),
    "config with a ZeRO value of the wrong type": (
        lambda p: [
            "--deepspeed_config",
            p.config(zero_optimization={"stage": 2, "reduce_bucket_size": "many"}),
        ],
        ["own.json", "zero_optimization", "reduce_bucket_size", "many"],
    ),
    "config with an unknown section": (
        lambda p: [
            "--deepspeed_config",
            p.config(zero_optimization={"stage": 2}, gradient_cliping=1.0),
        ],
        ["own.json", "gradient_cliping"],
    ),
    "config that accumulates": (
        lambda p: [
            "--deepspeed_config",
            p.config(gradient_accumulation_steps=4, zero_optimization={"stage": 2}),
        ],
        ["own.json", "gradient_accumulation_steps", "4"],
    ),
    "config of another batch": (
        lambda p: [
            "--deepspeed_config",
            p.config(train_batch_size=64, zero_optimization={"stage": 2}),
        ],
        ["own.json", "train_batch_size", "64"],
    ),
    "config that clips otherwise": (
        lambda p: [
            "--deepspeed_config",
            p.config(gradient_clipping=0.5, zero_optimization={"stage": 2}),
        ],
        ["own.json", "gradient_clipping", "0.5"],
    ),
    "config of another type": (
        lambda p: [
            "--deepspeed_config",
            p.config(fp16={"enabled": True}, zero_optimization={"stage": 2}),
        ],
        ["own.json", "fp16", "--dtype"],
    ),
    "a folder in place of a config": (
        lambda p: ["--deepspeed_config", str(p.tmp)],
        ["--deepspeed_config", "no file"],
    ),
    "a folder without data": (
        lambda p: ["--data_path", str(p.tmp)],
        ["no train.jsonl"],
    ),
    "a path twice": (
        lambda p: ["--data_path", *[p.file(TWO)] * 2],
        ["--data_path", "twice", "data.jsonl"],
    ),
    "UTF-16": (
        lambda p: ["--data_path", p.file('{"prompt": "a"}'.encode("utf-16"))],
        ["data.jsonl:1", "UTF-16"],
    ),
    "rows that are text": (data('"a"\n'), ["data.jsonl:1", "JSON object", "str"]),
    "JSON that is a number": (data("3", "data.json"), ["data.json", "list of objects", "int"]),
    "a JSON list with a hole": (data("[null]", "data.json"), ["data.json:row 1", "NoneType"]),
    "JSON that ends early": (data('[{"prompt": "a"', "data.json"), ["data.json:1", "not valid"]),
    "a column twice": (data("prompt,prompt\na,b\n", "data.csv"), ["data.csv:1", "twice", "prompt"]),
    "a cell too many": (data("prompt,n\nb,2,3\n", "d.csv"), ["d.csv:2", "3 cells"]),
    "a quote that never ends": (data('prompt,n\n"a,1\n', "d.csv"), ["d.csv:2", "not valid CSV"]),
    "Parquet that is none": (data("PAR1", "d.parquet"), ["d.parquet", "Parquet"]),
    "only blank lines": (data("\n \n"), ["data.jsonl", "no rows"]),
    "a prompt that is a number": (data([{"prompt": 3}]), ["data.jsonl:1"]),
    "half a character": (data('{"prompt": "\\ud800"}\n'), ["data.jsonl:1"]),
    "an example that is no name": (flags("--data_path", "example:a/b"), ["example:a/b", "NAME"]),
    "no evaluation data": (flags("--eval_data_path", "no.jsonl"), ["no.jsonl: no such file"]),
    "a compressed file": (data("x", "d.jsonl.gz"), ["d.jsonl.gz", "unknown kind"]),
}

SFT: Cases = {
    **ranges(
        batch_size="0",
        learning_rate="0",
        muon_lr="-1",
        num_epochs="0",
        max_steps="-1",
        max_seconds="-3",
        eval_every="-1",
        vocab_size="0",
        packing="sometimes",
        objective="chat",
        optimizer="sgd",
        tokenizer="bpe",
    ),
    "LoRA on what is written over": (
        lambda p: ["--lora_rank", "2", "--output_dir", str(p.base)],
        ["would be written over by --output_dir", "--lora_rank"],
    ),
    "adapters and Muon": (
        flags("--lora_rank", "2", "--optimizer", "muon", "--zero_stage", "0"),
        ["--lora_rank", "--optimizer muon"],
    ),
    "two tokenizers": (
        lambda p: [
            *("--tokenizer", "sentencepiece", "--tokenizer_name_or_path", str(p.base)),
            *("--init_from_scratch", str(p.base / "config.json"), MODEL, ""),
        ],
        ["--tokenizer sentencepiece", "--tokenizer_name_or_path", "exclude"],
    ),
    "no such new model": (
        flags("--init_from_scratch", "x.json", MODEL, ""),
        ["--init_from_scratch", "x.jso"],
    ),
    **{
        f"a new model of {name}": (
            new_model(text),
            ["--init_from_scratch", "new.json", part],
        )
        for name, text, part in (
            ("broken JSON", "{,}", "JSON"),
            ("a list", "[]", "JSON"),
            ("an unknown type", '{"model_type": "gpt9"}', "gpt9"),
            (
                "heads that do not divide it",
                '{"model_type": "gpt2", "n_embd": 30, "n_head": 4}',
                "",
            ),
            ("layers in words", '{"model_type": "gpt2", "n_layer": "two"}', "two"),
        )
    },
    "rows that cannot be packed": (
        lambda p: [
            *("--packing", "always", MODEL, "", "--tokenizer_name_or_path", str(p.base)),
            "--init_from_scratch",
            p.file('{"model_type": "bloom", "hidden_size": 32, "n_head": 2}', "new.json"),
        ],
        ["--packing always", "bloom"],
    ),
    "a model folder without config": (
        lambda p: [MODEL, folder_of(p, p.base, config=None)],
        [MODEL, "copy", "no model"],
    ),
    "a model folder without weights": (
        lambda p: [MODEL, p.copy(p.base, without="model.safetensors")],
        [MODEL, "copy", "no weights", "model.safetensors"],
    ),
    "a model config of broken JSON": (
        lambda p: [MODEL, folder_of(p, p.base, config="{")],
        [MODEL, "copy", "config"],
    ),
    "a model config without a type": (
        lambda p: [MODEL, folder_of(p, p.base, config="{}")],
        [MODEL, "copy", "config"],
    ),
    "a model of an unknown type": (
        lambda p: [MODEL, folder_of(p, p.base, config='{"model_type": "gpt9"}')],
        [MODEL, "copy", "gpt9"],
    ),
    "a model with code of its own": (
        lambda p: [MODEL, folder_of(p, p.base, config=json.dumps(CUSTOM))],
        [MODEL, "copy", "code of its own", "auto_map"],
    ),
    "a tokenizer of broken JSON": (
        lambda p: [MODEL, folder_of(p, p.base, tokenizer="{")],
        [MODEL, "copy", "tokenizer"],
    ),
    "a tokenizer of another version": (
        lambda p: [
            MODEL,
            folder_of(p, p.base, tokenizer='{"added_tokens": [], "model": {"a": 1}}'),
        ],
        [MODEL, "copy", "no tokenizer can be loaded", "untagged enum"],
    ),
    "a tokenizer without EOS": (
        lambda p: [MODEL, folder_of(p, p.base, tokenizer_config=FAST)],
        [MODEL, "copy", "EOS"],
    ),
    "a reward model to be taught to talk": (
        lambda p: [MODEL, str(p.reward)],
        [MODEL, "holds a reward model"],
    ),
    "a file in place of a model": (
        lambda p: [MODEL, p.file("x", "model.bin")],
        [MODEL, "model.bin"],
    ),
    "no such tokenizer": (
        flags("--tokenizer_name_or_path", "./nowhere"),
        ["--tokenizer_name_or_path", "./nowhere"],
    ),
    "a tokenizer that is no SentencePiece model": (
        lambda p: ["--tokenizer_name_or_path", p.file("x", "own.model")],
        ["--tokenizer_name_or_path", "own.model", "SentencePiece"],
    ),
    "texts without text": (
        lambda p: ["--objective", "lm", "--data_path", p.file(TWO)],
        ["data.jsonl:1", "'text'", "['n', 'prompt']"],
    ),
    "an empty text": (
        lambda p: ["--objective", "lm", "--data_path", p.file([{"text": "a"}, {"text": " "}])],
        ["data.jsonl:2", "'text' is empty"],
    ),
    "text in place of rows": (data("tell me\n", "d.txt"), ["d.txt", ".jsonl"]),
    "no messages": (data([{"messages": []}]), ["data.jsonl:1", "'messages'", "empty"]),
    "messages in words": (data([{"messages": "hi"}]), ["data.jsonl:1", "'messages'", "list"]),
    "a message without content": (
        data([{"messages": [MESSAGE, {"role": "assistant"}]}]),
        ["data.jsonl:1", "messages[1]", "'content'"],
    ),
    "a message of nobody": (
        data([{"messages": [MESSAGE, {"role": "bot", "content": "x"}]}]),
        ["data.jsonl:1", "messages[1]", "bot"],
    ),
    "a chat that the assistant opens": (
        data([{"messages": [{"role": "assistant", "content": "x"}]}]),
        ["data.jsonl:1", "user"],
    ),
    "a late system turn": (
        data([{"messages": [MESSAGE, {"role": "system", "content": "x"}]}]),
        ["data.jsonl:1", "messages[1]", "system"],
    ),
    "an empty prompt": (data([{"prompt": "", "response": "a"}]), ["data.jsonl:1", "'prompt'"]),
    "a response of null": (data([{"prompt": "a", "response": None}]), ["data.jsonl:1", "null"]),
}


def pair(**changes: Any) -> Callable[[Any], list[str]]:
    good = {"prompt": "tell me", "chosen": " the fox", "rejected": " a boat"}
    return data([good, {**good, **changes}])


def group(**changes: Any) -> Callable[[Any], list[str]]:
    good = {"prompt": "a", "responses": [" b", " c"], "pairs": [[0, 1]]}
    return data([{**good, **changes}])


REWARD_STAGE: Cases = {
    **ranges(
        batch_size="-2",
        learning_rate="nan",
        num_epochs="0",
        head="cubic",
        pooling="first",
        label_smoothing="1",
        center_coef="-1",
        margin_coef="-1",
        normalization_samples="-1",
        normalization_new_tokens="0",
        group_average="mean",
        votes="loudest",
        ties="keep",
        annotator_error="0.7",
        label_config="no.xml",
        data_size_curve="0",
        max_length="2",
    ),
    "an error in words": (flags("--annotator_error", "some"), ["--annotator_error", "'some'"]),
    "a reward model as backbone": (lambda p: [MODEL, str(p.reward)], [MODEL, "a reward model"]),
    "a backbone without weights": (
        lambda p: [MODEL, p.copy(p.sft, without="model.safetensors")],
        [MODEL, "copy", "no weights"],
    ),
    "a backbone without tokenizer": (
        lambda p: [MODEL, p.copy(p.sft, without="tokenizer.json")],
        [MODEL, "tokenizer", "copy"],
    ),
    "a weight of nothing": (pair(weight=0), ["data.jsonl:2", "weight", "0"]),
    "a margin below nothing": (pair(margin=-1), ["data.jsonl:2", "margin", "-1"]),
    "a label in words": (pair(label="best"), ["data.jsonl:2", "label", "'best'"]),
    "chosen is a list": (pair(chosen=[" a"]), ["data.jsonl:2", "chosen[0]", "'role'"]),
    "rejected is null": (pair(rejected=None), ["data.jsonl:2", "'rejected'", "null"]),
    "no pairs": (group(pairs=[]), ["data.jsonl:1", "'pairs'", "empty"]),
    "responses in words": (group(responses="ab"), ["data.jsonl:1", "'responses'", "list"]),
    "an empty response": (group(responses=[" b", ""]), ["data.jsonl:1", "responses[1]", "empty"]),
    "a pair of four": (group(pairs=[[0, 1, 1, 1]]), ["data.jsonl:1", "pairs[0]", "[0, 1, 1, 1]"]),
    "a pair with itself": (group(pairs=[[1, 1]]), ["data.jsonl:1", "pairs[0]", "same text"]),
    "a pair of halves": (group(pairs=[[0, 0.5]]), ["data.jsonl:1", "pairs[0]", "0.5"]),
    "a pair with an unknown key": (
        group(pairs=[{"chosen": 0, "rejected": 1, "lable": 1}]),
        ["data.jsonl:1", "pairs[0]", "lable"],
    ),
    "gaps of other pairs": (group(gaps=[1, 2]), ["data.jsonl:1", "'gaps'", "2"]),
    "text in place of rows": (data("tell me\n", "d.txt"), ["d.txt", ".jsonl"]),
    "an export nobody labelled": (
        data('[{"id": 1, "data": {"prompt": "a"}, "annotations": []}]', "e.json"),
        ["e.json"],
    ),
}


def scalar_settings(**fields: Any) -> Callable[[Any], list[str]]:
    return lambda p: [REWARD, folder_of(p, p.reward, scalar_model=json.dumps(fields))]


def pickled(p: Any) -> str:
    """A model's folder whose only weights are a pickle of no tensors."""
    target = Path(p.copy(p.sft, without="model.safetensors"))
    (target / "pytorch_model.bin").write_bytes(pickle.dumps({"a": torch.zeros}))
    return str(target)


def short(p: Any) -> str:
    """The reward model with fewer positions than the actor."""
    config = edited(p.reward, n_positions=64, max_position_embeddings=64)
    return folder_of(p, p.reward, config=config)


PPO: Cases = {
    **ranges(
        max_steps="0",
        rollout_batch_size="0",
        samples_per_prompt="-1",
        minibatch_size="0",
        ppo_epochs="0",
        actor_lr="0",
        critic_lr="-1",
        vf_coef="0",
        kl_coef="-0.1",
        kl_target="0",
        kl_horizon="-1",
        kl_estimator="k9",
        kl_controller="pid",
        score_clip="-1",
        missing_eos="ignore",
        missing_eos_penalty="-1",
        critic="none",
        old_logprobs="guess",
        gamma="1.5",
        gae_lambda="-0.1",
        advantage_whitening="all",
        clip_range="0",
        value_clip_range="-1",
        max_new_tokens="0",
        max_prompt_length="0",
        generation_batch_size="0",
        top_k="-1",
        overlong_prompts="cut",
        eval_every="-1",
    ),
    "more than all": (flags("--top_p", "1.5"), ["--top_p", "1.5"]),
    "a reward model as actor": (lambda p: [ACTOR, str(p.reward)], [ACTOR, "a reward model"]),
    "no actor's weights": (
        lambda p: [ACTOR, p.copy(p.sft, without="model.safetensors")],
        [ACTOR, "copy", "no weights"],
    ),
    "no actor's tokenizer": (
        lambda p: [ACTOR, p.copy(p.sft, without="tokenizer.json")],
        [ACTOR, "copy", "tokenizer"],
    ),
    "no actor's config": (
        lambda p: [ACTOR, p.copy(p.sft, without="config.json")],
        [ACTOR, "copy", "no model"],
    ),
    "no reward model's weights": (
        lambda p: [REWARD, p.copy(p.reward, without="model.safetensors")],
        [REWARD, "copy", "no weights"],
    ),
    "no reward model's tokenizer": (
        lambda p: [REWARD, p.copy(p.reward, without="tokenizer.json")],
        [REWARD, "copy", "tokenizer"],
    ),
    "a reward model's settings of broken JSON": (
        lambda p: [REWARD, folder_of(p, p.reward, scalar_model="{")],
        [REWARD, "scalar_model.json", "JSON"],
    ),
    "an unknown setting": (scalar_settings(haed="linear"), [REWARD, "scalar_model.json", "haed"]),
    "an unknown head": (scalar_settings(head="cubic"), [REWARD, "scalar_model.json", "cubic"]),
    "a scale in words": (scalar_settings(score_std="wide"), [REWARD, "scalar_model.json", "wide"]),
    "a setting that is none of the file's": (
        scalar_settings(is_plain=1),
        [REWARD, "scalar_model.json", "is_plain"],
    ),
    "a head that is a number": (scalar_settings(head=1), [REWARD, "scalar_model.json", "head 1"]),
    **{
        f"{name} of {str(value)[:5]}": (
            scalar_settings(**{name: value}),
            [REWARD, "scalar_model.json", name, "no finite scores"],
        )
        for name, value in (
            ("score_std", 0),
            ("score_std", -1.0),
            ("score_std", 1e-60),
            ("score_std", float("nan")),
            ("score_mean", float("inf")),
            ("score_mean", -(10**400)),
        )
    },
    "no judge": (flags("--judge", "no.py", "x"), ["--judge no.py: no such file"]),
    "a folder of nothing as reward model": (
        lambda p: [REWARD, str(p.tmp)],
        [REWARD, "no reward model"],
    ),
    "a reward model with less room": (
        lambda p: [REWARD, short(p)],
        [REWARD, "--max_new_tokens 40", "64 positions"],
    ),
    "new tokens beyond the context": (
        flags("--max_new_tokens", "300"),
        ["--max_new_tokens 300", "256 positions"],
    ),
    "an actor with code of its own": (
        lambda p: [ACTOR, folder_of(p, p.sft, config=json.dumps(CUSTOM))],
        [ACTOR, "copy", "code of its own"],
    ),
    "a chat template without messages": (
        lambda p: ["--chat_template", p.file("Q: {{ prompt }}", "own.jinja")],
        ["--chat_template", "own.jinja", "messages"],
    ),
    "a chat template that fails": (
        lambda p: [
            *("--chat_template", p.file("{{ messages[0].content.no.way }}", "own.jinja")),
            *("--data_path", p.file([{"messages": [MESSAGE]}])),
        ],
        ["data.jsonl:1", "chat template"],
    ),
    "a chat that has its answer": (
        data([{"messages": [MESSAGE, {"role": "assistant", "content": "x"}]}]),
        ["data.jsonl:1", "user"],
    ),
    "a blank prompt": (data([{"prompt": "a"}, {"prompt": " \t"}]), ["data.jsonl:2", "'prompt'"]),
    "a prompt of null": (data([{"prompt": None}]), ["data.jsonl:1", "null"]),
}

# Weights that only a load can find bad: after a model was made of the config.
UNREADABLE: Cases = {
    "weights of another kind": (lambda p: [ACTOR, pickled(p)], ["copy", "more than tensors"]),
    "weights cut short": (
        lambda p: [ACTOR, folder_of(p, p.sft, **{"model_model.safetensors": b"\x10\0\0"})],
        ["copy", "weights cannot be read"],
    ),
    "weights of another model": (
        lambda p: [
            ACTOR,
            folder_of(p, p.sft, config=edited(p.sft, n_layer=3, num_hidden_layers=3)),
        ],
        ["copy", "weights lack", "transformer.h.2"],
    ),
}
