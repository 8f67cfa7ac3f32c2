"""Teachers that embed the student's own view: each image by the specialist of its vertical, nothing of them trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn import SMALL, small_dataset
from test_teachers import distil, specialist, written
from torch.nn import functional as F
from train_helpers import DATA, MODEL

from fashion_dml.config import Distill, validate
from fashion_dml.data.schema import Dataset
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import load_model, save_model
from fashion_dml.storage import Location, UserError, manifest_sha256
from fashion_dml.training.distill import begun
from fashion_dml.training.student import DistillSettings, recipe_for
from fashion_dml.training.task import DistillTask
from fashion_dml.training.teachers import write_teachers
from fashion_dml.training.views import ViewTeachers, classes_of, view_teachers

JOINED = {"specialists": {"joint_draws": [1, 0.5, 0]}, "distill": {"targets": "view", "teachers": "joined"}}
BLENDED = {"specialists": {"start": "joint"}, "distill": {"targets": "view", "teachers": "blended"}}


def model(seed: int) -> Embedder:
    torch.manual_seed(seed)
    return Embedder(MODEL, 32, 32).eval()


def test_each_image_is_embedded_by_the_specialist_of_its_vertical() -> None:
    group, alone = model(0), model(1)
    classes = {"bags": torch.tensor([3, 5]), "hats": torch.tensor([8]), "shoes": torch.tensor([5, 4])}
    teachers = ViewTeachers(classes, {"bags": group, "shoes": alone, "hats": group})
    assert len(teachers.models) == 2
    images, labels = torch.rand(5, 3, 32, 32), torch.tensor([4, 8, 5, 3, 4])
    found = teachers(images, labels)
    for image, embedding, by in zip(images, found, (alone, group, group, group, alone), strict=True):  # 5: bags come first
        torch.testing.assert_close(embedding, by(image[None])[0], rtol=1e-4, atol=1e-5)
    assert not found.requires_grad


@pytest.mark.parametrize("mirror", [False, True])
def test_further_teachers_stand_beside_the_specialists(mirror: bool) -> None:
    one, other, further = model(0), model(1), [model(2), model(3)]
    classes = {"bags": torch.tensor([3]), "hats": torch.tensor([8])}
    teachers = ViewTeachers(classes, {"bags": one, "hats": other}, further=further, mirror=mirror)
    images, labels = torch.rand(4, 3, 32, 32), torch.tensor([8, 3, 3, 8])
    found = teachers(images, labels)
    assert found.shape == (4, teachers.dim) == (4, 48)

    def by(teacher: Embedder, image: torch.Tensor) -> torch.Tensor:
        vector = teacher(image[None])[0]
        return F.normalize(vector + teacher(image.flip(2)[None])[0], dim=0) if mirror else vector

    for image, label, vector in zip(images, labels.tolist(), found, strict=True):
        parts = [by(teacher, image) for teacher in (one if label == 3 else other, *further)]
        torch.testing.assert_close(vector, torch.cat(parts) / 3**0.5, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, F.normalize(found, dim=1))


def test_the_student_learns_from_its_own_view_and_its_teachers_do_not() -> None:
    student, teacher = model(0), model(1)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    task = DistillTask(student, "l2", views=ViewTeachers({"bags": torch.tensor([1, 2])}, {"bags": teacher}))
    images, labels, place = torch.rand(4, 3, 32, 32), torch.tensor([1, 2, 2, 1]), torch.arange(4)
    loss = task(images, labels, place, place)["loss"]
    torch.testing.assert_close(loss, (student(images) - teacher(images)).square().sum(1).mean())
    theirs = {id(p) for p in teacher.parameters()}
    assert not any(id(p) in theirs for p in task.parameters())
    assert len(task.state_dict()) == len(student.state_dict())
    task.train()  # the teacher stays as it is
    optimizer = torch.optim.SGD(task.parameters(), 0.05)
    for _ in range(20):
        optimizer.zero_grad()
        value = task(images, labels, place, place)["loss"]
        value.backward()
        optimizer.step()
    assert float(value.detach()) < 0.8 * float(loss.detach())
    assert not teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_blended_teachers_are_half_of_the_way_from_the_joint_model(workspace: Path, small: Dataset) -> None:
    first, *rest = small.verticals("train")
    teachers = {v: specialist(workspace, v, seed) for seed, v in enumerate((first, *rest))}
    joint = Location.of(workspace / "specialists" / "joint" / "model")
    save_model(joint, model(9))
    settings = validate(DistillSettings, BLENDED)
    found = view_teachers(small, teachers, joint, settings, torch.device("cpu"))
    assert len(found.models) == len(teachers)
    states = [load_model(p).module.state_dict() for p in (teachers[first].model, joint)]
    for name, value in found.models[0].state_dict().items():
        specialists, start = (state[name] for state in states)
        torch.testing.assert_close(value, (specialists + start) / 2 if value.is_floating_point() else specialists)
    plain = validate(DistillSettings, {"distill": {"targets": "view"}})
    images, (label, *_) = torch.rand(2, 3, 32, 32), classes_of(small)[first].tolist()
    labels = torch.tensor([label, label])
    by_itself = view_teachers(small, teachers, joint, plain, torch.device("cpu"))(images, labels)
    torch.testing.assert_close(by_itself, load_model(teachers[first].model).module(images), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(by_itself, found(images, labels), atol=1e-3)
    torch.testing.assert_close(by_itself, F.normalize(by_itself, dim=1))


def test_joined_teachers_are_the_specialist_and_the_further_joint_models(workspace: Path, small: Dataset) -> None:
    teachers = {v: specialist(workspace, v, seed) for seed, v in enumerate(small.verticals("train"))}
    for number, name in enumerate(("joint", "joint-2", "joint-3")):
        save_model(Location.of(workspace / "specialists" / name / "model"), model(7 + number))
    settings = validate(DistillSettings, {"workspace": str(workspace), **JOINED})
    joint = Location.of(workspace / "specialists" / "joint" / "model")
    found = view_teachers(small, teachers, joint, settings, torch.device("cpu"))
    assert not found.mirror
    for kept, seed in zip(found.further, (8, 9), strict=True):
        assert all(torch.equal(v, kept.state_dict()[k]) for k, v in model(seed).state_dict().items())
    mirrored = {v: replace(t, mirror=True) for v, t in teachers.items()}
    assert view_teachers(small, mirrored, joint, settings, torch.device("cpu")).mirror


def test_stored_targets_keep_their_keys_and_views_have_keys_of_their_own(workspace: Path, small: Dataset) -> None:
    teachers = {t.vertical: t for t in written(workspace, small)}
    save_model(Location.of(workspace / "specialists" / "joint" / "model"), model(9))

    def key(**distill: Any) -> str:
        sections = {"specialists": {"start": "joint"}, "distill": {"steps": 5, **distill}}
        values = {"workspace": str(workspace), "data": DATA.model_dump(), "model": MODEL.model_dump(), **sections}
        made = recipe_for(small, teachers, validate(DistillSettings, values))
        assert {"targets", "teachers"}.isdisjoint(made.config["distill"]) == (distill.get("targets") != "view")
        assert ("joint" in made.inputs) == (distill.get("teachers") == "blended")
        return made.key

    assert len({key(), key(targets="view"), key(targets="view", teachers="blended")}) == 3
    assert key() == key(targets="stored", teachers="specialists")


def test_a_student_depends_on_its_dataset(workspace: Path, small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Also where its teachers are the same: it is trained on unlabelled photos too, and an evaluation asks what it was trained on."""
    teachers = {t.vertical: t for t in written(workspace, small)}
    other = small_dataset(tmp_path_factory.mktemp("other") / "dataset", SMALL.model_copy(update={"validation_share": 0.3}))
    settings = DistillSettings(workspace=str(workspace), data=DATA, model=MODEL, distill=Distill(steps=5))
    made = [recipe_for(dataset, teachers, settings) for dataset in (small, other)]
    assert [m.inputs["dataset"] for m in made] == [manifest_sha256(d.location) for d in (small, other)]
    assert made[0].key != made[1].key


