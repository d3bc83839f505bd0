"""Draw the same checkpoint (EMA) and the same first noise with each sampler of figures.samplers.compared."""

from ddpm.base.files import write_csv
from ddpm.figures.pictures import rms_distance, save_labelled_rows
from ddpm.figures.settings import FiguresConfig
from ddpm.sampling import load
from stages import Paths, stage


def main(paths: Paths) -> None:
    figures = paths.settings("figures", FiguresConfig)
    drawing, model = figures.drawing, load(paths.ema, paths.runtime().device)
    samplers = [drawing.chosen(choice) for choice in figures.samplers.compared]
    rows = {
        sampler.label: model.sample(drawing.per_row, sampler, figures.samplers.seed, **drawing.options) for sampler in samplers
    }
    # Broken to fit beside the images.
    broken = [(label.replace(", ", "\n").replace("++ ", "++\n"), row) for label, row in rows.items()]
    save_labelled_rows(paths.metrics / "samplers.png", broken)
    # The longest way of those that follow the ODE, from which the others of them differ by their errors alone.
    longest = max(samplers, key=lambda sampler: (sampler.follows_ode, sampler.num_steps)).label
    write_csv(
        paths.metrics / "samplers.csv",
        [{"sampler": label, "distance": rms_distance(row, rows[longest]), "to": longest} for label, row in rows.items()],
    )


if __name__ == "__main__":
    stage(main, __doc__)
