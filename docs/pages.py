"""What a page of the book consists of: its front matter, its cells and its prose, each with its lines in the file.

The pages are MyST Markdown. This reads what the book uses of it: fences of backticks, colon fences, front matter whose
values stand on one line, formulas in $ and $$. It needs the standard library alone, so that the tests do too.
"""
import re
from pathlib import Path
from typing import Iterator, NamedTuple

DOCS = Path(__file__).parent
ORDER = ["learning_to_speak", "tokens", "tape", "gradcheck", "linear", "softmax_cross_entropy", "layernorm_gelu",
         "attention", "debugging", "optimizers", "speaking", "break_it", "from_gpt2"]    # in the order of reading
FENCE = re.compile(r" *(`{3,})(?:\{([\w-]+)\})?[ \t]*([^`]*)")
TEXT = {"admonition", "note", "tip", "hint", "important", "warning", "dropdown"}     # directives whose content is prose


class Fence(NamedTuple):
    """A block between lines of backticks. line, end: those of its first and last line, counted from 1; content: the
    line of the first line of source, which is below the options."""
    directive: str                              # "" for a block of code
    argument: str
    options: dict[str, str]
    source: str
    line: int
    content: int
    end: int

    @property
    def tags(self) -> list[str]:
        return names(self.options.get("tags", "[]"))


class Page:
    """A page of docs/, read from its file. ValueError if its front matter has no end."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.stem
        self.text = path.read_text("utf-8")
        self.lines = self.text.splitlines()
        self.front: dict[str, str] = {}
        self.body = 0                           # how many lines the front matter has
        if self.lines and self.lines[0] == "---":
            if "---" not in self.lines[1:]:
                raise ValueError(f"docs/{path.name}: the front matter has no end, a second line ---")
            self.body = self.lines.index("---", 1) + 1
            self.front = dict(_options(self.lines[1:self.body - 1]))
        self.fences = list(_fences(self.lines, self.body))
        self.cells = [fence for fence in self.fences if fence.directive == "code-cell"]

    @property
    def runs(self) -> bool:
        """Whether it has the header of a notebook, without which its cells are not run."""
        return self.front.get("file_format") == "mystnb" and "kernelspec" in self.front

    @property
    def title(self) -> str:
        return next(line[2:].strip() for line in self.lines[self.body:] if line.startswith("# "))

    def terms(self, key: str) -> list[str]:
        """The terms in the front matter's `introduces` or `uses`."""
        return names(self.front.get(key, "[]"))

    def prose(self) -> list[str]:
        """The lines of the file, in which all that is no prose is blank: front matter, code, formulas, the targets of
        links, HTML."""
        lines = ["" if number <= self.body else line for number, line in enumerate(self.lines, 1)]
        for fence in self.fences:
            inside = range(fence.content, fence.end) if fence.directive in TEXT else ()
            for number in range(fence.line, fence.end + 1):
                if number == fence.line and fence.directive in TEXT:
                    lines[number - 1] = fence.argument
                elif number not in inside:
                    lines[number - 1] = ""
        text = "\n".join(lines)
        for no_prose in (r"^ *```.*?^ *```", r"<!--.*?-->", r"\$\$.*?\$\$", r"(`+)[^`].*?(?<!`)\1(?!`)",
                         r"(?<!\\)\$[^$]+\$", r"(?<=\])\([^)\s]*\)", r"</?[a-zA-Z][^>]*>", r"^:{3,}.*?$"):
            text = re.sub(no_prose, lambda found: re.sub(r"[^\n]", " ", found[0]), text,
                          flags=re.DOTALL | re.MULTILINE)
        return text.split("\n")


def names(listed: str) -> list[str]:
    """The names in "[a, b c]"."""
    return [name for part in listed.strip("[] ").split(",") if (name := part.strip().strip("\"'"))]


def _options(lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        if found := re.fullmatch(r":?([\w-]+):\s*(.*)", line):
            yield found[1], found[2]


def _fences(lines: list[str], start: int) -> Iterator[Fence]:
    """The outermost fences, in the order of the file."""
    at = start
    while at < len(lines):
        opening = FENCE.fullmatch(lines[at])
        if opening:
            closing = re.compile(rf" *`{{{len(opening[1])},}}\s*")
            end = next((n for n in range(at + 1, len(lines)) if closing.fullmatch(lines[n])), len(lines) - 1)
            first, given = at + 1, []
            while first < end and opening[2] and re.match(r":[\w-]+:", lines[first]):
                given.append(lines[first])
                first += 1
            yield Fence(opening[2] or "", opening[3], dict(_options(given)), "\n".join(lines[first:end]), at + 1,
                        first + 1, end + 1)
            at = end
        at += 1


def chapters() -> list[Page]:
    """The chapters, in the order in which they are read."""
    return [Page(DOCS / f"{name}.md") for name in ORDER if (DOCS / f"{name}.md").exists()]
