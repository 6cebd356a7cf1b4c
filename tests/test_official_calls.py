"""What programs of others do with the official names, called as they call them: by position and by keyword."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from saicinpainting.evaluation.data import PrecomputedInpaintingResultsDataset, pad_tensor_to_modulo
from saicinpainting.evaluation.evaluator import InpaintingEvaluator, InpaintingEvaluatorOnline, ssim_fid100_f1
from saicinpainting.evaluation.losses import base_loss
from saicinpainting.evaluation.losses.base_loss import EvaluatorScore, PairwiseScore, SSIMScore
from saicinpainting.evaluation.refinement import refine_predict
from saicinpainting.evaluation.utils import move_to_device
from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.metrics.base import ImageMetric, Row
from saicinpainting.metrics.ssim import ssim
from saicinpainting.training.data.datasets import make_default_train_dataloader, make_default_val_dataset
from saicinpainting.training.data.masks import get_mask_generator
from saicinpainting.training.modules.ffc import FFC, FFCResnetBlock, FFCResNetGenerator, FourierUnit, SpectralTransform
from saicinpainting.training.modules.pix2pixhd import GlobalGenerator, NLayerDiscriminator
from saicinpainting.training.trainers import load_checkpoint
from saicinpainting.training.trainers.default import DefaultInpaintingTrainingModule
from tests.helpers import ROOT, photo, rand, write_data, write_run
from tests.runs import lightning_1_checkpoint


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a checkpoint as the authors published theirs."""
    run = write_run(tmp_path_factory.mktemp("published"))
    state = read_checkpoint(run / "models" / "best.ckpt")["state_dict"]
    state = {**state, "val_evaluator.scores.fid.block.weight": torch.ones(1)}
    torch.save(lightning_1_checkpoint(state), run / "models" / "best.ckpt")
    return run


@pytest.mark.parametrize("mask_type", [torch.float32, torch.uint8, torch.int64, torch.bool])
@pytest.mark.parametrize("refine", [False, True])
def test_an_array_is_filled_as_inpaint_anything_does(published: Path, mask_type: torch.dtype, refine: bool) -> None:
    settings: Any = OmegaConf.load(ROOT / "configs" / "prediction" / "default.yaml")
    settings.model.path, settings.refine = str(published), refine
    settings.refiner.n_iters, settings.refiner.min_side = 2, 16
    train_config: Any = OmegaConf.create(yaml.safe_load((published / "config.yaml").read_text()))
    train_config.training_model.predict_only = True
    train_config.visualizer.kind = "noop"
    path = published / "models" / settings.model.checkpoint
    model = load_checkpoint(train_config, path, strict=False, map_location="cpu")
    model.freeze()
    model.to(torch.device("cpu"))
    image, mask = torch.tensor(photo(size=61)).float().div(255), torch.zeros(61, 61)
    mask[20:40, 10:30] = 1
    batch = {"image": image.permute(2, 0, 1).unsqueeze(0), "mask": mask[None, None]}
    unpad_to_size = [batch["image"].shape[2], batch["image"].shape[3]]
    batch = {name: pad_tensor_to_modulo(tensor, 8) for name, tensor in batch.items()}
    batch = move_to_device(batch, torch.device("cpu"))
    batch["mask"] = ((batch["mask"] > 0) * 1).to(mask_type)
    if refine:
        batch["unpad_to_size"] = [torch.tensor([side]) for side in unpad_to_size]
        filled = refine_predict(batch, model, **settings.refiner)[0]
    else:
        filled = model(batch)[settings.out_key][0]
    result = filled.permute(1, 2, 0).detach().cpu().numpy()[: unpad_to_size[0], : unpad_to_size[1]]
    known = mask.numpy() == 0
    assert result.shape == (61, 61, 3)
    np.testing.assert_allclose(result[known], image.numpy()[known], atol=1e-6)
    assert np.abs(result - image.numpy())[~known].mean() > 0.01


