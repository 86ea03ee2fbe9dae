"""Three vocabularies, one interface: contexts from texts, texts from samples, files of a folder."""

from __future__ import annotations

import json

import pytest
import torch
from support.lm_models import BEGIN, END, TURN, make_gpt2_folder, make_llama_folder, make_tokenizer

from lm.models.token_ids import ModelFolderError, TokenIds
from lm.models.tokenizer import TokenizerVocabulary, load_vocabulary
from lm.models.vocabulary import CharVocabulary, IdVocabulary, VocabularyError
from lm.policy.prompts import Prompts

LLAMA_IDS = TokenIds(bos_id=BEGIN, eos_ids=(END, TURN), pad_id=END)
GPT2_IDS = TokenIds(bos_id=END, eos_ids=(END,), pad_id=END)
SIZE = TURN + 1


def _llama() -> TokenizerVocabulary:
    return TokenizerVocabulary(make_tokenizer(adds_begin=True), LLAMA_IDS, SIZE)


def _gpt2() -> TokenizerVocabulary:
    return TokenizerVocabulary(make_tokenizer(adds_begin=False), GPT2_IDS, SIZE)


def _batch(rows, pad: int):
    """Pad rows on the right; the mask covers each row."""
    longest = max(map(len, rows))
    tokens = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
    return tokens, torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]


def test_characters_make_contexts_and_texts():
    vocabulary = CharVocabulary("abc")
    assert vocabulary.encode_prompts(["", "cab"]) == [[1], [1, 5, 3, 4]]
    tokens, mask = vocabulary.encode(["a", "bc"])
    prompts = Prompts.from_ids(vocabulary.encode_prompts(["cc", ""]))
    assert vocabulary.decode(tokens, mask) == ["a", "bc"]
    assert vocabulary.decode(tokens, mask, prompts) == ["cca", "bc"]
    with pytest.raises(VocabularyError, match="'ax' has the character 'x'"):
        _ = vocabulary.encode_prompts(["a", "ax"])


def test_a_start_token_that_was_sampled_is_shown_and_a_given_one_is_not():
    vocabulary = CharVocabulary("abc")
    tokens, mask = _batch([[1, 3, 2]], pad=0)
    assert vocabulary.decode(tokens, mask) == ["¤a"]
    assert vocabulary.decode(tokens, mask, Prompts.from_ids([[1, 4]])) == ["b¤a"]
    # Cut at the limit: no end token, so that "a" is not taken for the whole name.
    assert vocabulary.decode(tokens[:, 1:2], mask[:, 1:2]) == ["a…"]


def test_ids_are_texts_where_there_is_no_tokenizer():
    vocabulary = IdVocabulary(bos_id=10, eos_ids=(11, 9), size=12)
    assert vocabulary.encode_prompts(["5 7", "10 5", ""]) == [[10, 5, 7], [10, 5], [10]]
    tokens, mask = _batch([[3, 4, 9], [11], [2, 2, 2]], pad=11)
    assert vocabulary.decode(tokens, mask) == ["3 4", "", "2 2 2"]
    prompts = Prompts.from_ids(vocabulary.encode_prompts(["5 7", "", "1"]))
    assert vocabulary.decode(tokens, mask, prompts) == ["5 7 3 4", "", "1 2 2 2"]
    for wrong in ("12", "-1", "x", "1.5", "²", 5000 * "9"):
        with pytest.raises(VocabularyError, match=r"no token id.*numbers from 0 to 11"):
            _ = vocabulary.encode_prompts([wrong])


def test_the_tokenizer_decides_about_the_start_token():
    ids = [257, 258]
    assert _llama().encode_prompts([" the", ""]) == [[BEGIN, ids[1]], [BEGIN]]
    # GPT-2's adds none; without any token there is nothing to condition on but the start token.
    assert _gpt2().encode_prompts([" the", "the", ""]) == [[ids[1]], [ids[0]], [END]]


def test_a_start_token_in_the_text_is_not_doubled():
    # Chat templates write it out; two of them are a context that no model was trained on.
    assert _llama().encode_prompts(["<|begin|> the", "<|begin|>"]) == [[BEGIN, 258], [BEGIN]]
    assert _llama().encode_prompts(["<|begin|><|begin|>"]) == [[BEGIN, BEGIN]]


def test_an_end_token_that_the_tokenizer_appends_is_left_out():
    from tokenizers import processors

    tokenizer = make_tokenizer(adds_begin=True)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A <|end|>",
        special_tokens=[("<|begin|>", BEGIN), ("<|end|>", END)],
    )
    vocabulary = TokenizerVocabulary(tokenizer, LLAMA_IDS, SIZE)
    # A completion would start after the end of the text; one in the text itself is meant.
    assert vocabulary.encode_prompts([" the", ""]) == [[BEGIN, 258], [BEGIN]]
    assert vocabulary.encode_prompts(["a<|end|>"])[0][-1] == END


@pytest.mark.parametrize("text", ["the cat in the court", "  two  spaces ,", "café – ∑", "don 't"])
def test_texts_survive_the_tokenizer(text):
    for vocabulary in (_llama(), _gpt2()):
        context = vocabulary.encode_prompts([text])[0]
        row = [token for token in context if token != BEGIN]
        tokens, mask = _batch([[*row, END], row], pad=END)
        assert vocabulary.decode(tokens, mask) == [text, text]
        # Split between prompt and completion, even inside a character of several bytes.
        for cut in range(1, len(row)):
            prompts = Prompts.from_ids([[BEGIN, *row[:cut]]], pad_id=END)
            assert vocabulary.decode(*_batch([row[cut:]], pad=END), prompts) == [text]


