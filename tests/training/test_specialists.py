"""Who trains what, in which order, and how the queue hands it out."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.compute as pc
import pytest
import ray
import torch
from drawn import small_dataset
from train_helpers import DATA, MODEL

from fashion_dml.config import Cluster, Model, Optim, Specialists, validate
from fashion_dml.data.schema import Dataset
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import load_model, save_model
from fashion_dml.storage import Location, UserError
from fashion_dml.training.assignments import Assignment, TrainSettings, assignments, groups_of, plan_for, training_products
from fashion_dml.training.grouping import GroupSettings
from fashion_dml.training.queue import Queue
from fashion_dml.training.specialists import run
from fashion_dml.training.start import initial_model, trainable
from fashion_dml.training.student import DistillSettings, joint_start
from fashion_dml.training.trials import search
from fashion_dml.training.workers import check_norms, preflight


def settings(**specialists: Any) -> TrainSettings:
    chosen = {"epochs": 3, "min_steps": 2, "products_per_batch": 4, **specialists}
    return TrainSettings(workspace="unused", data=DATA, model=MODEL, specialists=Specialists(**chosen))


@pytest.fixture
def names(small: Dataset) -> tuple[str, str]:
    first, second = small.verticals("train")
    return first, second


def test_a_vertical_in_no_group_stands_alone(small: Dataset, names: tuple[str, str]) -> None:
    assert groups_of(small, Specialists()) == {v: (v,) for v in names}
    assert groups_of(small, Specialists(groups={"all": names})) == {"all": names}
    assert groups_of(small, Specialists(groups={"some": names[:1]})) == {"some": names[:1], names[1]: names[1:]}
    assert groups_of(small, Specialists(groups={names[0]: names})) == {names[0]: names}


def test_groups_that_cannot_be(small: Dataset, names: tuple[str, str]) -> None:
    one, two = names
    refused: list[tuple[dict[str, tuple[str, ...]], str]] = [
        ({"a": ("sofas",)}, rf"the vertical 'sofas', the dataset has {one}, {two}"),
        ({"a": names, "b": (one,)}, rf"has the vertical '{one}' twice"),
        ({"a": (one, one)}, rf"has the vertical '{one}' twice"),
        ({"joint": (one,)}, "can't be called 'joint'"),
        ({"joint-coarse": (one,)}, "can't be called 'joint-coarse'"),
        ({"joint-2": (one,)}, "can't be called 'joint-2', that is a further model of all verticals"),
        ({"initial": (one,)}, "can't be called 'initial'"),
        ({"initial-coarse": (one,)}, "can't be called 'initial-coarse', that is where those on smaller photos start"),
        ({two: (one,)}, rf"the group '{two}': its name .* not be that of a vertical outside all groups"),
        ({"../up": (one,)}, r"the group '\.\./up': its name must match"),
    ]
    for groups, message in refused:
        with pytest.raises(UserError, match=message):
            groups_of(small, Specialists(groups=groups, joint_draws=(1, 1)))


def test_assignments_are_longest_first_and_joint_sees_as_many_images(small: Dataset, names: tuple[str, str]) -> None:
    found = assignments(small, settings(groups={"one": names[:1]}, epochs=9), joint=True)
    assert {a.name for a in found} == {"one", names[1], "joint"}
    assert [a.images for a in found] == sorted((a.images for a in found), reverse=True)
    joint = found[0]
    assert (joint.name, set(joint.verticals)) == ("joint", set(names))
    assert joint.images == sum(a.images for a in found[1:])
    per_step = plan_for(small, names, settings()).lanes * 4 * 2
    assert abs(joint.recipe.steps * per_step - joint.images) <= per_step / 2
    assert {a.name for a in assignments(small, settings(), joint=False)} == set(names)


def test_steps_are_those_of_the_epochs_within_their_bounds(small: Dataset, names: tuple[str, str]) -> None:
    def steps(**chosen: Any) -> dict[str, int]:
        return {a.name: a.recipe.steps for a in assignments(small, settings(**chosen), joint=False)}

    epoch = {v: plan_for(small, (v,), settings()).steps(0) for v in names}
    assert steps(epochs=5, min_steps=1) == {v: 5 * n for v, n in epoch.items()}
    assert set(steps(min_steps=70).values()) == {70}
    assert set(steps(epochs=500, max_steps=11).values()) == {11}


def test_a_key_changes_with_what_the_training_depends_on(small: Dataset) -> None:
    def keys(made: TrainSettings) -> dict[str, str]:
        return {a.name: a.recipe.key for a in assignments(small, made, joint=False)}

    base = settings()
    first = keys(base)
    assert len(set(first.values())) == len(first)
    same = base.model_copy(update={"cluster": Cluster(workers=4, team=2), "workspace": "elsewhere"})
    assert keys(same) == first
    assert keys(settings(joint=False)) == first
    changes: list[dict[str, Any]] = [
        {"seed": 1}, {"model": MODEL.model_copy(update={"dim": 9})}, {"data": DATA.model_copy(update={"lanes": 1})},
        {"specialists": base.specialists.model_copy(update={"images_per_product": 3})},
    ]  # fmt: skip
    for change in changes:
        assert not set(keys(base.model_copy(update=change)).values()) & set(first.values())


def test_specialists_that_start_from_the_joint_model_depend_on_it(small: Dataset, names: tuple[str, str]) -> None:
    def made(joint: bool = True, **chosen: Any) -> dict[str, Assignment]:
        return {a.name: a for a in assignments(small, settings(start="joint", joint_steps=7, **chosen), joint=joint)}

    found = made()
    assert found["joint"].recipe.steps == 7
    assert found["joint"].images == 7 * plan_for(small, names, settings()).images_per_step(0)
    rate = settings().specialists.optim.learning_rate
    for name in names:
        assert (found["joint"].initial, found[name].initial) == ("initial", "joint/model")
        assert found[name].recipe.inputs["joint"] == found["joint"].recipe.key
        assert (found["joint"].recipe.optim.learning_rate, found[name].recipe.optim.learning_rate) == (rate, rate * 0.3)
    assert {n: a.recipe.key for n, a in made(joint=False).items()} == {n: found[n].recipe.key for n in names}
    longer = {a.name: a.recipe.key for a in assignments(small, settings(start="joint", joint_steps=8), joint=True)}
    assert not set(longer.values()) & {a.recipe.key for a in found.values()}
    apart = {a.name: a.recipe.key for a in assignments(small, settings(joint_steps=7), joint=True)}
    assert apart["joint"] == found["joint"].recipe.key
    assert apart[names[0]] != found[names[0]].recipe.key


def test_a_joint_model_that_begins_on_smaller_photos_depends_on_them(small: Dataset, names: tuple[str, str]) -> None:
    def made(**chosen: Any) -> dict[str, Assignment]:
        chosen = {"joint_steps": 7, "coarse_steps": 5, "coarse_height": 24, "coarse_width": 16} | chosen
        return {a.name: a for a in assignments(small, settings(**chosen), joint=True)}

    found = made()
    coarse, joint = found["joint-coarse"], found["joint"]
    assert (coarse.recipe.steps, coarse.initial, joint.initial) == (5, "initial-coarse", "joint-coarse/model")
    assert (coarse.recipe.data.height, coarse.recipe.data.width) == (24, 16)
    assert joint.recipe.data == DATA
    assert joint.recipe.inputs["joint-coarse"] == coarse.recipe.key
    assert [found[n].initial for n in names] == ["initial"] * 2
    other, none = made(coarse_width=20), made(coarse_steps=0)
    assert other["joint"].recipe.key != joint.recipe.key
    assert none["joint"].recipe.key != joint.recipe.key
    assert none["joint"].initial == "initial"
    assert "joint-coarse" not in none
    for n in names:  # specialists that don't start from the joint model have nothing to do with it
        assert other[n].recipe.key == none[n].recipe.key == found[n].recipe.key
    follow = made(start="joint")
    assert [follow[n].initial for n in names] == ["joint/model"] * 2
    assert follow[names[0]].recipe.inputs["joint"] == joint.recipe.key
    assert {a.name for a in assignments(small, settings(coarse_steps=5), joint=False)} == set(names)


def test_further_joint_models_have_seeds_and_draws_of_their_own(small: Dataset, names: tuple[str, str]) -> None:
    def made(**chosen: Any) -> dict[str, Assignment]:
        return {a.name: a for a in assignments(small, settings(joint_steps=7, start="joint", **chosen), joint=True)}

    one, three = made(), made(joint_draws=(1, 1, 0))
    assert set(three) - set(one) == {"joint-2", "joint-3"}
    assert {name: three[name].recipe.key for name in one} == {name: a.recipe.key for name, a in one.items()}
    assert len({three[n].recipe.key for n in ("joint", "joint-2", "joint-3")}) == 3
    assert [three[n].settings.seed for n in ("joint", "joint-2", "joint-3", names[0])] == [0, 1, 2, 0]
    assert [three[n].settings.specialists.weights for n in ("joint", "joint-2", names[0])] == [{}] * 3
    # Evenly: a product of a vertical is used as often as the vertical is small, and an epoch keeps its length.
    paired = training_products(small, names)
    paired = paired.filter(pc.greater_equal(paired["rows"], 2))
    n = {v: pc.sum(pc.equal(paired["vertical"], v)).as_py() for v in names}
    weights = three["joint-3"].settings.specialists.weights
    assert [weights[v] * n[v] for v in names] == pytest.approx([sum(n.values()) / 2] * 2, rel=1e-5)
    given = made(joint_draws=(0.5,), weights={names[0]: 2})["joint"].settings.specialists.weights
    assert given[names[0]] / given[names[1]] == pytest.approx(2 * (n[names[1]] / n[names[0]]) ** 0.5, rel=1e-5)
    together = settings(start="joint", coarse_steps=3, joint_draws=(1, 0)).together
    assert together == ("joint-coarse", "joint", "joint-2")
    assert {a.name for a in assignments(small, settings(joint_draws=(1, 0)), joint=False)} == set(names)


def test_sizes_a_trunk_cannot_change_are_refused_before_any_step(tmp_path: Path) -> None:
    small_dataset(tmp_path / "dataset")
    made = settings(coarse_steps=3, coarse_height=48, coarse_width=32)
    vit = Model(trunk="vit_tiny_patch16_224", weights="none", dim=8)
    made = made.model_copy(update={"workspace": str(tmp_path), "model": vit})
    with pytest.raises(UserError, match=r"are for 48 x 32 pixels and can't be used for 32 x 32: train it at one size"):
        run(made, lambda queue, stop: None)


def of_teams(workspace: Path, workers: int, **specialists: Any) -> TrainSettings:
    """Settings of one team of so many workers, with more lanes than the small dataset has row groups for."""
    data, cluster = DATA.model_copy(update={"lanes": 64}), Cluster(workers=workers, team=workers)
    return settings(**specialists).model_copy(update={"workspace": str(workspace), "data": data, "cluster": cluster})


def test_teams_larger_than_a_small_vertical_has_lanes_are_refused_before_anything_starts(
    workspace: Path, small: Dataset, names: tuple[str, str]
) -> None:
    one, two = (plan_for(small, (v,), of_teams(workspace, 2)).lanes for v in names)
    assert one > two
    for team, short in ((one, f"{names[1]} has {two}"), (one + 1, f"{names[0]} has {one}, {names[1]} has {two}")):
        made = of_teams(workspace, team)
        assert plan_for(small, names, made).lanes > team  # the joint model could
        what = f"^cluster.team = {team} workers train a model together and need a lane each, but {short}: lower cluster.team"
        with pytest.raises(UserError, match=rf"{what}, or put small verticals into groups \(specialists\.groups\)\.$"):
            run(made, lambda queue, stop: None)
        searched = GroupSettings(**{name: getattr(made, name) for name in TrainSettings.model_fields})
        with pytest.raises(UserError, match=rf"{what}\.$"):
            search(searched, lambda queue, stop: None)
    assert sorted(p.name for p in workspace.iterdir()) == ["dataset"]


def test_a_joint_model_of_all_workers_needs_a_lane_for_each(workspace: Path, small: Dataset, names: tuple[str, str]) -> None:
    lanes = plan_for(small, names, of_teams(workspace, 2)).lanes
    message = (
        f"cluster.workers = {lanes + 1} workers train a model together and need a lane each, but joint has {lanes}: "
        f"lower cluster.workers."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        run(of_teams(workspace, lanes + 1, start="joint"), lambda queue, stop: None)


@pytest.mark.cluster
def test_each_training_starts_where_the_one_before_ended(tmp_path: Path, ray_local: str) -> None:
    """The joint model on smaller photos, the joint model, and the specialists, at a rate that leaves them where they start."""
    small_dataset(tmp_path / "dataset")
    coarse = {"coarse_steps": 3, "coarse_height": 24, "coarse_width": 16}
    still = settings(start="joint", joint_steps=3, optim=Optim(learning_rate=1e-3), start_rate=1e-9, **coarse)
    made = still.model_copy(update={"workspace": str(tmp_path), "cluster": Cluster(workers=2, threads_per_worker=1)})
    assert run(made, lambda queue, stop: None) == {}
    found = {p.parent.name: load_model(str(p)).module for p in (tmp_path / "specialists").glob("*/model")}
    begun = found.pop("joint-coarse")
    assert (begun.height, begun.width) == (24, 16)
    assert len(found) == 3
    assert {(model.height, model.width) for model in found.values()} == {(DATA.height, DATA.width)}
    start = load_model(str(tmp_path / "specialists" / "initial-coarse")).module.state_dict()
    weights = {name: model.state_dict() for name, model in found.items()}
    assert not torch.equal(begun.state_dict()["head.weight"], start["head.weight"])
    assert not torch.equal(weights["joint"]["head.weight"], begun.state_dict()["head.weight"])
    for state in weights.values():
        assert all(torch.allclose(v, weights["joint"][k], atol=1e-5) for k, v in state.items())


def initial(workspace: Path, **model: Any) -> dict[str, torch.Tensor]:
    dataset = Dataset.open(str(workspace / "dataset"))
    initial_model(
        dataset,
        settings().model_copy(update={"model": MODEL.model_copy(update=model)}),
        Location.of(workspace / "specialists" / "initial"),
    )
    return load_model(str(workspace / "specialists" / "initial")).module.state_dict()


def test_initial_model_is_made_once_and_is_the_same_again(tmp_path: Path) -> None:
    small_dataset(tmp_path / "dataset")
    first = initial(tmp_path)
    weights = tmp_path / "specialists" / "initial" / "model.safetensors"
    made = weights.stat().st_mtime_ns
    initial(tmp_path)
    assert weights.stat().st_mtime_ns == made
    (tmp_path / "specialists" / "initial" / "manifest.json").unlink()
    again = initial(tmp_path)
    assert all(torch.equal(v, first[k]) for k, v in again.items())
    assert not torch.equal(initial(tmp_path, head="random")["head.weight"], first["head.weight"])


def test_trainable_has_the_weights_and_the_frozen_stages(tmp_path: Path) -> None:
    small_dataset(tmp_path / "dataset")
    state = initial(tmp_path)
    made = trainable(
        load_model(str(tmp_path / "specialists" / "initial")).module, MODEL.model_copy(update={"frozen_stages": 2}), DATA
    )
    assert all(torch.equal(v, state[k]) for k, v in made.state_dict().items())
    assert not next(made.trunk.parameters()).requires_grad
    assert made.head.weight.requires_grad


def test_initial_model_refuses_more_dimensions_than_features(tmp_path: Path) -> None:
    small_dataset(tmp_path / "dataset")
    with pytest.raises(UserError, match=r"The head has 300 dimensions, more than the 256 features before it"):
        initial(tmp_path, dim=300)


@pytest.fixture
def queue(ray_local: str) -> Any:
    todo = [SimpleNamespace(name=name) for name in ("joint", "bags", "shoes")]
    return ray.remote(num_cpus=0)(Queue).remote(todo)


def take(queue: Any, team: int, turn: int) -> str | None:
    found = ray.get(queue.take.remote(team, turn))
    return None if found is None else str(found.name)


@pytest.mark.cluster
def test_queue_gives_each_training_once_and_all_of_a_team_the_same(queue: Any) -> None:
    assert [take(queue, 0, 0), take(queue, 1, 0), take(queue, 0, 0), take(queue, 1, 0)] == ["joint", "bags", "joint", "bags"]
    assert [take(queue, 1, 1), take(queue, 0, 1), take(queue, 1, 2)] == ["shoes", None, None]
    assert take(queue, 1, 1) == "shoes"


@pytest.mark.cluster
def test_queue_hands_unfinished_ones_out_anew_after_a_restart(queue: Any) -> None:
    assert [take(queue, 0, 0), take(queue, 1, 0)] == ["joint", "bags"]
    ray.get(queue.end.remote("bags", None))
    ray.get(queue.restart.remote())
    assert [take(queue, 1, 0), take(queue, 0, 0), take(queue, 0, 1)] == ["joint", "shoes", None]
    ray.get(queue.end.remote("joint", "the loss is nan"))
    ray.get(queue.restart.remote())
    assert [take(queue, 0, 0), take(queue, 0, 1)] == ["shoes", None]
    assert ray.get(queue.state.remote())[1] == {"bags": None, "joint": "the loss is nan"}


@pytest.mark.cluster
def test_queue_gives_nothing_where_the_start_failed(queue: Any) -> None:
    ray.get(queue.end.remote("initial", "no weights"))
    assert take(queue, 0, 0) is None


def test_what_others_start_from_goes_to_all_workers_and_nothing_follows_one_that_fails() -> None:
    def queue() -> Queue:
        named: list[Any] = [SimpleNamespace(name=name) for name in ("bags", "coarse", "joint")]
        return Queue(named[:1], named[1:])

    def given(queue: Queue, team: int | None, turn: int) -> str | None:
        found = queue.take(team, turn)
        return None if found is None else found.name

    whole = queue()
    assert [given(whole, None, 0), given(whole, None, 0)] == ["coarse", "coarse"]
    # Another worker may ask for the next one before the first has told of the end of this one.
    assert [given(whole, None, 1), given(whole, None, 2)] == ["joint", None]
    whole.end("coarse", None)
    whole.restart()
    assert [given(whole, None, 0), given(whole, None, 1)] == ["joint", None]
    whole.end("joint", None)
    assert [given(whole, 0, 0), given(whole, 1, 0)] == ["bags", None]
    broken, stopped = queue(), queue()
    given(broken, None, 0)
    broken.end("coarse", "the loss is nan")
    stopped.stop()
    for ended in (broken, stopped):
        assert [given(ended, None, 1), given(ended, 0, 0)] == [None, None]


@pytest.mark.cluster
def test_queue_keeps_the_latest_progress(queue: Any) -> None:
    for step in (10, 20):
        ray.get(queue.report.remote({"name": "bags", "step": step}))
    assert ray.get(queue.state.remote())[0] == {"bags": {"name": "bags", "step": 20}}


@pytest.mark.cluster
def test_preflight_refuses_with_the_arithmetic(ray_local: str) -> None:
    most = ray.cluster_resources()["CPU"]
    workers = int(most) * 2
    preflight(Cluster(workers=workers, cpus_per_worker=0.4))
    with pytest.raises(
        UserError,
        match=rf"{workers} workers x 0.5 CPUs = {most:g}, and Ray Data needs 0.25 more, but the cluster has {most:g} CPUs at most: lower",
    ):
        preflight(Cluster(workers=workers, cpus_per_worker=0.5))
    with pytest.raises(UserError, match=r"2 workers x 4 GPUs = 8, but the cluster has \d+ GPUs at most: lower"):
        preflight(Cluster(workers=2, cpus_per_worker=0.1, gpus_per_worker=4))


@pytest.mark.cluster
def test_elastic_workers_leave_cpus_to_ray_data(ray_local: str) -> None:
    most = ray.cluster_resources()["CPU"]
    preflight(Cluster(workers=(1, int(most)), cpus_per_worker=most / 2 - 0.2))
    with pytest.raises(
        UserError, match=rf"Elastic workers would take {most:g} of the cluster's {most:g} CPUs.*raise cluster\.cpus_per"
    ):
        preflight(Cluster(workers=(1, 100), cpus_per_worker=0.5))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"specialists": {"weights": {"hats": 2}}}, "specialists.weights names the vertical 'hats', the dataset has"),
        ({"specialists": {"weights": {"dresses": 0}}}, "specialists.weights.dresses = 0"),
        ({"specialists": {"start": "joint", "joint": False}}, "start = joint needs the joint model; set joint = true"),
        ({"specialists": {"joint_draws": [1, 0], "joint": False}}, "several joint models; set joint = true"),
        (
            {"specialists": {"joint_draws": [0.5], "batches": "balanced"}},
            "use vertical-wise or mixed batches, or joint_draws of 1",
        ),
        ({"specialists": {"coarse_steps": 9, "joint": False}}, "coarse_steps are those of the joint model; set joint = true"),
        (
            {"specialists": {"start": "joint"}, "cluster": {"workers": 4}},
            "cluster.workers = 4 workers share data.lanes = 2 lanes",
        ),
        ({"cluster": {"workers": 3, "team": 3}}, "cluster.team = 3 workers share data.lanes = 2 lanes, and each needs one"),
        ({"cluster": {"workers": (4, 2)}}, "workers are from 4 to 2; give the smaller number first"),
        ({"cluster": {"workers": (2, 5), "team": 2}}, "team is 2 and doesn't divide workers = (2, 5)"),
    ],
)
def test_settings_that_cannot_be(section: dict[str, Any], message: str, small: Dataset) -> None:
    with pytest.raises(UserError, match=f"{re.escape(message)}[^{{}}]*\\.$"):
        groups_of(small, validate(TrainSettings, section).specialists)


def test_a_student_starts_from_a_joint_model_of_its_own_kind(tmp_path: Path) -> None:
    def start(**model: Any) -> str:
        chosen = DistillSettings(workspace=str(tmp_path), data=DATA, model=MODEL.model_copy(update=model))
        return joint_start(Location.of(tmp_path), chosen)

    with pytest.raises(UserError, match=r"no complete result in .*joint/model: run `python -m jobs\.train_specialists`"):
        start()
    digest = save_model(Location.of(tmp_path / "specialists" / "joint" / "model"), Embedder(MODEL, 32, 32))
    assert start() == digest
    with pytest.raises(UserError, match=r"the joint model has model\.dim = 16 and the student 24; make them equal"):
        start(dim=24)


def test_lag_weighs_images_not_pairs() -> None:
    with pytest.raises(
        UserError, match="lag weighs images, and loss = l2\\+relational compares pairs; use l2, cosine or projection"
    ):
        validate(DistillSettings, {"distill": {"lag": 1, "loss": "l2+relational"}})


def test_a_student_needs_a_lane_for_every_worker() -> None:
    with pytest.raises(
        UserError,
        match=r"^The settings can't be used together: cluster\.workers = 8 workers share data\.lanes = 2 lanes, [^{}]*\.$",
    ):
        validate(DistillSettings, {"cluster": {"workers": (2, 8)}})
    assert validate(DistillSettings, {"cluster": {"workers": (2, 8)}, "data": {"lanes": 8}}).cluster.most == 8


def test_live_batch_norm_of_a_team_needs_gpus() -> None:
    live = Model(batch_norm="live")
    check_norms(live, Cluster(), team=1)
    check_norms(live, Cluster(gpus_per_worker=1), team=2)
    with pytest.raises(UserError, match="statistics of all 2 workers"):
        check_norms(live, Cluster(), team=2)
