"""A tiny worker for the supervisor's tests: answers every request on its socket with its pid.

argv[1] is the socket. TROUBLE in the environment makes it misbehave; a file named by FLAG, when
it exists, holds the trouble instead, so that it can change between two starts.
"""

import os
import signal
import socket
import sys
import time

trouble = os.environ.get("TROUBLE", "")
flag = os.environ.get("FLAG")
if flag and os.path.exists(flag):
    with open(flag) as file:
        trouble = file.read().strip()

if trouble == "raise":
    raise RuntimeError("the database is not there")
if trouble == "silent":
    time.sleep(1000)
if trouble == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

print("hello from", os.environ["EVENER_WORKER"], file=sys.stderr)
path = sys.argv[1] if len(sys.argv) > 1 else os.environ["EVENER_SOCKET"]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(16)
if trouble == "crash-later":
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(7))
while True:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        body = str(os.getpid()).encode()
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )
