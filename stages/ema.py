"""Draw raw weights above EMA weights, same step, same noise."""

from ddpm.images import save_labelled_rows
from ddpm.timing import pick_device
from stages.common import Paths, runtime, stage, write_json
from stages.drawing import Checkpoint, chosen_sampler, ema_checkpoint, raw_checkpoints, rms_distance


def main(paths: Paths) -> None:
    figures, device = paths.figures_config(), pick_device(runtime(paths.scale).device)
    sampler, rows = chosen_sampler(figures), []
    for kind, path in [("raw", raw_checkpoints(paths)[-1]), ("EMA", ema_checkpoint(paths))]:
        checkpoint = Checkpoint(path, device)
        condition = checkpoint.in_turn(figures.images_per_row, figures.guidance)
        images = checkpoint.draw(sampler, figures.ema_seed, figures.images_per_row, figures.batch_size, condition)
        rows.append((f"{kind}\nstep {checkpoint.step}", images))
    save_labelled_rows(paths.metrics / "ema.png", rows)
    write_json(
        paths.metrics / "ema.json",
        {"sampler": sampler.label, "step": checkpoint.step, "distance": rms_distance(rows[0][1], rows[1][1])},
    )


if __name__ == "__main__":
    stage(main, __doc__)
