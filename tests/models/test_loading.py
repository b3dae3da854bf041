import json
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny_models import (
    CPU,
    EOS_ID,
    PAD_ID,
    POSITIONS,
    build_tokenizer,
    gpt2,
    llama,
    load_lm,
    rows_of,
    write_lm,
)
from training.arguments.parsing import UserError
from training.models.loading import (
    build_causal_lm,
    check_fits,
    count_positions,
    load_causal_lm,
    load_config,
    read_config,
    save_causal_lm,
)
from training.models.tokenizers import GIVE_ONE, load_tokenizer
from training.runtime.distributed import World
from training.runtime.engine import collect_weights

INPUT = torch.tensor(rows_of([12, 12]))


@torch.no_grad()
def logits_of(lm):
    return lm.eval()(input_ids=INPUT).logits


def loaded(path, tokenizer, dropout=None) -> Any:
    return load_causal_lm(path, tokenizer, device=CPU, dropout=dropout)


def dropout_probabilities(lm):
    """Dropout of the modules, which may differ from the config's."""
    modules = [module.p for module in lm.modules() if isinstance(module, nn.Dropout)]
    return modules + [
        module.attention_dropout for module in lm.modules() if hasattr(module, "attention_dropout")
    ]


@pytest.mark.parametrize("build", [gpt2, llama])
def test_a_model_without_a_row_for_pad_gets_one_and_keeps_its_other_logits(tmp_path, build):
    without_pad = build_tokenizer(pad=None)
    path = write_lm(tmp_path, build(len(without_pad)), without_pad)
    plain = AutoModelForCausalLM.from_pretrained(path)
    tokenizer = load_tokenizer(path, flag="--x")
    lm = loaded(path, tokenizer)
    assert lm.get_input_embeddings().weight.shape[0] == PAD_ID + 1
    found, before = logits_of(lm), logits_of(plain)
    assert found.shape[-1] == before.shape[-1] + 1
    assert_close(found[..., :PAD_ID], before, rtol=1e-5, atol=1e-5)  # attention written otherwise
    assert lm.config.pad_token_id == PAD_ID != lm.config.eos_token_id == EOS_ID
    head, embedding = lm.get_output_embeddings().weight, lm.get_input_embeddings().weight
    assert embedding[:PAD_ID].equal(plain.get_input_embeddings().weight)
    assert embedding[PAD_ID].abs().max() < 1  # near the mean of the others, not wild
    assert (head is embedding) == plain.config.tie_word_embeddings


def test_a_model_with_spare_rows_keeps_them(tmp_path, tokenizer):
    path = write_lm(tmp_path, gpt2(128), tokenizer)
    lm = loaded(path, tokenizer)
    assert lm.get_input_embeddings().weight.shape[0] == 128


def test_dropout_is_off_in_every_key_and_module_that_gpt2_has(lm_folders, tokenizer):
    lm = loaded(lm_folders["gpt2"], tokenizer, dropout=0.0)
    config = lm.config.to_dict()
    assert config["resid_pdrop"] == config["embd_pdrop"] == config["attn_pdrop"] == 0
    assert len(dropout_probabilities(lm)) >= 7  # embeddings, and three in each block
    assert set(dropout_probabilities(lm)) == {0.0}


def test_dropout_is_off_in_llama(lm_folders, tokenizer):
    lm = loaded(lm_folders["llama"], tokenizer, dropout=0.0)
    assert lm.config.attention_dropout == 0
    assert set(dropout_probabilities(lm)) == {0.0}


@pytest.mark.parametrize(("dropout", "expected"), [(None, 0.1), (0.3, 0.3)])
def test_stage_1_keeps_the_models_dropout_or_sets_the_flags(
    lm_folder, tokenizer, dropout, expected
):
    lm = loaded(lm_folder, tokenizer, dropout)
    assert set(dropout_probabilities(lm)) == {expected}


def test_without_dropout_training_and_evaluation_mode_give_equal_logits(lm_folder):
    lm = load_lm(lm_folder)
    with torch.no_grad():
        trained = lm(input_ids=INPUT).logits
    assert_close(trained, logits_of(lm), rtol=0, atol=0)


def test_a_loaded_model_gives_the_logits_of_plain_transformers(lm_folder):
    plain = AutoModelForCausalLM.from_pretrained(lm_folder)
    assert_close(logits_of(load_lm(lm_folder)), logits_of(plain), rtol=1e-5, atol=1e-5)


