"""Fixtures of all tests: tools that may be missing, and tiny checkpoints in the ecosystem's own formats,
written by transformers and tokenizers themselves."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

# No test may hang on how busy the machine is.
hypothesis.settings.register_profile("ondevice", deadline=None)
hypothesis.settings.load_profile("ondevice")

# Before torch is loaded: its threads sleep while they wait, or two processes on two cores take ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "Return the absolute value of a number",
    "Two tables, five chairs and one café",
    "Ünïcode, CAPITALS and numbers: 1234567890!",
    "how do I open a file and read its lines? " * 12,
]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def require_tool() -> Callable[[str, str], str]:
    """Skip a test by name where a tool is missing, with the command that installs it; fail under CI."""

    def check(name: str, package: str) -> str:
        path = shutil.which(name)
        if path is None:
            message = f"{name} is missing; install it with: apt-get install {package}"
            if os.environ.get("ONDEVICE_REQUIRE_ALL") == "1":
                pytest.fail(message)
            pytest.skip(message)
        return path

    return check


@pytest.fixture
def sentences() -> list[str]:
    """Texts of unequal length, one longer than a tiny checkpoint takes."""
    return SENTENCES


def _tokenizer(family: str) -> Any:
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bert = family == "bert"
    roles = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if not bert:
        roles = ("cls_token", "pad_token", "sep_token", "unk_token", "mask_token")
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    names = dict(zip(roles, special, strict=True))
    if bert:
        tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    elif family == "roberta":
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=330, special_tokens=special, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )  # fmt: skip
    else:
        tokenizer = tokenizers.Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    cls, sep = (tokenizer.token_to_id(names[k]) for k in ("cls_token", "sep_token"))
    if bert:
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    else:
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", sep), ("<s>", cls))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=48, **names)


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """write(family, head="Model", pooling=None, …) -> the folder of a random checkpoint of 2 layers.

    pooling: also write sentence-transformers' files, with that pooling and, if normalize, its third module.
    pickled: pytorch_model.bin instead of model.safetensors. settings: for the configuration.
    """

    def write(
        family: str, head: str = "Model", *, pooling: str | None = None, normalize: bool = True,
        pickled: bool = False, seed: int = 0, name: str = "checkpoint", **settings: Any,
    ) -> Path:  # fmt: skip
        import torch
        import transformers

        folder = tmp_path / f"{name}-{family}-{head}"
        tokenizer = _tokenizer(family)
        stem = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}[family]
        defaults = {
            "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id,
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
            "max_position_embeddings": 40, "initializer_range": 0.3, "num_labels": 3,
        }  # fmt: skip
        if family != "bert":
            defaults |= {"type_vocab_size": 1, "layer_norm_eps": 1e-5}
        config = getattr(transformers, f"{stem}Config")(**(defaults | settings))
        torch.manual_seed(seed)
        module = getattr(transformers, f"{stem}{head}")(config).eval()
        for parameter in module.parameters():  # biases and norms start at 0 and 1, which hides mistakes
            parameter.data += 0.05 * torch.randn_like(parameter)
        module.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if pickled:
            (folder / "model.safetensors").unlink()
            torch.save(module.state_dict(), folder / "pytorch_model.bin")
        if pooling:
            modules = ["Transformer", "Pooling"] + ["Normalize"] * normalize
            paths = ["", "1_Pooling", "2_Normalize"]
            entries = [
                {"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.models.{kind}"}
                for i, kind in enumerate(modules)
            ]
            (folder / "modules.json").write_text(json.dumps(entries))
            for path in paths[1 : len(modules)]:
                (folder / path).mkdir()
            flags = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
            config_1 = {"word_embedding_dimension": 32, f"pooling_mode_{flags.get(pooling, pooling)}": True}
            (folder / "1_Pooling" / "config.json").write_text(json.dumps(config_1))
            (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20}))
        return folder

    return write


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """write(family, …) -> the folder of a random decoder of 2 layers and 64 values, with a byte-level tokenizer.

    begin: its tokenizer begins a text with <s>. settings: for the configuration.
    """

    def write(family: str = "llama", *, begin: bool = True, seed: int = 0, **settings: Any) -> Path:
        import torch
        import transformers
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

        folder = tmp_path_factory.mktemp(family)
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=320, special_tokens=["<s>", "</s>"], show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        )  # fmt: skip
        tokenizer.train_from_iterator(SENTENCES, trainer)
        if begin:
            tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
        fast = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", model_max_length=96
        )
        fast.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
        fast.save_pretrained(folder)
        defaults = {
            "vocab_size": tokenizer.get_vocab_size(), "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.15,
        }  # fmt: skip
        config = transformers.AutoConfig.for_model(family, **(defaults | settings))
        torch.manual_seed(seed)
        module = transformers.AutoModelForCausalLM.from_config(config).eval()
        for parameter in module.parameters():  # norms start at 1 and biases at 0, which hides mistakes
            parameter.data += 0.05 * torch.randn_like(parameter)
        module.save_pretrained(folder, max_shard_size="100KB")
        return folder

    return write