def test_joined_teachers_have_a_part_in_the_key(workspace: Path, small: Dataset) -> None:
    teachers = {t.vertical: t for t in written(workspace, small)}
    values = {"workspace": str(workspace), "data": DATA.model_dump(), "model": MODEL.model_dump(), **JOINED}
    settings = validate(DistillSettings, values)
    with pytest.raises(UserError, match=r"joint-2/model: run `python -m jobs\.train_specialists` first"):
        recipe_for(small, teachers, settings)
    keys = set()
    for seed in (1, 2):
        for name in ("joint-2", "joint-3"):
            save_model(Location.of(workspace / "specialists" / name / "model"), model(seed))
        made = recipe_for(small, teachers, settings)
        assert {"joint-2", "joint-3"} <= set(made.inputs)
        keys.add(made.key)
    assert len(keys) == 2


def test_a_student_begins_at_the_mean_of_all_joint_models(workspace: Path, small: Dataset) -> None:
    teachers = {t.vertical: t for t in written(workspace, small)}
    save_model(Location.of(workspace / "specialists" / "joint" / "model"), model(6))

    def settings(start: str) -> DistillSettings:
        values = {"workspace": str(workspace), "data": DATA.model_dump(), "model": MODEL.model_dump()}
        chosen = {"specialists": JOINED["specialists"], "distill": {"steps": 5, "start": start}}
        return validate(DistillSettings, values | chosen)

    with pytest.raises(UserError, match=r"joint-2/model: run `python -m jobs\.train_specialists` first"):
        recipe_for(small, teachers, settings("joints"))
    for seed, name in ((7, "joint-2"), (8, "joint-3")):
        save_model(Location.of(workspace / "specialists" / name / "model"), model(seed))
    found, alone = (recipe_for(small, teachers, settings(start)) for start in ("joints", "joint"))
    assert set(found.inputs) - set(alone.inputs) == {"joint-2", "joint-3"}
    assert found.key != alone.key
    states = [model(seed).state_dict() for seed in (6, 7, 8)]
    for start, kept in (("joints", states), ("joint", states[:1])):
        for name, value in begun(Location.of(workspace / "specialists"), settings(start)).state_dict().items():
            wanted = sum(state[name] for state in kept) / len(kept) if value.is_floating_point() else states[0][name]
            torch.testing.assert_close(value, wanted)


