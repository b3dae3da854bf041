"""Mistakes of stage 3: a name, the flags, parts of the line."""

import json

from tests.stages.mistakes.inputs import (
    ACTOR,
    CUSTOM,
    GOOD,
    LONG,
    MESSAGE,
    REWARD,
    Cases,
    copy_folder,
    edit_config,
    list_bad_values,
    use_data,
    use_flags,
    use_scalar_settings,
    write_classifier,
    write_other_words,
    write_pickled_weights,
    write_short_reward_model,
)

PPO: Cases = {
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
        lambda p: [REWARD, write_classifier(p.tmp / "two")],
        [REWARD, "two", "not a reward model"],
    ),
    "another tokenizer": (lambda p: [REWARD, write_other_words(p)], ["tokenizers", "differ"]),
    "too long for the model": (
        lambda p: ["--max_prompt_length", "250"],
        ["--max_prompt_length 250", "--max_new_tokens 40", "256 positions"],
    ),
    "a long prompt": (
        use_data([GOOD["ppo"], {"prompt": LONG}]),
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
    "an empty prompt": (use_data([{"prompt": ""}]), ["data.jsonl:1", "'prompt' is empty"]),
    **list_bad_values(
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
    "more than all": (use_flags("--top_p", "1.5"), ["--top_p", "1.5"]),
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
        lambda p: [REWARD, copy_folder(p, p.reward, scalar_model="{")],
        [REWARD, "scalar_model.json", "JSON"],
    ),
    "an unknown setting": (
        use_scalar_settings(haed="linear"),
        [REWARD, "scalar_model.json", "haed"],
    ),
    "an unknown head": (use_scalar_settings(head="cubic"), [REWARD, "scalar_model.json", "cubic"]),
    "a scale in words": (
        use_scalar_settings(score_std="wide"),
        [REWARD, "scalar_model.json", "wide"],
    ),
    "a setting that is none of the file's": (
        use_scalar_settings(is_plain=1),
        [REWARD, "scalar_model.json", "is_plain"],
    ),
    "a head that is a number": (
        use_scalar_settings(head=1),
        [REWARD, "scalar_model.json", "head 1"],
    ),
    **{
        f"{name} of {str(value)[:5]}": (
            use_scalar_settings(**{name: value}),
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
    "no judge": (use_flags("--judge", "no.py", "x"), ["--judge no.py: no such file"]),
    "a folder of nothing as reward model": (
        lambda p: [REWARD, str(p.tmp)],
        [REWARD, "no reward model"],
    ),
    "a reward model with less room": (
        lambda p: [REWARD, write_short_reward_model(p)],
        [REWARD, "--max_new_tokens 40", "64 positions"],
    ),
    "new tokens beyond the context": (
        use_flags("--max_new_tokens", "300"),
        ["--max_new_tokens 300", "256 positions"],
    ),
    "an actor with code of its own": (
        lambda p: [ACTOR, copy_folder(p, p.sft, config=json.dumps(CUSTOM))],
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
        use_data([{"messages": [MESSAGE, {"role": "assistant", "content": "x"}]}]),
        ["data.jsonl:1", "user"],
    ),
    "a blank prompt": (
        use_data([{"prompt": "a"}, {"prompt": " \t"}]),
        ["data.jsonl:2", "'prompt'"],
    ),
    "a prompt of null": (use_data([{"prompt": None}]), ["data.jsonl:1", "null"]),
}

# Weights that only a load can find bad: after a model was made of the config.
UNREADABLE: Cases = {
    "weights of another kind": (
        lambda p: [ACTOR, write_pickled_weights(p)],
        ["copy", "more than tensors"],
    ),
    "weights cut short": (
        lambda p: [ACTOR, copy_folder(p, p.sft, **{"model_model.safetensors": b"\x10\0\0"})],
        ["copy", "weights cannot be read"],
    ),
    "weights of another model": (
        lambda p: [
            ACTOR,
            copy_folder(p, p.sft, config=edit_config(p.sft, n_layer=3, num_hidden_layers=3)),
        ],
        ["copy", "weights lack", "transformer.h.2"],
    ),
}