def test_the_training_module_is_loaded_as_exporters_do(published: Path) -> None:
    config: Any = OmegaConf.load(published / "config.yaml")
    settings = dict(config.training_model)
    settings.pop("kind")
    settings |= {"use_ddp": config.trainer.kwargs.get("accelerator", None) == "ddp", "predict_only": True}
    model = DefaultInpaintingTrainingModule(config, **settings)
    state = torch.load(published / "models" / "best.ckpt", map_location="cpu", weights_only=False)
    model.load_state_dict(state["state_dict"], strict=False)
    model.on_load_checkpoint(state)
    model.eval()
    for name, tensor in model.generator.state_dict().items():
        assert torch.equal(tensor, state["state_dict"][f"generator.{name}"])
    assert model({"image": rand(1, 1, 3, 32, 32), "mask": torch.ones(1, 1, 32, 32)})["inpainted"].shape[1] == 3


class Exported(nn.Module):
    """What the official `to_jit.py` wraps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.model({"image": image, "mask": mask})["inpainted"]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_the_module_is_traced_and_taken_apart(published: Path) -> None:
    train_config: Any = OmegaConf.load(published / "config.yaml")
    model = load_checkpoint(train_config, published / "models" / "best.ckpt", "cpu", False)
    model.freeze()
    whole = Exported(model)
    traced = torch.jit.trace(whole, (rand(1, 1, 3, 120, 120), rand(2, 1, 1, 120, 120)), strict=False)
    image, mask = rand(3, 1, 3, 64, 96), (rand(4, 1, 1, 64, 96) > 0.5).float()
    torch.testing.assert_close(traced(image, mask), whole(image, mask))
    assert model.concat_mask
    assert not model.add_noise_kwargs
    layers = model.generator.model
    first = next(i for i, layer in enumerate(layers) if isinstance(layer, FFCResnetBlock))
    x = torch.cat([image * (1 - mask), mask], dim=1)
    torch.testing.assert_close(layers[first:](layers[:first](x)), model.generator(x))


def test_networks_take_their_first_settings_by_position() -> None:
    ratios: dict[str, Any] = {"ratio_gin": 0.5, "ratio_gout": 0.5, "enable_lfu": False}
    none: dict[str, Any] = {"ratio_gin": 0, "ratio_gout": 0, "enable_lfu": False}
    pair = (rand(1, 1, 8, 16, 16), rand(2, 1, 8, 16, 16))
    local, whole = FFC(16, 16, 3, 0.5, 0.5, 1, 1, 1, 1, False, False, "reflect")(pair)
    assert local.shape == whole.shape == pair[0].shape
    block = FFCResnetBlock(16, "reflect", nn.BatchNorm2d, nn.ReLU, 1, **ratios)
    assert block(pair)[1].shape == pair[1].shape
    assert FourierUnit(8, 8, 1, None, "bilinear", False, False)(pair[0]).shape == pair[0].shape
    assert SpectralTransform(8, 8, 1, 1, False)(pair[0]).shape == pair[0].shape
    generator = FFCResNetGenerator(
        4, 3, 4, 3, 1, init_conv_kwargs=none, downsample_conv_kwargs=none, resnet_conv_kwargs=ratios,
        add_out_act="sigmoid",
    )  # fmt: skip
    assert generator(rand(3, 1, 4, 32, 32)).shape == (1, 3, 32, 32)
    assert GlobalGenerator(4, 3, 4, 2, 1)(rand(3, 1, 4, 32, 32)).shape == (1, 3, 32, 32)
    score, features = NLayerDiscriminator(3, 4, 2)(rand(3, 1, 3, 32, 32))
    assert score.shape[1] == 1
    assert len(features) == 3


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (None, {"irregular_proba": 1, "irregular_kwargs": {"max_width": 9}, "box_proba": 0}),
        ("mixed", {"box_proba": 1, "box_kwargs": {"bbox_min_size": 8, "bbox_max_size": 30, "margin": 2}}),
        ("outpainting", {"right_padding_prob": 1, "is_fixed_randomness": True}),
        ("dumb", {"is_training": True}),
    ],
)
def test_masks_are_drawn_for_an_array(kind: str | None, settings: dict[str, Any]) -> None:
    generator = get_mask_generator(kind, settings)
    image = photo(size=64)
    masks = [generator(np.transpose(image, (2, 0, 1)) / 255, iter_i=i, raw_image=image) for i in range(9)]
    assert {mask.shape for mask in masks} == {(1, 64, 64)}
    assert max(mask.mean() for mask in masks) > 0.01
    assert set(np.unique(masks)) == {0, 1}


def test_data_sets_by_their_official_calls(tmp_path: Path) -> None:
    write_data(tmp_path)
    dataset = make_default_val_dataset(f"{tmp_path / 'val'}/", kind="default", img_suffix=".png", pad_out_to_modulo=8)
    names = [file[len(f"{tmp_path / 'val'}/") :] for file in dataset.mask_filenames]
    assert names == ["0_mask000.png", "1_mask000.png"]
    loader = make_default_train_dataloader(
        str(tmp_path / "train"), "default", 64, mask_generator_kind="mixed", transform_variant="distortions",
        mask_gen_kwargs={"box_proba": 0}, dataloader_kwargs={"batch_size": 4, "shuffle": True, "num_workers": 0},
    )  # fmt: skip
    batch = next(iter(loader))
    assert batch["image"].shape == (4, 3, 64, 64)
    assert batch["mask"].shape == (4, 1, 64, 64)


class Difference(ImageMetric):
    """A metric by the interface of ours."""

    def __init__(self) -> None:
        super().__init__(rows={"values": Row()})

    def measure(self, row: str, *inputs: torch.Tensor) -> torch.Tensor:
        return (inputs[0] - inputs[1]).abs().mean(dim=(1, 2, 3))

    def summarize(self, rows: Any) -> dict[str, float]:
        return {"mean": rows["values"].mean().item()} if len(rows["values"]) else {}


def test_scores_are_called_and_asked() -> None:
    pred, target = rand(1, 4, 3, 32, 32), rand(2, 4, 3, 32, 32)
    expected = ssim(pred, target)
    score = SSIMScore()
    score.to("cpu")
    score.reset()
    states = [score(pred[:1], target[:1], torch.ones(1, 1, 32, 32)), score(pred[1:], target[1:])]
    torch.testing.assert_close(torch.cat(states), expected, rtol=1e-5, atol=1e-6)
    total, groups = score.get_value()
    assert groups is None
    assert total["mean"] == pytest.approx(expected.mean().item(), abs=1e-5)
    for given in (None, states):
        _, groups = score.get_value(groups=np.array([0, 3, 3, 0]), states=given)
        assert groups is not None
        assert groups[3]["mean"] == pytest.approx(expected[1:3].mean().item(), abs=1e-5)
        assert set(groups) == {0, 3}
    assert SSIMScore(window_size=5)(pred, target).mean() != expected.mean()
    with pytest.raises(NotImplementedError, match="--metrics segm"):
        base_loss.SegmentationAwareFID(weights_path="x")


def test_predictions_are_measured_as_the_official_script_does(tmp_path: Path) -> None:
    write_data(tmp_path)
    (tmp_path / "out").mkdir()
    for i in range(2):
        Image.fromarray(photo("coffee.png", 64, 40 * i) // 2).save(tmp_path / "out" / f"{i}_mask000.png")
    names: Any = {"img_suffix": ".png", "inpainted_suffix": ".png"}
    dataset = PrecomputedInpaintingResultsDataset(str(tmp_path / "val"), str(tmp_path / "out"), **names)
    scores = {"ssim": SSIMScore(), "difference": Difference()}
    evaluator = InpaintingEvaluator(
        dataset, scores=scores, batch_size=2, device="cpu", integral_title="half",
        integral_func=lambda results: results["ssim", "total"]["mean"] / 2,
    )  # fmt: skip
    results = evaluator.evaluate()
    pairs = [(dataset[i]["inpainted"], dataset[i]["image"]) for i in range(2)]
    expected = np.mean([float(ssim(*(torch.as_tensor(x)[None] for x in pair))) for pair in pairs])
    assert results["ssim", "total"]["mean"] == pytest.approx(expected, abs=1e-5)
    assert results["half", "total"]["mean"] == pytest.approx(expected / 2, abs=1e-5)
    table = pd.DataFrame(results).stack(1).unstack(0)
    assert table.loc["total", ("ssim", "mean")] == pytest.approx(expected, abs=1e-5)
    filled = evaluator.evaluate(lambda image, mask: image)
    assert filled["difference", "total"]["mean"] == 0
    totals = InpaintingEvaluator(dataset, scores, False, 10, 1, "cpu").evaluate()
    assert set(totals) == {("ssim", "total"), ("difference", "total")}


def test_an_evaluator_within_a_training_is_asked_at_its_end() -> None:
    online = InpaintingEvaluatorOnline(
        {"ssim": SSIMScore()}, bins=5, integral_func=lambda r: r["ssim", "total"]["mean"], integral_title="own"
    )
    batch = {"image": rand(1, 2, 3, 32, 32), "inpainted": rand(2, 2, 3, 32, 32), "mask": torch.ones(2, 1, 32, 32)}
    online.process_batch(batch)
    results = online.evaluation_end()
    assert results["own", "total"]["mean"] == results["ssim", "80-100%"]["mean"]
    metrics = {("ssim", "total"): {"mean": 0.5}, ("fid", "total"): {"mean": 200.0}}
    assert ssim_fid100_f1(metrics) == 0


class RootMeanSquare(PairwiseScore):
    """A score of one's own as scripts of others write it."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def forward(self, pred_batch: torch.Tensor, target_batch: torch.Tensor, mask: Any = None) -> torch.Tensor:
        values = (pred_batch - target_batch).square().flatten(1).mean(dim=1).sqrt()
        self.individual_values = np.hstack([self.individual_values, values.cpu().numpy()])
        return values


