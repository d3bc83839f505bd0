"""Draw the same checkpoint (EMA) and the same first noise with each sampler of figures.compared."""

from ddpm.images import save_labelled_rows
from ddpm.timing import pick_device
from stages.common import Paths, runtime, stage, write_json
from stages.drawing import Checkpoint, compared_samplers, ema_checkpoint, rms_distance


def main(paths: Paths) -> None:
    figures, device = paths.figures_config(), pick_device(runtime(paths.scale).device)
    checkpoint, samplers = Checkpoint(ema_checkpoint(paths), device), compared_samplers(figures)
    count = figures.images_per_row
    condition = checkpoint.in_turn(count, figures.guidance)
    rows = [
        (sampler.label, checkpoint.draw(sampler, figures.samplers_seed, count, figures.batch_size, condition))
        for sampler in samplers
    ]
    broken = [(label.replace(", ", "\n").replace("++ ", "++\n"), row) for label, row in rows]  # to fit beside the images
    save_labelled_rows(paths.metrics / "samplers.png", broken)
    # The longest way of those that follow the ODE, from which the others of them differ by their errors alone.
    longest = max(samplers, key=lambda sampler: (sampler.method != "ddpm", sampler.num_steps)).label
    write_json(
        paths.metrics / "samplers.json",
        {
            "step": checkpoint.step,
            "distance_to": longest,
            "distance": {label: rms_distance(row, dict(rows)[longest]) for label, row in rows},
        },
    )


if __name__ == "__main__":
    stage(main, __doc__)
