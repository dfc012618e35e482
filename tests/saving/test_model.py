"""Model files: whole or not at all, undamaged or refused, of every version."""

import contextlib
import hashlib
import io
import json
import os
import random
import re
import signal
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_trpo
from sb3_trpo import TRPO
from sb3_trpo.saving.errors import FileError
from sb3_trpo.saving.model import read_model
from tests.algorithms.kinds import make_model
from tests.envs import Contextual
from tests.processes import forked
from tests.saving.payloads import changed, tensors
from tests.test_files import full_disk, leftovers

FIXTURES = Path(__file__).parent.parent / "fixtures"
SAVED = sorted(path.stem for path in FIXTURES.glob("sb3_trpo_*.zip"))
NAMES = ("TRPO", "MaskableTRPO", "RecurrentTRPO", "MaskableRecurrentTRPO")


@pytest.fixture(scope="module")
def saved():
    """A small file."""
    return (FIXTURES / "sb3_trpo_0.1.0_TRPO.zip").read_bytes()


def weights(model):
    return th.nn.utils.parameters_to_vector(model.policy.parameters()).detach()


def contents(content):
    """What can be loaded of a file."""
    return read_model(io.BytesIO(content))[1:4]


def test_there_are_files_of_every_version():
    assert sorted(f"sb3_trpo_{version}_{name}" for version in ("0.1.0", "0.1.0.dev") for name in NAMES) == SAVED


@pytest.mark.parametrize("name", SAVED)
def test_files_of_every_version_load_act_as_recorded_and_go_on_training(name):
    """0.1.0.dev is the format of Stable-Baselines3, which versions before 0.1.0 saved in."""
    recorded = json.loads((FIXTURES / f"{name}.json").read_text())
    cls = getattr(sb3_trpo, name.rpartition("_")[2])
    env = make_model(recorded["kind"]).get_env()
    model = cls.load(FIXTURES / f"{name}.zip", env=env, device="cpu")
    assert model._n_updates == recorded["n_updates"]
    assert model.radius_controller.factor == recorded["radius_factor"]
    assert model.critic_regression.holdout == 0.25
    nvec = getattr(model.action_space, "nvec", [getattr(model.action_space, "n", 0)])
    masks = {"action_masks": np.arange(sum(nvec)) > 0} if "Maskable" in name else {}
    state = None
    for observation, action in zip(recorded["observations"], recorded["actions"], strict=True):
        acted, state = model.predict(np.array(observation, np.float32), state=state, deterministic=True, **masks)
        np.testing.assert_allclose(acted, action, rtol=1e-5, atol=1e-6)
    before = weights(model).clone()
    model.learn(64, reset_num_timesteps=False)
    assert model._n_updates == recorded["n_updates"] + 1
    assert not th.equal(weights(model), before)


@pytest.mark.parametrize("kind", ["text", "path", "path with suffix", "stream", "bytes"])
def test_a_model_is_saved_and_loaded_as_by_stable_baselines3(tmp_path, kind):
    model = make_model("box")
    path = {"text": str(tmp_path / "a" / "model"), "path": tmp_path / "model", "bytes": io.BytesIO()}.get(kind)
    path = tmp_path / "model.v2" if kind == "path with suffix" else path
    if kind == "stream":
        with (tmp_path / "model.zip").open("wb") as stream:
            model.save(stream)
        with (tmp_path / "model.zip").open("rb") as stream:
            loaded = TRPO.load(stream)
    else:
        model.save(path)
        loaded = TRPO.load(path)
        loaded.set_parameters(path)
    assert th.equal(weights(loaded), weights(model))
    files = [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()]
    assert files == {"text": ["a/model.zip"], "path with suffix": ["model.v2"], "bytes": []}.get(kind, ["model.zip"])


def test_what_is_excluded_and_included():
    model = make_model("box")
    stream = io.BytesIO()
    model.save(stream, exclude=["seed", "ep_info_buffer"], include=["_rollout_seconds"])
    names = read_model(stream).attributes.keys()
    assert "_rollout_seconds" in names
    assert not {"seed", "ep_info_buffer", "policy", "env", "rollout_buffer", "lr_schedule"} & names


def test_the_manifest_says_what_is_in_a_file_and_what_made_it(saved):
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        assert (manifest["format"], manifest["algorithm"]) == (1, "TRPO")
        assert {"sb3-trpo", "torch", "stable-baselines3"} <= manifest["versions"].keys()
        assert manifest["entries"].keys() == set(archive.namelist()) - {"manifest.json"}
        for name, record in manifest["entries"].items():
            content = archive.read(name)
            assert record == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_tools_of_stable_baselines3_read_weights_versions_and_plain_settings(saved, capsys):
    data, params, _ = load_from_zip_file(io.BytesIO(saved), print_system_info=True)
    assert (data["n_steps"], data["target_kl"]) == (32, 0.01)
    assert params.keys() == {"policy", "policy.optimizer"}
    assert "Stable-Baselines3: " in capsys.readouterr().out
    TRPO.load(io.BytesIO(saved), print_system_info=True)
    assert "== SAVED MODEL SYSTEM INFO ==\n- OS: " in capsys.readouterr().out


