"""An experiment: from options to finished rows, and from rows to a result folder."""

import contextlib
import datetime
import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import identity, machine, processes, strict_json
from .options import ProcessOptions, UsageError, described, parse, plain
from .page import Page, console
from .rows import Row, Rows, Store, discard, key_of

CONFIG, SUMMARY, REPORT, LOCK = "config.json", "summary.json", "report.html", ".lock"
_LINE_EVERY_SECONDS = 10.0
PACKAGE = __name__.removesuffix(".lab.run")  # `experiments`; in a wheel, `rnnjax_lab.experiments`


class Run:
    """What `measure` is given besides its options.

    Attributes:
      folder: the result folder, held by this process; None where an experiment is called from Python without `out`.
      mesh: all devices that the options ask for, or None for one device.
      is_coordinator: whether this process writes files: the only one, or number 0.
    """

    def __init__(self, options: Any, folder: Path | None, x64: bool, quiet: bool = False) -> None:
        self.is_coordinator = options.is_coordinator
        self.mesh = processes.mesh(options) if isinstance(options, ProcessOptions) else None
        self.folder = folder
        self.err = console(stderr=True, quiet=quiet or not self.is_coordinator)
        self.store = Store(folder if self.is_coordinator else None)
        if options.several:
            self.store.share()
        self.versions, self.device = machine.versions(), machine.device()
        versions = {name: self.versions[name] for name in ("python", "jax", "jaxlib", "numpy", "optax")}
        self._common = {"versions": versions, "platform": self.device["platform"], "x64": x64}

    def rows(
        self,
        function: Callable[..., Any],
        asked: Iterable[Mapping[str, Any]],
        label: str = "rows",
        *,
        together: int | Sequence[str] | None = None,
        given: Mapping[str, Any] | None = None,
    ) -> list[Row]:
        """The rows that `asked` describes, in that order; those that the folder lacks are computed now and kept.

        Args:
          function: measures, and is pure: `function(**asked, **given)` returns a mapping. Numbers, text and lists are
            kept as JSON, arrays as they are.
          asked: the arguments that define each row, plain values.
          label: what is counted, for the progress bar.
          together: how missing rows share one call, `function(list of asked, **given)`, which returns a mapping for
            each: so many at a time, or all that agree in the arguments named.
          given: further arguments that cannot change a row's numbers, such as a mesh.
        """
        name, wanted = name_of(function), [dict(each) for each in asked]
        identities = [self._identity(function, each) for each in wanted]
        keys = [key_of(name, *each) for each in zip(identities, wanted, strict=True)]
        missing = {key: i for i, key in enumerate(keys) if key not in self.store}
        stale = sum(self.store.has_other(name, wanted[i]) for i in missing.values())
        if stale:
            self.say(f"{stale} {label} were made by other code or versions, and are computed again")
        with self.progress(label, len(wanted)) as advance:
            advance(len(wanted) - len(missing))
            for group in _groups([wanted[i] | {"": i} for i in missing.values()], together):
                settings = [wanted[i] for i in group]
                started = time.monotonic()
                if together is None:
                    results = [function(**settings[0], **given or {})]
                else:
                    results = list(function(settings, **given or {}))
                entries = [(keys[i], identities[i], wanted[i], each) for i, each in zip(group, results, strict=True)]
                self.store.put(name, entries, time.monotonic() - started)
                advance(
                    len(group), note=", ".join(v for v in settings[0].values() if isinstance(v, str) and len(v) < 20)
                )
        return [self.store.take(key, count=key not in missing) for key in keys]

    def progress(self, label: str, total: int) -> contextlib.AbstractContextManager[Callable[..., None]]:
        """`with run.progress("updates", 100) as advance: advance(10, note="loss 0.3")`."""
        return progress(self.err, label, total)

    def say(self, text: str) -> None:
        """One line for the reader, on stderr."""
        self.err.print(text, markup=False)

    def _identity(self, function: Callable[..., Any], asked: Mapping[str, Any]) -> dict[str, Any]:
        """What a row depends on besides its arguments; the code of a user's own cell, `module:name`, is part of it."""
        own = [value for value in asked.values() if isinstance(value, str) and re.fullmatch(r"[\w.]+:\w+", value)]
        code = [identity.code_sha256(each) for each in (function, *own)]
        return {"code_sha256": code[0] if not own else code, **self._common}


