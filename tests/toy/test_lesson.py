"""What notebooks draw has the lengths that it claims, and a notebook finds its clone."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from fdpg_ref import DIVERGENCES, FORWARD_KL
from toy import lesson
from toy.categorical import score_matrix
from toy.exact import exact_gradient
from toy.lesson.__main__ import main
from toy.lesson.drawing import ARROW, CORNERS

ROOT = Path(__file__).resolve().parents[2]
TARGET = np.array([0.62, 0.28, 0.10])


@pytest.fixture
def axes():
    figure, drawn = plt.subplots()
    yield drawn
    plt.close(figure)


@pytest.mark.parametrize("name", lesson.COLOURS)
def test_an_arrow_is_as_long_as_the_gradient_in_every_picture(axes, name):
    policies = lesson.inner_points(5)
    divergence = DIVERGENCES[name]
    arrows = lesson.draw_arrows(axes, policies, np.log(TARGET), divergence=divergence)
    drawn = np.hypot(arrows.U, arrows.V) / arrows.scale
    gradients = [
        exact_gradient(np.log(p), np.log(TARGET), score_matrix(np.log(p)), divergence=divergence)
        for p in policies
    ]
    # Rounding of a projection onto the plane.
    assert np.allclose(drawn, ARROW * np.linalg.norm(gradients, axis=-1), rtol=1e-12, atol=1e-14)
    assert arrows.angles == arrows.scale_units == "xy"


def test_arrows_of_forward_kl_point_at_the_target(axes):
    """The gradient is policy less target, so a step against it leads there."""
    policies = lesson.inner_points(6)
    arrows = lesson.draw_arrows(axes, policies, np.log(TARGET), divergence=FORWARD_KL)
    steps = np.stack([arrows.U, arrows.V], axis=-1)
    there = lesson.to_plane(TARGET - policies)
    assert np.allclose(steps, np.sqrt(2) * there, rtol=1e-12, atol=1e-14)


def test_inner_points_are_all_policies_without_a_zero():
    points = lesson.inner_points(6)
    assert len(points) == 10
    assert np.all(points > 0)
    assert np.allclose(points.sum(axis=-1), 1.0)


def test_a_cloud_is_drawn_in_lengths_of_its_gradient(axes):
    exact = np.array([-0.5, 0.1, 0.4])
    across = np.array([0.1, -0.3, 0.2])
    across -= exact * (across @ exact) / (exact @ exact)
    estimates = np.stack([exact, 0 * exact, 2 * exact + across])
    # Gradients of a softmax sum to zero, so their covariance does, too.
    covariance = np.eye(3) - 1 / 3
    lesson.draw_cloud(axes, estimates, exact, covariance, colour="black")
    points = np.asarray(axes.collections[0].get_offsets())
    assert np.allclose(points[:2], np.array([[1.0, 0.0], [0.0, 0.0]]), atol=1e-14)
    size = float(np.linalg.norm(across) / np.linalg.norm(exact))
    assert np.allclose(np.abs(points[2]), np.array([2.0, size]), atol=1e-14)
    # Equal variances in all directions: a circle around the exact one.
    (ellipse,) = axes.patches
    assert ellipse.center == (1.0, 0.0)
    assert ellipse.width == pytest.approx(ellipse.height)


def test_the_plane_keeps_the_corners_apart():
    assert np.allclose(lesson.to_plane(np.eye(3)), CORNERS)


def test_a_notebook_finds_the_clone_around_it(monkeypatch):
    monkeypatch.setattr(sys, "path", ["elsewhere"])
    assert lesson.repository(ROOT / "notebooks" / "student") == ROOT
    assert lesson.repository(ROOT) == ROOT
    assert sys.path == ["elsewhere", str(ROOT)]


def test_a_notebook_outside_of_a_clone_says_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="open it in the folder notebooks/ of a clone"):
        _ = lesson.repository()


def test_an_open_exercise_is_one_line():
    error = lesson.NotSolved("exercise 1. Two terms cancel.")
    assert error._render_traceback_() == ["Still open: exercise 1. Two terms cancel."]


def test_a_prediction_stands_beside_its_answer(capsys):
    lesson.compare(None, 3)
    lesson.compare("forward_kl", "reverse_kl")
    printed = capsys.readouterr().out
    assert "nothing yet" in printed
    assert "you predicted: forward_kl\nmeasured:      reverse_kl" in printed


def test_the_picture_of_the_readme_needs_a_png_that_can_be_written(tmp_path, capsys):
    assert main([]) == 2
    assert "usage: python -m toy.lesson FILE.png" in capsys.readouterr().err
    (tmp_path / "file").touch()
    for name, reason in (("a.jpg", "does not end in .png"), ("file/a.png", "is not a folder")):
        assert main([str(tmp_path / name)]) == 2
        assert reason in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_picture_of_the_readme_replaces_no_other(tmp_path, capsys):
    mine = tmp_path / "mine.png"
    _ = mine.write_bytes(b"precious")
    assert main([str(mine)]) == 2
    assert "is not replaced: choose another name" in capsys.readouterr().err
    assert mine.read_bytes() == b"precious"
