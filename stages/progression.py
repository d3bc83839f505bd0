"""Draw how samples improve over the training: a row a kept step, raw weights, the same noise in every row."""

from ddpm.base.files import write_csv
from ddpm.figures.pictures import Row, rms_distance, save_labelled_rows
from ddpm.figures.settings import FiguresConfig
from ddpm.sampling import load
from stages import Paths, stage


def main(paths: Paths) -> None:
    figures, rows = paths.settings("figures", FiguresConfig), []
    drawing = figures.drawing
    for path in paths.raws():
        model = load(path, paths.runtime().device)
        images = model.sample(drawing.per_row, drawing.chosen(), figures.progression.seed, **drawing.options)
        rows.append((model.step, images))
    labelled = [Row(f"step {step:,}", images) for step, images in rows]
    labelled[0] = labelled[0]._replace(captions=drawing.asked(model.classes))
    title = (
        f"{paths.recipe} ({paths.scale}): the same noise after more and more training steps, raw weights; "
        f"{drawing.told(figures.progression.seed, model.classes)}"
    )
    save_labelled_rows(paths.metrics / "progression.png", labelled, title)
    final = rows[-1][1]
    write_csv(
        paths.metrics / "progression.csv",
        [{"step": step, "distance_to_final": rms_distance(images, final)} for step, images in rows],
    )


if __name__ == "__main__":
    stage(main, __doc__)
