"""Scalar models on disk: our loader, plain transformers, and folders that both refuse."""

import json
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

from tests.tiny_models import (
    CPU,
    EOS_ID,
    build_tokenizer,
    gpt2,
    padded,
    readings,
    rows_of,
    scalar_model,
    scores,
    write_lm,
)
from training.arguments.parsing import UserError
from training.models.scalar import (
    ScalarSettings,
    load_scalar_model,
    read_settings,
    save_scalar_model,
)
from training.runtime.distributed import World
from training.runtime.engine import collect_weights

CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}  # fp32, values of order 1
WORLD = World(0, 1, CPU)
ROWS = [[*row, EOS_ID] for row in rows_of([11, 10, 7, 9], seed=1)]


@pytest.fixture
def folder(model, tokenizer, tmp_path):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # as if trained: no weight is what a new model would have
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_scalar_model(model, collect_weights(model, WORLD), tokenizer, tmp_path)
    return tmp_path


def test_a_saved_model_gives_equal_readings(model, folder):
    settings = read_settings(str(folder), flag="--x", hint="")
    assert settings == model.settings
    again = load_scalar_model(
        str(folder), settings, device=CPU, compute_dtype=torch.float32
    ).train()
    assert_close(readings(again, ROWS), readings(model, ROWS), rtol=0, atol=0)


def test_only_plain_settings_load_as_a_sequence_classifier(model, folder):
    if not model.settings.is_plain:
        with pytest.raises(ValueError, match="scalar_model"):
            AutoModelForSequenceClassification.from_pretrained(folder)
        return
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    raw = scores(model, ROWS) * model.settings.score_std + model.settings.score_mean
    with torch.no_grad():
        alone = [plain(input_ids=torch.tensor([row])).logits.squeeze() for row in ROWS]
        tokens, mask = padded(ROWS, right=3)
        together = plain(input_ids=tokens, attention_mask=mask.long()).logits.squeeze(1)
    assert_close(torch.stack(alone), raw, **CLOSE)
    assert_close(together, raw, **CLOSE)
    assert plain.config.num_labels == 1


def test_a_foreign_classifier_gives_raw_scores(lm_folders, tokenizer, tmp_path):
    model = scalar_model(lm_folders["gpt2"], ScalarSettings())
    torch.nn.init.ones_(model.head.weight)  # type: ignore[arg-type]
    save_scalar_model(model, collect_weights(model, WORLD), tokenizer, tmp_path)
    (tmp_path / "scalar_model.json").unlink()
    settings = read_settings(str(tmp_path), flag="--x", hint="")
    assert settings == ScalarSettings()
    again = load_scalar_model(str(tmp_path), settings, device=CPU, compute_dtype=torch.float32)
    assert_close(scores(again, ROWS), scores(model, ROWS), rtol=0, atol=0)


def test_a_causal_lm_is_refused_as_reward_model(lm_folder):
    with pytest.raises(UserError, match=r"--x: .*LM.*, not a reward model; run that first"):
        read_settings(lm_folder, flag="--x", hint="run that first")


def test_the_error_of_an_empty_folder_names_the_command_to_run(tmp_path):
    with pytest.raises(UserError, match=r"--x: no reward model in .*; run that first"):
        read_settings(str(tmp_path), flag="--x", hint="run that first")


def test_a_classifier_of_two_classes_is_refused_as_reward_model(tmp_path):
    config = {"architectures": ["GPT2ForSequenceClassification"], "model_type": "gpt2"}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match="not a reward model"):
        read_settings(str(tmp_path), flag="--x", hint="")


@pytest.mark.parametrize("text", ["{", "[1]", '{"haed": "mlp"}'])
def test_the_error_of_a_bad_settings_file_names_it(tmp_path, text):
    (tmp_path / "scalar_model.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"--x: .*scalar_model\.json"):
        read_settings(str(tmp_path), flag="--x", hint="")


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_backbone_without_a_row_for_pad_gets_one(tokenizer, tmp_path, pooling):
    without_pad = build_tokenizer(pad=None)
    path = write_lm(tmp_path / "lm", gpt2(len(without_pad)), without_pad)
    settings = ScalarSettings(pooling=pooling)
    model = scalar_model(path, settings, tokens=len(tokenizer))
    alone = [readings(scalar_model(path, settings), [row])[0] for row in ROWS]
    assert_close(readings(model, ROWS), alone, **CLOSE)  # padded, with a PAD of its own
    save_scalar_model(model, collect_weights(model, WORLD), tokenizer, tmp_path / "scalar")
    again = load_scalar_model(
        str(tmp_path / "scalar"), settings, device=CPU, compute_dtype=torch.float32
    )
    assert_close(readings(again, ROWS), alone, **CLOSE)
