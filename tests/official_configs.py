"""The official training configs as facts: which groups a run file names, and the keys' values.

Written as Hydra 1.0 took them: group files with a header, defaults lists without `_self_`, Lightning-1 keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

Settings = dict[str, Any]


def _merged(base: Settings, change: Settings) -> Settings:
    sections = [key for key in base if isinstance(base[key], dict) and isinstance(change.get(key), dict)]
    return {**base, **change, **{key: _merged(base[key], change[key]) for key in sections}}


LOSSES = {
    "l1": {"weight_missing": 0, "weight_known": 10},
    "perceptual": {"weight": 0},
    "adversarial": {
        "kind": "r1",
        "weight": 10,
        "gp_coef": 0.001,
        "mask_as_fake_target": True,
        "allow_scale_mask": True,
    },
    "feature_matching": {"weight": 100},
    "resnet_pl": {"weight": 30, "weights_path": "${env:TORCH_HOME}"},
}
RUN = {
    "run_title": "",
    "training_model": {
        "kind": "default",
        "visualize_each_iters": 1000,
        "concat_mask": True,
        "store_discr_outputs_for_vis": True,
    },
    "losses": LOSSES,
}
NO_SEGM_PL = {"resnet_pl": {"weight": 0}}
CLASSES = {"weights_path": "${env:TORCH_HOME}", "segmentation": False}
VGG = {"perceptual": {"weight": 0.03, "kwargs": {"metric": "l2"}}, **NO_SEGM_PL}
PLAIN_PL = {"resnet_pl": {"weight": 0.3, "arch_encoder": "resnet50", **CLASSES}}
DILATED_PL = {"resnet_pl": {"weight": 1, "arch_encoder": "resnet50dilated", **CLASSES}}
OLD_PL = {"segm_pl": {"weight": 0}}

_REGULAR = {
    "kind": "pix2pixhd_global",
    "input_nc": 4,
    "output_nc": 3,
    "ngf": 64,
    "n_downsampling": 3,
    "n_blocks": 9,
    "conv_kind": "default",
}
_RATIOS = {"ratio_gin": 0, "ratio_gout": 0, "enable_lfu": False}
_FOURIER = {
    **{key: value for key, value in _REGULAR.items() if key != "conv_kind"},
    "kind": "ffc_resnet",
    "add_out_act": "sigmoid",
    "init_conv_kwargs": _RATIOS,
    "downsample_conv_kwargs": {
        "ratio_gin": "${generator.init_conv_kwargs.ratio_gout}",
        "ratio_gout": "${generator.downsample_conv_kwargs.ratio_gin}",
        "enable_lfu": False,
    },
    "resnet_conv_kwargs": {
        "ratio_gin": 0.75,
        "ratio_gout": "${generator.resnet_conv_kwargs.ratio_gin}",
        "enable_lfu": False,
    },
}

CHOICES: dict[str, str | None] = {
    "location": "docker",
    "data": "abl-04-256-mh-dist",
    "generator": "pix2pixhd_global_sigmoid",
    "discriminator": "pix2pixhd_nlayer",
    "optimizers": "default_optimizers",
    "visualizer": "directory",
    "evaluator": "default_inpainted",
    "trainer": "any_gpu_large_ssim_ddp_final",
    "hydra": "overrides",
}
FFC = {"generator": "ffc_resnet_075"}
FACES = {
    "location": "celeba",
    "data": "abl-04-256-mh-dist-celeba",
    "trainer": "any_gpu_large_ssim_ddp_final_celeba",
}
FASTER = {"trainer": "any_gpu_large_ssim_ddp_final_benchmark"}
INLINE = {"generator": None}  # larger networks are written into the run file
BIGGER = {"generator": {**_FOURIER, "n_blocks": 18}}
BIGGER_REGULAR = {"generator": {**_REGULAR, "add_out_act": "sigmoid", "n_blocks": 15}}

RUNS: dict[str, tuple[Settings, Settings]] = {
    "big-lama": (INLINE, BIGGER),
    "big-lama-celeba": ({**INLINE, **FACES}, BIGGER),
    "big-lama-regular": (INLINE, BIGGER_REGULAR),
    "big-lama-regular-celeba": ({**INLINE, **FACES}, BIGGER_REGULAR),
    "lama-fourier": (FFC, {}),
    "lama-fourier-celeba": ({**FFC, **FACES}, {}),
    "lama-regular": ({}, {}),
    "lama-regular-celeba": (FACES, {}),
    "lama_small_train_masks": ({"generator": "pix2pixhd_global_sigmoid_9b", "data": "abl-02-thin-bb"}, {}),
    "ablv2_work": ({}, {}),
    "ablv2_work_ffc075": (FFC, {}),
    "ablv2_work_md": ({**FASTER, "generator": "pix2pixhd_multidilated_catin_4dil_9b"}, {}),
    "ablv2_work_no_fm": ({}, {"losses": {"feature_matching": {"weight": 0}}}),
    "ablv2_work_no_segmpl": ({}, {"losses": NO_SEGM_PL}),
    "ablv2_work_no_segmpl_csdilirpl": (FASTER, {"losses": DILATED_PL}),
    "ablv2_work_no_segmpl_csdilirpl_celeba_csdilirpl1_new": (FACES, {"losses": {**DILATED_PL, **OLD_PL}}),
    "ablv2_work_no_segmpl_csirpl": ({}, {"losses": PLAIN_PL}),
    "ablv2_work_no_segmpl_csirpl_celeba_csirpl03_new": (FACES, {"losses": {**PLAIN_PL, **OLD_PL}}),
    "ablv2_work_no_segmpl_vgg": ({}, {"losses": VGG}),
    "ablv2_work_no_segmpl_vgg_celeba_l2_vgg003_new": (FACES, {"losses": {**VGG, **OLD_PL}}),
    "ablv2_work_nodil_segmpl": ({}, {"losses": {"resnet_pl": {"arch_encoder": "resnet50"}}}),
    "ablv2_work_small_holes": ({"data": "abl-02-thin-bb"}, {}),
}
"""A run's choices of group files that differ from `CHOICES`, and its keys that differ from `RUN`."""

