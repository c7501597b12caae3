"""Settings: one record, flags made from it, TOML read into it, wrong ones named."""

from __future__ import annotations

import argparse
import itertools
import os
import stat
from pathlib import Path

import pytest

from loraconsole.console.commands.consoles import ConsoleCommand
from loraconsole.console.commands.parser import parse as parse_command
from loraconsole.pipeline.config import Config, check_protocol, flag_of
from loraconsole.pipeline.config_flags import add_config_flags, config_fields, config_from_flags
from loraconsole.pipeline.errors import OperatorError, UsageError
from loraconsole.pipeline.messages import PROTOCOL, ClientWeight, SchedulerSettings
from loraconsole.pipeline.run_directory import (
    absolute_path,
    default_run_directory,
    is_hub_id,
    make_run_directory,
    spell,
)


def parse(*arguments: str) -> Config:
    parser = argparse.ArgumentParser()
    add_config_flags(parser)
    return config_from_flags(vars(parser.parse_args(arguments)))


def test_every_field_has_a_flag_and_a_description() -> None:
    parser = argparse.ArgumentParser()
    add_config_flags(parser)
    text = parser.format_help()
    for field in config_fields():
        assert field.help, field.name
        assert field.flag in text


def test_no_flags_give_the_embedded_default_with_its_adapters() -> None:
    config = parse()
    assert config.model == "SmolLM2-135M-Instruct"
    assert all((Path(path) / "adapter_config.json").exists() for path in config.adapters().values())
    assert parse("--model", "org/other").adapter == ()


def test_flags_win_over_toml_which_wins_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('port = 8123\nmax-running = 5\nadapter = ["sql=/tmp/sql"]\nno_lora = true\n')
    config = parse("--config", str(file), "--port", "8200")
    assert (config.port, config.max_running, config.no_lora) == (8200, 5, True)
    assert config.adapters() == {"sql": "/tmp/sql"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tp", "0"], "--tp: expected `int` >= 1"),
        (["--port", "70000"], "--port: expected `int` <= 65535"),
        (["--adapter", "nopath"], "--adapter 'nopath' is not NAME=PATH"),
        (["--adapter", "a b=/x"], "'a b' cannot name an adapter: a name is letters, digits"),
        (["--model", "org/m", "--adapter", "org/m=/x"], "it means the base model"),
        (["--adapter", "a=/x", "--adapter", "a=/y"], "given twice"),
        (["--config", "/nowhere.toml"], "cannot read /nowhere.toml"),
    ],
)
def test_a_bad_flag_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        parse(*arguments)