class Shift(EvaluatorScore):
    """A score of one's own of all images together, not the mean of a number of each."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def forward(self, pred_batch: torch.Tensor, target_batch: torch.Tensor, mask: Any = None) -> None:
        self.differences.append((pred_batch - target_batch).mean(dim=(1, 2, 3)))

    def get_value(self, groups: Any = None, states: Any = None) -> Any:
        means = torch.cat(self.differences).numpy()
        of_groups = {group: {"mean": abs(means[groups == group].mean())} for group in np.unique(groups)}
        return {"mean": abs(means.mean())}, of_groups

    def reset(self) -> None:
        self.differences: list[torch.Tensor] = []


def test_a_score_of_all_images_is_grouped_beside_ours() -> None:
    pred, target = rand(1, 4, 3, 32, 32), rand(2, 4, 3, 32, 32)
    masks = torch.zeros(4, 1, 32, 32)
    masks[:2, :, :8] = 1
    samples: Any = [
        dict(zip(("image", "inpainted", "mask"), x, strict=True)) for x in zip(target, pred, masks, strict=True)
    ]
    results = InpaintingEvaluator(samples, {"shift": Shift(), "ssim": SSIMScore()}, batch_size=3).evaluate()
    differences = (pred - target).double()
    for group, of_group in (("total", differences), ("20-30%", differences[:2]), ("0-10%", differences[2:])):
        assert results["shift", group]["mean"] == pytest.approx(abs(float(of_group.mean())), rel=1e-4)
    assert all(isinstance(score, EvaluatorScore) for score in (SSIMScore(), RootMeanSquare()))


def test_a_score_of_ones_own_is_grouped_beside_ours() -> None:
    pred, target = rand(1, 4, 3, 32, 32), rand(2, 4, 3, 32, 32)
    mask = torch.zeros(4, 1, 32, 32)
    mask[:2, :, :8] = 1
    batches = [{"image": target[s], "inpainted": pred[s], "mask": mask[s]} for s in (slice(0, 3), slice(3, 4))]
    online = InpaintingEvaluatorOnline({"rms": RootMeanSquare(), "ssim": SSIMScore()})
    values = np.sqrt(((pred - target).double().numpy() ** 2).mean(axis=(1, 2, 3)))
    for given in (False, True):
        states = [online.process_batch(batch) for batch in batches]
        results = online.evaluation_end(states=states if given else None)
        for group, of_group in (("total", values), ("20-30%", values[:2]), ("0-10%", values[2:])):
            found = results["rms", group]
            assert found == {"mean": pytest.approx(of_group.mean()), "std": pytest.approx(of_group.std(), rel=1e-4)}
        assert results["ssim", "20-30%"]["mean"] == pytest.approx(ssim(pred, target)[:2].mean().item(), abs=1e-6)
