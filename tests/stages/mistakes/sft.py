"""Mistakes of stage 1: a name, the flags, parts of the line."""

import json

from tests.stages.mistakes.inputs import (
    CUSTOM,
    FAST,
    GOOD,
    LONG,
    MESSAGE,
    MODEL,
    TWO,
    Cases,
    copy_folder,
    list_bad_values,
    use_data,
    use_flags,
    use_new_model,
    write_bare_model,
)

SFT: Cases = {
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
        lambda p: ["--model_name_or_path", write_bare_model(p)],
        ["--model_name_or_path: no tokenizer in", "give a folder of a model with its tokenizer"],
    ),
    "a model without weights of its own": (
        lambda p: [
            *("--model_name_or_path", "", "--tokenizer_name_or_path", str(p.base)),
            *("--init_from_scratch", p.file("{}", "new.json")),
        ],
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
        use_data([GOOD["sft"], {"prompt": "a", "response": " "}]),
        ["data.jsonl:2", "'response' is empty"],
    ),
    "a response that is no text": (
        use_data([GOOD["sft"], {"prompt": "a", "response": 3}]),
        ["data.jsonl:2", "'response'", "3"],
    ),
    "a chat without an answer": (
        use_data([{"messages": [{"role": "user", "content": "tell me"}]}]),
        ["data.jsonl:1", "no assistant turn"],
    ),
    "prompts that leave no room": (
        use_data([{"prompt": LONG, "response": " the fox"}] * 3),
        ["none of the", "--max_length 256"],
    ),
    **list_bad_values(
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
        use_flags("--lora_rank", "2", "--optimizer", "muon", "--zero_stage", "0"),
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
        use_flags("--init_from_scratch", "x.json", MODEL, ""),
        ["--init_from_scratch", "x.jso"],
    ),
    **{
        f"a new model of {name}": (
            use_new_model(text),
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
        lambda p: [MODEL, copy_folder(p, p.base, config=None)],
        [MODEL, "copy", "no model"],
    ),
    "a model folder without weights": (
        lambda p: [MODEL, p.copy(p.base, without="model.safetensors")],
        [MODEL, "copy", "no weights", "model.safetensors"],
    ),
    "a model config of broken JSON": (
        lambda p: [MODEL, copy_folder(p, p.base, config="{")],
        [MODEL, "copy", "config"],
    ),
    "a model config without a type": (
        lambda p: [MODEL, copy_folder(p, p.base, config="{}")],
        [MODEL, "copy", "config"],
    ),
    "a model of an unknown type": (
        lambda p: [MODEL, copy_folder(p, p.base, config='{"model_type": "gpt9"}')],
        [MODEL, "copy", "gpt9"],
    ),
    "a model with code of its own": (
        lambda p: [MODEL, copy_folder(p, p.base, config=json.dumps(CUSTOM))],
        [MODEL, "copy", "code of its own", "auto_map"],
    ),
    "a tokenizer of broken JSON": (
        lambda p: [MODEL, copy_folder(p, p.base, tokenizer="{")],
        [MODEL, "copy", "tokenizer"],
    ),
    "a tokenizer of another version": (
        lambda p: [
            MODEL,
            copy_folder(p, p.base, tokenizer='{"added_tokens": [], "model": {"a": 1}}'),
        ],
        [MODEL, "copy", "no tokenizer can be loaded", "untagged enum"],
    ),
    "a tokenizer without EOS": (
        lambda p: [MODEL, copy_folder(p, p.base, tokenizer_config=FAST)],
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
        use_flags("--tokenizer_name_or_path", "./nowhere"),
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
    "text in place of rows": (use_data("tell me\n", "d.txt"), ["d.txt", ".jsonl"]),
    "no messages": (use_data([{"messages": []}]), ["data.jsonl:1", "'messages'", "empty"]),
    "messages in words": (use_data([{"messages": "hi"}]), ["data.jsonl:1", "'messages'", "list"]),
    "a message without content": (
        use_data([{"messages": [MESSAGE, {"role": "assistant"}]}]),
        ["data.jsonl:1", "messages[1]", "'content'"],
    ),
    "a message of nobody": (
        use_data([{"messages": [MESSAGE, {"role": "bot", "content": "x"}]}]),
        ["data.jsonl:1", "messages[1]", "bot"],
    ),
    "a chat that the assistant opens": (
        use_data([{"messages": [{"role": "assistant", "content": "x"}]}]),
        ["data.jsonl:1", "user"],
    ),
    "a late system turn": (
        use_data([{"messages": [MESSAGE, {"role": "system", "content": "x"}]}]),
        ["data.jsonl:1", "messages[1]", "system"],
    ),
    "an empty prompt": (use_data([{"prompt": "", "response": "a"}]), ["data.jsonl:1", "'prompt'"]),
    "a response of null": (use_data([{"prompt": "a", "response": None}]), ["data.jsonl:1", "null"]),
}