def module_of(function: Any) -> str:
    """The module of a function, by its importable name also where it is the one that Python was started with."""
    spec = sys.modules["__main__"].__spec__ if function.__module__ == "__main__" else None
    return spec.name if spec else function.__module__


def name_of(function: Any) -> str:
    """`module:name`."""
    return f"{module_of(function)}:{function.__qualname__}"


def _groups(missing: Sequence[Mapping[str, Any]], together: int | Sequence[str] | None) -> list[list[int]]:
    """Positions (under the empty name) of the rows that are computed by one call."""
    if together is None or isinstance(together, int):
        size = together or 1
        return [[each[""] for each in missing[i : i + size]] for i in range(0, len(missing), size)]
    found: dict[str, list[int]] = {}
    for each in missing:
        found.setdefault(strict_json.canonical({name: each[name] for name in together}), []).append(each[""])
    return list(found.values())


@contextlib.contextmanager
def progress(err: Any, label: str, total: int) -> Iterator[Callable[..., None]]:
    """Yields `advance(steps=1, note="")`: a bar with the time left on a terminal, elsewhere a line every 10 seconds."""
    if err.is_terminal:
        from rich.progress import Progress, TextColumn

        with Progress(*Progress.get_default_columns(), TextColumn("{task.fields[note]}"), console=err) as bar:
            task = bar.add_task(label, total=total, note="")
            yield lambda steps=1, note="": bar.update(task, advance=steps, note=note)
        return
    started = spoken = time.monotonic()
    done = 0

    def advance(steps: int = 1, note: str = "") -> None:
        nonlocal done, spoken
        done, now = done + steps, time.monotonic()
        if steps and (now - spoken >= _LINE_EVERY_SECONDS or done >= total):
            spoken = now
            err.print(f"{label}: {done}/{total} after {now - started:.0f} s  {note}".rstrip(), markup=False)

    yield advance


