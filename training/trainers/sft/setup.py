"""Set-up of stage 1: the starting model and tokenizer, the engine, the schedule."""

import logging
import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from training.arguments.parsing import UserError
from training.arguments.sft import SFTArgs
from training.data.encode import EncodedText
from training.data.stages import iterate_texts
from training.models import loading
from training.models.cpu_blocks import use_cpu_blocks
from training.models.lora import add_lora
from training.models.policy import Policy
from training.models.scalar import refuse_scalar_model
from training.models.sentencepieces import make_tokenizer, train_sentencepiece
from training.models.tokenizers import Tokenizer, load_tokenizer
from training.paths import EXAMPLE_CONFIG, QUICKSTART_BASE, example_tokenizer, prepare_command
from training.runtime import engine, optim
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine
from training.trainers.schedule import Schedule
from training.trainers.sft.step import SFTTrainer

logger = logging.getLogger(__name__)


def find_base_model(args: SFTArgs) -> str:
    """Return the model to start from; empty for a new one.

    With neither --model_name_or_path nor --init_from_scratch it is the base that quickstart.sh
    pretrained, if there is one, else a tiny model from scratch.
    """
    if args.model_name_or_path or args.init_from_scratch:
        return args.model_name_or_path
    return str(QUICKSTART_BASE) if (QUICKSTART_BASE / "complete.json").is_file() else ""


def load_starting_tokenizer(args: SFTArgs) -> Tokenizer:
    """Load the named tokenizer, else that of the model, else that of the embedded example."""
    named = args.tokenizer_name_or_path or find_base_model(args)
    if named:
        flag = "--tokenizer_name_or_path" if args.tokenizer_name_or_path else "--model_name_or_path"
        return load_tokenizer(named, flag=flag)
    folder = example_tokenizer()
    if not folder.is_dir():
        raise UserError(
            "no model to start from: pass --model_name_or_path, or --init_from_scratch with "
            "--tokenizer_name_or_path, or prepare the example: " + prepare_command("movie_reviews")
        )
    return load_tokenizer(str(folder), flag="--tokenizer_name_or_path")


def load_starting_model(args: SFTArgs, tokenizer: Tokenizer, device: torch.device) -> nn.Module:
    """Load or make the causal LM that stage 1 trains."""
    base = find_base_model(args)
    dropout = None if args.dropout < 0 else args.dropout
    if base:
        logger.info("model: starting from %s", base)
        return loading.load_causal_lm(base, tokenizer, device=device, dropout=dropout)
    config = check_starting_model(args, tokenizer)
    if dropout is not None:
        loading.set_dropout(config, dropout)
    source = args.init_from_scratch or EXAMPLE_CONFIG
    logger.info("model: a new %s from %s", config.model_type, source)
    return loading.build_causal_lm(config, tokenizer, device=device)


def check_starting_model(args: SFTArgs, tokenizer: Tokenizer) -> loading.Config:
    """Check and return the config of the model; its weights are not read."""
    base = find_base_model(args)
    if base:
        hint = "give a folder with config.json and safetensors, or a name such as gpt2"
        config = loading.load_config(base, flag="--model_name_or_path", hint=hint)
        refuse_scalar_model(base, flag="--model_name_or_path", hint=hint)
    else:
        config = loading.read_config(
            args.init_from_scratch or str(EXAMPLE_CONFIG), tokenizer, flag="--init_from_scratch"
        )
    loading.check_packing(config, args.packing)
    loading.check_fits(config, args.max_length, flags=f"--max_length {args.max_length} can")
    return config


def load_or_train_tokenizer(args: SFTArgs, world: World) -> Tokenizer:
    """Load the tokenizer that the flags name, or train one on the stage's text."""
    if args.tokenizer == "given":
        return load_starting_tokenizer(args)
    model, mistake = b"", ""
    if world.is_main:
        try:
            # A list, so that a bad row is named here, not within the library, which holds all text.
            model = train_sentencepiece(list(iterate_texts(args)), vocab_size=args.vocab_size)
        except UserError as error:
            mistake = str(error)
    model, mistake = world.gather((model, mistake))[0]
    if mistake:
        raise UserError(mistake)  # on every rank: the others must not wait for this one
    return make_tokenizer(model, name="--tokenizer sentencepiece")


def build_engine(
    lm: nn.Module, args: SFTArgs, world: World, tokenizer: Tokenizer
) -> TrainingEngine:
    """Build the training engine of the policy, with the optimizer that the flags name."""
    dtype = engine.compute_dtype(args.dtype, world.device)
    add_lora(lm, args)
    policy = Policy(lm, pad_id=tokenizer.pad_token_id, compute_dtype=dtype)
    if args.cpu_blocks:
        use_cpu_blocks(policy)

    def make_optimizer(module: nn.Module) -> Optimizer:
        if args.optimizer == "adamw":
            return optim.make_adamw(module, args, args.learning_rate)
        embeddings = [m for m in module.modules() if isinstance(m, nn.Embedding)]
        outside = {id(p) for m in (*embeddings, policy.lm.get_output_embeddings())
                   for p in m.parameters()}  # fmt: skip
        return optim.make_muon(
            module,
            lambda parameter: parameter.dim() == 2 and id(parameter) not in outside,
            args,
            lr=args.learning_rate,
            muon_lr=args.muon_lr,
        )

    return engine.wrap_trainable(policy, args, world, make_optimizer)


def build_trainer(
    args: SFTArgs, world: World, tokenizer: Tokenizer, examples: Sequence[EncodedText]
) -> tuple[SFTTrainer, Schedule]:
    """Load the model and build what trains it on these examples."""
    with engine.shard_while_loading(args, world):  # under ZeRO-3, weights are split as they load
        lm = load_starting_model(args, tokenizer, world.device)
    trainer = SFTTrainer(args, world, build_engine(lm, args, world, tokenizer), examples)
    steps = count_steps(args, math.ceil(len(examples) / args.batch_size))
    return trainer, Schedule(args, world, total_steps=steps, max_seconds=args.max_seconds)


def count_steps(args: SFTArgs, batches: int) -> int:
    """Count optimizer steps: --max_steps, else --num_epochs of `batches` each."""
    return args.max_steps or max(round(args.num_epochs * batches), 1)
