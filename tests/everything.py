"""Runs every suite and adds them up: the Rust tests, then the black-box tests against the program.

Ends with one line that counts; says before it what was skipped and why. Fails when anything
failed, and when a suite ran no test at all. Its arguments go to pytest.
"""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / ".cache" / "pytest.xml"


@dataclass
class Tally:
    """What one suite came to."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: list[str] = field(default_factory=list)

    def ran_nothing(self) -> bool:
        """Whether the suite ended without having run a test."""
        return self.passed + self.failed == 0


def run(command: list[str]) -> tuple[int, str]:
    """Runs a command, shows what it prints, and returns its status and words."""
    print("$", *command, flush=True)
    words = []
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            words.append(line)
    return child.returncode, "".join(words)


def rust_tests(name: str, *where: str) -> Tally:
    """The tests of a workspace's default members, by nextest where it is installed."""
    tally = Tally(name)
    if shutil.which("cargo-nextest"):
        flags = ["--no-fail-fast", "--status-level", "fail"]
        status, words = run(["cargo", "nextest", "run", *where, *flags])
        summary = re.search(r"Summary .*", words)
        counts = summary.group() if summary else ""
    else:
        kinds = ["--lib", "--bins", "--tests"]
        status, words = run(["cargo", "test", *where, "--quiet", "--no-fail-fast", *kinds])
        counts = " ".join(re.findall(r"test result: .*", words))
    tally.passed = count(counts, "passed")
    tally.failed = count(counts, "failed") + count(counts, "timed out")
    ignored = count(counts, "ignored") + count(counts, "skipped")
    if ignored:
        tally.skipped.append(f"{ignored} tests of {name} are marked #[ignore]")
    if status != 0 and tally.failed == 0:
        tally.failed = 1
    return tally


def count(text: str, what: str) -> int:
    """The sum of all numbers that stand before a word."""
    return sum(int(number) for number in re.findall(rf"(\d+) {what}", text))


def black_box_tests(arguments: list[str]) -> Tally:
    """The tests of the built program, by pytest."""
    tally = Tally("black box")
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={REPORT}", *arguments]
    status, _ = run(command)
    cases = ET.parse(REPORT).iter("testcase") if REPORT.exists() else []
    for case in cases:
        skipped = case.find("skipped")
        if skipped is not None:
            tally.skipped.append(f"{case.get('name')}: {skipped.get('message')}")
        elif case.find("failure") is not None or case.find("error") is not None:
            tally.failed += 1
        else:
            tally.passed += 1
    if status != 0 and tally.failed == 0:
        tally.failed = 1
    return tally


def main() -> int:
    """Runs all suites; the exit status is 0 only if each ran and none failed."""
    tools = Path(sys.executable).parent
    os.environ["PATH"] = f"{tools}{os.pathsep}{os.environ['PATH']}"
    tallies = [
        rust_tests("rust"),
        rust_tests("load generator", "--manifest-path", "bench/load/Cargo.toml"),
        black_box_tests(sys.argv[1:]),
    ]
    print()
    for tally in tallies:
        for reason in tally.skipped:
            print(f"skipped: {reason}")
        if tally.ran_nothing():
            print(f"the {tally.name} suite ran no test")
    passed = sum(tally.passed for tally in tallies)
    failed = sum(tally.failed for tally in tallies)
    skipped = sum(len(tally.skipped) for tally in tallies)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or any(tally.ran_nothing() for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
