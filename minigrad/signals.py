"""What signals do to a command."""
import signal


def end_on_signals() -> None:
    """From now on Ctrl-C, and a reader that closes the pipe (`| head`), end the program without a traceback."""
    for name in ("SIGINT", "SIGPIPE"):
        if hasattr(signal, name):               # Windows has no SIGPIPE
            signal.signal(getattr(signal, name), signal.SIG_DFL)
