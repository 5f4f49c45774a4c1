"""What a worker has been given but has not begun is given to another, and never runs twice.

These are orders, which must not be sent again on mere suspicion: only the claim words on the
vitals page make it safe.
"""

import json
import os
import signal
import threading
import time
import uuid

import pytest
from running import OWN, Evener, Start, eventually
from test_supervision import wait_until_in_flight

ORDERS = 24


class Orders:
    """Orders that are all placed at once, each on a connection of its own."""

    def __init__(self, evener: Evener) -> None:
        self.evener = evener
        self.prefix = uuid.uuid4().hex
        self.outcomes: dict[int, int | str] = {}
        self.workers: set[int] = set()
        self.slowest = 0.0
        self._threads = [threading.Thread(target=self._place, args=(n,)) for n in range(ORDERS)]

    def place(self) -> None:
        """Sends them."""
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Waits until each has its outcome."""
        for thread in self._threads:
            thread.join()

    def _place(self, number: int) -> None:
        body = json.dumps({"key": f"{self.prefix}-{number}"}).encode()
        started = time.monotonic()
        try:
            with self.evener.wire() as wire:
                response = wire.post("/orders", body, "Content-Type: application/json")
            self.outcomes[number] = response.status
            if response.status == 201:
                self.workers.add(response.json()["worker"])
        except (OSError, EOFError) as error:
            self.outcomes[number] = str(error)
        self.slowest = max(self.slowest, time.monotonic() - started)

    def assert_each_was_taken_once(self) -> None:
        """Every order was answered with success, and there is one row for each."""
        assert [self.outcomes[number] for number in range(ORDERS)] == [201] * ORDERS
        count = self.evener.get(f"/orders/count?prefix={self.prefix}").json()
        assert count == {"rows": ORDERS, "keys": ORDERS, "twice": []}


@pytest.fixture
def team(start: Start) -> Evener:
    """Two workers of Evener's own kind."""
    return start(*OWN, "--workers", "2", workers=2)


def test_orders_pass_by_a_blocked_worker(team: Evener) -> None:
    orders = Orders(team)
    with team.wire() as blocker:
        blocker.request("GET", "/lab/block?seconds=4")
        wait_until_in_flight(team, 1)
        orders.place()
        orders.wait()
        assert orders.slowest < 3, "nobody waited for the blocked worker"
        orders.assert_each_was_taken_once()
        stuck = blocker.response().json()["worker"]
    assert stuck not in orders.workers
    # Now that it runs again it must not do what was taken from it.
    eventually(
        lambda: stuck in {team.get("/lab/worker").json()["worker"] for _ in range(4)}, "it is back"
    )
    orders.assert_each_was_taken_once()


def test_orders_pass_by_a_stopped_worker(team: Evener) -> None:
    orders = Orders(team)
    victim = min(team.ready())
    os.kill(victim, signal.SIGSTOP)
    try:
        orders.place()
        orders.wait()
        orders.assert_each_was_taken_once()
        assert victim not in orders.workers
    finally:
        os.kill(victim, signal.SIGCONT)
    eventually(lambda: len(team.ready()) == 2, "both serve", 30, 0.1)
    orders.assert_each_was_taken_once()


def test_orders_outlive_the_worker_that_had_not_begun_them(team: Evener) -> None:
    orders = Orders(team)
    victim, other = sorted(team.ready())
    # Both: else the other one takes the orders back before the first can be killed with them.
    for pid in (victim, other):
        os.kill(pid, signal.SIGSTOP)
    try:
        orders.place()
        wait_until_in_flight(team, ORDERS)
        os.kill(victim, signal.SIGKILL)
    finally:
        os.kill(other, signal.SIGCONT)
    orders.wait()
    orders.assert_each_was_taken_once()
    assert victim not in orders.workers
