"""Manual pages (roff: man and mdoc macros) and Perl's pod become plain paragraphs.

Knows the macros that documentation uses, not typesetting: what it does not know is left out, nothing is laid
out in columns. Knows nothing of where the files lie.
"""

from __future__ import annotations

import re
import shlex

_ESCAPES = (
    (re.compile(r"\\f(\(..|\[[^]]*\]|.)"), ""),  # fonts
    (re.compile(r"\\s[-+]?(\(\d\d|\[[^]]*\]|\d)"), ""),  # sizes
    (re.compile(r"\\[mn](\(..|\[[^]]*\]|.)"), ""),  # colours and registers
    (re.compile(r"\\[vhwlLDoz]'[^']*'"), ""),
    (re.compile(r"\\\((?:em|en|hy|mi)|\\\[(?:em|en|hy|mi)\]|\\-"), "-"),
    (re.compile(r"\\\((?:aq|cq|oq)|\\\[(?:aq|cq|oq)\]|\\['`]"), "'"),
    (re.compile(r"\\\((?:dq|lq|rq)|\\\[(?:dq|lq|rq)\]|\\\*\((?:lq|rq|L\"|R\")"), '"'),
    (re.compile(r"\\\((?:bu|ci)|\\\[(?:bu|ci)\]"), "*"),
    (re.compile(r"\\\((?:rs)|\\\[(?:rs)\]|\\e"), r"\\"),
    (re.compile(r"\\\(ti|\\\[ti\]"), "~"),
    (re.compile(r"\\\(ha|\\\[ha\]"), "^"),
    (re.compile(r"\\[ ~0]"), " "),
    (re.compile(r"\\\*?\(..|\\\*?\[[^]]*\]|\\\*."), ""),  # other characters and strings
    (re.compile(r"\\[&|^/,:%acdpu!)]"), ""),
    (re.compile(r"\\$"), ""),
)  # fmt: skip
_FONTS = {"B", "I", "SM", "SB", "R"}
_TURNS = {"BR", "IR", "RB", "RI", "BI", "IB"}
_BREAKS = {
    "PP", "P", "LP", "sp", "TP", "HP", "TQ", "RS", "RE", "br", "Pp", "Bl", "El", "Bd", "Ed", "nf", "fi", "EX", "EE",
}  # fmt: skip
# mdoc: macros whose arguments are read, and what stands before and after them
_MDOC = {
    "Fl": ("-", ""), "Op": ("[", "]"), "Oo": ("[", ""), "Oc": ("", "]"), "Dq": ('"', '"'), "Qq": ('"', '"'),
    "Sq": ("'", "'"), "Pq": ("(", ")"), "Aq": ("<", ">"), "Nm": ("", ""), "Ar": ("", ""), "Cm": ("", ""),
    "Pa": ("", ""),
    "Ic": ("", ""), "Li": ("", ""), "Va": ("", ""), "Vt": ("", ""), "Fa": ("", ""), "Fn": ("", "()"), "Ft": ("", ""),
    "Er": ("", ""), "Ev": ("", ""), "Em": ("", ""), "Sy": ("", ""), "Dv": ("", ""), "Tn": ("", ""), "Ql": ("'", "'"),
    "Dl": ("", ""), "D1": ("", ""), "It": ("", ""), "Nd": ("-", ""), "An": ("", ""), "Lk": ("", ""), "Xr": ("", ""),
    "In": ("<", ">"), "Cd": ("", ""), "Ms": ("", ""), "No": ("", ""), "Ns": ("", ""), "Bx": ("BSD", ""),
    "Fx": ("FreeBSD", ""),
}  # fmt: skip


def roff(source: str) -> str:
    """The text of a manual page: headings and paragraphs, a blank line between them, no line wrapped."""
    paragraphs: list[str] = []
    line_by_line, defining, name = False, False, ""
    held: list[str] = []

    def close() -> None:
        if held:
            paragraphs.append(("\n" if line_by_line else " ").join(held).strip("\n"))
            held.clear()

    for line in source.replace("\\\n", "").split("\n"):
        if defining:
            defining = not line.startswith("..")
            continue
        if not line.startswith((".", "'")):
            text = _plain(line)
            if text.strip():
                held.append(text if line_by_line else text.strip())
            else:
                close()
            continue
        macro, _, rest = line[1:].strip().partition(" ")
        if macro in ("de", "de1", "ig"):
            defining = True
        elif macro in ("SH", "SS", "Sh", "Ss"):
            close()
            line_by_line = False
            paragraphs.append(" ".join(_arguments(rest)))
        elif macro == "IP":
            close()
            held += _arguments(rest)[:1]
        elif macro in _BREAKS:
            close()
            if macro in ("nf", "EX", "Bd", "fi", "EE", "Ed"):
                line_by_line = macro in ("nf", "EX") or (macro == "Bd" and "-literal" in rest)
        elif macro in _FONTS:
            held.append(" ".join(_arguments(rest)))
        elif macro in _TURNS:
            held.append("".join(_arguments(rest)))
        elif macro in ("UR", "MT"):
            held += _arguments(rest)[:1]
        elif macro in _MDOC:
            if macro == "It":
                close()
            words = [macro, *_arguments(rest)]
            if macro == "Nm":
                name = words[1] if len(words) > 1 else name
                words = [macro, *(words[1:] or [name])]
            held.append(_mdoc(words))
    close()
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph.strip())


def pod(source: str) -> str:
    """The text of Perl's plain old documentation."""
    paragraphs = []
    for paragraph in re.split(r"\n[ \t]*\n", source):
        if paragraph.startswith(("=head", "=item")):
            paragraph = paragraph.partition(" ")[2]
        elif paragraph.startswith("="):
            continue
        paragraph = re.sub(r"X<[^<>]*>", "", paragraph)
        while True:  # codes nest: the innermost first
            plain = re.sub(r"[BCFILSZ]<(?:<+ )?(?:[^<>|]*\|)?([^<>]*?)(?: >+)?>", r"\1", paragraph)
            if plain == paragraph:
                break
            paragraph = plain
        paragraphs.append(paragraph.replace("E<gt>", ">").replace("E<lt>", "<").strip("\n"))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph.strip())


def _plain(text: str) -> str:
    text = re.sub(r'\\["#].*$', "", text)
    for pattern, replacement in _ESCAPES:
        text = pattern.sub(replacement, text)
    return text


def _arguments(rest: str) -> list[str]:
    """The arguments of a macro; a double quote holds several words together."""
    rest = _plain(rest)
    lexer = shlex.shlex(rest, posix=True)
    lexer.whitespace_split, lexer.quotes, lexer.escape, lexer.commenters = True, '"', "", ""
    try:
        return list(lexer)
    except ValueError:  # a quote that is not closed
        return rest.replace('"', "").split()


def _mdoc(words: list[str]) -> str:
    """A line of mdoc: macros among its words are read too."""
    out: list[str] = []
    tail = ""
    index = 0
    while index < len(words):
        word = words[index]
        if word in _MDOC:
            before, after = _MDOC[word]
            if word == "Xr" and index + 2 < len(words) and words[index + 2][:1].isdigit():
                out.append(f"{words[index + 1]}({words[index + 2]})")
                index += 3
                continue
            if word == "Fl" and index + 1 < len(words):
                out.append("-" + words[index + 1])
                index += 2
                continue
            if before:
                out.append(before)
            tail = after + tail
        else:
            out.append(word)
        index += 1
    text = " ".join(out) + tail
    text = re.sub(r"([\[(<\"]) ", r"\1", text)
    return re.sub(r" ([])>.,;:])", r"\1", text)
