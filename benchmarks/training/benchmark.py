"""Options and measurement of training."""

import dataclasses

from benchmarks import harness, training
from benchmarks.training import summary
from benchmarks.training.model import Setting
from benchmarks.training.ways import LINES, contestants


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.CommonOptions):
    """Options of training."""

    settings: tuple[str, ...] = (
        "adding,lstm,32,100,8",
        "adding,lstm,32,100,64",
        "adding,gru,16,200,32",
        "temporal_order,elman,20,50,50",
    )
    """Each task,cell,B,T,H."""
    updates: int = 100
    """Updates to a call, a multiple of 10 [count]."""

    def check(self) -> None:
        super().check()
        if self.updates < LINES or self.updates % LINES:
            raise ValueError(f"--updates is {self.updates}; give a multiple of {LINES}.")
        for setting in self.settings:
            Setting.parse(setting)


def measure(run: harness.Run[Options]) -> None:
    o = run.options
    for text in o.settings:
        setting = Setting.parse(text)
        where = dataclasses.asdict(setting)
        entries, _ = run.contest(where, list(contestants(setting, o.updates, o.devices)))
        run.add({**where, "updates": o.updates, "contestants": [entry.row() for entry in entries]})
        run.say(f"{text}: done")
    for title, columns, rows in summary.tables(run.result):
        run.table(title, columns, rows)
    if o.figures is not None:
        from benchmarks.training.figure import draw

        run.figure("training", draw(run.result))


BENCHMARK = harness.Benchmark(
    "training",
    training.__doc__ or "",
    Options,
    measure,
    quick={"settings": ("adding,lstm,32,100,8",), "updates": 20, "rounds": 3},
)
