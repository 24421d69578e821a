"""Which event loop a server runs on."""

import asyncio
import sys

import pytest

from octavo.server import lifecycle


def kind_of_loop():
    loop = lifecycle._new_loop()
    loop.close()
    return type(loop)


def test_without_uvloop_a_server_runs_on_the_loop_of_asyncio(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)  # as if it were not installed
    assert issubclass(kind_of_loop(), asyncio.SelectorEventLoop)


def test_uvloop_is_taken_where_it_is_installed():
    uvloop = pytest.importorskip("uvloop")
    assert issubclass(kind_of_loop(), uvloop.Loop)
