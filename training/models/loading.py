"""Load, build and save Hugging Face causal language models.

Under ZeRO-3 the caller enters `runtime.engine.shard_while_loading`, and `from_pretrained` then
splits the weights as it reads them. Only safetensors and weights-only files are read.
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

from training.arguments.parsing import UserError
from training.models import folders
from training.models.tokenizers import Tokenizer
from training.paths import is_local, not_there
from training.tensors import compute_position_ids

# Checked with transformers 5.23.0, `eager` and SDPA: others take no such mask, or no positions.
READ_BLOCKS = {
    *("gpt2", "gpt_bigcode", "gpt_neox", "granite", "llama", "olmo", "olmo2", "opt"),
    *("phi", "phi3", "qwen2", "qwen3", "smollm3", "stablelm", "starcoder2"),
}

Config = Any  # transformers' PretrainedConfig: a bag of attributes that differ by model


def load_config(path: str, *, flag: str, hint: str) -> Config:
    """Load a model's config. Raises `UserError` with `hint` if there is no model.

    A folder must have weights too; they are not opened.
    """
    folder = Path(path).expanduser()
    if is_local(path) and not (folder / "config.json").is_file():
        nothing = path if folder.exists() else not_there(path)
        raise UserError(f"{flag}: no model in {nothing}; {hint}")
    try:
        config = AutoConfig.from_pretrained(path, **folders.NO_CODE)
    except (*folders.CONFIG_ERRORS, OSError) as error:
        folders.refuse_code(error, path, flag=flag)
        if not folder.exists():
            raise UserError(f"{flag}: no model in {not_there(path)}; {hint}") from error
        reason = folders.summarize_error(error)
        raise UserError(f"{flag}: {path} has no readable model config: {reason}") from error
    folders.check_weights(path, flag=flag, hint=hint)
    return config


def read_config(path: str, tokenizer: Tokenizer, *, flag: str) -> Config:
    """Read the config of a new model from a JSON file, with the tokenizer's vocabulary."""
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        config = AutoConfig.for_model(**fields)
        config.vocab_size = len(tokenizer)
        set_token_ids(config, tokenizer)
        build_meta_lm(copy.deepcopy(config), len(tokenizer))  # finds further mistakes
    except (*folders.CONFIG_ERRORS, OSError) as error:
        reason = folders.summarize_error(error)
        raise UserError(f"{flag}: {path} is not a model config in JSON: {reason}") from error
    return config


def set_token_ids(config: Config, tokenizer: Tokenizer) -> None:
    """Set EOS, BOS and PAD in a config, where plain `transformers` reads them."""
    config.eos_token_id = tokenizer.eos_token_id
    config.bos_token_id = tokenizer.bos_token_id or tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id


def count_positions(config: Config) -> int | None:
    """Return the number of positions the model can tell apart; None if its config has no limit."""
    limit = getattr(config, "max_position_embeddings", None)
    return None if limit is None else int(limit)


def check_fits(config: Config, tokens: int, *, flags: str) -> None:
    """Raise `UserError` if sequences of `tokens` do not fit the position table."""
    limit = count_positions(config)
    if limit is not None and tokens > limit:
        raise UserError(
            f"{flags} make sequences of {tokens} tokens, but the model has {limit} positions; "
            "lower them"
        )


def set_dropout(config: Config, value: float) -> None:
    """Set every dropout probability of a config (GPT-2: `resid_pdrop`, ...)."""
    for name, current in list(vars(config).items()):
        is_probability = isinstance(current, float | int) and not isinstance(current, bool)
        if is_probability and (name.endswith(("dropout", "pdrop")) or name.endswith("_drop")):
            setattr(config, name, value)


def choose_attention(device: torch.device) -> str:
    """Choose `eager` on a CPU, where SDPA's backward is slower; else SDPA."""
    return "eager" if device.type == "cpu" else "sdpa"


def check_packing(config: Config, packing: str) -> None:
    """Raise `UserError` if --packing always is given for a model that cannot keep rows apart."""
    if packing == "always" and not can_read_blocks(config):
        raise UserError(
            f"--packing always: a {config.model_type} model is not known to keep the sequences "
            "of a row apart; use --packing auto or never"
        )


