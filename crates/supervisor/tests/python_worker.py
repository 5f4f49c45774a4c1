"""Stands for `python -m evener.worker`: speaks the protocol of the descriptors, nothing more."""

import os
import signal
import socket
import stat
import sys
import time

arguments = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
listener = socket.socket(fileno=int(arguments["--socket-fd"]))
page = int(arguments["--page-fd"])
ready = int(arguments["--ready-fd"])
assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
assert os.fstat(page).st_size > 0
assert stat.S_ISFIFO(os.fstat(ready).st_mode)
# No descriptor but the standard ones and the three is handed down (one more lists them).
extra = {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, 3, 4, 5}
assert len(extra) == 1, extra
if "--fail" in sys.argv:
    print("Traceback: the import failed", file=sys.stderr)
    os.write(ready, b"failed\n")
    os.close(ready)
    sys.exit(3)
os.write(ready, b"ready\n")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True:
    time.sleep(10)
