"""Draw a conditional checkpoint class by class, mixes of two classes, and one seed at several guidance scales."""

import torch

from ddpm.base.faults import Fault
from ddpm.base.files import write_csv
from ddpm.figures.pictures import rms_distance, save_labelled_rows
from ddpm.figures.settings import FiguresConfig
from ddpm.sampling import load
from stages import Paths, stage


def main(paths: Paths) -> None:
    figures = paths.settings("figures", FiguresConfig)
    drawing, own, model = figures.drawing, figures.classes, load(paths.ema, paths.runtime().device)
    if not (classes := model.classes):
        raise Fault(f"{paths.ema}: this checkpoint is unconditional; accepted: one trained with train.context_dim above 0")
    count, sampler = drawing.per_row, drawing.chosen()
    by_class = torch.eye(len(classes)).repeat_interleave(count, 0)
    mixes = torch.zeros(count, len(classes))
    mixes[:, 1] = torch.linspace(0, 1, count)
    mixes[:, 0] = 1 - mixes[:, 1]
    context = torch.cat([by_class, mixes])
    images = model.sample(len(context), sampler, own.seed, context, **drawing.options)
    labels = [*classes, f"{classes[0]} to\n{classes[1]}"]
    rows = [images[start : start + count] for start in range(0, len(images), count)]
    save_labelled_rows(paths.metrics / "classes.png", list(zip(labels, rows, strict=True)))

    sweep = {scale: model.sample(count, sampler, own.seed, None, float(scale), drawing.batch_size) for scale in own.scales}
    save_labelled_rows(paths.metrics / "guidance.png", [(f"guidance {scale:g}", drawn) for scale, drawn in sweep.items()])
    first = own.scales[0]
    write_csv(
        paths.metrics / "guidance.csv",
        [{"guidance": scale, "distance": rms_distance(drawn, sweep[first]), "to": first} for scale, drawn in sweep.items()],
    )


if __name__ == "__main__":
    stage(main, __doc__)
