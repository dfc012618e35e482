"""Files that were made to do harm do none, and are refused in a sentence."""

import contextlib
import gc
import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.save_util import json_to_data
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_trpo import TRPO
from sb3_trpo.saving.errors import FileError, UntrustedError
from sb3_trpo.saving.model import read_model
from sb3_trpo.saving.normalizer import load_normalizer
from tests.saving.payloads import (
    Saved,
    changed,
    forget_extension,
    harmed,
    payloads,
    pickled,
    register_extension,
    tensors,
    touch,
)

FIXTURES = Path(__file__).parent.parent / "fixtures"
FILES = ["sb3_trpo_0.1.0_TRPO", "sb3_trpo_0.1.0.dev_TRPO", "trpo_2.0.0_cartpole"]


@pytest.fixture
def attack(tmp_path, monkeypatch):
    """A marker, and all payloads that would leave it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    register_extension()
    yield tmp_path / "marker", payloads(tmp_path / "marker", tmp_path)
    forget_extension()


def run(content):
    """What Stable-Baselines3 does with a pickle."""
    with contextlib.suppress(Exception):
        json_to_data(json.dumps({"entry": pickled(content)}))


def normalizer():
    return VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))


def test_every_payload_runs_where_pickles_are_simply_loaded(attack):
    marker, all_payloads = attack
    assert len(all_payloads) >= 41
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of files that are not closed, too
        assert [name for name, content in all_payloads.items() if (run(content), not harmed(marker))[1]] == []
        gc.collect()


@pytest.mark.parametrize(
    ("file", "entry"),
    [*((file, "policy_kwargs") for file in FILES), (FILES[0], "policy_class"), (FILES[0], "an_entry_of_its_own")],
)
def test_no_payload_in_a_model_file_runs(attack, file, entry):
    marker, all_payloads = attack
    original = (FIXTURES / f"{file}.zip").read_bytes()
    for name, content in all_payloads.items():
        model = changed(original, {entry: pickled(content)})
        with pytest.raises(UntrustedError, match=f"in entry '{entry}' .*trust=True.*custom_objects={{'{entry}'"):
            TRPO.load(io.BytesIO(model))
        assert not harmed(marker), name


def test_no_payload_deep_in_a_model_file_runs(attack):
    marker, all_payloads = attack
    original = (FIXTURES / f"{FILES[0]}.zip").read_bytes()
    for name, content in all_payloads.items():
        for form in (
            {":tuple": [1, {":deque": [[pickled(content)], 3]}]},
            {":object": ["stable_baselines3.common.utils", "FloatSchedule", {"value_schedule": pickled(content)}]},
            {":dict": [[pickled(content), 1]]},
        ):
            with pytest.raises(UntrustedError):
                TRPO.load(io.BytesIO(changed(original, {"target_kl": form})))
        assert not harmed(marker), name


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    ("attribute", "form"),
    [
        ("policy_class", {":class": ["os", "system"]}),
        ("policy_class", {":class": ["stable_baselines3.common.utils", "os.system"]}),
        ("policy_class", {":class": ["sb3_trpo.algorithms.policies", "th.hub.load"]}),
        ("policy_class", {":class": ["module_of_an_attacker", "Policy"]}),
        ("policy_class", {":class": ["stable_baselines3.common.policies", "BasePolicy"]}),
        ("target_kl", {":object": ["subprocess", "Popen", {"args": "true"}]}),
        ("target_kl", {":object": ["stable_baselines3.common.policies", "ActorCriticPolicy", {}]}),
        ("target_kl", {":object": ["stable_baselines3.common.utils", "FloatSchedule", 3]}),
        ("target_kl", {":torch": "load"}),
        ("target_kl", {":class": 3}),
        ("target_kl", {":array": ["|O", [1], "AAAAAAAAAAA="]}),
        ("target_kl", {":array": ["<f4", [10**12], "AAAA"]}),
        ("target_kl", {":scalar": ["V8", "AAAAAAAAAAA="]}),
        ("target_kl", {":generator": [{"bit_generator": "system"}, None]}),
        ("learn", {":class": ["torch.nn.modules.activation", "Tanh"]}),
        ("predict", 3),
        ("__class__", 3),
        ("observation_space", 3),
    ],
)
def test_nothing_but_values_comes_out_of_json(tmp_path, monkeypatch, attribute, form, trust):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "module_of_an_attacker.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    original = (FIXTURES / f"{FILES[0]}.zip").read_bytes()
    with pytest.raises(FileError, match=rf"BytesIO.*{attribute}"):
        TRPO.load(io.BytesIO(changed(original, {attribute: form})), trust=trust)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("entry", ["policy.pth", "policy.optimizer.pth"])
def test_no_payload_among_weights_runs(attack, entry, trust):
    """Not even with trust: weights never need it."""
    marker, all_payloads = attack
    original = (FIXTURES / f"{FILES[0]}.zip").read_bytes()
    files = {"torch.save": tensors(Saved(touch, str(marker))), **all_payloads}
    with th.serialization.safe_globals([]):
        for name, content in files.items():
            with pytest.raises(FileError, match=f"entry {entry} cannot be read"):
                TRPO.load(io.BytesIO(changed(original, entries={entry: content})), trust=trust)
            assert not harmed(marker), name


@pytest.mark.parametrize("entry", ["policy_net.pth", "policy.action_net.pth", "env.pth"])
def test_weights_of_nothing_are_refused(entry):
    original = (FIXTURES / f"{FILES[0]}.zip").read_bytes()
    with pytest.raises(FileError, match=f"it has an entry {entry}, which no such model has"):
        TRPO.load(io.BytesIO(changed(original, entries={entry: tensors({})})))


def test_no_payload_in_statistics_runs(attack, tmp_path):
    marker, all_payloads = attack
    file, venv = tmp_path / "statistics.pkl", normalizer().venv
    for name, content in all_payloads.items():
        file.write_bytes(content)
        with pytest.raises(
            UntrustedError, match=rf"^{file} is not loaded, because it could run any code: .*trust=True"
        ):
            load_normalizer(file, venv)
        assert not harmed(marker), name


def test_no_payload_deep_in_statistics_runs(tmp_path):
    marker, file = tmp_path / "marker", tmp_path / "statistics.pkl"
    for attribute in ("obs_rms", "ret_rms", "clip_obs", "old_obs", "observation_space", "something"):
        harmful = normalizer()
        setattr(harmful, attribute, Saved(touch, str(marker)))
        file.write_bytes(pickle.dumps(harmful))
        with pytest.raises(UntrustedError, match=r"tests\.saving\.payloads\.touch is not on the list"):
            load_normalizer(file, harmful.venv)
        assert not harmed(marker), attribute
        pickle.loads(file.read_bytes())
        assert harmed(marker)


def test_what_the_environment_has_anyway_is_not_read_from_statistics(tmp_path):
    marker, file = tmp_path / "marker", tmp_path / "statistics.pkl"
    saved = normalizer()
    saved.metadata = {"render_modes": Saved(touch, str(marker))}
    file.write_bytes(pickle.dumps(saved))
    assert load_normalizer(file, saved.venv).clip_obs == saved.clip_obs
    assert not harmed(marker)


def test_trust_runs_what_is_in_a_file(tmp_path):
    """The way in for one's own lambdas is the way in for everything."""
    marker = tmp_path / "marker"
    original = (FIXTURES / f"{FILES[0]}.zip").read_bytes()
    model = changed(original, {"an_entry": pickled(cloudpickle.dumps(Saved(touch, str(marker))))})
    TRPO.load(io.BytesIO(model), trust=True)
    assert harmed(marker)
    TRPO.load(io.BytesIO(model), custom_objects={"an_entry": None})
    assert not harmed(marker)
    saved = normalizer()
    saved.something = Saved(touch, str(marker))
    (tmp_path / "statistics.pkl").write_bytes(pickle.dumps(saved))
    load_normalizer(tmp_path / "statistics.pkl", saved.venv, trust=True)
    assert harmed(marker)


