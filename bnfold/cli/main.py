"""The group of all commands, and their exit codes. Heavy imports stay inside the commands."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click

from bnfold import system
from bnfold.cli.options import debug_option
from bnfold.errors import INTERNAL_EXIT_CODE, BnfoldError, UsageError, interrupt_behind
from bnfold.text.escape import escape_commands
from bnfold.text.flags import as_flags
from bnfold.text.formatting import plain
from bnfold.version import __version__

EXIT_CODES = """\b
Exit codes:
  0  done and verified, also where there was nothing to fold
  1  not equal: more has changed than folds and rounding explain; or bnfold check found something
  2  wrong usage
  3  unreadable or invalid model
  4  could not be decided: neither proven nor runnable
  5  onnxruntime crashed, timed out or hit a limit
  70  bnfold itself failed: please report it
  130  interrupted
"""


_MODULES = {
    "assign": "tuning", "bench": "bench", "check": "check", "correct": "quantization",
    "diff": "verify", "equalize": "quantization", "freeze": "tuning", "inspect": "optimize",
    "optimize": "optimize", "recalibrate": "tuning", "recover": "tuning", "stats": "tuning",
    "verify": "verify",
}  # fmt: skip


class _Lazily(Mapping[str, click.Command]):
    """The commands by name; a command's module is imported when it is asked for."""

    def __getitem__(self, name: str) -> click.Command:
        module = importlib.import_module(f"bnfold.cli.{_MODULES[name]}")
        found: click.Command = getattr(module, name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


class Commands(click.Group):
    """A group whose commands report every BnfoldError as one sentence and its exit code."""

    def main(self, *arguments: Any, **keywords: Any) -> Any:
        """Run from the command line; help as well has letters that a console may not have."""
        system.spell_out_on(sys.stdout, sys.stderr)
        return super().main(*arguments, **keywords)

    def _invoke(self, ctx: click.Context) -> Any:
        """Run the command to the last of its output; an interrupt is no other error."""
        try:
            with _flushing():
                return super().invoke(ctx)
        except Exception as error:
            if (interrupt := interrupt_behind(error)) is not None:
                raise interrupt from None
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors end here, or go on as they are with --debug."""
        try:
            return self._invoke(ctx)
        except BnfoldError as error:
            if _debug(ctx):
                raise
            _show_comparison(error)
            _complain(error.message, error.remedy)
            ctx.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            click.echo(_interrupted(), err=True)
            ctx.exit(system.INTERRUPTED)
        except (click.exceptions.Exit, click.ClickException):
            raise
        except BrokenPipeError:  # the reader is gone: end as other tools do
            _discard_output()
            ctx.exit(system.BROKEN_PIPE)
        except OSError as error:  # only the report is left to fail here
            _complain(f"cannot write the report: {error.strerror}", "")
            ctx.exit(UsageError.exit_code)
        except Exception as error:
            if _debug(ctx):
                raise
            _complain(
                f"bnfold itself failed: {type(error).__name__}: {error}",
                "please report it with the output of the same command with --debug",
            )
            ctx.exit(INTERNAL_EXIT_CODE)


@contextlib.contextmanager
def _flushing() -> Iterator[None]:
    """Write what is left here, and not at the exit: a reader may be gone, or a disk full."""
    try:
        yield
    except click.exceptions.Exit:
        _flush()
        raise
    except BaseException:
        with contextlib.suppress(OSError):  # there is something worse to be said
            _flush()
        raise
    _flush()


def _flush() -> None:
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        _discard_output()
        raise


def _discard_output() -> None:
    """Let nothing more be written, at the exit either."""
    with contextlib.suppress(OSError, ValueError):  # where it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_comparison(error: BnfoldError) -> None:
    """How two models differ, before it is said that they do."""
    from bnfold.verification.comparison import NotEqualError

    if isinstance(error, NotEqualError):
        from bnfold.cli.render.comparison import of_comparison
        from bnfold.cli.render.console import console

        console().print(of_comparison(error.comparison))


def _interrupted() -> str:
    """What the user has to know when a command ends before it is done."""
    output = sys.modules.get("bnfold.onnx_io.atomic_output")
    written = [] if output is None else list(output.WRITTEN)
    if not written:
        return "interrupted; nothing was written"
    last = plain(str(written[-1]))
    more = f" and {len(written) - 1} before it" if len(written) > 1 else ""
    return f"interrupted; {last}{more} had been written by then"


def _debug(ctx: click.Context) -> bool:
    return bool(ctx.meta.get("bnfold.debug"))


def _complain(message: str, remedy: str) -> None:
    for head, text in (("error: ", message), ("       ", remedy)):
        if text:
            text = as_flags(text)
            clean = "".join(c if c.isprintable() else " " for c in text)
            with contextlib.suppress(OSError):  # the exit code says it as well
                click.echo(escape_commands(head + plain(clean)), err=True)


@click.group(cls=Commands, commands=_Lazily(), epilog=EXIT_CODES)
@click.version_option(__version__, message="%(prog)s %(version)s")
@debug_option
def main() -> None:
    """Fold BatchNormalization into the weights of ONNX models, and prove that nothing else changed.

    \b
    Start with:
      bnfold optimize model.onnx
    """
    system.hear_lost_signals()
    for number in system.END_SIGNALS:  # end in order: no stray files, no stray worker
        signal.signal(number, lambda received, _: sys.exit(128 + received))
