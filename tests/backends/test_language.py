"""Language models end to end: folders that transformers writes, and its own generation as the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ondevice.errors import BadInput, UnsupportedModel
from ondevice.runtime.decode.sampling import Sampling
from ondevice.verbs.open import language_folder, open_language
from ondevice.verbs.run import write

TEXTS = ["the quick brown fox", "naïve café … 字字 and größer", "def read(path): return open(path)"] * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("llama")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    fast.save_pretrained(where)
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    module = transformers.LlamaForCausalLM(config)
    for parameter in module.parameters():
        parameter.data = (parameter.data + 0.3 * torch.randn(parameter.shape)).bfloat16()
    module.save_pretrained(where, max_shard_size="100KB")
    assert (where / "model.safetensors.index.json").exists()
    return where


def theirs(folder: Path, prompt: str, limit: int) -> tuple[list[int], str]:
    module = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.inference_mode():
        out = module.generate(ids, max_new_tokens=limit, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    new = [token for token in out.tolist() if token != 1]
    return new, tokenizer.decode(new)


@pytest.mark.parametrize("prompt", ["the quick", "naïve", "字", "def read("])
def test_the_text_is_that_of_transformers(folder: Path, prompt: str) -> None:
    tokens, text = theirs(folder, prompt, 40)
    pieces = list(write(folder, prompt, limit=40, threads=1))
    assert [piece.token for piece in pieces] == tokens
    got = "".join(piece.text for piece in pieces)
    # bytes that are no whole character at the very end are still held back
    assert text.rstrip("\ufffd") == got.rstrip("\ufffd")


def test_a_chat_is_its_rendered_prompt(folder: Path) -> None:
    with open_language(folder, threads=1) as session:
        chat = [piece.token for piece in session.chat([{"role": "user", "content": "hello"}], limit=12)]
        plain = [piece.token for piece in session.generate("user: hello\nassistant:", limit=12)]
    assert chat == plain


def test_stop_strings_end_the_text_before_them(folder: Path) -> None:
    with open_language(folder, threads=1) as session:
        whole = "".join(piece.text for piece in session.generate("the quick", limit=40))
        middle = len(whole) // 2
        for stop in (whole[middle], whole[middle : middle + 5]):  # within a piece, and over several
            for stops in ([stop], ["\x00never", stop]):
                pieces = session.generate("the quick", limit=40, stop=stops)
                assert "".join(piece.text for piece in pieces) == whole[: whole.find(stop)]
        assert session.engine.decoder.cache.bytes_used == 0
        kept = "".join(
            piece.text for piece in session.generate("the quick", limit=40, stop=[whole[-3:] + "\x00"])
        )
        assert kept == whole  # what looked like a stop string at the end is given out


def test_draws_follow_their_seed(folder: Path) -> None:
    def text(seed: int) -> str:
        sampling = Sampling(temperature=1.0, top_p=0.9, seed=seed)
        return "".join(piece.text for piece in write(folder, "the", sampling=sampling, limit=20, threads=1))

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_a_language_model_is_told_from_other_folders(folder: Path, tmp_path: Path) -> None:
    assert language_folder(folder) == folder
    assert language_folder(tmp_path) is None
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert language_folder(tmp_path) is None
    assert language_folder("nobody") is None


def test_bad_input(folder: Path, tmp_path: Path) -> None:
    with open_language(folder, context=30) as session:
        with pytest.raises(BadInput, match="empty"):
            session.generate("")
        with pytest.raises(BadInput, match="holds 30 with the answer"):
            list(session.generate("fox " * 100))
        with pytest.raises(BadInput, match="list of strings"):
            list(session.generate("the", stop="x"))
        session.template = None
        with pytest.raises(BadInput, match="no chat template"):
            session.chat([{"role": "user", "content": "x"}])
    with pytest.raises(BadInput, match="closed"):
        list(session.generate("the"))
    with pytest.raises(BadInput, match="no room"):
        open_language(folder, context=1)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    with pytest.raises(UnsupportedModel, match="mamba"):
        open_language(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match="tokenizer"):
        open_language(tmp_path)