def test_a_completion_keeps_its_first_space_where_the_decoder_would_drop_it():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "</s>", "▁the", "▁cat", "s", "▁"]
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    vocabulary = TokenizerVocabulary(tokenizer, TokenIds(0, (1,), 1), len(words))
    tokens, mask = _batch([[3, 1], [4, 3, 1], [3, 4]], pad=1)
    prompts = Prompts.from_ids([[0, 2], [0, 3], [0]])
    whole = vocabulary.decode(tokens, mask, prompts)
    assert whole == ["the cat", "cats cat", "cats"]
    assert vocabulary.decode_completions(tokens, mask, prompts) == [" cat", "s cat", "cats"]


@pytest.mark.parametrize("build", [_llama, _gpt2])
def test_prompt_and_completion_are_the_text_also_where_a_character_is_cut(build):
    vocabulary = build()
    row = vocabulary.encode_prompts(["a café – ∑"])[0]
    given = len([token for token in row if token == BEGIN])
    for cut in range(given + 1, len(row)):
        prompts = Prompts.from_ids([row[:cut]], pad_id=END)
        batch = _batch([row[cut:]], pad=END)
        [completion] = vocabulary.decode_completions(*batch, prompts)
        [prompt] = vocabulary.decode(*_batch([row[:cut]], pad=END))
        # Half a character is shown as what stands for it, on both sides of the cut.
        assert prompt + completion == "a café – ∑" or "\ufffd" in prompt
        if "\ufffd" in prompt:
            assert [completion] == vocabulary.decode(*batch)


def test_half_of_a_character_has_no_tokens_and_is_refused():
    with pytest.raises(VocabularyError, match=r"'bad \\ud83d' holds half of a character"):
        _ = _llama().encode_prompts(["good", "bad \ud83d"])


def test_every_end_token_and_left_padding_disappear():
    vocabulary = _llama()
    tokens, mask = _batch([[257, TURN], [257, END], [257, 261, 260]], pad=END)
    assert vocabulary.decode(tokens, mask) == ["the", "the", "the cin"]
    prompts = Prompts.from_ids(vocabulary.encode_prompts(["", "a b", "the"]), pad_id=END)
    assert not bool(prompts.mask.all())
    assert vocabulary.decode(tokens, mask, prompts) == ["the", "a bthe", "thethe cin"]


def test_an_end_token_that_is_not_special_is_no_part_of_the_text():
    newline = make_tokenizer(adds_begin=False).encode("\n")[0]
    ids = TokenIds(bos_id=END, eos_ids=(newline,), pad_id=newline)
    vocabulary = TokenizerVocabulary(make_tokenizer(adds_begin=False), ids, SIZE)
    tokens, mask = _batch([[257, newline]], pad=newline)
    assert vocabulary.decode(tokens, mask) == ["the"]


def test_a_token_that_the_model_does_not_know_is_refused():
    vocabulary = TokenizerVocabulary(make_tokenizer(adds_begin=False), GPT2_IDS, 258)
    assert vocabulary.encode_prompts(["the"]) == [[257]]
    with pytest.raises(VocabularyError, match="token 258, but the model has 258 tokens"):
        _ = vocabulary.encode_prompts([" the"])


def test_a_folder_has_the_vocabulary_of_its_files(tmp_path):
    with_letters = TokenIds(1, (2,), 0, 4, "ab")
    assert load_vocabulary(tmp_path, with_letters, 5) == CharVocabulary("ab")
    bare = make_llama_folder(tmp_path / "bare", tokenizer=False)
    assert load_vocabulary(bare, TokenIds(10, (11, 9), 11), 12) == IdVocabulary(10, (11, 9), 12)
    for make, ids in [(make_llama_folder, LLAMA_IDS), (make_gpt2_folder, GPT2_IDS)]:
        folder = make(tmp_path / make.__name__)
        vocabulary = load_vocabulary(folder, ids, SIZE)
        assert isinstance(vocabulary, TokenizerVocabulary)
        copy = tmp_path / f"copy of {make.__name__}"
        vocabulary.save(copy)
        again = load_vocabulary(copy, ids, SIZE)
        texts = ["the cat", "<|begin|> in", ""]
        assert again.encode_prompts(texts) == vocabulary.encode_prompts(texts)


def test_a_tokenizer_with_code_of_its_own_is_refused_and_not_run(tmp_path):
    folder = make_gpt2_folder(tmp_path)
    path = folder / "tokenizer_config.json"
    stored = json.loads(path.read_text())
    _ = (folder / "mine.py").write_text("raise SystemExit('remote code ran')")
    auto_map = {"AutoTokenizer": ["mine.MyTokenizer", None]}
    _ = path.write_text(
        json.dumps(stored | {"tokenizer_class": "MyTokenizer", "auto_map": auto_map})
    )
    with pytest.raises(ModelFolderError, match=r"code of its own \(auto_map\), which is never run"):
        _ = load_vocabulary(folder, GPT2_IDS, SIZE)
    _ = path.write_text("{")
    with pytest.raises(ModelFolderError, match=r"tokenizer_config\.json is not valid JSON"):
        _ = load_vocabulary(folder, GPT2_IDS, SIZE)


def test_a_damaged_tokenizer_is_refused(tmp_path):
    folder = make_gpt2_folder(tmp_path)
    _ = (folder / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ModelFolderError, match=r"the tokenizer of .* does not load"):
        _ = load_vocabulary(folder, GPT2_IDS, SIZE)
