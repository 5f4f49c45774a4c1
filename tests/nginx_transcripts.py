"""Writes down what a real nginx does with every case of `balancing.py`.

Run by hand when cases change; the output is `crates/policy/tests/nginx.txt`, which the pure policy
is held to: `.cache/venv/bin/python tests/nginx_transcripts.py > crates/policy/tests/nginx.txt`
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from balancing import Case, Origins, accepts, cases, drive, nginx_configuration
from running import eventually, free_port


class Nginx:
    """One nginx that does one case."""

    def __init__(self, case: Case) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="evener-nginx-")
        self.port = free_port()
        file = Path(self.folder.name) / "nginx.conf"
        file.write_text(nginx_configuration(case, self.port, self.folder.name))
        self.process = subprocess.Popen(
            ["nginx", "-c", str(file), "-p", self.folder.name, "-e", "stderr"],
            stderr=subprocess.DEVNULL,
        )
        eventually(lambda: accepts(self.port), "nginx accepts connections")

    def close(self) -> None:
        """Ends it."""
        self.process.terminate()
        self.process.wait(10)
        self.folder.cleanup()


def transcribe(case: Case) -> None:
    """Prints a case and what nginx made of each of its steps."""
    print(f"\ncase {case.name}\nmethod {case.method}")
    print(f"next {case.next_upstream}; tries={case.tries}")
    for server in case.servers:
        print(f"server {server}")
    origins = Origins(case.servers)
    nginx = Nginx(case)
    try:
        for seen in drive(case, nginx.port, origins):
            line = f"{seen.second} {seen.step}"
            if seen.tried:
                line += " -> " + ",".join(map(str, seen.tried))
            if seen.status:
                line += f" = {seen.status} from {seen.answered}"
            elif seen.answered:
                line += f" -> {seen.answered}"
            print(line, flush=True)
    finally:
        nginx.close()
        origins.close()


def main() -> None:
    told = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True)
    version = told.stderr.strip().rpartition(": ")[2]
    print(f"# What {version} did, worker_processes 1, zone; by tests/nginx_transcripts.py.")
    print("# SECOND STEP -> MEMBERS TRIED = STATUS from MEMBER (0: nginx itself)")
    wanted = sys.argv[1:]
    for case in cases():
        if not wanted or any(word in case.name for word in wanted):
            transcribe(case)


if __name__ == "__main__":
    main()
