"""Server-sent events there and back, cut anywhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.wire.sse import Event, EventReader, comment

LINES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)
EVENTS = st.builds(
    lambda name, lines: Event(name=name, data="\n".join(lines)),
    st.sampled_from(["message", "text", "done"]),
    st.lists(LINES, min_size=1, max_size=3),
)


@given(st.lists(EVENTS, max_size=5), st.lists(st.integers(0, 400), max_size=8))
def test_events_survive_any_cut(events: list[Event], cuts: list[int]) -> None:
    stream = b"".join(comment("ping") + event.encode() for event in events)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reader = EventReader()
    got = [event for a, b in pairwise(edges) for event in reader.feed(stream[a:b])]
    assert got == events


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_every_line_end_of_the_standard(size: int) -> None:
    stream = "\ufeffevent: a\r\ndata:x\r\n\r\n: note\rdata: y\rdata:  z\r\rid: 7\ndata\n\n".encode()
    reader = EventReader()
    got = [event for start in range(0, len(stream), size) for event in reader.feed(stream[start : start + size])]
    assert got == [Event(name="a", data="x"), Event(data="y\n z"), Event(data="")]


def test_an_event_without_data_is_none() -> None:
    assert EventReader().feed(b"event: a\n\n") == []