def test_prefetch_undoes_what_a_file_says(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("no-prefetch = true\n")
    file = ("--config", str(tmp_path / "c.toml"))
    assert parse(*file).no_prefetch
    assert not parse(*file, "--prefetch").no_prefetch
    assert not parse().no_prefetch
    assert parse("--no-prefetch").no_prefetch


def test_deterministic_is_yes_no_or_by_the_device(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("deterministic = true\n")
    file = ("--config", str(tmp_path / "c.toml"))
    assert parse().deterministic is None
    assert parse("--deterministic").deterministic is True
    assert parse("--no-deterministic").deterministic is False
    assert parse(*file).deterministic is True
    assert parse(*file, "--no-deterministic").deterministic is False


def test_deterministic_answers_need_weights_without_an_adapter_in_them() -> None:
    for policy in ("merged", "peft", "credit"):
        with pytest.raises(UsageError, match=f"--scheduler {policy} contradict each other"):
            parse("--deterministic", "--scheduler", policy)
        assert parse("--scheduler", policy).deterministic is None


CONTRADICTED = {
    "no_lora": {"no_lora_compute", "no_lora_swap", "no_mem_pool", "bmm", "no_prefetch"},
    "bmm": {"no_lora_compute", "no_mem_pool"},
    "no_lora_swap": {"no_prefetch"},
}


def test_every_pair_of_switches_goes_together_or_is_refused_with_the_reason() -> None:
    switches = [field.name for field in config_fields() if field.kind is bool]
    for name in switches:
        assert getattr(Config(**{name: True}), name)
    refused = {frozenset((one, other)) for one, others in CONTRADICTED.items() for other in others}
    for one, other in itertools.combinations(switches, 2):
        if {one, other} not in refused:
            Config(**{one: True, other: True})
            continue
        for flags in ([flag_of(one), flag_of(other)], [flag_of(other), flag_of(one)]):
            with pytest.raises(UsageError, match=r"contradict each other: \w+ \w+") as raised:
                parse(*flags)
            assert all(flag in raised.value.what for flag in flags)


def test_toml_may_not_contradict_a_flag(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("no-lora = true")
    with pytest.raises(UsageError, match="--no-lora and --bmm contradict"):
        parse("--config", str(file), "--bmm")


@pytest.mark.parametrize(
    ("text", "message"),
    [("prt = 1", "unknown settings: prt"), ("port = ", "is not TOML"), ('port = "x"', "--port")],
)
def test_bad_toml_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        parse("--config", str(file))


def test_config_survives_a_round_trip_and_is_private(tmp_path: Path) -> None:
    config = parse("--run", str(tmp_path / "run"), "--api-key", "secret", "--adapter", "a=rel")
    make_run_directory(config.run)
    config.save()
    assert Config.load(config.run) == config
    assert config.adapters() == {"a": os.path.abspath("rel")}
    assert stat.S_IMODE((tmp_path / "run" / "config.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700


def test_the_settings_of_another_protocol_are_refused_with_what_to_do(tmp_path: Path) -> None:
    """As the first versions wrote them: no protocol, and a setting that is none any more."""
    (tmp_path / "config.json").write_text('{"model": "m", "prefetch": false}')
    for load in (Config.load, check_protocol):
        with pytest.raises(OperatorError, match=f"speaks protocol 1, this .* {PROTOCOL}") as said:
            load(tmp_path)
        assert f"loraconsole down --run {tmp_path}" in said.value.hint
        assert f"loraconsole up --run {tmp_path}" in said.value.hint


def test_an_unsafe_or_impossible_run_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="too long"):
        make_run_directory(tmp_path / ("x" * 100))
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match="cannot make"):
        make_run_directory(tmp_path / "file" / "run")


def test_a_run_that_never_was_says_so(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no pipeline has run in"):
        Config.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(OperatorError, match="not readable"):
        Config.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("org/name", True),
        ("org/name@v1.0", True),
        ("org/na.me-2@refs/pr/1", True),
        ("../name", False),
        ("./name", False),
        ("/org/name", False),
        ("org/name/more", False),
        ("name", False),
        ("org/..", False),
    ],
)
def test_a_hub_id_is_told_from_a_path(text: str, is_one: bool) -> None:
    assert is_hub_id(text) == is_one


def test_a_hub_id_stays_one_unless_such_a_directory_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_path("org/name") == "org/name"
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert absolute_path("org/name") == str(tmp_path / "org" / "name")
    assert absolute_path("name") == str(tmp_path / "name")
    config = Config(adapter=("a=org/other", "b=./x"), adapter_root="x").absolute()
    assert config.adapters() == {"a": "org/other", "b": str(tmp_path / "x")}
    assert config.adapter_roots()[0] == str(tmp_path / "x")


def test_a_weight_of_the_base_by_its_path_is_the_bases_wherever_a_process_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    monkeypatch.chdir(tmp_path)
    config = Config(model="./model", fair_weight=("model=0.5", "sql=2")).absolute()
    monkeypatch.chdir("/")
    assert config.scheduling().weights == (ClientWeight("", 0.5), ClientWeight("sql", 2.0))
    assert config.absolute() == config


def test_s_loras_ways_to_choose_a_policy_work_and_the_explicit_one_wins() -> None:
    assert parse().scheduling() == SchedulerSettings()
    assert parse("--scheduler", "slora").scheduling().policy == "fcfs"
    assert parse("--scheduler", "peft").scheduling().policy == "merged"
    assert parse("--enable-abort").scheduling().policy == "abort"
    clustered = parse("--batch-num-adapters", "4", "--enable-abort").scheduling()
    assert (clustered.policy, clustered.batch_num_adapters) == ("cluster", 4)
    assert parse("--scheduler", "pets", "--batch-num-adapters", "4").scheduling().policy == "pets"
    assert parse("--scheduler", "cluster").scheduling().batch_num_adapters == 8


def test_weights_name_adapters_and_the_base_model_by_its_name() -> None:
    weights = ("--fair-weight", "sql=2", "--fair-weight", "SmolLM2-135M-Instruct=0.5")
    settings = parse("--scheduler", "vtc_fair", *weights, "--slo-seconds", "2.5").scheduling()
    assert settings.weights == (ClientWeight("sql", 2.0), ClientWeight("", 0.5))
    assert settings.slo_seconds == 2.5
    for bad in ("sql", "sql=0", "sql=-1", "=2", "sql=x", "sql=inf", "sql=nan"):
        with pytest.raises(UsageError, match="is not NAME=W with a W above 0"):
            parse("--fair-weight", bad)
    with pytest.raises(UsageError, match="is not a file"):
        parse("--profile-table", "/nowhere/none.json")
    with pytest.raises(UsageError, match="--slo-seconds"):
        parse("--slo-seconds", "0")


def test_several_served_names_follow_one_flag_and_are_the_base_models(tmp_path: Path) -> None:
    config = parse("--served-model-name", "a", "b/c:7b", "--fair-weight", "b/c:7b=2")
    assert config.model_names == ("a", "b/c:7b") and config.model_name == "a"
    assert config.short_model_names == ()
    assert config.scheduling().weights == (ClientWeight("", 2.0),)
    file = tmp_path / "c.toml"
    file.write_text('served-model-name = ["a", "b"]\n')
    assert parse("--config", str(file)).model_names == ("a", "b")
    with pytest.raises(UsageError, match="means the base model"):
        parse("--served-model-name", "a", "--adapter", "a=/x")


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "a\x1b[2J"])
def test_a_name_that_no_request_could_show_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a model") as refused:
        parse("--served-model-name", name)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("/models/llama", ("llama",)),
        ("/models/llama.Q8_0.gguf", ("llama.Q8_0.gguf", "llama.Q8_0")),
        ("org/name", ("name",)),
    ],
)
def test_the_last_part_of_a_model_is_a_name_too(model: str, names: tuple[str, ...]) -> None:
    config = Config(model=model)
    assert (config.model_name, config.short_model_names) == (model, names)