@pytest.mark.parametrize("inside", [False, True])
def test_a_zip_bomb_is_refused_before_it_is_inflated(inside):
    import tracemalloc

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("data", "w") as entry:
        for _ in range(256):
            entry.write(bytes(2**20))
    bomb = stream.getvalue()
    assert len(bomb) < 2**20
    if inside:  # a file of torch's, which is a zip of its own
        bomb = changed((FIXTURES / f"{FILES[0]}.zip").read_bytes(), entries={"policy.pth": bomb})
    TRPO.load(FIXTURES / f"{FILES[0]}.zip")  # what is imported and built on the way does not count
    tracemalloc.start()
    try:
        with pytest.raises(FileError, match="compressed" if inside else r"would inflate to 268,435,456"):
            TRPO.load(io.BytesIO(bomb))
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


def test_sizes_that_lie_are_found_out():
    """The declared size is small, what comes out is not."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", bytes(2**26))
    bomb = bytearray(stream.getvalue())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        where = bomb.index(signature) + offset
        bomb[where : where + 4] = (100).to_bytes(4, "little")
    with pytest.raises(FileError, match="is not a saved model, or is damaged"):
        read_model(io.BytesIO(bytes(bomb)))


@pytest.mark.parametrize("content", ["[" * 10**5 + "]" * 10**5, '{"data": ' * 10**5 + "1" + "}" * 10**5, "[1, 2]", "{"])
def test_json_that_is_none_of_a_model_is_refused(content):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("data", content)
    with pytest.raises(FileError, match=r"is not a saved model"):
        read_model(io.BytesIO(stream.getvalue()))


def test_nan_among_statistics_is_refused(tmp_path):
    saved = normalizer()
    saved.obs_rms.mean[1] = np.nan
    (tmp_path / "statistics.pkl").write_bytes(pickle.dumps(saved))
    with pytest.raises(FileError, match=r"statistics.pkl is refused: NaN or infinite statistics in obs_rms"):
        load_normalizer(tmp_path / "statistics.pkl", saved.venv)
