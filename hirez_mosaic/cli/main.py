"""`hirez-mosaic`: one group, a file per command; turns this package's errors into one sentence and an exit code."""

import os
import signal
import sys
import threading
from typing import Any

import click

from hirez_mosaic import __version__
from hirez_mosaic.cli.assemble import assemble
from hirez_mosaic.cli.batch import batch
from hirez_mosaic.cli.bench import bench
from hirez_mosaic.cli.compare import compare
from hirez_mosaic.cli.completion import completion
from hirez_mosaic.cli.page import page
from hirez_mosaic.cli.print import print_
from hirez_mosaic.cli.render import render
from hirez_mosaic.cli.run import run
from hirez_mosaic.cli.templates import templates
from hirez_mosaic.cli.train import train
from hirez_mosaic.cli.view import view
from hirez_mosaic.cli.weights import weights
from hirez_mosaic.cli.words import spelled
from hirez_mosaic.errors import HirezMosaicError, SettingError, sentence


class _WrongSetting(click.ClickException):
    """What click's own checks of options exit with."""

    exit_code = 2


class _Group(click.Group):
    """A group whose errors are sentences: exit code 2 for a wrong setting, 1 for all else, 130 when interrupted."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except SettingError as error:
            raise _WrongSetting(spelled(str(error))) from error
        except (HirezMosaicError, OSError, MemoryError) as error:
            raise click.ClickException(spelled(sentence(error))) from error
        except KeyboardInterrupt:
            click.echo("Interrupted; nothing is left half-written.", err=True)
            sys.exit(130)


def _share_cores_well() -> None:
    """Let torch's threads sleep soon when they wait for each other; on Linux, where libgomp reads this as torch loads.

    They spin for about a millisecond otherwise. That costs nothing on an idle machine, but beside other programs the
    thread that they wait for gets no core meanwhile: steps of Eq. 3 of 128 px, by which the plan tells how long fitting
    and refining take, took 20 times as long on 2 cores of which others used 1.5, and 2.5 times with this. Refining,
    whose windows are 640 px, is as quick with it as without.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="hirez-mosaic")
def main() -> None:
    """Photomosaics of any size that look right from afar and up close."""
    _share_cores_well()
    for name in ("SIGTERM", "SIGHUP"):  # end as on Ctrl-C: with nothing left behind
        number = getattr(signal, name, None)
        main_thread = threading.current_thread() is threading.main_thread()
        if number is not None and main_thread and signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)


main.add_command(assemble)
main.add_command(batch)
main.add_command(bench)
main.add_command(compare)
main.add_command(completion)
main.add_command(page)
main.add_command(print_)
main.add_command(render)
main.add_command(run)
main.add_command(templates)
main.add_command(train)
main.add_command(view)
main.add_command(weights)
