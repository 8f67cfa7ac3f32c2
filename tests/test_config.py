"""Settings: validated once, each refusal one sentence, the command line over the file over the defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from fashion_dml.cli import leaves
from fashion_dml.config import Data, Ingest, JobSettings, Settings, Specialists, load_settings
from fashion_dml.storage import UserError

CONFIGS = sorted((Path(__file__).parents[1] / "jobs" / "configs").glob("*.yaml"))


class Job(JobSettings):
    """Sections of a job."""

    ingest: Ingest = Ingest()
    data: Data = Data()
    specialists: Specialists = Specialists()


def load(*argv: str) -> Job:
    return load_settings(Job, list(argv), prog="job", doc="What it does.")


def refused(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        load(*argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "job.yaml"
    file.write_text("seed: 5\nworkspace: there\ndata:\n  lanes: 3\n  height: 64\nspecialists:\n  optim:\n    clip: 1.5\n")
    return file


def test_command_line_over_file_over_defaults(file: Path) -> None:
    told = load("--config", str(file), "--data.lanes", "7", "--specialists.optim.warmup=0.25", "--workspace", "here")
    assert (told.seed, told.workspace) == (5, str(Path.cwd() / "here"))
    assert (told.data.lanes, told.data.height, told.data.width) == (7, 64, Data().width)
    assert (told.specialists.optim.clip, told.specialists.optim.warmup) == (1.5, 0.25)
    assert load() == Job()


def test_values_are_read_as_their_settings_kind() -> None:
    told = load(
        "--workspace", "123", "--ingest.columns.attributes", "colour,fit", "--specialists.augment.scale", "0.5,1", "--specialists.joint", "no",
        "--specialists.optim.learning_rate", "3e-4", "--specialists.groups", "{tops: [shirts, knits]}", "--ingest.csv", "1.0",
    )  # fmt: skip
    assert told.workspace == str(Path.cwd() / "123")
    assert told.ingest.columns.attributes == ("colour", "fit")
    assert told.specialists.augment.scale == (0.5, 1.0)
    assert told.specialists.joint is False
    assert told.specialists.optim.learning_rate == 3e-4
    assert told.specialists.groups == {"tops": ("shirts", "knits")}
    assert told.ingest.csv == "1.0"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data.lanes", "0"], "The setting data.lanes = 0 can't be used: Input should be greater than 0."),
        (["--data.lanes", "many"], "The setting data.lanes = 'many' can't be used: Input should be a valid integer"),
        (["--data.executor", "spark"], "The setting data.executor = 'spark' can't be used: Input should be 'ray' or 'threads'."),
        (["--data.max_corrupt", "1.5"], "The setting data.max_corrupt = 1.5 can't be used: Input should be less than or equal to 1."),
        (["--seed", "-1"], "The setting seed = -1 can't be used: Input should be greater than or equal to 0."),
        (["--ingest.row_group_images", "257"], "The setting ingest.row_group_images = 257 can't be used: Input should be less than"),
        (["--data.lane", "3"], "unrecognized arguments: --data.lane 3; see `job --help`."),
        (["--data.lanes"], "argument --data.lanes: expected one argument; see `job --help`."),
        (["--model.dim", "3"], "unrecognized arguments: --model.dim 3"),
        (["--specialists.groups", "{a: [b"], "--specialists.groups '{a: [b' can't be read as a value:"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_with_its_limit(argv: list[str], message: str) -> None:
    assert refused(*argv).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer:\n  a: 1\n", "has the unknown section 'trainer'; known are workspace, seed, ingest, data,"),
        ("3: x\nb: y\n", "has the unknown section '3'; known are"),
        ("- a\n- b\n", "holds list, not sections like `data:` with settings below."),
        ("data: {a: [}\n", "is not YAML: while parsing"),
        ("data:\n  batch: 3\n", "There is no setting 'data.batch'; known here are decode, executor, height, lanes,"),
        (
            "specialists:\n  optim:\n    lr: 3\n",
            "There is no setting 'specialists.optim.lr'; known here are amp, average, clip, compile,",
        ),
        ("data: 3\n", "The setting data = 3 can't be used: Input should be a valid dictionary"),
        ("data:\n  lanes: [1]\n", "The setting data.lanes = [1] can't be used: Input should be a valid integer."),
    ],
)
def test_a_bad_config_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    assert refused("--config", str(file)).removeprefix(f"The config file {str(file)!r} ").startswith(message)


def test_a_config_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert refused("--config", "/no/file") == (
        "The config file '/no/file' can't be read (No such file or directory); give --config an existing YAML file."
    )
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    assert "can't be read (not UTF-8 text)" in refused("--config", str(tmp_path / "photo.jpg"))


def test_an_empty_section_is_its_defaults(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("data:\n  # lanes: 3\nspecialists:\n  optim:\n")
    told = load("--config", str(file), "--data.height", "64", "--specialists.optim.clip", "2")
    assert told.data == Data(height=64)
    assert told.specialists.optim.clip == 2
    file.write_text("")
    assert load("--config", str(file)) == Job()


def test_a_value_where_a_section_belongs_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("specialists:\n  optim: fast\n")
    assert refused("--config", str(file), "--specialists.optim.clip", "2").startswith("The section 'optim' of ")


def test_a_section_of_other_jobs_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text("model:\n  dim: 64\ndata:\n  lanes: 4\n")
    assert load("--config", str(file)).data.lanes == 4


def test_teams_divide_workers() -> None:
    with pytest.raises(UserError) as caught:
        load_settings(Settings, ["--cluster.workers", "4", "--cluster.team", "3"], prog="job", doc="")
    assert "team is 3 and doesn't divide workers = 4; choose a divisor." in str(caught.value)


def test_help_lists_every_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_settings(Settings, ["--help"], prog="job", doc="What it does.")
    assert caught.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "What it does." in told
    for dotted, field in leaves(Settings):
        assert field.description, f"{dotted} has no description"
        _, found, after = told.partition(f" --{dotted} VALUE ")
        assert found, f"{dotted} isn't listed"
        described = " ".join(field.description.split())
        assert after.startswith(f"{described} (default: "), dotted
    for line in (
        "(default: 0.35)",
        "(default: 8388608)",
        "(default: '')",
        "(default: {})",
        "(default: 0.8,1.1)",
        "(default: False)",
    ):
        assert line in told


def test_defaults_given_as_arguments_are_the_defaults() -> None:
    """What --help shows can be typed."""
    from fashion_dml.cli import default_text

    argv = [
        a for name, field in leaves(Job) if default_text(field) not in ("''", "{}") for a in (f"--{name}", default_text(field))
    ]
    assert load(*argv) == Job()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda f: f.stem)
def test_configs_that_come_with_the_package_are_valid(config: Path) -> None:
    assert load_settings(Settings, ["--config", str(config)], prog="job", doc="") != Settings()


def test_settings_survive_json() -> None:
    told = load("--specialists.groups", "{tops: [shirts]}", "--ingest.columns.attributes", "a,b")
    assert Job.model_validate_json(told.model_dump_json()) == told


def test_a_path_of_the_workspace_is_that_of_this_process(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for given, meant in (("run", f"{tmp_path}/run"), ("../run", f"{tmp_path.parent}/run"), ("/data/run", "/data/run"),
                         ("s3://bucket/run", "s3://bucket/run"), ("gs://bucket/run", "gs://bucket/run")):  # fmt: skip
        assert JobSettings(workspace=given).workspace == meant
    assert JobSettings().workspace == f"{tmp_path}/workspace"
