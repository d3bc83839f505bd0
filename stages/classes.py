"""Draw a conditional checkpoint class by class, mixes of two classes, and one seed at several guidance scales."""

import torch

from ddpm.base.faults import Fault
from ddpm.base.files import write_csv
from ddpm.figures.pictures import Row, rms_distance, save_labelled_rows
from ddpm.figures.settings import FiguresConfig
from ddpm.model.pixels import to_uint8
from ddpm.sampling import load
from ddpm.sampling.noise import NoiseStreams
from stages import Paths, stage


def main(paths: Paths) -> None:
    figures = paths.settings("figures", FiguresConfig)
    drawing, own, model = figures.drawing, figures.classes, load(paths.ema, paths.runtime().device)
    if not (classes := model.classes):
        raise Fault(f"{paths.ema}: this checkpoint is unconditional; accepted: one trained with train.context_dim above 0")
    count, sampler, of_model = drawing.per_row, drawing.chosen(), f"{paths.recipe} ({paths.scale})"
    by_class = torch.eye(len(classes)).repeat_interleave(count, 0)
    images = model.sample(len(by_class), sampler, own.seed, by_class, **drawing.options)
    rows = [Row(name, images[i * count : (i + 1) * count]) for i, name in enumerate(classes)]
    # One noise, so that nothing but the weights of the two classes changes along the row.
    shares = torch.linspace(0, 1, count)
    mixes = torch.zeros(count, len(classes))
    mixes[:, 0], mixes[:, 1] = 1 - shares, shares
    noise = NoiseStreams(own.seed, [0] * count, model.shape, model.device)
    denoiser = model.denoiser(mixes, drawing.guidance, count * sampler.num_steps)
    *_, mixed = sampler.run(denoiser, model.schedule, noise.draw(), noise)
    weights = [f"{1 - share:.2f} + {share:.2f}" for share in shares.tolist()]
    rows.append(Row(f"{classes[0]}\n+ {classes[1]},\none noise", to_uint8(mixed.x_t), weights))
    title = (
        f"{of_model}: a row for each class, and the first two mixed by the weights above the images; EMA weights of step "
        f"{model.step:,}, {drawing.told(own.seed, classes)}"
    )
    save_labelled_rows(paths.metrics / "classes.png", rows, title)

    sweep = {scale: model.sample(count, sampler, own.seed, None, float(scale), drawing.batch_size) for scale in own.scales}
    notes = {0.0: "\n(class: none)", 1.0: "\n(class only)"}  # the unconditional network, the conditional one
    rows = [Row(f"guidance {scale:g}{notes.get(scale, '')}", drawn) for scale, drawn in sweep.items()]
    rows[0] = rows[0]._replace(captions=drawing.asked(classes))
    title = (
        f"{of_model}: the same noise and classes at several guidance scales; EMA weights of step {model.step:,}, "
        f"{sampler.label}, seed {own.seed}"
    )
    save_labelled_rows(paths.metrics / "guidance.png", rows, title)
    first = own.scales[0]
    write_csv(
        paths.metrics / "guidance.csv",
        [{"guidance": scale, "distance": rms_distance(drawn, sweep[first]), "to": first} for scale, drawn in sweep.items()],
    )


if __name__ == "__main__":
    stage(main, __doc__)
