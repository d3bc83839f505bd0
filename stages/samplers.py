"""Draw the same checkpoint (EMA) and the same first noise with each sampler of figures.samplers.compared."""

from ddpm.base.files import write_csv
from ddpm.figures.pictures import Row, rms_distance, save_labelled_rows
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
    # The longest way of those that follow the ODE, from which the others of them differ by their errors alone.
    longest = max(samplers, key=lambda sampler: (sampler.follows_ode, sampler.num_steps)).label
    distances = {label: rms_distance(row, rows[longest]) for label, row in rows.items()}
    labelled = [Row("\n".join([*label.split(", "), f"({distances[label]:.3f})"]), row) for label, row in rows.items()]
    labelled[0] = labelled[0]._replace(captions=drawing.asked(model.classes))
    guided = f", guidance {drawing.guidance:g}" if model.classes else ""
    title = (
        f"{paths.recipe} ({paths.scale}): samplers and their network calls, EMA weights of step {model.step:,}, the same first "
        f"noise of seed {figures.samplers.seed}{guided}. In brackets the distance to {longest}, where 1 = full range"
    )
    save_labelled_rows(paths.metrics / "samplers.png", labelled, title)
    write_csv(
        paths.metrics / "samplers.csv",
        [{"sampler": label, "distance": distance, "to": longest} for label, distance in distances.items()],
    )


if __name__ == "__main__":
    stage(main, __doc__)