_NARROW_STROKES = {"max_angle": 4, "max_len": 80, "max_width": 40, "max_times": 12, "min_times": 4}
_WIDE_STROKES = {"max_angle": 4, "max_len": 200, "max_width": 100, "max_times": 5, "min_times": 1}
_NARROW_BOXES = {"margin": 0, "bbox_min_size": 30, "bbox_max_size": 128, "max_times": 1, "min_times": 1}
_WIDE_BOXES = {"margin": 10, "bbox_min_size": 30, "bbox_max_size": 150, "max_times": 4, "min_times": 1}


def _loader(batch_size: Any, *, shuffle: bool = False) -> Settings:
    return {"batch_size": batch_size, "shuffle": shuffle, "num_workers": "${data.num_workers}"}


def _folder(name: str) -> str:
    return f"${{location.data_root_dir}}/{name}"


def _data(strokes: Settings, boxes: Settings, transform: str) -> Settings:
    return {
        "batch_size": 10,
        "val_batch_size": 2,
        "num_workers": 3,
        "train": {
            "indir": _folder("train"),
            "out_size": 256,
            "mask_gen_kwargs": {
                "irregular_proba": 1,
                "irregular_kwargs": strokes,
                "box_proba": 1,
                "box_kwargs": boxes,
                "segm_proba": 0,
            },
            "transform_variant": transform,
            "dataloader_kwargs": _loader("${data.batch_size}", shuffle=True),
        },
        "val": {
            "indir": _folder("val"),
            "img_suffix": ".png",
            "dataloader_kwargs": _loader("${data.val_batch_size}"),
        },
        "visual_test": {
            "indir": _folder("visual_test"),
            "img_suffix": ".png",
            "pad_out_to_modulo": 32,
            "dataloader_kwargs": _loader(1),
        },
    }


