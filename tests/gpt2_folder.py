"""A small GPT-2 with a tokenizer in a folder as transformers writes it, made on the spot."""
import json

from gpt.model import GPT, GPTConfig

TEXTS = [
    "", " ", "the quick brown fox", "  many   spaces     here  ", "\ttabs\t\tand\n\nlines \n", "ends\r\nof\r\nlines",
    "👩\u200d👩\u200d👧 family 🏳️\u200d🌈!", "日本語のテキスト、中文 한국어", "e\u0301 a\u0308\u0323 n\u0303 \u00e9",
    "1234567890 3.14 1,000 ½ ²", "don't I'LL we've it's 's ''S", "<|endoftext|>", "one<|endoftext|>two",
    " <|endoftext|> <|endoftext|><|endoftext|>", "<|endoftext", "\u00a0\u2003\u200b x", "\x00\x01\x7f",
    "İstanbul ǅ ß ﬁ", "\ufeffmark", 40 * "aA", "\u2028\u2029\x85",
]
VOCAB_SIZE = 330


def train_tokenizer(vocab_size=VOCAB_SIZE):
    """A byte-level BPE as GPT-2's, of the tokenizers library; <|endoftext|> is token 0."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(3 * TEXTS, trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
        special_tokens=["<|endoftext|>"]))
    assert made.get_vocab_size() == vocab_size
    return made


def write_tokenizer(folder, layout="tokenizer.json"):
    """Write tokenizer.json, or vocab.json and merges.txt."""
    folder.mkdir(exist_ok=True)
    made = train_tokenizer()
    if layout == "tokenizer.json":
        made.save(str(folder / layout))
    else:
        made.model.save(str(folder))
    return folder


def write_folder(folder, layout="tokenizer.json", vocab_size=VOCAB_SIZE, seed=0):
    """Write a GPT-2 of 2 layers, 16 wide, with a context of 12 tokens, and its tokenizer."""
    write_tokenizer(folder, layout)
    GPT(GPTConfig(block_size=12, vocab_size=vocab_size, n_layer=2, n_head=2, n_embd=16), seed).save_pretrained(folder)
    return folder


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")
