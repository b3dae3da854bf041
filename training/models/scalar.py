"""The scalar model: a backbone and a head that outputs one number, a reading, at every position.

A reward model's score is the reading at the last real token; a critic's reading at a position is
the value before the next token. They are one class, so that a response scores equally in stage 2's
evaluation and inside PPO, for every head and pooling.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel
from transformers.models.auto import modeling_auto

from training.arguments.parsing import UserError
from training.models.folders import check_weights, explain_weight_errors, read_json, read_tensor
from training.models.loading import fuse_gelu, mask_inputs, read_model, set_token_ids
from training.models.tokenizers import Tokenizer
from training.tensors import compute_position_ids, find_last_position

Head = Literal["linear", "mlp"]
Pooling = Literal["last", "mean", "weighted_mean"]
MLP_WIDTH = 512
SETTINGS_FILE = "scalar_model.json"
HEAD_FILE = "head.safetensors"
BACKBONE_FOLDER = "backbone"
CLASSIFIERS = dict(modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)


@dataclass(frozen=True)
class ScalarSettings:
    """Everything but the weights of a saved scalar model; `scalar_model.json` in its folder."""

    head: Head = "linear"
    pooling: Pooling = "last"
    score_mean: float = 0.0  # of raw scores, over responses of the SFT model
    score_std: float = 1.0

    @property
    def is_plain(self) -> bool:
        """True if `AutoModelForSequenceClassification` can load it."""
        return self.head == "linear" and self.pooling == "last"


def pool_prefixes(
    hidden: Tensor,  # [B, L, H]
    mask: Tensor,  # [B, L], or [B, L, L] in rows of several sequences
    pooling: Pooling,
) -> Tensor:  # [B, L, H]
    """Pool the hidden states up to each position of its sequence; padding is ignored.

    mean: their average; weighted_mean: weighted by position 1, 2, ... n (Muennighoff,
    arXiv:2202.08904); last: the position's own.
    """
    if pooling == "last":
        return hidden
    is_real = mask if mask.dim() == 2 else mask.diagonal(dim1=1, dim2=2)
    hidden = hidden.masked_fill(~is_real[..., None], 0.0)
    weights = is_real.to(hidden.dtype)
    if pooling == "weighted_mean":
        weights = weights * (compute_position_ids(mask) + 1)
    if mask.dim() == 3:
        read = mask * weights[:, None]
        return (read @ hidden) / read.sum(dim=2, keepdim=True).clamp(min=1e-6)
    summed = (hidden * weights[..., None]).cumsum(dim=1)
    return summed / weights.cumsum(dim=1).clamp(min=1e-6)[..., None]


class ScalarModel(nn.Module):
    """Backbone, head and normalization."""

    def __init__(
        self, backbone: Any, settings: ScalarSettings, *, compute_dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = build_head(settings.head, backbone.config.hidden_size)
        self.settings = settings
        self.compute_dtype = compute_dtype

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Compute normalized readings [B, L] in fp32 for tokens [B, L] and their bool mask.

        The mask is [B, L], or [B, L, L] from `tensors.block_attention_mask`.
        """
        is_low = self.compute_dtype != torch.float32
        with torch.autocast(input_ids.device.type, dtype=torch.bfloat16, enabled=is_low):
            hidden = self.backbone(
                input_ids=input_ids,
                use_cache=False,
                **mask_inputs(self.backbone, attention_mask),
            ).last_hidden_state
        pooled = pool_prefixes(hidden.float(), attention_mask, self.settings.pooling)
        raw = self.head(pooled).squeeze(-1)
        readings: Tensor = (raw - self.settings.score_mean) / self.settings.score_std
        return readings

    @staticmethod
    def scores(readings: Tensor, attention_mask: Tensor) -> Tensor:  # [B, L] -> [B]
        """Select the reading at each row's last real token."""
        return readings.gather(1, find_last_position(attention_mask)[:, None]).squeeze(1)


def build_head(kind: Head, width: int) -> nn.Module:
    """Build a head; its last layer has std 1 / sqrt(inputs + 1) (arXiv:1909.08593)."""
    if kind == "linear":
        head: nn.Module = nn.Linear(width, 1, bias=False)  # as in sequence classification
        last = head
    else:
        last = nn.Linear(MLP_WIDTH, 1)
        head = nn.Sequential(nn.Linear(width, MLP_WIDTH), nn.ReLU(), last)
        nn.init.zeros_(last.bias)
    assert isinstance(last, nn.Linear)
    nn.init.normal_(last.weight, std=(last.in_features + 1) ** -0.5)
    return head


def read_settings(path: str, *, flag: str, hint: str) -> ScalarSettings:
    """Read the settings of a saved scalar model, or of a plain one-label classification folder.

    Raises `UserError` with `hint` if there is neither.
    """
    folder = Path(path).expanduser()
    if (folder / SETTINGS_FILE).is_file():
        settings = _parse_settings(folder / SETTINGS_FILE, flag=flag, hint=hint)
        check_weights(find_backbone(path, settings), flag=flag, hint=hint)
        return settings
    if not (folder / "config.json").is_file():
        raise UserError(f"{flag}: no reward model in {path}; {hint}")
    config = read_json(folder / "config.json", flag)
    architecture = (config.get("architectures") or [""])[0]
    one_label = config.get("num_labels", len(config.get("id2label", "12"))) == 1
    if not (architecture.endswith("ForSequenceClassification") and one_label):
        raise UserError(
            f"{flag}: {path} holds {architecture or 'a model without a score head'}, not a reward "
            f"model; {hint}"
        )
    check_weights(path, flag=flag, hint=hint)
    return ScalarSettings()