_FACES = {
    "batch_size": 5,
    "val_batch_size": 3,
    "train": {"indir": _folder("train_256")},
    "val": {"indir": _folder("val_256")},
    "visual_test": None,
}
_TRAINER = {
    "kwargs": {
        "gpus": -1,
        "accelerator": "ddp",
        "max_epochs": 40,
        "gradient_clip_val": 1,
        "log_gpu_memory": "None",
        "limit_train_batches": 25000,
        "val_check_interval": "${trainer.kwargs.limit_train_batches}",
        "log_every_n_steps": 250,
        "precision": 32,
        "terminate_on_nan": False,
        "check_val_every_n_epoch": 1,
        "num_sanity_val_steps": 8,
        "replace_sampler_ddp": False,
    },
    "checkpoint_kwargs": {
        "verbose": True,
        "save_top_k": 5,
        "save_last": True,
        "period": 1,
        "monitor": "val_ssim_fid100_f1_total_mean",
        "mode": "max",
    },
}


def location(root: str) -> Settings:
    """A file that an official preparation script writes."""
    return {
        "data_root_dir": f"{root}/data",
        "out_root_dir": f"{root}/experiments",
        "tb_dir": f"{root}/tb_logs",
        "pretrained_models": root,
    }


GROUPS: dict[str, dict[str, Settings]] = {
    "generator": {
        "ffc_resnet_075": _FOURIER,
        "pix2pixhd_global": _REGULAR,
        "pix2pixhd_global_sigmoid": {**_REGULAR, "add_out_act": "sigmoid"},
        "pix2pixhd_multidilated_catin_4dil_9b": {
            **_REGULAR,
            "kind": "pix2pixhd_multidilated",
            "add_out_act": "sigmoid",
            "multidilation_kwargs": {"comb_mode": "cat_in", "dilation_num": 4},
        },
    },
    "discriminator": {"pix2pixhd_nlayer": {"kind": "pix2pixhd_nlayer", "input_nc": 3, "ndf": 64, "n_layers": 4}},
    "optimizers": {
        "default_optimizers": {
            "generator": {"kind": "adam", "lr": 0.001},
            "discriminator": {"kind": "adam", "lr": 0.0001},
        }
    },
    "visualizer": {
        "directory": {
            "kind": "directory",
            "outdir": "samples",
            "key_order": ["image", "predicted_image", "discr_output_fake", "discr_output_real", "inpainted"],
            "rescale_keys": ["discr_output_fake", "discr_output_real"],
        }
    },
    "evaluator": {
        "default_inpainted": {"kind": "default", "inpainted_key": "inpainted", "integral_kind": "ssim_fid100_f1"}
    },
    "location": {"docker": location("/data"), "celeba": location("/data/celeba")},
    "data": {
        "abl-04-256-mh-dist": _data(_WIDE_STROKES, _WIDE_BOXES, "distortions"),
        "abl-04-256-mh-dist-celeba": _merged(_data(_WIDE_STROKES, _WIDE_BOXES, "no_augs"), _FACES),
        "abl-02-thin-bb": _data(_NARROW_STROKES, _NARROW_BOXES, "default"),
    },
    "trainer": {
        "any_gpu_large_ssim_ddp_final": _TRAINER,
        "any_gpu_large_ssim_ddp_final_benchmark": _merged(_TRAINER, {"kwargs": {"benchmark": True}}),
        "any_gpu_large_ssim_ddp_final_celeba": _merged(_TRAINER, {"kwargs": {"val_check_interval": 2600}}),
    },
    "hydra": {
        "overrides": {
            "run": {
                "dir": "${location.out_root_dir}/${env:USER}_${now:%Y-%m-%d_%H-%M-%S}_${hydra.job.name}_"
                "${hydra.job.config_name}_${run_title}"
            },
            "sweep": {"dir": "${hydra.run.dir}_sweep", "subdir": "${hydra.job.num}"},
        }
    },
}


def write_group_file(file: Path, settings: Settings) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"# @package _group_\n{yaml.safe_dump(settings, sort_keys=False)}")


def write_official_configs(folder: Path) -> Path:
    """`folder` with the 22 run files and the group files they name, as official checkouts have `configs/training`."""
    for group, files in GROUPS.items():
        for name, settings in files.items():
            write_group_file(folder / group / f"{name}.yaml", settings)
    for name, (choices, change) in RUNS.items():
        defaults = [{group: file} for group, file in {**CHOICES, **choices}.items() if file]
        run = {**_merged(RUN, change), "defaults": defaults}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(run, sort_keys=False))
    return folder
