"""Draw how samples improve over the training: a row a kept step, raw weights, the same noise in every row."""

from ddpm.images import save_labelled_rows
from ddpm.timing import pick_device
from stages.common import Paths, runtime, stage, write_json
from stages.drawing import Checkpoint, chosen_sampler, raw_checkpoints, rms_distance


def main(paths: Paths) -> None:
    figures, device = paths.figures_config(), pick_device(runtime(paths.scale).device)
    sampler, rows = chosen_sampler(figures), []
    for path in raw_checkpoints(paths):
        checkpoint = Checkpoint(path, device)
        condition = checkpoint.in_turn(figures.images_per_row, figures.guidance)
        images = checkpoint.draw(sampler, figures.progression_seed, figures.images_per_row, figures.batch_size, condition)
        rows.append((checkpoint.step, images))
    save_labelled_rows(paths.metrics / "progression.png", [(f"step {step}", images) for step, images in rows])
    final = rows[-1][1]
    write_json(
        paths.metrics / "progression.json",
        {"sampler": sampler.label, "distance_to_final": {str(step): rms_distance(images, final) for step, images in rows}},
    )


if __name__ == "__main__":
    stage(main, __doc__)
