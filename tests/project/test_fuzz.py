"""Arbitrary bytes: every reader of a file gives a result, or an error of ours that says something.

`benchmarks/fuzz_readers.py` has the readers, and lets a fuzzer choose bytes for hours.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.lm_runs import scratch

from benchmarks.fuzz_readers import READERS, fault_of

# Far more than any of these takes, and far less than a hang.
MOST_SECONDS = 20.0
DEEP, DIGITS = 3000, b"9" * 400
# Each line stands for ten times what the one before it does.
ALIASES = b"a: &a0 [x]\n" + b"".join(
    b"k%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 9)
)
HOSTILE = {
    "empty": b"",
    "an empty line": b'{"kind": "step"}\n\n',
    "zero": b"\0",
    "no UTF-8": b"\xff\xfe",
    "a mark of the byte order": b"\xef\xbb\xbf{}",
    "carriage returns": b'{"kind": "step"}\r\n{"kind": "step"}\r',
    "other JSON": b"null",
    "a list": b"[]",
    "no keys": b"{}",
    "a key twice": b'{"kind": 1, "kind": 2}',
    "deep JSON": b"[" * 4 * DEEP,
    "deep keys": b'{"a":' * DEEP,
    "a long number": b"9" * 5000,
    "long ids": b"9" * 5000 + b" 2",
    "infinite": b'{"step": Infinity, "kind": "step", "format": 1, "files": FILES}',
    "no number": b'{"step": NaN}',
    "half a character": b'{"prompt": "\\ud800", "auto_map": "\\udfff", "text": "\\ud800"}',
    "numbers for objects": b'{"tasks": 3, "files": 5, "target": 1, "numbers": 1, "offsets": []}',
    "no object in a key": b'{"target": {"moments": {"listed": []}, "reward": 4}}',
    "no text": b'{"tokens": null}\n{"text": {}}\n',
    "a list as prompt": b'{"prompt": ["2"], "text": "2"}\n',
    "true as token": b'{"tokens": [true, 1]}\n' * 3,
    "a line separator in a text": '{"text": "2\u20283"}\n'.encode() * 3,
    "deep signs": b"f: " + b"-" * 10 * DEEP + b"1",
    "deep YAML": b"- " * DEEP,
    "no int": b"a: !!int ''",
    "a list as int": b"a: !!int [1]\nb: !!int {c: 1}",
    "no bool": b"a: !!bool x",
    "no date": b"a: !!timestamp x",
    "no time zone": b"a: !!timestamp 2001-01-01 00:00:00 +99:00",
    "no base 64": b"a: !!binary x",
    "a list as key": b"? [a]\n: b",
    "other types": b"a: !!set {a}\nb: !!omap [a: 1]\nc: !!python/object:os.system x",
    "itself": b"a: &a [*a]",
    "aliases of aliases": ALIASES,
    "too large for a float": b"optimizer: {lr: %s}" % DIGITS,
    "a rate that is too large": b"g: {m: {s: %s}}" % DIGITS,
    "a long hexadecimal number": b"steps: 0x" + b"f" * 9000,
    "leaves": b"raise SystemExit(0)",
}


@functools.cache
def _read(name: str) -> Callable[[bytes], object]:
    folder = tempfile.mkdtemp(dir=scratch())
    return READERS[name].prepare(Path(folder))


def _assert_no_fault(name: str, data: bytes) -> None:
    read, begun = _read(name), time.perf_counter()
    fault = fault_of(read, READERS[name].errors, data)
    if fault is not None:
        raise AssertionError(f"{name}: {fault!r:.200} on {data!r:.200}") from fault
    assert time.perf_counter() - begun < MOST_SECONDS


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_what_is_known_to_be_difficult(name):
    for data in (*HOSTILE.values(), *READERS[name].seeds):
        _assert_no_fault(name, data)


@st.composite
def _changed(draw: Any, seeds: tuple[bytes, ...]) -> bytes:
    """Draw bytes, or a good file with some of its bytes left out, put in, turned over, doubled."""
    if not seeds or draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        first, last = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        pieces = [b"", data[first:last] * 2, *(other[first:last] for other in seeds)]
        inserted = st.sampled_from((*HOSTILE.values(), *PIECES)) | st.binary(max_size=4)
        data = data[:first] + draw(st.sampled_from(pieces) | inserted) + data[last:]
    return data


# What formats give a meaning to.
PIECES = (
    *(b"{", b"}", b"[", b"]", b":", b",", b'"', b"\\", b"\n", b"\r\n", b"\xef\xbb\xbf", b"\0"),
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-1", b"0.5", b"[]", b"{}", b'""', DIGITS),
    *(b"&a ", b"*a", b"<<: ", b"!!int ", b"!!float ", b"!!str ", b"? ", b"- ", b"---\n", b"0x"),
    *("é".encode(), "\u2028".encode(), b"\\ud800", b"\xed\xa0\x80"),
)


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_a_file_that_was_damaged(name):
    @given(data=_changed(READERS[name].seeds))
    def check(data):
        _assert_no_fault(name, data)

    check()


def test_what_is_no_error_of_ours_is_a_fault():
    def fails(error: Exception) -> Callable[[bytes], object]:
        def read(_: bytes) -> None:
            raise error

        return read

    allowed = ("builtins.ValueError",)
    assert fault_of(fails(ValueError("it is so")), allowed, b"") is None
    assert isinstance(fault_of(fails(ValueError()), allowed, b""), ValueError)  # says nothing
    assert isinstance(fault_of(fails(KeyError("a")), allowed, b""), KeyError)
    assert isinstance(fault_of(fails(UnicodeError("a")), allowed, b""), UnicodeError)
