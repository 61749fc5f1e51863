// BERT's tokenizer, from the tokenizer.json that `tokenizers` writes.
//
// Knows BertNormalizer, BertPreTokenizer and WordPiece. Knows nothing of models.
// Source: Devlin et al. 2018; the rules are those of Hugging Face's `tokenizers`, whose tables of characters are
// older than a browser's: characters that Unicode got since 2015 may be taken for marks or punctuation here.

const CONTROL = /[\p{Cc}\p{Cf}\p{Co}\uFFFD]/u;
const KEPT_CONTROL = new Set(["\t", "\n", "\r"]);
const SPACE = /\p{White_Space}/u;
const MARK = /\p{Mn}/gu;
const PUNCTUATION = /[\p{P}$+<=>^`|~]/u;  // Unicode's, and all of ASCII's that is no letter or digit
const IDEOGRAPHS = [
  [0x4e00, 0x9fff], [0x3400, 0x4dbf], [0x20000, 0x2a6df], [0x2a700, 0x2b73f],
  [0x2b740, 0x2b81f], [0x2b920, 0x2ceaf], [0xf900, 0xfaff], [0x2f800, 0x2fa1f],
];

export class WordPiece {
  // document: the object in tokenizer.json; maxLength: longest result in tokens, special tokens included.
  constructor(document, maxLength) {
    const { model, normalizer, pre_tokenizer: pre, post_processor: post, added_tokens: added } = document;
    if (model.type !== "WordPiece" || normalizer?.type !== "BertNormalizer" || pre?.type !== "BertPreTokenizer") {
      throw new Error("only BERT's WordPiece tokenizer is supported here");
    }
    this.vocabulary = new Map(Object.entries(model.vocab));
    this.unknown = this.vocabulary.get(model.unk_token);
    this.prefix = model.continuing_subword_prefix;
    this.longestWord = model.max_input_chars_per_word;
    this.rules = normalizer;
    this.maxLength = maxLength;
    [this.first, this.last] = WordPiece.#around(post);
    this.added = new Map(added.map((token) => [token.content, token.id]));
    const names = added.map((token) => token.content.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    this.special = names.length ? new RegExp(`(${names.join("|")})`, "u") : null;
  }

  // The ids of a text, special tokens included.
  encode(text) {
    const ids = [];
    for (const part of this.special ? text.split(this.special) : [text]) {
      if (this.added.has(part)) ids.push(this.added.get(part));
      else for (const word of this.#words(this.#normalize(part))) ids.push(...this.#pieces(word));
    }
    return [this.first, ...ids.slice(0, this.maxLength - 2), this.last];
  }

  // The tokens before and after a text.
  static #around(post) {
    if (post?.type === "BertProcessing") return [post.cls[1], post.sep[1]];
    if (post?.type === "TemplateProcessing") {
      const names = post.single.filter((piece) => piece.SpecialToken).map((piece) => piece.SpecialToken.id);
      if (names.length === 2) return names.map((name) => post.special_tokens[name].ids[0]);
    }
    throw new Error("this tokenizer does not put one token before and one after a text");
  }

  #normalize(text) {
    let out = "";
    for (const character of text) {
      if (this.rules.clean_text) {
        if (CONTROL.test(character) && !KEPT_CONTROL.has(character)) continue;
        if (SPACE.test(character)) { out += " "; continue; }
      }
      const code = character.codePointAt(0);
      const ideograph = IDEOGRAPHS.some(([low, high]) => low <= code && code <= high);
      out += this.rules.handle_chinese_chars && ideograph ? ` ${character} ` : character;
    }
    if (this.rules.strip_accents ?? this.rules.lowercase) out = out.normalize("NFD").replace(MARK, "");
    // One character at a time: the whole string's rule for a final sigma is not WordPiece's.
    return this.rules.lowercase ? Array.from(out, (character) => character.toLowerCase()).join("") : out;
  }

  // Runs between spaces; every punctuation character is one of its own.
  *#words(text) {
    let word = [];
    for (const character of text) {
      const punctuation = PUNCTUATION.test(character);
      if ((punctuation || SPACE.test(character)) && word.length) { yield word; word = []; }
      if (punctuation) yield [character];
      else if (!SPACE.test(character)) word.push(character);
    }
    if (word.length) yield word;
  }

  // The longest known piece first, again and again; one unknown token where that fails.
  #pieces(word) {
    if (word.length > this.longestWord) return [this.unknown];
    const ids = [];
    for (let start = 0; start < word.length;) {
      let end = word.length, id;
      for (; end > start && id === undefined; end--) {
        id = this.vocabulary.get((start ? this.prefix : "") + word.slice(start, end).join(""));
      }
      if (id === undefined) return [this.unknown];
      ids.push(id);
      start = end + 1;
    }
    return ids;
  }
}