class Experiment:
    """A question, its options, how its rows are measured, and how they are drawn.

    Call it for its rows: `rows = experiment(steps=100)`, `rows.frame()`. `experiment.main()` runs it from the command
    line.

    Attributes:
      options: a class made by `lab.options` that inherits from `lab.Options`.
      measure: `measure(options, run) -> rows`; the rows are made by `run.rows`.
      draw: `draw(rows, page)`; shows the rows. A change in it makes no row stale.
      x64: compute in float64, for the time of the run only.
      name, doc: of the module that it is in.
    """

    def __init__(
        self,
        options: type[Any],
        measure: Callable[[Any, Run], list[Row]],
        draw: Callable[[Rows, Page], None],
        *,
        x64: bool = False,
        module: str = "",
    ) -> None:
        self.options, self.measure, self.draw, self.x64 = options, measure, draw, x64
        module = (module or module_of(measure)).removesuffix(".__main__")
        self.module, self.name = module, module.removeprefix(f"{PACKAGE}.")
        self.doc = getattr(sys.modules.get(module, sys.modules["__main__"]), "__doc__", "") or ""

    def __call__(self, **given: Any) -> Rows:
        """The rows for these options; nothing is written unless `out` names a folder.

        Raises:
          UsageError: an option is wrong.
        """
        options = self._made(given)
        if options.out is not None:
            return self._in_folder(options, options.out, self.module, quiet=True)[0]
        with _precision(self.x64):
            return Rows(self.measure(options, Run(options, None, self.x64, quiet=True)))

    def page(self, rows: Rows, **given: Any) -> Page:
        """What `draw` makes of these rows, with the options that they were made with."""
        from . import style

        page = Page(self._made(given))
        with _precision(self.x64), style.plotting():
            self.draw(rows, page)
        return page

    def main(self, arguments: Sequence[str] | None = None) -> NoReturn:
        """Runs the experiment from its command line, and ends the process."""
        sys.exit(self.launch(arguments))

    def launch(self, arguments: Sequence[str] | None = None) -> int:
        """Runs the experiment from its command line; returns the exit status.

        0: done (or what the page says). 2: something the user can fix. 130: stopped with Ctrl-C; finished rows are
        kept. Any other exception keeps its traceback; finished rows are kept then too.
        """
        given = list(sys.argv[1:] if arguments is None else arguments)
        folder, options = Path(), None
        try:
            options = parse(self.options, given, self.module, self.doc)
            folder = options.out or Path("results") / (self.name + "-quick" * options.quick)
            command = shlex.join(["python", "-m", self.module, *given])
            return self._in_folder(options, folder, command)[1].status
        except (UsageError, KeyboardInterrupt) as error:
            if isinstance(error, UsageError):
                status, message = 2, f"error: {' '.join(str(error).split())}"
            else:
                status, message = 130, f"\nstopped; finished rows are kept in {folder}: the same command resumes there."
            print(message, file=sys.stderr)
            if options is not None and options.several:
                raise SystemExit(status) from None  # also ends the other processes, which wait
            return status

    def _made(self, given: Mapping[str, Any]) -> Any:
        quick = self.options.quick_defaults if given.get("quick") else {}
        return self.options(**{**quick, **given})

    def _in_folder(self, options: Any, folder: Path, command: str, quiet: bool = False) -> tuple[Rows, Page]:
        with contextlib.ExitStack() as stack:
            if isinstance(options, ProcessOptions):
                stack.enter_context(processes.initialized(options, folder))
            leads = options.is_coordinator
            if leads:
                stack.enter_context(held(folder))
            stack.enter_context(_precision(self.x64))
            if leads:
                _claim(folder, self.name, options.fresh)
            code = {"measure": identity.code_sha256(self.measure), "draw": identity.code_sha256(self.draw)}
            run = Run(options, folder, self.x64, quiet)
            told = {"options": strict_json.strict(plain(options)), "versions": run.versions, "code_sha256": code}
            if options.several:
                processes.assert_equal(told)
            config = {
                "experiment": self.name, "command": command, **told, "device": run.device, "x64": self.x64,
                **machine.git_commit(), "started_utc": _now(), "finished_utc": None,
            }  # fmt: skip
            if leads:
                strict_json.write(folder / CONFIG, config)
            if run.store.damaged:
                run.say(f"{folder}: {run.store.damaged} damaged rows are computed again")
            rows = Rows(self.measure(options, run))
            page = Page(options, folder, console(quiet=quiet))
            if leads:
                self._write(rows, page, run, folder, config)
            return rows, page

    def _write(self, rows: Rows, page: Page, run: Run, folder: Path, config: dict[str, Any]) -> None:
        from . import style

        with style.plotting():
            self.draw(rows, page)
        store = run.store
        summary = {
            "experiment": self.name,
            **page.summary,
            "figures": page.figures,
            "code_sha256": config["code_sha256"],
        }
        summary |= {"rows_computed_count": store.computed, "rows_reused_count": store.reused}
        strict_json.write(folder / SUMMARY, summary | {"rows_wall_seconds": store.seconds})
        config["finished_utc"] = _now()
        about = described(self.doc)
        facts = {name: about[name] for name in ("Question", "Expected") if name in about}
        html = page.html(about["Title"], facts | {"Command": config["command"]}, strict_json.strict(config))
        strict_json.write_bytes(folder / REPORT, html.encode())
        strict_json.write(folder / CONFIG, config)
        page.say(f"{store.computed} rows computed, {store.reused} reused; open {folder / REPORT}")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Makes the folder, proves that it can be written, and holds it until the block or the process ends.

    Raises:
      UsageError: it is a file, nothing can be written there, or another run holds it.
    """
    import filelock

    lock = filelock.FileLock(folder / LOCK, blocking=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise UsageError(f"another run is writing to {folder}; wait for it or choose another --out.") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"--out {folder} cannot be written ({reason}); choose another folder.") from error
    try:
        yield
    finally:
        lock.release()


def _claim(folder: Path, experiment: str, fresh: bool) -> None:
    """Refuses the folder of another experiment; discards what an earlier run left there if `fresh`."""
    path = folder / CONFIG
    if not path.exists():
        return
    try:
        owner = json.loads(path.read_text())["experiment"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} was not written by an experiment; choose another --out.") from error
    if owner != experiment:
        raise UsageError(f"{folder} holds a run of {owner}, not of {experiment}; choose another --out.")
    if fresh:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            for figure in json.loads((folder / SUMMARY).read_text())["figures"]:
                for kind in ("png", "svg"):
                    (folder / Path(figure[kind]).name).unlink(missing_ok=True)
        for name in (SUMMARY, REPORT, CONFIG):
            (folder / name).unlink(missing_ok=True)
        discard(folder)


@contextlib.contextmanager
def _precision(x64: bool) -> Iterator[None]:
    import jax

    with jax.enable_x64(x64):
        yield


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
