import signal
import sys

if sys.argv[1:2] == ["serve"]:
    # Until the command has its own handler, SIGINT ends the process at once, without a traceback. It does so also in the
    # background of a script, where it comes ignored.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from serve_app.cli.main import main

main()
