"""Mistakes that each stage refuses: a name, the flags, parts of the line."""

from tests.stages.mistakes.inputs import (
    EVERY_STAGE,
    TWO,
    Cases,
    list_bad_values,
    use_data,
    use_flags,
)

ANY_STAGE: Cases = {
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
    **list_bad_values(
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
    "one beta": (use_flags("--adam_betas", "0.9"), ["--adam_betas", "two numbers", "[0.9]"]),
    "beta of one": (use_flags("--adam_betas", "0.9", "1.0"), ["--adam_betas", "1.0"]),
    "a flag without its value": (use_flags("--zero_stage"), ["--zero_stage"]),
    "a word without a flag": (use_flags("stray"), ["stray"]),
    "ranks of no dry run": (use_flags("--dry_run_ranks", "4"), ["--dry_run_ranks 4", "--dry_run"]),
    "template twice": (
        use_flags("--prompt_template", "{prompt}{prompt}"),
        ["--prompt_template", "{prompt}{prompt}"],
    ),
    "no chat template": (use_flags("--chat_template", "no.jinja"), ["--chat_template", "no.jinja"]),
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
    "rows that are text": (use_data('"a"\n'), ["data.jsonl:1", "JSON object", "str"]),
    "JSON that is a number": (use_data("3", "data.json"), ["data.json", "list of objects", "int"]),
    "a JSON list with a hole": (use_data("[null]", "data.json"), ["data.json:row 1", "NoneType"]),
    "JSON that ends early": (
        use_data('[{"prompt": "a"', "data.json"),
        ["data.json:1", "not valid"],
    ),
    "a column twice": (
        use_data("prompt,prompt\na,b\n", "data.csv"),
        ["data.csv:1", "twice", "prompt"],
    ),
    "a cell too many": (use_data("prompt,n\nb,2,3\n", "d.csv"), ["d.csv:2", "3 cells"]),
    "a quote that never ends": (
        use_data('prompt,n\n"a,1\n', "d.csv"),
        ["d.csv:2", "not valid CSV"],
    ),
    "Parquet that is none": (use_data("PAR1", "d.parquet"), ["d.parquet", "Parquet"]),
    "only blank lines": (use_data("\n \n"), ["data.jsonl", "no rows"]),
    "a prompt that is a number": (use_data([{"prompt": 3}]), ["data.jsonl:1"]),
    "half a character": (use_data('{"prompt": "\\ud800"}\n'), ["data.jsonl:1"]),
    "an example that is no name": (
        use_flags("--data_path", "example:a/b"),
        ["example:a/b", "NAME"],
    ),
    "no evaluation data": (use_flags("--eval_data_path", "no.jsonl"), ["no.jsonl: no such file"]),
    "a compressed file": (use_data("x", "d.jsonl.gz"), ["d.jsonl.gz", "unknown kind"]),
}
