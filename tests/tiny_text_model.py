"""A tiny text transformer with random weights, laid out as the hub's are."""

from pathlib import Path

import pytest
from made_data import LABELS, WORDS


def write_text_model(
    folder: Path,
    *,
    kind: str = "bert",
    hidden: int = 16,
    layers: int = 2,
    seed: int = 0,
    **further: int,
) -> Path:
    """Write one of a kind of transformers' with BERT's tokenizer into a new folder, and return
    that; `further`: of its configuration."""
    reason = "pip install -e '.[transformer]'"
    transformers = pytest.importorskip("transformers", reason=f"no transformers: {reason}")
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *(name for _, name, _ in LABELS)]
    words += ["shape", "##s", "red", "green", "blue", "circle", "square", "star", "and", "with"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    config = transformers.AutoConfig.for_model(
        kind,
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=40,
        hidden_dropout_prob=0.3,
        **further,
    )
    torch.manual_seed(seed)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]",
        cls_token="[CLS]", sep_token="[SEP]",
    ).save_pretrained(folder)  # fmt: skip
    return folder
