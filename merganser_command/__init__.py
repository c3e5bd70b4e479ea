"""The command ``merganser``. Apart from the package, whose import takes half a second: Ctrl-C then shows no traceback."""

import signal


def main() -> None:
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # and not what a shell started in the background, which ignores it
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is begun that would have to be undone
    from merganser.cli import main

    signal.signal(signal.SIGINT, before)
    main()
