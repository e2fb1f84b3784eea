"""Walk through a backward: python -m minigrad.step"""
import argparse
import difflib
import signal
import sys

from minigrad.ops.op import OPS
from minigrad.step.examples import EXAMPLES, op
from minigrad.step.terminal import show


def main(argv: list[str] | None = None) -> int:
    """Walk an example or an op in the terminal, or write its page. Bad input exits with status 2 and one line."""
    parser = argparse.ArgumentParser(
        prog="python -m minigrad.step",
        usage=argparse.SUPPRESS,                # an error is one line
        description="Walk through a backward, op by op and line by line. Commands may come through a pipe.",
    )
    parser.add_argument("--op", help="walk this op, on one of its samples")
    parser.add_argument("--example", help="tiny, a word's letters (default), or gpt, a small GPT on fables")
    parser.add_argument("--until", help="begin at a breakpoint: an op, module, parameter, bad, nan, norm > 3")
    parser.add_argument("--out", default="", metavar="FILE", help="write a page for a browser instead")
    parser.add_argument("--no-color", action="store_true", help="characters in the place of colours")
    args = parser.parse_args(argv)
    if args.op and args.example:
        parser.error("--op and --example are two different walks: give one of them")
    for what, name, known in (("op", args.op, OPS), ("example", args.example, EXAMPLES)):
        if name is not None and name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.0)
            parser.error(f"there is no {what} {name!r}; did you mean {near[0]}?")
    record = op(args.op) if args.op else EXAMPLES[args.example or "tiny"]()
    start = len(record.views) - 1 if args.op else 0         # the op itself comes last
    try:
        if args.until:
            stop = record.breakpoint(args.until)
            found = [view.index for view in record.views if stop(view)]
            if not found:
                parser.error(f"{args.until} stops at none of the {len(record.views)} steps")
            start = found[0]
        show(record, args.out, start, False if args.no_color else None)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    for name in ("SIGINT", "SIGPIPE"):          # Ctrl-C and `| head` end it without a word
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    sys.exit(main())
