"""The table of methods: settings that every loss accepts, protocols by name, and what a knob moves."""

import pytest
import torch

from mipo import losses
from mipo.losses.declaration import keyword
from mipo.trainer import PreferenceConfig
from mipo_study import methods
from mipo_study.methods import CONTROLS, KIN, METHODS, PROTOCOLS

TRAINED = [(p, name) for p, table in PROTOCOLS.items() for name in table]
BY_THEMSELVES = ("mi_reward", "verifier")  # they sample while they train


@pytest.mark.parametrize("protocol, name", TRAINED)
def test_every_setting_is_one_that_loss_and_trainer_accept(protocol, name, tmp_path):
    if METHODS[name].loss in BY_THEMSELVES:
        return
    for factor in methods.factors(name, [0.333, 1.0, 3.0]):
        setting = methods.setting(name, protocol=protocol, factor=factor)
        PreferenceConfig(output_dir=str(tmp_path), **setting)


@pytest.mark.parametrize("name", KIN)
def test_published_values_are_the_losses_own_defaults_where_they_have_one(name):
    """What stands in the table stands in mipo.losses too, beside its source; DPO's, IPO's and SimPO's have no default."""
    loss = losses.get(METHODS[name].loss)
    without = {("dpo", "beta"), ("ipo", "tau"), ("simpo", "beta"), ("simpo", "gamma")}
    without.add(("rmipo-paper", "convention"))
    for key, value in methods.settings_of(name).kwargs.items():
        if (name, key) not in without:
            assert keyword(loss, key, {}) == value, key


def test_each_protocol_has_its_own_gamma_of_simpo():
    """README of princeton-nlp/SimPO: start from β 2.0, γ/β 0.5; its configuration has γ/β 0.25. γ here is raw."""
    gammas = {
        protocol: methods.setting("simpo", protocol=protocol)["loss_kwargs"]
        for protocol in ("published", "simpo-release")
    }
    assert gammas["published"] == {"beta": 2.0, "gamma": 2.0 * 0.5}
    assert gammas["simpo-release"] == {"beta": 2.0, "gamma": 2.0 * 0.25}


def test_learning_rates_stand_where_a_protocol_sets_them():
    """MIPO's release trains at 5e-7; RMiPO's and SimPO's tables at 1e-6, DPO in them at 5e-7."""
    assert methods.settings_of("mipo-random", "mipo-release").lr == 5e-7
    assert methods.settings_of("rmipo", "simpo-release").lr == 1e-6
    assert methods.settings_of("dpo", "simpo-release").lr == 5e-7
    assert methods.settings_of("dpo").lr is None


def test_the_knob_is_moved_by_its_factor_and_nothing_else():
    assert methods.setting("simpo", factor=3.0)["loss_kwargs"] == {
        "beta": 2.0,
        "gamma": 3.0,
    }
    assert methods.setting("dpo", factor=0.333)["loss_kwargs"] == {"beta": 0.0333}
    assert methods.setting("rmipo")["loss_kwargs"] == {"beta": 2.0}
    assert methods.setting("simper", factor=3.0)["loss_kwargs"] == {}
    assert methods.factors("simper", [0.3, 1, 3]) == [1.0]
    assert methods.factors("dpo", [0.3, 1, 3]) == [0.3, 1, 3]


def test_beta_replaces_a_method_s_own_and_leaves_methods_without_one_alone():
    assert methods.setting("mipo-random", beta=1.0)["loss_kwargs"] == {"beta": 1.0}
    assert methods.setting("sft", beta=1.0)["loss_kwargs"] == {}


def test_controls_change_what_their_labels_say():
    options = {name: dict(METHODS[name].options) for name in CONTROLS}
    assert options == {
        "none": {"marginal": "none"},
        "shuffled": {"marginal": "shuffled"},
        "constant": {},
        "frozen": {"marginal": "frozen"},
        "drop": {"first_token": "drop"},
        "released": {"first_token": "released"},
    }
    assert methods.setting("warm")["margin_warmup"] == 0.2


def test_a_constant_margin_is_rmipo_s_without_decay():
    gap, other = torch.linspace(-2, 2, 9), torch.zeros(9)
    setting = methods.constant_margin(1.43)
    same = losses.rmipo(gap, other, gap, gamma_min=1.43, gamma_max=1.43)
    ours = losses.get(setting["loss"])(gap, other, **setting["loss_kwargs"])
    torch.testing.assert_close(ours, same)


def test_a_flat_margin_is_a_plugged_loss_whose_gamma_does_not_decay():
    flat = methods.flat_margin("dpo", 1.43)
    assert flat["loss"] == "dpo_decay"
    assert flat["loss_kwargs"] == {"beta": 0.1, "gamma_min": 1.43, "gamma_max": 1.43}


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda: methods.method("mipo-randon"), "there is no 'mipo-randon'"),
        (lambda: methods.setting("dpo", protocol="paper"), "protocol: there is no"),
        (
            lambda: methods.setting("kto", protocol="mipo-release"),
            "method in protocol 'mipo-release': there is no 'kto'; choose from",
        ),
        (lambda: methods.require(["x"], ["a", "b"], "arms"), "arms: there is no 'x'"),
    ],
)
def test_unknown_names_are_named(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


def test_every_name_has_a_label_and_what_is_no_method_keeps_its_own():
    assert methods.label("simpo") == "SimPO" and methods.label("other") == "other"
    assert all(entry.label for entry in METHODS.values())
