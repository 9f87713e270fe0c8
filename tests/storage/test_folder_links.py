"""The real folder of a name: two folders that are one by a symbolic link."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from bulkdl.planning.name_registry import NameRegistry
from bulkdl.storage.folder_links import FolderLinks

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.name == "nt", reason="symbolic links need a privilege there")


@pytest.mark.parametrize(
    ("folder", "real"),
    [
        ("y", "y"),
        ("x", "y"),
        ("x/deep", "y/deep"),
        ("x/new/deep", "y/new/deep"),
        ("up", "y/deep"),
        ("y/back", "y"),
        ("y/back/deep", "y/deep"),
        ("new/x", "new/x"),
        ("broken/x", "gone/x"),
        ("a/" * 900 + "b", "a/" * 900 + "b"),
    ],
)
def test_a_folder_leads_to_its_real_folder(folder, real, tmp_path: Path):
    (tmp_path / "y" / "deep").mkdir(parents=True)
    for name, target in (("x", "y"), ("up", "x/deep"), ("y/back", "../x"), ("broken", "gone")):
        (tmp_path / name).symlink_to(target)
    links = FolderLinks(tmp_path)
    assert links.real_folder(folder) == real
    assert links.real_folder(folder) == real


def test_a_link_out_of_the_destination_is_a_folder_of_its_own(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x").symlink_to("../out")
    assert FolderLinks(tmp_path / "in").real_folder("x/y") == f"{tmp_path}/out/y"


def test_two_names_of_one_file_by_a_link_are_one_name(tmp_path: Path):
    (tmp_path / "y").mkdir()
    (tmp_path / "x").symlink_to("y")
    names = NameRegistry(FolderLinks(tmp_path).real_folder)
    assert names.confirm("x/a.nc", 3) is None
    assert names.reserve("y/A.nc", 1) == 3
    assert names.reserve("y/b.nc", 1) is None
