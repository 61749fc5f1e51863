"""An encoder-decoder through the verbs: a T5 folder that transformers writes, and its own generation as the oracle."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
import transformers
from starlette.testclient import TestClient
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from ondevice.errors import BadInput, BudgetNotMet
from ondevice.measure.memory import run_command
from ondevice.verbs.export import export
from ondevice.verbs.open import open_language
from ondevice.verbs.run import open_within, write
from ondevice.verbs.serve import application

PROMPTS = ["translate: the house", "small", "the house is wonderful and small " * 3]
_FILL = """
import sys
from ondevice.verbs.run import open_within
with open_within(sys.argv[1], sys.argv[2], threads=1) as session:
    engine = session.engine
    context = engine.decoder.context
    count = sum(1 for _ in engine.stream([7] * (context - 1), limit=context - 2))
    open(sys.argv[3], "w").write(f"{context} {count}")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("models") / "t5"
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=100, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>"
    )
    words = ["translate: the house is wonderful and small", "Das Haus ist wunderbar und klein"]
    tokenizer.train_from_iterator(words * 5, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    fast.save_pretrained(where)
    torch.manual_seed(9)
    config = transformers.T5Config(
        vocab_size=len(fast), d_model=64, d_ff=96, d_kv=16, num_heads=4, num_layers=2, num_decoder_layers=2,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0, n_positions=400,
    )  # fmt: skip
    module = transformers.T5ForConditionalGeneration(config)
    for parameter in module.parameters():
        parameter.data += 0.4 * torch.randn(parameter.shape)
    module.save_pretrained(where)
    return where


def theirs(folder: Path, prompt: str, limit: int) -> tuple[list[int], str]:
    module = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    [out] = module.generate(ids, max_new_tokens=limit, do_sample=False)
    tokens = [token for token in out.tolist()[1:] if token != 1]
    return tokens, tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_text_is_that_of_transformers(folder: Path, prompt: str) -> None:
    tokens, text = theirs(folder, prompt, 40)
    pieces = list(write(folder, prompt, limit=40, threads=1, cache="float32"))
    assert [piece.token for piece in pieces] == tokens
    assert "".join(piece.text for piece in pieces) == text


def test_completions_are_served_and_company_changes_none(folder: Path) -> None:
    with (
        TestClient(application(folder, threads=2).app(), base_url="http://here/v1") as http,
        openai.OpenAI(base_url="http://here/v1", api_key="none", max_retries=0, http_client=http) as client,
    ):

        def ask(prompt: str) -> str:
            stream = client.completions.create(
                model="t5", prompt=prompt, max_tokens=30, temperature=0, stream=True
            )
            return "".join(chunk.choices[0].text for chunk in stream)

        with ThreadPoolExecutor(3) as pool:
            got = list(pool.map(ask, PROMPTS))
        form: Any = {"guided_regex": "[a-z]{3,9}"}
        with pytest.raises(openai.BadRequestError, match="cannot be held to a form"):
            client.completions.create(model="t5", prompt="small", extra_body=form)
        with pytest.raises(openai.BadRequestError, match="no chat template"):
            client.chat.completions.create(model="t5", messages=[{"role": "user", "content": "small"}])
    for prompt, text in zip(PROMPTS, got, strict=True):
        assert text == "".join(piece.text for piece in write(folder, prompt, limit=30, threads=1))


def test_a_limit_on_memory_is_kept(folder: Path, tmp_path: Path) -> None:
    said = tmp_path / "said"
    run = run_command([sys.executable, "-c", _FILL, str(folder), "150MB", str(said)], timeout=300)
    context, count = map(int, said.read_text().split())
    assert context == 400
    assert count > 0
    assert run.peak_bytes <= 150e6
    with pytest.raises(BudgetNotMet, match="50 MB of memory do not hold"):
        open_within(folder, "50MB")


def test_bad_input(folder: Path, tmp_path: Path) -> None:
    with open_language(folder, context=20, cache="int8") as session:
        assert len(list(session.generate("small", limit=100))) < 20
        with pytest.raises(BadInput, match="context holds 20"):
            list(session.generate(PROMPTS[-1]))
    with pytest.raises(BadInput, match="head_size must be a multiple of 32"):
        open_language(folder, cache="int4")
    with pytest.raises(BadInput, match="'t5' has no GGUF form"):
        export(folder, "gguf", out=tmp_path / "out")
