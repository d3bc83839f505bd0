"""Draw raw weights above EMA weights, same step, same noise."""

from ddpm.base.files import write_json
from ddpm.figures.pictures import rms_distance, save_labelled_rows
from ddpm.figures.settings import FiguresConfig
from ddpm.sampling import load
from stages import Paths, stage


def main(paths: Paths) -> None:
    figures, rows = paths.settings("figures", FiguresConfig), []
    drawing = figures.drawing
    for kind, path in [("raw", paths.raws()[-1]), ("EMA", paths.ema)]:
        model = load(path, paths.runtime().device)
        images = model.sample(drawing.per_row, drawing.chosen(), figures.ema.seed, **drawing.options)
        rows.append((f"{kind}\nstep {model.step}", images))
    save_labelled_rows(paths.metrics / "ema.png", rows)
    write_json(paths.metrics / "ema.json", {"raw_to_ema": rms_distance(rows[0][1], rows[1][1])})


if __name__ == "__main__":
    stage(main, __doc__)
