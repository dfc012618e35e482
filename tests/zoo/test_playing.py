"""Playing with trained models: measured, watched and filmed."""

import imageio.v2 as imageio
import numpy as np
import pytest
from scipy.stats import trim_mean

from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.playing import enjoy, evaluate_run
from sb3_trpo.zoo.train_run import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(
        "Pendulum-v1",
        n_timesteps=512,
        seed=1,
        n_eval_episodes=2,
        log_folder=tmp_path_factory.mktemp("runs"),
        overrides={"n_envs": 2, "n_steps": 64},
    ).run


def test_the_score_is_of_the_episodes_played(run):
    score = evaluate_run(run.folder, 20)
    again = evaluate_run(run.folder, 20)
    assert score == again
    returns = np.array([enjoy(run.folder, render=False, seed=20_000 + k)[0] for k in range(16)])
    sixteen = evaluate_run(run.folder, 16)  # one episode in each of sixteen environments, seeds counted up
    assert sixteen.mean == pytest.approx(returns.mean())
    assert sixteen.std == pytest.approx(returns.std(ddof=1))
    assert sixteen.iqm == pytest.approx(trim_mean(returns, 0.25))
    assert sixteen.iqm_low <= sixteen.iqm <= sixteen.iqm_high
    assert sixteen.length == 200


def test_sampled_actions_differ(run):
    assert evaluate_run(run.folder, 4, stochastic=True).mean != evaluate_run(run.folder, 4).mean


def test_the_best_model_is_another_one(run):
    assert evaluate_run(run.folder, 2, best=True).model == "best_model.zip"
    run.best.model.rename(run.folder / "hidden")
    try:
        with pytest.raises(UsageError, match=r"has no best_model\.zip"):
            evaluate_run(run.folder, 2, best=True)
    finally:
        (run.folder / "hidden").rename(run.best.model)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # imageio leaves its pipes open
@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_film_shows_every_step(run, tmp_path, suffix, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    film = tmp_path / f"film{suffix}"
    enjoy(run.folder, video=film)
    frames = imageio.mimread(film, memtest=False)
    assert len(frames) == pytest.approx(200, abs=2)
    assert frames[0].shape[:2] == (500, 500)
    assert any((frame != frames[0]).any() for frame in frames[1:])
    assert [path.name for path in tmp_path.iterdir()] == [film.name]
