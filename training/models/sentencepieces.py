"""Train SentencePiece models, and convert them to tokenizers that `AutoTokenizer` loads.

A model is trained without normalization and with bytes for unknown characters, so that decoding
restores the encoded text, Chinese and line breaks included (except text that spells out a special
token, a byte such as "<0x41>" or SentencePiece's sign for a space). Models from elsewhere keep
their normalization; one that cannot be reproduced with equal ids is refused.
"""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, decoders, models, normalizers

from training.arguments.parsing import UserError

EOS, PAD, UNK = "<|endoftext|>", "<|pad|>", "<unk>"
SPACE = "\u2581"  # how SentencePiece writes a space
FIXED_PIECES = 259  # EOS, PAD, the unknown and 256 bytes
COVERAGE = 0.9999  # of the text; rarer characters are spelled in bytes
# Texts on which a converted tokenizer is compared with its SentencePiece model.
PROBES = (
    "A plain sentence, with 123 numbers.",
    " two  spaces and a tab\tand\na new line ",
    "虽然缺点多多，但是很好看！“引号”…",
    "naïve café ﬁne Ⅷ ① ½ \uff46\uff55\uff4c\uff4c",
    "👩\u200d🚀 emoji, 龘 rare, \u00e9 and e\u0301",
    "",
)

Tokenizer = Any


def train_sentencepiece(texts: Iterable[str], *, vocab_size: int) -> bytes:
    """Train a unigram model (Kudo, arXiv:1804.10959); returns the bytes of a `.model` file.

    `vocab_size` includes EOS, PAD, the unknown and 256 bytes; texts of few different characters may
    give fewer pieces. Single characters get at most half of the rest: Chinese has thousands, and
    bytes spell the rare ones, so that words have room too.
    """
    if vocab_size < 300:
        raise UserError(
            f"--vocab_size must be at least 300 (256 of them are bytes), got {vocab_size}"
        )
    # The trainer takes no line breaks inside a sentence.
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError("--tokenizer sentencepiece: --data_path holds no text to train on")
    lines = _split_at_rare_characters(lines, (vocab_size - FIXED_PIECES) // 2)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="unigram",
            character_coverage=1.0,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            hard_vocab_limit=False,
            max_sentence_length=2**20,
            unk_id=0,
            bos_id=-1,
            eos_id=1,
            pad_id=2,
            unk_piece=UNK,
            eos_piece=EOS,
            pad_piece=PAD,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"--tokenizer sentencepiece: training failed: {reason}") from error
    return _drop_repetitions(model.getvalue())


def _drop_repetitions(model: bytes) -> bytes:
    """Remove the pieces of a model that repeat a shorter one, such as "。。。".

    "。" and "。。。" have the same score in either order, and SentencePiece and `tokenizers` choose
    different ones. No other two pieces can swap: two words that commute are powers of one word.
    """
    proto = _parse_model(model)
    kept = [
        piece
        for piece in proto.pieces
        if piece.type != piece.NORMAL or piece.piece not in (piece.piece * 2)[1:-1]
    ]
    del proto.pieces[:]
    proto.pieces.extend(kept)
    written: bytes = proto.SerializeToString()
    return written


def _parse_model(model: bytes) -> Any:
    proto: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(model)
    return proto


def _split_at_rare_characters(lines: Sequence[str], most: int) -> list[str]:
    """Split the lines at all but the `most` frequent characters that give `COVERAGE`.

    The trainer's `character_coverage` accepts no less than 0.98 and fails if the remaining
    characters still outnumber the pieces.
    """
    counts = Counter(char for line in lines for char in line)
    kept, covered = set(), 0
    for char, count in counts.most_common(most):
        if covered >= COVERAGE * counts.total():
            break
        kept.add(char)
        covered += count
    breaks = str.maketrans(dict.fromkeys(counts.keys() - kept, "\n"))
    return [piece for line in lines for piece in line.translate(breaks).split("\n") if piece]


def make_tokenizer(data: bytes, *, name: str) -> Tokenizer:
    """Make a fast tokenizer with the ids of a SentencePiece model, and EOS and PAD if missing.

    `name` begins the error messages.
    """
    from transformers import PreTrainedTokenizerFast

    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    except RuntimeError as error:
        raise UserError(f"{name} is no SentencePiece model: {error}") from error
    proto = _parse_model(data)
    if not proto.pieces:
        raise UserError(f"{name} is no SentencePiece model: it has no pieces")
    backend = _build_backend(proto, name)
    plain = [piece.piece for piece in proto.pieces if piece.type == piece.NORMAL]
    texts = [*PROBES, *(piece.replace(SPACE, " ") for piece in plain[-200:])]
    for text in texts:
        if processor.encode(text) != backend.encode(text, add_special_tokens=False).ids:
            raise UserError(
                f"{name}: this model's normalisation or pieces cannot be reproduced exactly (as in "
                f"{text[:30]!r}); train one with --tokenizer sentencepiece"
            )
    control = [piece.piece for piece in proto.pieces if piece.type == piece.CONTROL]
    eos = next((piece for piece in (EOS, "</s>", "<eos>") if piece in control), EOS)
    pad = next((piece for piece in (PAD, "<pad>") if piece in control), PAD)
    tokenizer: Tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        eos_token=eos,
        pad_token=pad,
        unk_token=proto.pieces[proto.trainer_spec.unk_id].piece,
        clean_up_tokenization_spaces=False,
    )
    return tokenizer


def _build_backend(proto: Any, name: str) -> Any:
    trainer, spec = proto.trainer_spec, proto.normalizer_spec
    vocabulary = [(piece.piece, piece.score) for piece in proto.pieces]
    if trainer.model_type == trainer.UNIGRAM:
        model: Any = models.Unigram(
            vocabulary, unk_id=trainer.unk_id, byte_fallback=trainer.byte_fallback
        )
    elif trainer.model_type == trainer.BPE:
        from transformers.convert_slow_tokenizer import generate_merges

        ids = {piece: index for index, (piece, _) in enumerate(vocabulary)}
        scores = dict(vocabulary)
        model = models.BPE(
            ids,
            generate_merges(ids, scores),
            unk_token=proto.pieces[trainer.unk_id].piece,
            fuse_unk=True,
            byte_fallback=trainer.byte_fallback,
        )
    else:
        raise UserError(f"{name}: only unigram and BPE models are read")
    encoding: list[Any] = []
    decoding = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if spec.precompiled_charsmap:
        encoding.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        encoding += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        encoding.append(normalizers.Prepend(" "))
        decoding.append(decoders.Strip(" ", 1, 0))
    encoding.append(normalizers.Replace(" ", SPACE))
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence(encoding)
    backend.decoder = decoders.Sequence(decoding)
    return backend
