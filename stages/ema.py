"""Draw raw weights above EMA weights at every kept step, same noise: what averaging does, and when."""

from ddpm.base.files import write_json
from ddpm.figures.pictures import Row, rms_distance, save_labelled_rows
from ddpm.figures.settings import FiguresConfig
from ddpm.sampling import load
from stages import Paths, stage


def main(paths: Paths) -> None:
    figures = paths.settings("figures", FiguresConfig)
    drawing, rows = figures.drawing, list[Row]()
    for raw, average in paths.averages().items():
        models = [load(path, paths.runtime().device) for path in (raw, average)]
        pair = [model.sample(drawing.per_row, drawing.chosen(), figures.ema.seed, **drawing.options) for model in models]
        distance, step = rms_distance(*pair), f"step {models[0].step:,}"
        rows.append(Row(f"{step}, raw", pair[0], () if rows else drawing.asked(models[0].classes)))
        rows.append(Row(f"EMA\n({distance:.3f})", pair[1]))
    title = (
        f"{paths.recipe} ({paths.scale}): raw weights above their average (EMA), same noise; "
        f"{drawing.told(figures.ema.seed, models[0].classes)}. In brackets the distance of the two rows, where 1 = full range"
    )
    save_labelled_rows(paths.metrics / "ema.png", rows, title)
    write_json(paths.metrics / "ema.json", {"raw_to_ema": distance})


if __name__ == "__main__":
    stage(main, __doc__)