def test_what_cannot_be_saved_is_named_and_the_old_file_stays(tmp_path):
    model = make_model("box")
    model.save(tmp_path / "model")
    before = (tmp_path / "model.zip").read_bytes()
    model.open_file = (tmp_path / "model.zip").open("rb")
    with model.open_file, pytest.raises(ValueError, match=r"attribute 'open_file' cannot be saved.*exclude=\['open"):
        model.save(tmp_path / "model")
    assert (tmp_path / "model.zip").read_bytes() == before
    assert os.listdir(tmp_path) == ["model.zip"]
    model.save(tmp_path / "model", exclude=["open_file"])


@pytest.mark.parametrize("size", [0, 100, 5_000, 14_000])
def test_a_full_disk_leaves_the_old_model(tmp_path, saved, size):
    path = tmp_path / "model.zip"
    path.write_bytes(saved)
    model = TRPO.load(path)
    with full_disk(size), pytest.raises(OSError, match=f"^{path} cannot be written: File too large"):
        model.save(path)
    assert path.read_bytes() == saved
    assert os.listdir(tmp_path) == ["model.zip"]


@pytest.mark.parametrize("n_kills", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_no_kill_leaves_an_unreadable_model(tmp_path, n_kills):
    model = make_model("box", policy_kwargs={"net_arch": [64]})
    path = tmp_path / "model.zip"
    model.save(path)

    def save_for_ever():
        for count in range(10**9):
            model.num_timesteps = count
            model.save(path)

    waits, most, interrupted = random.Random(0), 0, 0
    for _ in range(n_kills):
        inode = path.stat().st_ino
        with forked(save_for_ever) as child:
            while path.stat().st_ino == inode:  # it has saved once
                time.sleep(0.0005)
            time.sleep(waits.uniform(0.0, 0.02))
            os.kill(child, signal.SIGKILL)
        most = max(most, len(leftovers(tmp_path)))
        interrupted += bool(leftovers(tmp_path))
        assert th.equal(weights(TRPO.load(path)), weights(model))
    assert interrupted > n_kills / 10, "the kills came between the saves"
    assert most == 1
    model.save(path)
    assert os.listdir(tmp_path) == ["model.zip"]


@pytest.mark.parametrize("n_loads", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_two_writers_and_a_reader(tmp_path, n_loads):
    path = tmp_path / "model.zip"
    models = [make_model("box", seed=seed) for seed in (1, 2)]
    models[0].save(path)

    def save(model):
        while not (tmp_path / "enough").exists():
            model.save(path)

    seen = []
    with contextlib.ExitStack() as stack:
        for model in models:
            stack.enter_context(forked(lambda model=model: save(model)))
        stack.callback((tmp_path / "enough").touch)  # before they are waited for
        until = time.monotonic() + 100
        while len(seen) < n_loads or (set(seen) != {0, 1} and time.monotonic() < until):
            loaded = TRPO.load(path)
            matches = [th.equal(weights(loaded), weights(model)) and loaded.seed == model.seed for model in models]
            assert sum(matches) == 1
            seen.append(matches.index(True))
    assert set(seen) == {0, 1}
    assert sorted(os.listdir(tmp_path)) == ["enough", "model.zip"]


def refused(content):
    """The sentence of the error, None when it loads; anything but a `FileError` is obscure."""
    path, said = io.BytesIO(content), None
    try:
        TRPO.load(path)
    except FileError as error:
        said = str(error)
    assert said is None or re.match(rf"{path} (is damaged|is not a saved model|is refused)", said)
    return said


def test_no_truncation_goes_unnoticed(saved):
    for length in [0, 1, 4, 22, 30, *random.Random(0).sample(range(len(saved)), 54), len(saved) - 1]:
        assert refused(saved[:length]), f"{length} bytes of {len(saved)} load"


@pytest.mark.parametrize("n_flips", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_flipped_bit_goes_unnoticed(saved, n_flips):
    """Where a file loads in spite of one, as with one in the date of an entry, what it holds is the same."""
    chosen, before = random.Random(1), contents(saved)
    found = 0
    for _ in range(n_flips):
        bit = chosen.randrange(8 * len(saved))
        content = bytearray(saved)
        content[bit // 8] ^= 1 << bit % 8
        if refused(bytes(content)):
            found += 1
        else:
            assert contents(bytes(content)) == before, f"bit {bit}"
    assert found > 0.9 * n_flips


def test_entries_that_the_table_of_the_zip_has_swallowed_are_missed(saved):
    """A longer comment of the first entry makes its readers overlook the entries after it."""
    content = bytearray(saved)
    table = int.from_bytes(saved[-6:-2], "little")  # not the first of them: files of torch are zips, too
    content[table + 33] ^= 4
    with zipfile.ZipFile(io.BytesIO(bytes(content))) as archive:
        assert archive.namelist() == ["data"]
    with pytest.raises(FileError, match="is damaged: entries are missing"):
        TRPO.load(io.BytesIO(bytes(content)))


def test_damage_between_entries_and_hashes_is_named(saved):
    with pytest.raises(FileError, match=r"entry policy\.pth is not what was saved"):
        TRPO.load(io.BytesIO(changed(saved, entries={"policy.pth": tensors({})}, resigned=False)))
    with pytest.raises(FileError, match=r"entry more is not its own"):
        TRPO.load(io.BytesIO(changed(saved, entries={"more": b""}, resigned=False)))
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        manifest = archive.read("manifest.json")
    for new, said in (
        (manifest.replace(b'"format": 1', b'"format": 2'), "has format 2, this version reads up to 1: update sb3-trpo"),
        (manifest.replace(b"policy.pth", b"policy.pht"), r"entry policy\.pht is missing"),
        (b"{}", r"its manifest\.json is no manifest"),
    ):
        stream = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(saved)) as archive, zipfile.ZipFile(stream, "w") as other:
            for name in archive.namelist():
                other.writestr(name, new if name == "manifest.json" else archive.read(name))
        with pytest.raises(FileError, match=said):
            TRPO.load(stream)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("way", ["load", "set_parameters"])
@pytest.mark.parametrize("where", ["parameter", "optimiser"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value, way, where):
    model = make_model("box").learn(64)
    if where == "parameter":
        model.policy.log_std.data[1] = value
        said = r"policy\.pth: log_std"
    else:
        model.policy.optimizer.state_dict()["state"][0]["exp_avg"][0] = value
        said = r"policy\.optimizer\.pth: state\.0\.exp_avg"
    model.save(tmp_path / "model")
    other = make_model("box", seed=3)
    before = weights(other).clone()
    load = TRPO.load if way == "load" else other.set_parameters
    with pytest.raises(FileError, match=rf"model\.zip is refused: NaN or infinite weights in {said}"):
        load(tmp_path / "model")
    assert th.equal(weights(other), before)


def test_a_mask_of_the_policy_may_be_infinite(tmp_path):
    model = make_model("box")
    for way in (model, make_model("box")):
        way.policy.register_buffer("attention", th.tensor([0.0, -th.inf]))
    model.save(tmp_path / "model")
    way.set_parameters(tmp_path / "model")
    model.policy.attention[0] = th.nan
    model.save(tmp_path / "model")
    with pytest.raises(FileError, match="attention"):
        way.set_parameters(tmp_path / "model")


def test_a_file_of_ppo_is_refused_by_name(tmp_path):
    PPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16).save(tmp_path / "ppo")
    with pytest.raises(
        FileError, match=r"ppo\.zip does not hold a TRPO, but a PPO: load it with stable_baselines3\.PPO"
    ):
        TRPO.load(tmp_path / "ppo")


@pytest.mark.parametrize("env", ["other actions", "other observations"])
def test_a_file_for_another_environment_is_refused_by_name(tmp_path, env):
    make_model("box").save(tmp_path / "model")
    spaces_of = {
        "other actions": (spaces.Discrete(3), None),
        "other observations": (spaces.Box(-1.0, 1.0, (3,), np.float32), spaces.Box(-1.0, 1.0, (5,), np.float32)),
    }[env]
    with pytest.raises(FileError, match=r"model\.zip holds a model for another environment: .*do not match"):
        TRPO.load(tmp_path / "model", env=DummyVecEnv([lambda: Contextual(*spaces_of)]))


def test_weights_of_another_policy_are_refused_by_name(saved):
    wider = {name: th.zeros(3) for name in make_model("box").policy.state_dict()}
    with pytest.raises(FileError, match="the weights are not those of its policy"):
        TRPO.load(io.BytesIO(changed(saved, entries={"policy.pth": tensors(wider)})))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.zip"):
        TRPO.load(tmp_path / "nothing")
    assert not os.listdir(tmp_path)


def test_reading_needs_little_more_memory_than_the_file(tmp_path):
    """A bound on copies: the file, its entries, and the tensors that are made of them."""
    import tracemalloc

    model = make_model("box", policy_kwargs={"net_arch": [512, 512]})
    model.save(tmp_path / "model")
    size = (tmp_path / "model.zip").stat().st_size
    assert size > 2**20
    tracemalloc.start()
    try:
        read_model(tmp_path / "model")
        assert tracemalloc.get_traced_memory()[1] < 2.5 * size
    finally:
        tracemalloc.stop()