def can_read_blocks(config: Config) -> bool:
    """True if the model is known to read rows of several sequences correctly with a block mask."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    has_window = getattr(config, "sliding_window", None) is not None
    return config.model_type in READ_BLOCKS and kinds == {"full_attention"} and not has_window


def mask_inputs(backbone: Any, attention_mask: Tensor) -> dict[str, Tensor]:
    """Make the `attention_mask` and `position_ids` of a backbone from a bool mask.

    The mask is [B, L], or [B, L, L] for rows of several sequences. `transformers` passes a mask of
    four dimensions on unchanged: SDPA takes bool, `eager` adds it to the scores.
    """
    positions = compute_position_ids(attention_mask)
    if attention_mask.dim() == 2:
        return {"attention_mask": attention_mask.long(), "position_ids": positions}
    mask = attention_mask[:, None]
    if backbone.config._attn_implementation == "eager":
        lowest = torch.finfo(torch.float32).min
        mask = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, lowest)
    else:  # let padding read itself: a softmax over nothing is NaN
        mask = mask | torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
    return {"attention_mask": mask, "position_ids": positions}


def fuse_gelu(model: nn.Module) -> None:
    """Compute GPT-2's `gelu_new` in one kernel instead of eight, with equal results."""
    from transformers.activations import NewGELUActivation

    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def load_causal_lm(
    path: str, tokenizer: Tokenizer, *, device: torch.device, dropout: float | None
) -> nn.Module:
    """Load a causal LM in fp32 with an embedding row for every token of `tokenizer`.

    `dropout` None keeps the model's own; stages 2 and 3 pass 0.
    """
    lm: nn.Module = read_model(AutoModelForCausalLM, path, device=device, dropout=dropout)
    _finish(lm, tokenizer)
    return lm


def read_model(auto: Any, path: str, *, device: torch.device, dropout: float | None) -> Any:
    """Load the model of a folder or Hub name in fp32 through the `transformers` class `auto`."""
    with folders.explain_weight_errors(path):
        config = AutoConfig.from_pretrained(path, **folders.NO_CODE)
        if dropout is not None:
            set_dropout(config, dropout)
        model, info = auto.from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            attn_implementation=choose_attention(device),
            output_loading_info=True,
            **folders.NO_CODE,
        )
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    missing = sorted(set(info["missing_keys"]) - tied)
    if missing:  # they would be random
        raise UserError(
            f"{path}: its weights lack {len(missing)} that its config asks for, such as "
            f"{missing[0]}; it holds another model"
        )
    return model


def build_causal_lm(config: Config, tokenizer: Tokenizer, *, device: torch.device) -> nn.Module:
    """Build a causal LM with random weights, drawn from torch's global generator."""
    # Not `from_config`, which draws other weights under ZeRO-3; the engine shards these too.
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    config._attn_implementation = choose_attention(device)  # overrides the file's
    lm: nn.Module = model_class(config).float()
    _finish(lm, tokenizer)
    return lm


def build_meta_lm(config: Config, tokens: int) -> nn.Module:
    """Build a causal LM on the meta device, without memory, with at least `tokens` tokens."""
    config.vocab_size = max(config.vocab_size, tokens)
    config._attn_implementation = "eager"  # the config's may need a package or a Hub kernel
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with torch.device("meta"):
        lm: nn.Module = model_class(config)
    fuse_gelu(lm)
    return lm


def _finish(lm: Any, tokenizer: Tokenizer) -> None:
    if len(tokenizer) > lm.config.vocab_size:
        lm.resize_token_embeddings(len(tokenizer), mean_resizing=True)
    fuse_gelu(lm)
    set_token_ids(lm.config, tokenizer)
    lm.config.use_cache = False
    set_token_ids(lm.generation_config, tokenizer)
    # PAD has an embedding row but is never part of a response.
    lm.generation_config.suppress_tokens = [tokenizer.pad_token_id]


def save_causal_lm(lm: Any, weights: dict[str, Tensor], tokenizer: Tokenizer, folder: Path) -> None:
    """Write a folder that `AutoModelForCausalLM` loads with equal outputs.

    `weights` are the full tensors of `lm` by name; `lm` itself may hold only a shard.
    """
    lm.config.use_cache = True
    lm.save_pretrained(folder, state_dict=dict(weights))
    lm.config.use_cache = False
    tokenizer.save_pretrained(folder)
