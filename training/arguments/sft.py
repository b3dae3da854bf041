"""Flags of stage 1, supervised fine-tuning and language-model pretraining."""

from dataclasses import dataclass
from typing import Literal

from training.arguments.common import EXAMPLE, CommonArgs
from training.arguments.parsing import arg, require


@dataclass(frozen=True, kw_only=True)
class SFTArgs(CommonArgs):
    """Stage 1: learn responses from demonstrations, or plain text with --objective lm."""

    model_name_or_path: str = arg(
        "", "Folder or Hub name; default: the quickstart base, else new.", group="model and output"
    )
    output_dir: str = arg("output/step1_sft", "Folder for the model, args.json and metrics.jsonl.")
    init_from_scratch: str = arg("", "JSON model config: start from random weights instead.")
    tokenizer_name_or_path: str = arg("", "Tokenizer, if the model folder has none.")
    tokenizer: Literal["given", "sentencepiece"] = arg(
        "given", "sentencepiece: train one on the data, for a model from scratch."
    )
    vocab_size: int = arg(4000, "Largest vocabulary of --tokenizer sentencepiece.")
    dropout: float = arg(-1.0, "Dropout while training; -1: as the model's config says.")
    data_path: list[str] = arg([EXAMPLE], "Files, folders, Hub data or example:NAME.", group="data")
    objective: Literal["response", "lm"] = arg("response", "Loss on responses, or on packed text.")
    max_length: int = arg(256, "Longest sequence in tokens; with lm the length of a packed block.")
    packing: Literal["auto", "always", "never"] = arg(
        "auto", "Put several examples in one row, kept apart; auto: if it is cheaper."
    )
    num_epochs: float = arg(2.0, "Number of epochs; --max_steps overrides it.", group="training")
    max_steps: int = arg(0, "Stop after this many optimizer steps; 0: --num_epochs decides.")
    max_seconds: float = arg(0.0, "Finish the schedule within this training time; 0: no limit.")
    batch_size: int = arg(32, "Rows per optimizer step, over all ranks.")
    learning_rate: float = arg(2e-5, "Peak learning rate of AdamW.")
    eval_every: int = arg(0, "Steps between two evaluations; 0: once per epoch.")
    optimizer: Literal["adamw", "muon"] = arg(
        "adamw", "muon: Muon on the matrices of the blocks, AdamW on the rest (ZeRO 0 only)."
    )
    muon_lr: float = arg(5e-3, "Peak learning rate of Muon, scaled to AdamW's update size.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("batch_size learning_rate muon_lr num_epochs vocab_size")
        self.check_not_negative("max_steps max_seconds eval_every")
        self.check_at_least(2, "max_length")
        require(
            self.dropout == -1.0 or 0 <= self.dropout < 1,
            f"--dropout must be in [0, 1), or be -1 to keep the model's, got {self.dropout}",
        )
        require(
            self.optimizer != "muon" or self.zero_stage == 0,
            "--optimizer muon needs whole matrices: use --zero_stage 0, "
            f"got --zero_stage {self.zero_stage}",
        )
        require(
            not self.lora_rank or (self.optimizer == "adamw" and not self.init_from_scratch),
            "--lora_rank adapts a trained model with AdamW: leave out --init_from_scratch and "
            "--optimizer muon",
        )
        require(
            not (self.init_from_scratch and self.model_name_or_path),
            "--init_from_scratch and --model_name_or_path exclude each other; give one",
        )
        require(
            self.tokenizer == "given" or bool(self.init_from_scratch),
            "--tokenizer sentencepiece makes new tokens, so it needs a new model: give "
            "--init_from_scratch config.json",
        )
        require(
            self.tokenizer == "given" or not self.tokenizer_name_or_path,
            "--tokenizer sentencepiece and --tokenizer_name_or_path exclude each other; give one",
        )
        self.check_file("init_from_scratch")