def find_backbone(path: str, settings: ScalarSettings) -> str:
    """Return the folder of the backbone's config and weights."""
    return path if settings.is_plain else str(Path(path) / BACKBONE_FOLDER)


def _parse_settings(file: Path, *, flag: str, hint: str) -> ScalarSettings:
    values = read_json(file, flag)
    known = {field.name: type(field.default) for field in fields(ScalarSettings)}
    for name, value in values.items():
        kinds = (float, int) if known.get(name) is float else (str,)
        if name not in known or type(value) not in kinds:
            raise UserError(f"{flag}: {file}: {name} {value!r} is not a known setting; {hint}")
    settings = ScalarSettings(**values)
    fp32 = torch.finfo(torch.float32)  # the type of scores
    if not (abs(settings.score_mean) <= fp32.max and fp32.tiny <= settings.score_std <= fp32.max):
        got = f"score_mean {settings.score_mean!r}, score_std {settings.score_std!r}"
        raise UserError(f"{flag}: {file}: {got} make no finite scores; {hint}")
    if settings.head not in get_args(Head) or settings.pooling not in get_args(Pooling):
        got = f"head {settings.head!r}, pooling {settings.pooling!r}"
        raise UserError(f"{flag}: {file}: unknown {got}; {hint}")
    return settings


def refuse_scalar_model(path: str, *, flag: str, hint: str) -> None:
    """Raise `UserError` if `path` holds a scalar model where a language model is expected.

    `transformers` would load its backbone as one, silently if the head is tied.
    """
    folder = Path(path).expanduser()
    file = folder / "config.json"
    config = read_json(file, flag) if file.is_file() else {}
    architecture = (config.get("architectures") or [""])[0]
    if (folder / SETTINGS_FILE).is_file() or architecture.endswith("ForSequenceClassification"):
        raise UserError(f"{flag}: {path} holds a reward model, which does not respond; {hint}")


def check_can_classify(config: Any, *, flag: str) -> None:
    """Raise `UserError` if `transformers` has no classifier to save a plain scalar model as."""
    if config.model_type not in CLASSIFIERS:
        raise UserError(
            f"{flag}: transformers has no sequence classifier for {config.model_type}; use "
            "--head mlp or another --pooling"
        )


def load_scalar_model(
    path: str,
    settings: ScalarSettings,
    *,
    device: torch.device,
    compute_dtype: torch.dtype,
    tokens: int = 0,
) -> ScalarModel:
    """Load a scalar model with dropout off; sharded inside `shard_while_loading`."""
    folder, backbone = Path(path), find_backbone(path, settings)
    model = build_scalar_model(
        backbone, settings, device=device, compute_dtype=compute_dtype, tokens=tokens
    )
    with explain_weight_errors(path):
        if settings.is_plain:
            model.head.load_state_dict({"weight": read_tensor(folder, "score.weight")})
        else:
            model.head.load_state_dict(load_file(folder / HEAD_FILE))
    return model


def build_scalar_model(
    path: str,
    settings: ScalarSettings,
    *,
    device: torch.device,
    compute_dtype: torch.dtype,
    seed: int = 0,
    tokens: int = 0,
) -> ScalarModel:
    """Load the backbone of the model in `path` and add a new head, drawn from `seed` alone.

    Its embedding gets at least `tokens` rows: a model not trained by stage 1 may lack PAD's.
    """
    backbone = read_model(AutoModel, path, device=device, dropout=0.0)
    if tokens > backbone.config.vocab_size:
        backbone.resize_token_embeddings(tokens, mean_resizing=True)
    fuse_gelu(backbone)
    backbone.config.use_cache = False
    with torch.random.fork_rng():  # ZeRO stages differ in what they drew before
        torch.manual_seed(seed)
        return ScalarModel(backbone, settings, compute_dtype=compute_dtype)


def save_scalar_model(
    model: ScalarModel, weights: dict[str, Tensor], tokenizer: Tokenizer, folder: Path
) -> None:
    """Write a folder that `load_scalar_model` reads; `weights` are full tensors by name.

    With the linear head and last pooling it is a plain sequence-classification model, whose
    logit is the raw score; score = (logit - score_mean) / score_std. `transformers` knows no other
    head or pooling, so for those the config has an unknown model type, and
    `AutoModelForSequenceClassification` refuses it instead of scoring with random weights.
    """

    def select(prefix: str) -> dict[str, Tensor]:
        names = [name for name in weights if name.startswith(prefix)]
        return {name.removeprefix(prefix): weights[name].contiguous() for name in names}

    backbone, head = select("backbone."), select("head.")
    folder.mkdir(parents=True, exist_ok=True)
    config = type(model.backbone.config).from_dict(model.backbone.config.to_dict())
    set_token_ids(config, tokenizer)
    metadata, target = {"format": "pt"}, Path(find_backbone(str(folder), model.settings))
    if model.settings.is_plain:
        config.architectures = [CLASSIFIERS[config.model_type]]
        config.num_labels = 1
        config.use_cache = True
        prefix = f"{model.backbone.base_model_prefix}."
        backbone = {prefix + name: tensor for name, tensor in backbone.items()}
        backbone["score.weight"] = head["weight"]
    else:
        config.architectures = [type(model.backbone).__name__]
        save_file(head, folder / HEAD_FILE, metadata=metadata)
        ours = {"model_type": "scalar_model", "architectures": ["ScalarModel"]}
        (folder / "config.json").write_text(json.dumps(ours, indent=2), encoding="utf-8")
    config.save_pretrained(target)
    save_file(backbone, target / "model.safetensors", metadata=metadata)
    settings = json.dumps(asdict(model.settings), indent=2)
    (folder / SETTINGS_FILE).write_text(settings, encoding="utf-8")
    tokenizer.save_pretrained(folder)
