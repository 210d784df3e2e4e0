"""What others measured and published, with its source."""

SOURCE = "github.com/davidclark1/rnn-lyapunov, N = 4096"

PUBLISHED: tuple[dict[str, float], ...] = (
    {"gain": 2.0, "leading": 0.15425, "mean": -1.15055, "dimension_over_size": 0.2566},
    {"gain": 3.0, "leading": 0.30958, "mean": -2.27390, "dimension_over_size": 0.2872},
)
