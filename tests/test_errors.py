"""Every exception of the library keeps its attributes when copied, pickled, or raised in another process."""

import concurrent.futures
import copy
import importlib.util
import inspect
import multiprocessing
import pickle
import pkgutil
from collections.abc import Callable, Iterator

import pytest

import rnnjax
from tests.training import toy

Sent = Callable[[BaseException], BaseException]


def exceptions() -> dict[str, type[BaseException]]:
    """All classes of exceptions and warnings in all modules, by name."""
    found = {}
    for module in pkgutil.walk_packages(rnnjax.__path__, "rnnjax."):
        door = module.name.removeprefix("rnnjax.")
        if door in ("equinox", "haiku") and importlib.util.find_spec(door) is None:
            continue
        for kind in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(kind) and issubclass(kind, BaseException) and kind.__module__ == module.name:
                found[kind.__qualname__] = kind
    return found


EXCEPTIONS = exceptions()


def made(kind: type[BaseException]) -> BaseException:
    """An exception with all arguments of its signature, and with attributes that are set afterwards."""
    known = {"step": 3, "leaves": ("loss", "gradient of w"), "state": toy.start(), "history": [{"step": 1}]}
    names = inspect.signature(kind).parameters if kind.__init__ is not kind.__base__.__init__ else ()
    error = kind(**{name: known.get(name, f"its {name}") for name in names}) if names else kind("what is wrong")
    error.state = known["state"]  # pyright: ignore[reportAttributeAccessIssue]
    error.add_note("in passing")
    return error


def test_there_are_some():
    assert {"NonFiniteError", "CheckpointError", "CheckpointWarning", "NotHoistable"} <= EXCEPTIONS.keys()


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Sent]:
    """Raises an error in another process."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda error: pool.submit(raised, error).exception(60)  # pyright: ignore[reportReturnType]


def raised(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_arrives_whole(name: str, elsewhere: Sent):
    error = made(EXCEPTIONS[name])
    for sent in (copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each)), elsewhere):
        again = sent(error)
        assert (type(again), str(again), again.args) == (type(error), str(error), error.args)
        held, expected = vars(again), vars(error)
        assert held.keys() == expected.keys()
        toy.same_bits(held, expected)
