"""Walk through a backward: python -m minigrad.step --help"""
import argparse
import difflib

from minigrad.command import run_command
from minigrad.ops.op import OPS
from minigrad.step.examples import example, op
from minigrad.step.terminal import show


def main(argv: list[str] | None = None) -> int:
    """Walk an example or an op in the terminal, or write its page. Bad input exits with status 2 and a message of one
    line."""
    parser = argparse.ArgumentParser(
        prog="python -m minigrad.step",
        usage=argparse.SUPPRESS,                # it would make an error longer than one line
        description="Walk through a backward, op by op and line by line. Commands are also read from a pipe.",
    )
    parser.add_argument("--op", help="walk this op, on one of its samples")
    parser.add_argument("--example", help="tiny (default); bug1, bug2 or bug3, a GPT with a mistake to find; "
                                          "or one that a package registers: gpt, trained on fables")
    parser.add_argument("--until", help="start at a breakpoint: an op, module, parameter, bad, nan, norm > 3")
    parser.add_argument("--out", default="", metavar="FILE", help="write a page instead, to be opened in a browser")
    parser.add_argument("--no-color", action="store_true", help="show heat maps as characters")
    args = parser.parse_args(argv)
    if args.op and args.example:
        parser.error("give --op or --example, not both")
    if args.op is not None and args.op not in OPS:
        parser.error(f"there is no op {args.op!r}; did you mean {difflib.get_close_matches(args.op, OPS, 1, 0.0)[0]}?")
    try:
        record = op(args.op) if args.op else example("tiny" if args.example is None else args.example)
        start = len(record.views) - 1 if args.op else 0         # the op is the last step of its backward
        if args.until is not None:
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
    run_command("python -m minigrad.step", main)