def test_a_saved_model_gives_equal_outputs_with_our_loader_and_transformers(
    lm_folder, tokenizer, tmp_path
):
    lm = load_lm(lm_folder)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_causal_lm(lm, collect_weights(lm, World(0, 1, CPU)), tokenizer, tmp_path)
    expected = logits_of(lm)
    assert_close(logits_of(load_lm(str(tmp_path))), expected, rtol=0, atol=0)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_close(logits_of(plain), expected, rtol=1e-5, atol=1e-5)
    assert plain.config.use_cache  # or `generate` is slow for whoever loads it
    assert not lm.config.use_cache
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == tokenizer.get_vocab()
    assert [file.suffix for file in tmp_path.glob("*.bin")] == []


def test_generate_of_a_saved_model_never_samples_pad(lm_folders, tokenizer, tmp_path):
    lm = load_lm(lm_folders["gpt2"])
    with torch.no_grad():  # PAD becomes the likeliest token everywhere
        lm.transformer.ln_f.bias.copy_(torch.ones(32))
        lm.get_input_embeddings().weight[PAD_ID] = 5.0
    assert logits_of(lm).argmax(-1).eq(PAD_ID).all()
    save_causal_lm(lm, collect_weights(lm, World(0, 1, CPU)), tokenizer, tmp_path)
    plain: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    drawn = plain.generate(INPUT[:1], do_sample=True, max_new_tokens=8, min_new_tokens=8)
    assert not drawn.eq(PAD_ID).any()


def test_a_json_config_builds_a_model_of_the_tokenizers_size(tmp_path, tokenizer):
    file = tmp_path / "tiny.json"
    file.write_text(
        json.dumps({"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}),
        encoding="utf-8",
    )
    config = read_config(str(file), tokenizer, flag="--init_from_scratch")
    lm: Any = build_causal_lm(config, tokenizer, device=CPU)
    assert lm.get_input_embeddings().weight.shape == (len(tokenizer), 16)
    assert (config.eos_token_id, config.pad_token_id) == (EOS_ID, PAD_ID)


@pytest.mark.parametrize("text", ["no json", "{}", '{"model_type": "no-such-model"}'])
def test_a_bad_config_gives_one_line_that_names_the_flag(tmp_path, tokenizer, text):
    file = tmp_path / "tiny.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"--init_from_scratch: .*tiny\.json is not a model config"):
        read_config(str(file), tokenizer, flag="--init_from_scratch")


def test_the_error_of_a_missing_model_names_the_command_to_run(tmp_path):
    with pytest.raises(UserError, match=r"--x: no model in .*; run that first"):
        load_config(str(tmp_path), flag="--x", hint="run that first")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"--x: .* has no readable model config"):
        load_config(str(tmp_path), flag="--x", hint="run that first")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("./no", ""),
        ("{here}/no", ""),
        ("output/no", ""),
        ("a/b/c", ""),
        ("here/no", ""),  # beside what is there
        ("no", ", and nothing of that name could be downloaded"),
        ("some/model", ", and nothing of that name could be downloaded"),
    ],
)
@pytest.mark.parametrize(("load", "end"), [("model", "run that first"), ("tokenizer", GIVE_ONE)])
def test_a_missing_path_gives_one_line_that_does_not_mention_the_hub(
    tmp_path, monkeypatch, path, why, load, end
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    path = path.format(here=tmp_path)

    def offline(*_, **__):
        raise OSError("We couldn't connect to 'https://huggingface.co' ...\nSee the Hub's pages.")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", offline)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", offline)
    ask = partial(load_config, hint="run that first") if load == "model" else load_tokenizer
    with pytest.raises(UserError) as caught:
        ask(path, flag="--x")
    assert str(caught.value) == f"--x: no {load} in {path}: there is no such folder{why}; {end}"


def test_sequences_longer_than_the_position_table_are_refused(lm_folder):
    config = load_config(lm_folder, flag="--x", hint="")
    assert count_positions(config) == POSITIONS
    check_fits(config, POSITIONS, flags="--a 40 and --b 8")
    with pytest.raises(UserError, match=f"--a 40 and --b 9 .* {POSITIONS} positions"):
        check_fits(config, POSITIONS + 1, flags="--a 40 and --b 9")
