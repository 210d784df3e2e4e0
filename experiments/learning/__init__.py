"""What the training experiments share: one problem, learned by every cell, with and without clipping, by many seeds.

An experiment says what is to be learned, and the grid does the rest:

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Options(learning.Options):                   # cells, seeds, hidden_size, updates, batch, rate, max_norm, ...
        steps: int = 100
        \"\"\"T [steps].\"\"\"

    def problem(options: Options) -> learning.Problem:
        def draw(key, step, rows=options.batch):
            return tasks.adding(key, options.steps, (rows,))
        return learning.Problem(
            inputs=2, outputs=1, train=draw, held_out=functools.partial(draw, rows=500),
            test=lambda: draw(jax.random.key(2**31 + options.seed), 0, 2000),
            loss=tasks.squared_error, measures={"mean_squared_error": tasks.squared_error},
            baseline=tasks.adding_baseline().loss, baseline_name="always the mean",
        )

    EXPERIMENT = learning.experiment("adding", __doc__, Options, problem, quick={"updates": 100})

The runs of one cell (clipped or not, times seeds) are trained by `rnnjax.training.fit_many`, in one program; each is a
row of its own in the folder, and a run that stops goes on with the first cell that is not done. Every trained model
is there too: `carry, outputs = training.load_model("results/adding/models/lstm-clipped-0")(xs)`. The test part makes
nothing but a number in the table, once, after the last update.
"""

from experiments.learning.experiment import experiment
from experiments.learning.options import GridOptions, Options
from experiments.learning.problem import Problem
from experiments.learning.sequences import batch_of, labelled_problem

__all__ = [
    "GridOptions",
    "Options",
    "Problem",
    "batch_of",
    "experiment",
    "labelled_problem",
]
