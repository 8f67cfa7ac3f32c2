"""What a process holds open: opened once, let go when others are used instead."""

from __future__ import annotations

import threading

import pytest

from serve.held import AGAIN_S, Held


@pytest.fixture
def time() -> list[float]:
    return [0.0]


def test_what_failed_is_tried_again_after_a_while(time):
    tried: list[str] = []

    def make(name: str) -> str:
        tried.append(name)
        if len(tried) == 1:
            raise OSError("full disk")
        return name.upper()

    held = Held(make, 10, lambda: time[0])
    for _ in range(3):
        with pytest.raises(OSError, match="full disk"):
            held.open("a")
    assert tried == ["a"]
    time[0] += AGAIN_S
    assert held.open("a") == "A"


def test_what_is_open_is_not_opened_again(time):
    made: list[str] = []
    held = Held(lambda name: made.append(name) or name.upper(), 10, lambda: time[0])
    assert held.get("a") is None
    assert [held.open("a"), held.open("a"), held.get("a")] == ["A"] * 3
    assert made == ["a"]


def test_what_nobody_asks_for_goes_when_another_is_used(time):
    held = Held(str.upper, 10, lambda: time[0])
    held.open("a")
    time[0] = 1000.0
    assert held.get("a") == "A"  # alone it stays, however long it was silent
    held.open("b")
    time[0] += 9
    held.get("b")
    assert held.names() == ["a", "b"]
    time[0] += 2
    held.get("b")
    assert held.names() == ["b"]
    held.open("a")
    assert held.get("a") == "A"


def test_what_cannot_be_opened_is_told_and_leaves_nothing(time):
    def make(name: str) -> str:
        raise ValueError(f"no {name}")

    held = Held(make, 10, lambda: time[0])
    with pytest.raises(ValueError, match="no a"):
        held.open("a")
    assert held.names() == []


def test_others_are_used_while_one_is_opened(time):
    begun, go_on = threading.Event(), threading.Event()

    def make(name: str) -> str:
        if name == "slow":
            begun.set()
            assert go_on.wait(30)
        return name

    held = Held(make, 10, lambda: time[0])
    held.open("a")
    opening = threading.Thread(target=held.open, args=("slow",))
    opening.start()
    assert begun.wait(30)
    assert held.get("a") == "a"
    assert held.get("slow") is None
    go_on.set()
    opening.join()
    assert held.get("slow") == "slow"