def test_a_command_that_is_told_names_the_run_where_it_is_not_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LORACONSOLE_RUN", raising=False)
    assert spell("attach", default_run_directory()) == "loraconsole attach"
    assert spell("logs fetch", tmp_path) == f"loraconsole logs fetch --run {tmp_path}"
    assert spell("up", "/tmp/a b") == "loraconsole up --run '/tmp/a b'"
    monkeypatch.setenv("LORACONSOLE_RUN", str(tmp_path))
    assert spell("logs fetch", tmp_path) == "loraconsole logs fetch"


def test_the_overview_names_what_is_used_most_a_line_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        parse_command(["--help"])
    text = capsys.readouterr().out
    for flag in ("--run", "--model", "--adapter", "--dummy", "--device", "--tp", "--port"):
        assert f"  {flag} " in text
    for flag in ("--mock", "--read-only", "--low-bandwidth", "--ascii", "--fps"):
        assert f"  {flag}" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    commands = text.partition("commands:")[2].partition("run options:")[0]
    assert all(line.startswith("    ") and line[4] != " " for line in commands.split("\n")[2:-2])


def test_read_only_is_a_flag_of_the_console_without_a_command_too() -> None:
    command = parse_command(["--read-only"])
    assert isinstance(command, ConsoleCommand) and command.read_only
