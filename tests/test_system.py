"""What differs between systems: signals that must not get lost."""

import signal
import subprocess
import sys

import pytest

from bnfold.errors import BnfoldError, interrupt_behind, unexpected

_IN_A_FINALIZER = """
import signal, sys, time
from bnfold import system

class Child:
    def __del__(self):
        signal.raise_signal({number})

system.hear_lost_signals()
signal.signal(signal.SIGINT, signal.default_int_handler)  # which nohup has ignored
signal.signal(signal.SIGTERM, lambda received, _: sys.exit(128 + received))
try:
    Child()
    time.sleep(30)
except KeyboardInterrupt:
    sys.exit(128 + signal.SIGINT)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_in_a_finalizer_ends_the_process_all_the_same(number: int) -> None:
    """Python ignores what a finalizer raises, also the KeyboardInterrupt of Ctrl+C."""
    script = _IN_A_FINALIZER.format(number=int(number))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=20)
    assert (done.returncode, done.stderr) == (128 + number, b"")


def test_other_errors_of_finalizers_are_still_shown() -> None:
    script = _IN_A_FINALIZER.format(number=1).replace("signal.raise_signal", "int") + "x = 1"
    script = script.replace("int(1)", "int('no')").replace("sleep(30)", "sleep(0)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=20)
    assert done.returncode == 0
    assert b"Exception ignored in" in done.stderr


def interrupted(how: str) -> Exception:
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            if how == "cause":
                raise RuntimeError("Error calling __set_name__") from error
            raise RuntimeError("while cleaning up")  # noqa: B904 - what is wanted
    except RuntimeError as error:
        return error


@pytest.mark.parametrize("how", ["cause", "context"])
def test_an_interrupt_that_became_another_error_is_still_one(how: str) -> None:
    assert isinstance(interrupt_behind(interrupted(how)), KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        unexpected(interrupted(how))


def test_an_error_without_an_interrupt_is_told() -> None:
    assert interrupt_behind(ValueError()) is None
    assert isinstance(unexpected(ValueError("no")), BnfoldError)
