"""Draw raw weights above EMA weights, same step, same noise."""

from ddpm.base.files import write_json
from ddpm.figures.pictures import Row, rms_distance, save_labelled_rows
from ddpm.figures.settings import FiguresConfig
from ddpm.sampling import load
from stages import Paths, stage


def main(paths: Paths) -> None:
    figures = paths.settings("figures", FiguresConfig)
    drawing, rows = figures.drawing, list[Row]()
    for kind, path in [("raw", paths.raws()[-1]), ("EMA", paths.ema)]:
        model = load(path, paths.runtime().device)
        images = model.sample(drawing.per_row, drawing.chosen(), figures.ema.seed, **drawing.options)
        rows.append(Row(kind, images, () if rows else drawing.asked(model.classes)))
    title = (
        f"{paths.recipe} ({paths.scale}): raw weights above their average (EMA), both of step {model.step:,}, same noise; "
        f"{drawing.told(figures.ema.seed, model.classes)}"
    )
    save_labelled_rows(paths.metrics / "ema.png", rows, title)
    write_json(paths.metrics / "ema.json", {"raw_to_ema": rms_distance(rows[0].images, rows[1].images)})


if __name__ == "__main__":
    stage(main, __doc__)
