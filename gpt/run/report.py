"""How a run prints what it reports."""
import textwrap


def print_report(label: str, text: str) -> None:
    """Print a text behind a label, folded to 80 columns."""
    print(textwrap.fill(f"{label:8}{text}", 79, subsequent_indent=" " * 8, break_on_hyphens=False,
                        break_long_words=False))
