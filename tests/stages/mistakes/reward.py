"""Mistakes of stage 2: a name, the flags, parts of the line."""

from tests.stages.mistakes.inputs import (
    MODEL,
    Cases,
    list_bad_values,
    make_reward_rows,
    use_data,
    use_flags,
    use_group,
    use_pair,
)

REWARD_STAGE: Cases = {
    "stage 1 is missing": (
        lambda p: ["--model_name_or_path", "output/step1_sft"],
        ["no model in output/step1_sft: there is no such folder; run step1_sft/run.sh first"],
    ),
    "stage 1 is unfinished": (
        lambda p: ["--model_name_or_path", p.copy(p.sft, without="complete.json")],
        ["has not finished", "run step1_sft/run.sh first"],
    ),
    "chosen is rejected": (
        use_data(make_reward_rows(rejected=" the fox")),
        ["data.jsonl:2", "'chosen' and 'rejected' are the same"],
    ),
    "nothing chosen": (
        use_data(make_reward_rows(chosen="")),
        ["data.jsonl:2", "'chosen' is empty"],
    ),
    "nothing rejected": (
        use_data([{"prompt": "a", "chosen": " b"}]),
        ["data.jsonl:1", "'rejected'", "['chosen', 'prompt']"],
    ),
    "label": (use_data(make_reward_rows(label=2)), ["data.jsonl:2", "label", "2"]),
    "pair of nothing": (
        use_data([{"prompt": "a", "responses": [" b", " c"], "pairs": [[0, 2]]}]),
        ["data.jsonl:1", "pairs[0]", "2"],
    ),
    "too long for the model": (lambda p: ["--max_length", "257"], ["--max_length 257", "256 pos"]),
    "one sample has no variance": (
        lambda p: ["--normalization_samples", "1"],
        ["--normalization_samples 1"],
    ),
    "the data-size curve is another program": (
        lambda p: ["--data_size_curve", "0.3", "1"],
        ["--data_size_curve", "step2_reward/data_size_curve.py"],
    ),
    "a vote for nobody": (
        use_data(make_reward_rows(votes={"ann": 1, "bob": 2})),
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
    **list_bad_values(
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
        max_length="2",
    ),
    "an error in words": (use_flags("--annotator_error", "some"), ["--annotator_error", "'some'"]),
    "a reward model as backbone": (lambda p: [MODEL, str(p.reward)], [MODEL, "a reward model"]),
    "a backbone without weights": (
        lambda p: [MODEL, p.copy(p.sft, without="model.safetensors")],
        [MODEL, "copy", "no weights"],
    ),
    "a backbone without tokenizer": (
        lambda p: [MODEL, p.copy(p.sft, without="tokenizer.json")],
        [MODEL, "tokenizer", "copy"],
    ),
    "a weight of nothing": (use_pair(weight=0), ["data.jsonl:2", "weight", "0"]),
    "a margin below nothing": (use_pair(margin=-1), ["data.jsonl:2", "margin", "-1"]),
    "a label in words": (use_pair(label="best"), ["data.jsonl:2", "label", "'best'"]),
    "chosen is a list": (use_pair(chosen=[" a"]), ["data.jsonl:2", "chosen[0]", "'role'"]),
    "rejected is null": (use_pair(rejected=None), ["data.jsonl:2", "'rejected'", "null"]),
    "no pairs": (use_group(pairs=[]), ["data.jsonl:1", "'pairs'", "empty"]),
    "responses in words": (use_group(responses="ab"), ["data.jsonl:1", "'responses'", "list"]),
    "an empty response": (
        use_group(responses=[" b", ""]),
        ["data.jsonl:1", "responses[1]", "empty"],
    ),
    "a pair of four": (
        use_group(pairs=[[0, 1, 1, 1]]),
        ["data.jsonl:1", "pairs[0]", "[0, 1, 1, 1]"],
    ),
    "a pair with itself": (use_group(pairs=[[1, 1]]), ["data.jsonl:1", "pairs[0]", "same text"]),
    "a pair of halves": (use_group(pairs=[[0, 0.5]]), ["data.jsonl:1", "pairs[0]", "0.5"]),
    "a pair with an unknown key": (
        use_group(pairs=[{"chosen": 0, "rejected": 1, "lable": 1}]),
        ["data.jsonl:1", "pairs[0]", "lable"],
    ),
    "gaps of other pairs": (use_group(gaps=[1, 2]), ["data.jsonl:1", "'gaps'", "2"]),
    "text in place of rows": (use_data("tell me\n", "d.txt"), ["d.txt", ".jsonl"]),
    "an export nobody labelled": (
        use_data('[{"id": 1, "data": {"prompt": "a"}, "annotations": []}]', "e.json"),
        ["e.json"],
    ),
}
