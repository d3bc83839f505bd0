"""Draw the same checkpoint (EMA) and the same first noise with DDIM of few and many steps, and with DDPM."""

from ddpm.images import save_labelled_rows
from ddpm.timing import pick_device
from stages.common import Paths, runtime, stage, write_json
from stages.drawing import Checkpoint, compared_samplers, ema_checkpoint, rms_distance


def main(paths: Paths) -> None:
    figures, device = paths.figures_config(), pick_device(runtime(paths.scale).device)
    checkpoint = Checkpoint(ema_checkpoint(paths), device)
    rows = [
        (sampler.label, checkpoint.draw(sampler, figures.samplers_seed, figures.images_per_row, figures.batch_size))
        for sampler in compared_samplers(figures)
    ]
    save_labelled_rows(paths.metrics / "samplers.png", rows)
    last_ddim = rows[-2][1]
    write_json(
        paths.metrics / "samplers.json",
        {"step": checkpoint.step, "distance_to_longest_ddim": {label: rms_distance(row, last_ddim) for label, row in rows}},
    )


if __name__ == "__main__":
    stage(main, __doc__)
