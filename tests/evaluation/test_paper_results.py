"""How near to the paper a measurement is, and when that says nothing."""

from __future__ import annotations

import pytest

from saicinpainting.evaluation.paper_results import FID, IMAGES, LPIPS, PUBLISHED, beside_paper, paper_model


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lama-fourier", "LaMa-Fourier"),
        ("me_2026-11-28_12-00-00_train_lama-fourier_", "LaMa-Fourier"),
        ("lama-regular-celeba", "LaMa-Regular"),
        ("big-lama-regular", None),
        ("big-lama", None),
        ("my-lama-fourier", None),
    ],
)
def test_models_of_the_paper_are_known_by_name(name: str, expected: str | None) -> None:
    assert paper_model(name) == expected


def wide(name: str, fid: float, lpips: float, images: int = 30_000, dataset: str = "places") -> list[str]:
    return list(beside_paper(name, dataset, {"random_thick_512": (images, {FID: fid, LPIPS: lpips, "ssim": 0.9})}))


def test_the_second_measurement_that_is_known_is_within_the_tolerance() -> None:
    """2.23 / .134, Rombach et al. 2022, table 7."""
    assert wide("lama-fourier", 2.23, 0.134) == [
        f"random_thick_512: {values}: within what a second measurement may differ by"
        for values in (
            "FID 2.230, LaMa-Fourier of the paper 2.21 ± 0.03",
            "LPIPS 0.134, LaMa-Fourier of the paper 0.135 ± 0.002",
        )
    ]


def test_what_the_paper_tells_apart_is_beyond_the_tolerance() -> None:
    """LaMa-Regular and LaMa-Dilated are other networks than LaMa-Fourier, by the paper's own figures."""
    for other in ("LaMa-Regular", "LaMa-Dilated"):
        values = PUBLISHED["places"][other]["wide"]
        fid, _ = wide("lama-fourier", values[FID], values[LPIPS])
        assert f"{values[FID] - 2.21:.3g} off, beyond what" in fid


def test_fewer_images_tell_nothing() -> None:
    (line,) = wide("lama-fourier", 2.21, 0.135, images=2000)
    assert line.startswith("random_thick_512: 2,000 images, the paper's values are of 30,000")


def test_a_model_that_the_paper_has_not_and_faces_have_no_verdict() -> None:
    (line,) = wide("my-network", 2.21, 0.135)
    assert "0.03 in FID and 0.002 in LPIPS are within what two measurements of one differ" in line
    (line,) = wide("lama-fourier-celeba", 6.96, 0.098, images=IMAGES["celeba"], dataset="celeba")
    assert "no second measurement" in line


def test_sets_that_the_paper_has_not_are_left_out() -> None:
    assert (
        list(
            beside_paper(
                "lama-fourier",
                "places",
                {
                    "medium": (30_000, {FID: 1.0}),
                    "thin": (10, {}),
                },
            )
        )
        == []
    )