def test_a_teacher_for_photos_of_another_size(workspace: Path, small: Dataset) -> None:
    first, *rest = small.verticals("train")
    other, directory = specialist(workspace, first), Location.of(workspace / "specialists" / first / "model")
    other = replace(other, sha256=save_model(directory, Embedder(MODEL, 48, 32)))
    write_teachers(Location.of(workspace), [other, *(specialist(workspace, v) for v in rest)], {}, 0.0)
    message = rf"the specialist '{first}' takes 48 x 32 pixels and the student 32 x 32: make data\.height and data\.width"
    with pytest.raises(UserError, match=message):
        distil(workspace, distill=Distill(steps=1, targets="view"))
    assert not (workspace / "unified").exists()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"distill": {"teachers": "blended"}},
            r"teachers = blended embed views, .* use targets = view, or teachers = specialists",
        ),
        ({**BLENDED, "specialists": {}}, r"specialists\.start = initial begins elsewhere; use specialists\.start = joint"),
        ({**JOINED, "specialists": {}}, r"specialists\.joint_draws makes none; give it two numbers or more"),
        ({**JOINED, "distill": {"teachers": "joined"}}, r"teachers = joined embed views"),
        ({"distill": {"start": "joints"}}, r"specialists\.joint_draws makes one; give it two numbers or more"),
        (
            {**JOINED, "distill": {"start": "joints"}, "finetune": {"steps": 5, "blend": True}},
            r"begins at the mean of several; use distill\.start = joint, or finetune\.blend = false",
        ),
        (
            {**JOINED, "distill": {**JOINED["distill"], "loss": "projection"}},
            r"loss = projection isn't; use l2, cosine or relational",
        ),
        ({**JOINED, "finetune": {"steps": 5}}, r"use anchor = 0 and blend = false, or finetune\.steps = 0"),
        ({**JOINED, "finetune": {"steps": 5, "anchor": 0, "blend": True}}, r"use anchor = 0 and blend = false"),
        (
            {**JOINED, "model": {"taps": [2], "dim": 8}},
            r"model\.taps = \[2\] makes several; use distill\.loss = relational, or no taps",
        ),
    ],
)
def test_teachers_that_cannot_be(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(DistillSettings, sections)
