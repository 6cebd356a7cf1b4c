"""Fill the holes of images: `bin/predict.py model.path=RUN indir=IN outdir=OUT`, IN a folder or an image.

Masks lie beside the images, or `mask.path` names one, or their folder; `out=FILE` in place of outdir for one image.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from saicinpainting.cli import hydra_command
from saicinpainting.config import command_config

if TYPE_CHECKING:
    from saicinpainting.io.ranks import Ranks


@hydra_command("prediction", "default")
def main(config: DictConfig) -> None:
    from saicinpainting.io.ranks import run_ranks

    config = command_config(config, "prediction/default.yaml", open_sections=["dataset"])
    if config.out is not None:
        config.outdir = ""  # out= names the one result; a missing outdir is no error then
    settings: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    run_ranks(predict, settings)


def predict(settings: dict[str, Any], ranks: Ranks) -> None:
    """Fill images as configs/prediction/default.yaml describes it, each rank its share."""
    from saicinpainting.data.datasets import check_prediction_dataset, make_default_val_dataset
    from saicinpainting.inference.backends import image_channels, load_backend, share_limits, warn_of_unrefined
    from saicinpainting.inference.edges import EdgeSettings
    from saicinpainting.inference.folders import check_folder_settings, origin, predict_folder
    from saicinpainting.schema import read_section
    from saicinpainting.utils import InputError

    if settings["out"] is None and not settings["outdir"]:
        raise InputError("outdir: expected a folder, got nothing; name one")
    writing = {key: settings[key] for key in ("out", "out_ext", "batch_size", "num_workers", "existing")}
    check_folder_settings(**writing)
    check_prediction_dataset(settings["dataset"])
    names = {"img_suffix": settings["dataset"].pop("img_suffix", ".png")}
    names |= {"mask_path": path} if (path := settings["mask"].pop("path")) is not None else {}
    outdir = settings["outdir"]
    if settings["out"] is None and path is not None and Path(outdir).resolve() == Path(path).resolve():
        raise InputError(f"outdir={outdir}: the masks are there, which results share names with; name another folder")
    edge = read_section(EdgeSettings, settings["mask"], where="mask")
    dataset: Any = make_default_val_dataset(settings["indir"], **names, **settings["dataset"])
    # Settings that decide the pixels. Names of files do not: results are known by the contents of image and mask. Nor
    # do fold, compile and cuda_graphs, which change the rounding alone.
    keys = ("dataset", "out_key", "refine", "precision", "strategy", "memory_gb")
    refiner = settings["refiner"] if settings["refine"] else None  # ignored unless refine is on
    edges = {"mask": vars(edge)} if edge != EdgeSettings() else {}  # as in folders from before there were any
    made_by = origin(settings["model"], {**{key: settings[key] for key in keys}, "refiner": refiner, **edges})
    options = {key: settings[key] for key in ("precision", "strategy", "memory_gb", "fold", "cuda_graphs")}
    backend = load_backend(
        settings["model"],
        settings["device"],
        edge=edge,
        out_key=settings["out_key"],
        refine=settings["refine"],
        refiner=refiner,
        compile_network=settings["compile"],
        trust=settings["trust"],
        **options,
    )
    share_limits(backend, ranks, settings["memory_gb"])
    dataset.channels = image_channels(backend)
    summary = predict_folder(
        backend,
        dataset,
        settings["indir"],
        settings["outdir"],
        one_size=settings["refine"],
        made_by=made_by,
        ranks=ranks,
        **writing,
    )
    warn_of_unrefined(backend, ranks)
    if not ranks.first:
        return
    print(f"{summary}: {settings['out'] or settings['outdir']}")
    if summary.skipped:
        reasons = "; ".join(summary.skipped.values())
        raise InputError(f"{len(summary.skipped)} of {len(dataset)} images were skipped: {reasons}")


if __name__ == "__main__":
    main()
