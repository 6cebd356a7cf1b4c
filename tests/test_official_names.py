"""Names that people's scripts import, by the official paths; and that they do what is asked of them there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.golden_steps import golden_config
from tests.helpers import rand

NAMES = {
    "utils": "register_debug_signal_handlers get_shape set_requires_grad add_prefix_to_keys flatten_dict get_ramp",
    "training.trainers": "make_training_model load_checkpoint",
    "training.trainers.default": "DefaultInpaintingTrainingModule",
    "training.trainers.base": "BaseInpaintingTrainingModule",
    "training.modules": "make_generator make_discriminator FFCResNetGenerator GlobalGenerator NLayerDiscriminator "
    "MultiDilatedGlobalGenerator",
    "training.modules.base": "get_activation get_norm_layer BaseDiscriminator",
    "training.modules.spatial_transform": "LearnableSpatialTransformWrapper",
    "training.modules.ffc": "FFC FFC_BN_ACT ConcatTupleLayer FFCResnetBlock FFCResNetGenerator FourierUnit "
    "SELayer SpectralTransform",
    "training.modules.pix2pixhd": "GlobalGenerator NLayerDiscriminator ResnetBlock MultidilatedResnetBlock "
    "get_norm_layer",
    "training.modules.multidilated_conv": "MultidilatedConv",
    "training.modules.depthwise_sep_conv": "DepthWiseSeperableConv",
    "training.modules.squeeze_excitation": "SELayer",
    "training.data.datasets": "InpaintingTrainDataset make_default_val_dataset make_default_train_dataloader "
    "make_default_val_dataloader get_transforms get_mask_generator",
    "training.data.masks": "get_mask_generator MixedMaskGenerator RandomIrregularMaskGenerator DrawMethod "
    "RandomRectangleMaskGenerator RandomSuperresMaskGenerator OutpaintingMaskGenerator DumbAreaMaskGenerator",
    "training.data.aug": "get_transforms",
    "training.losses.adversarial": "make_discrim_loss NonSaturatingWithR1 BCELoss make_r1_gp",
    "training.losses.feature_matching": "feature_matching_loss masked_l1_loss masked_l2_loss",
    "training.losses.perceptual": "IMAGENET_MEAN IMAGENET_STD PerceptualLoss ResNetPL",
    "training.losses.distance_weighting": "make_mask_distance_weighter BlurMask EmulatedEDTMask",
    "training.visualizers": "make_visualizer DirectoryVisualizer NoopVisualizer",
    "training.visualizers.base": "BaseVisualizer visualize_mask_and_images visualize_mask_and_images_batch",
    "training.visualizers.directory": "DirectoryVisualizer",
    "training.visualizers.noop": "NoopVisualizer",
    "evaluation": "make_evaluator",
    "evaluation.data": "InpaintingDataset OurInpaintingDataset PrecomputedInpaintingResultsDataset load_image "
    "InpaintingEvalOnlineDataset ceil_modulo pad_img_to_modulo pad_tensor_to_modulo scale_image",
    "evaluation.evaluator": "InpaintingEvaluator InpaintingEvaluatorOnline ssim_fid100_f1 lpips_fid100_f1",
    "evaluation.refinement": "refine_predict",
    "evaluation.utils": "move_to_device load_yaml SmallMode",
    "evaluation.masks.mask": "SegmentationMask RigidnessMode propose_random_square_crop",
    "evaluation.losses.base_loss": "SSIMScore LPIPSScore FIDScore EvaluatorScore PairwiseScore",
    "evaluation.losses.ssim": "SSIM",
    "evaluation.losses.lpips": "PerceptualLoss",
    "evaluation.losses.fid.inception": "InceptionV3",
    "evaluation.metrics.inception": "FIDInception _make_inception",
}


def official(path: str, name: str) -> object:
    return getattr(import_module(f"saicinpainting.{path}"), name)


@pytest.mark.parametrize(("path", "name"), [(path, name) for path in NAMES for name in NAMES[path].split()])
def test_the_name_is_there(path: str, name: str):
    assert official(path, name) is not None


def test_the_training_module_is_built_from_a_whole_config():
    module_class = official("training.trainers.default", "DefaultInpaintingTrainingModule")
    config = golden_config()
    model = module_class(config, use_ddp=False, predict_only=True, concat_mask=True)
    assert not hasattr(model, "discriminator")
    batch = {"image": rand(1, 1, 3, 32, 32), "mask": torch.ones(1, 1, 32, 32)}
    with torch.no_grad():
        assert model.eval()(batch)["inpainted"].shape == (1, 3, 32, 32)
    assert hasattr(module_class(config), "discriminator")


def test_a_config_file_is_read_with_attributes(tmp_path: Path):
    (tmp_path / "x.yaml").write_text("a: {b: 3}\nweights: ${TORCH_HOME}\nparts: [{c: 4}]\n")
    config = official("evaluation.utils", "load_yaml")(tmp_path / "x.yaml")
    assert (config.a.b, config.weights, config.parts[0].c) == (3, "${TORCH_HOME}", 4)
    assert config.get("segmentation", {"enable": False}) == {"enable": False}
    assert json.loads(json.dumps(config)) == config
    config.a.d = config.a.pop("b", 2)
    assert config["a"] == {"d": 3}
    assert not hasattr(config, "none")
    assert official("evaluation.utils", "SmallMode")("upscale").name == "UPSCALE"


def test_an_image_comes_with_its_pixels(tmp_path: Path):
    pixels = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    load_image = official("evaluation.data", "load_image")
    image, original = load_image(tmp_path / "x.png", mode="RGB", return_orig=True)
    assert np.array_equal(original, pixels)
    assert np.array_equal(image, load_image(tmp_path / "x.png"))
    np.testing.assert_allclose(image, pixels.transpose(2, 0, 1) / 255, atol=1e-7)


def test_metrics_by_their_official_calls():
    x, y = rand(1, 3, 3, 32, 32), rand(2, 3, 3, 32, 32)
    ssim = official("evaluation.losses.ssim", "SSIM")
    assert float(ssim()(x, x)) == pytest.approx(1)
    assert ssim(size_average=False)(x, y).shape == (3,)
    metrics = {("ssim", "total"): {"mean": 0.8}, ("lpips", "total"): {"mean": 0.2}, ("fid", "total"): {"mean": 40.0}}
    expected = 2 * 0.8 * 0.6 / (0.8 + 0.6 + 1e-3)
    for name in ("ssim_fid100_f1", "lpips_fid100_f1"):
        assert official("evaluation.evaluator", name)(metrics) == pytest.approx(expected)
    evaluator = official("evaluation.evaluator", "InpaintingEvaluatorOnline")
    scores = {"ssim": official("evaluation.losses.base_loss", "SSIMScore")()}
    online = evaluator(scores, image_key="original", integral_func=lambda r: -r["ssim", "total"]["mean"])
    mask = torch.zeros(3, 1, 32, 32)
    mask[:, :, :16] = 1
    online({"original": x, "inpainted": y, "mask": mask})
    results = online.evaluation_end()
    assert results["ssim", "total"]["mean"] == pytest.approx(float(ssim()(y, x)), abs=1e-6)
    assert (
        results["ssim", "50-60%"]["mean"] == results["ssim", "total"]["mean"] == -results["integral", "total"]["mean"]
    )


def test_a_square_crop_meets_the_hole():
    mask = np.zeros((64, 200))
    mask[10:20, 120:150] = 1
    left, top, right, bottom = official("evaluation.masks.mask", "propose_random_square_crop")(mask, min_overlap=1.0)
    assert (top, bottom, right - left) == (0, 64, 64)
    assert left <= 150 <= right + 1


def test_images_with_their_holes_outlined():
    image, mask = rand(1, 2, 3, 16, 16), torch.zeros(2, 1, 16, 16)
    mask[:, :, 4:12, 4:12] = 1
    batch = {"image": image, "inpainted": image, "mask": mask}
    whole = official("training.visualizers.base", "visualize_mask_and_images_batch")(batch, ["image", "inpainted"])
    assert whole.shape == (32, 32, 3)
    assert 0 <= whole.min() <= whole.max() <= 1
    one = {key: value[0].numpy() for key, value in batch.items()}
    row = official("training.visualizers.base", "visualize_mask_and_images")(one, ["image", "inpainted"])
    assert np.array_equal(row, whole[:16])


def test_shapes_of_a_nest():
    nest = {"a": torch.zeros(2, 3), "b": [np.zeros(4), 5]}
    assert official("utils", "get_shape")(nest) == {"a": (2, 3), "b": [(4,), int]}
    with pytest.raises(ValueError, match="str"):
        official("utils", "get_shape")("text")


def test_activations_by_name():
    get_activation = official("training.modules.base", "get_activation")
    assert float(get_activation("sigmoid")(torch.zeros(()))) == 0.5
    assert isinstance(get_activation("tanh"), torch.nn.Tanh)
    x = rand(1, 2, 3)
    assert torch.equal(get_activation(False)(x), x)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="signals of POSIX")
def test_a_debug_signal_prints_where_the_program_is():
    code = (
        "import os, signal\n"
        "from saicinpainting.utils import register_debug_signal_handlers\n"
        "register_debug_signal_handlers()\n"
        "def where_it_is():\n    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "where_it_is()\nprint('goes on')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert "where_it_is" in done.stderr
    assert done.stdout == "goes on\n"
