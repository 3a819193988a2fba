"""The folder of a run: complete or absent, and never replacing anything else."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bertfit.errors import RunError
from bertfit.files import part_of, write_json
from bertfit.killed_trainings import has_leftovers
from bertfit.leftovers import hold_folder
from bertfit.run_directory import check_place, read_record, refuse_existing, stage_run
from bertfit.run_files import RECORD_NAME, STATE_NAME, find_changed_files, is_run, seal_card


@pytest.fixture
def run(tmp_path):
    """Give a finished run with one file and its record."""
    staging = stage_run(tmp_path / "run", overwrite=False)
    (staging.folder / "weights").write_text("old")
    staging.publish({"label_names": ["neg", "pos"]})
    return tmp_path / "run"


def error_of(function, *args, **kwargs) -> str:
    with pytest.raises(RunError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


def test_a_published_run_holds_its_files_and_its_record(run):
    assert sorted(path.name for path in run.iterdir()) == [RECORD_NAME, "weights"]
    assert read_record(run) == {
        "format_version": 1,
        "label_names": ["neg", "pos"],
        "files": [RECORD_NAME, "weights"],
        "sha256": {},
    }


def publish_model(output: Path) -> Path:
    """Make a run with stand-ins for the files of a model."""
    staging = stage_run(output, overwrite=False)
    names = ("config.json", "model.safetensors", "tokenizer.json")
    for name in (*names, "train.log", "uncalibrated_layer.npy"):
        (staging.folder / name).write_text(name)
    staging.publish({})
    return output


def test_a_run_records_the_sha256_of_the_files_that_decide_its_answers(tmp_path):
    known = read_record(publish_model(tmp_path / "run"))["sha256"]
    assert list(known) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert known["config.json"] == hashlib.sha256(b"config.json").hexdigest()


def test_files_of_a_model_that_were_changed_or_removed_are_found(tmp_path):
    run = publish_model(tmp_path / "run")
    record = read_record(run)
    (run / "train.log").write_text("more")
    assert find_changed_files(run, record) == ()
    (run / "model.safetensors").write_text("others")
    (run / "tokenizer.json").unlink()
    assert find_changed_files(run, record) == ("model.safetensors", "tokenizer.json")


def test_nothing_is_said_of_the_files_of_a_run_that_recorded_no_digests(tmp_path):
    assert find_changed_files(tmp_path, {"files": ["model.safetensors"]}) == ()


def test_nothing_stands_at_the_output_before_publishing(tmp_path):
    staging = stage_run(tmp_path / "a" / "run", overwrite=False)
    assert not (tmp_path / "a" / "run").exists()
    assert staging.folder.is_dir()


def test_the_staging_folder_stands_beside_the_output(tmp_path):
    """Moving it to its place is then one rename on one file system."""
    staging = stage_run(tmp_path / "run", overwrite=False)
    assert staging.folder.parent == tmp_path


def test_discarding_leaves_nothing(tmp_path):
    stage_run(tmp_path / "run", overwrite=False).discard()
    assert list(tmp_path.iterdir()) == []


def test_a_new_run_replaces_an_old_one_only_when_published(run):
    staging = stage_run(run, overwrite=True)
    (staging.folder / "weights").write_text("new")
    assert (run / "weights").read_text() == "old"
    staging.publish({})
    assert (run / "weights").read_text() == "new"
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_partial_files_of_a_killed_process_are_no_files_of_a_run(tmp_path):
    staging = stage_run(tmp_path / "run", overwrite=False)
    part_of(staging.folder / "probe").touch()
    part_of(staging.folder / "model").mkdir()
    staging.publish({})
    assert read_record(tmp_path / "run")["files"] == [RECORD_NAME]


@pytest.mark.parametrize("at", ["the removal of the old one", "its move"])
def test_a_run_that_is_in_its_place_is_finished_whoever_interrupts(run, monkeypatch, at):
    staging = stage_run(run, overwrite=True)
    (staging.folder / "weights").write_text("new")
    owner, name = (shutil, "rmtree") if at == "the removal of the old one" else (Path, "rename")
    real, interrupted = getattr(owner, name), []

    def interrupt(path, *args, **options):
        done = real(path, *args, **options) if name == "rename" else None
        if not interrupted and (name == "rmtree" or path == staging.folder):
            interrupted.append(path)
            raise KeyboardInterrupt
        return real(path, *args, **options) if name == "rmtree" else done

    monkeypatch.setattr(owner, name, interrupt)
    staging.publish({})
    assert len(interrupted) == 1
    assert (run / "weights").read_text() == "new"
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_what_came_to_stand_at_the_output_meanwhile_is_not_replaced(tmp_path):
    """Another training may have ended first, or somebody may have made a folder of that name."""
    output = tmp_path / "run"
    first, second = (stage_run(output, overwrite=False) for _ in range(2))
    first.publish({"label_names": ["first"]})
    assert error_of(second.publish, {"label_names": ["second"]}) == (
        f"a run exists in {output}; it was not there when this began\n"
        f"The finished run is in {tmp_path / 'run.unfinished'}; move it where you want it."
    )
    assert read_record(output)["label_names"] == ["first"]
    assert read_record(tmp_path / "run.unfinished")["label_names"] == ["second"]


def test_a_folder_made_meanwhile_is_kept_even_where_runs_may_be_replaced(run):
    staging = stage_run(run.parent / "other", overwrite=True)
    (run.parent / "other").mkdir()
    (run.parent / "other" / "thesis.txt").write_text("mine")
    assert "is not a run of bertfit" in error_of(staging.publish, {})
    assert (run.parent / "other" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("refused", ["old", "new"])
def test_a_run_that_cannot_be_moved_leaves_the_old_one(run, monkeypatch, error, refused):
    staging = stage_run(run, overwrite=True)
    rename, moved = type(run).rename, {"old": run, "new": staging.folder}[refused]

    def refuse_one(path, target):
        if path == moved:
            raise error
        return rename(path, target)

    monkeypatch.setattr(type(run), "rename", refuse_one)
    with pytest.raises(type(error)):
        staging.publish({})
    assert (run / "weights").read_text() == "old"
    assert {path.name for path in run.parent.iterdir()} == {"run", staging.folder.name}


def test_a_new_run_that_vanishes_at_the_last_moment_leaves_the_old_one(run, monkeypatch):
    staging = stage_run(run, overwrite=True)
    rename = type(run).rename

    def remove_first(path, target):
        if path == staging.folder:
            shutil.rmtree(path)
        return rename(path, target)

    monkeypatch.setattr(type(run), "rename", remove_first)
    with pytest.raises(FileNotFoundError):
        staging.publish({})
    assert (run / "weights").read_text() == "old"
    assert [path.name for path in run.parent.iterdir()] == ["run"]


@pytest.mark.parametrize("is_made_anew", [False, True])
def test_a_run_whose_folder_was_removed_meanwhile_is_not_published(run, is_made_anew):
    """What writes there makes missing folders, so that half a run would come to the place."""
    staging = stage_run(run, overwrite=True)
    (staging.folder / "weights").write_text("new")
    shutil.rmtree(staging.folder)
    if is_made_anew:
        write_json(staging.folder / "metrics.json", {})
    assert error_of(staging.publish, {}) == (
        f"the folder in which the run was made, {staging.folder}, was removed meanwhile\n"
        "What was in it is lost. Train again, and leave that folder alone."
    )
    assert (run / "weights").read_text() == "old"


def test_a_run_with_files_of_somebody_else_is_not_replaced(run):
    (run / "notes").mkdir()
    (run / "data.csv").write_text("mine")
    assert error_of(stage_run, run, overwrite=True) == (
        f"{run} holds files that this version of bertfit did not write as they are, and "
        "would lose them: data.csv, notes\n"
        "Move them away, or choose another --output."
    )
    assert (run / "data.csv").read_text() == "mine"


def test_a_card_that_was_edited_is_somebody_elses(run):
    """`bertfit report` kept it, and --overwrite did not."""
    (run / "README.md").write_text(seal_card("# Ours"), encoding="utf-8")
    stage_run(run, overwrite=True)
    (run / "README.md").write_text(seal_card("# Ours") + "My own notes.", encoding="utf-8")
    assert "would lose them: README.md" in error_of(stage_run, run, overwrite=True)


def test_what_a_killed_report_left_is_not_of_somebody_else(run):
    (run / ".report.html.0a1b2c3d.part").write_text("<html>")
    stage_run(run, overwrite=True).publish({})
    assert [path.name for path in run.iterdir()] == [RECORD_NAME]


def test_a_report_that_was_made_later_is_not_of_somebody_else(run):
    (run / "report.html").write_text("made by bertfit report")
    (run / "README.md").write_text(seal_card("made by bertfit report"))
    stage_run(run, overwrite=True).publish({})
    assert [path.name for path in run.iterdir()] == [RECORD_NAME]


def test_a_link_to_a_run_stays_and_what_it_leads_to_is_replaced(run):
    link = run.parent / "link"
    link.symlink_to(run)
    staging = stage_run(link, overwrite=True)
    (staging.folder / "weights").write_text("new")
    staging.publish({})
    assert link.is_symlink()
    assert (run / "weights").read_text() == "new"
    assert {path.name for path in run.parent.iterdir()} == {"link", "run"}


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert error_of(stage_run, type(tmp_path)(), overwrite=True) == (
        f"the run would take the place of the current folder, {tmp_path}\n"
        "Name a folder in it as --output."
    )


def test_a_record_that_is_not_json_publishes_nothing(run):
    staging = stage_run(run, overwrite=True)
    with pytest.raises(ValueError, match="JSON"):
        staging.publish({"loss": float("nan")})
    assert (run / "weights").read_text() == "old"


def test_the_output_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    staging = stage_run(type(tmp_path)("run"), overwrite=False)
    monkeypatch.chdir("/")
    staging.publish({})
    assert is_run(tmp_path / "run")


def test_a_path_back_out_of_a_folder_that_did_not_exist_leads_to_the_run(tmp_path):
    output = tmp_path / "new" / ".." / "run"
    stage_run(output, overwrite=False).publish({})
    assert is_run(output)
    assert is_run(tmp_path / "run")


def test_an_existing_run_is_refused(run):
    assert error_of(refuse_existing, run, overwrite=False) == (
        f"a run exists in {run}\nChoose another --output, or add --overwrite."
    )


def test_an_existing_run_may_be_overwritten(run):
    refuse_existing(run, overwrite=True)
    assert is_run(run)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_run_is_never_replaced(tmp_path, overwrite):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.tex").touch()
    assert error_of(stage_run, folder, overwrite=overwrite) == (
        f"{folder} exists and is not a run of bertfit; it will not be replaced\n"
        "Choose another --output."
    )
    assert (folder / "chapter.tex").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_never_replaced(tmp_path, overwrite):
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    assert "exists and is not a run of bertfit" in error_of(stage_run, file, overwrite=overwrite)
    assert file.read_text() == "mine"


def test_a_dangling_link_is_never_replaced(tmp_path):
    link = tmp_path / "run"
    link.symlink_to(tmp_path / "gone")
    told = f"{link} is a link to {tmp_path / 'gone'}, which does not exist"
    assert told in error_of(stage_run, link, overwrite=True)


def test_a_link_in_a_circle_is_never_replaced(tmp_path):
    (tmp_path / "run").symlink_to("run")
    assert "is a link to run, which does not" in error_of(
        stage_run, tmp_path / "run", overwrite=True
    )


def test_a_mount_point_is_refused_before_the_training(tmp_path, monkeypatch):
    """No folder can be moved there, which would show when all is done."""
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "run")
    assert error_of(refuse_existing, tmp_path / "run", overwrite=False) == (
        f"{tmp_path / 'run'} is a mount point, which a run cannot replace\n"
        "Name a folder in it as --output."
    )


def test_a_folder_that_is_mounted_on_another_of_its_file_system_is_a_mount_point(
    tmp_path, monkeypatch
):
    """As a container's volume can be; `os.path.ismount` compares file systems."""
    run = tmp_path / "my run"
    run.mkdir()
    (tmp_path / "mounts").write_text(
        "22 1 259:0 / / rw - ext4 /dev/root rw\n"
        f"30 22 259:0 /vol {tmp_path}/my\\040run rw - ext4 /dev/root rw\n"
    )
    refuse_existing(run, overwrite=False)
    monkeypatch.setattr("bertfit.places._MOUNTS", tmp_path / "mounts")
    assert "is a mount point" in error_of(refuse_existing, run, overwrite=False)
    monkeypatch.setattr("bertfit.places._MOUNTS", tmp_path / "none")
    refuse_existing(run, overwrite=False)


@pytest.mark.parametrize("what", ["file", "circle"])
def test_a_place_that_cannot_be_written_to_is_refused_before_the_training(tmp_path, what):
    if what == "file":
        (tmp_path / what).touch()
    else:
        (tmp_path / what).symlink_to(what)
    output = tmp_path / what / "runs" / "mine"
    assert error_of(check_place, output, overwrite=False, listener=Notes()).startswith(
        f"the run folder {output} cannot be made: "
    )


def test_a_path_that_is_not_utf8_is_refused_before_the_training(tmp_path):
    """Such as a name in Latin-1: the library that saves the tokenizer would raise."""
    output = tmp_path / "n\udce9e" / "run"
    assert error_of(check_place, output, overwrite=False, listener=Notes()) == (
        f"the run folder {output} cannot be made: the path is not UTF-8\n"
        "Rename its folders, or choose another --output."
    )


def test_a_path_that_libraries_would_write_otherwise_is_refused(tmp_path, monkeypatch):
    """They write it in UTF-8, whatever the system's encoding."""
    monkeypatch.setattr(os, "fsencode", lambda path: str(path).encode("latin-1"))
    check_place(tmp_path / "plain", overwrite=False, listener=Notes())
    told = error_of(check_place, tmp_path / "caf\u00e9", overwrite=False, listener=Notes())
    assert "cannot be made: the path is not UTF-8\n" in told


def test_a_name_that_leaves_no_room_for_a_hidden_one_is_refused_before_the_training(tmp_path):
    longest = tmp_path / ("x" * 234)
    check_place(longest, overwrite=False, listener=Notes())
    stage_run(longest, overwrite=False).publish({})
    stage_run(longest, overwrite=True).publish({})
    told = error_of(check_place, tmp_path / ("x" * 235), overwrite=False, listener=Notes())
    assert "cannot be made: expected a name of at most 234 bytes\n" in told


def test_a_run_that_cannot_be_replaced_is_told_before_the_training(tmp_path, monkeypatch):
    stage_run(tmp_path / "run", overwrite=False).publish({})
    tmp_path.chmod(0o1777)
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    told = error_of(check_place, tmp_path / "run", overwrite=True, listener=Notes())
    assert told.endswith("cannot be made: it is another user's, in a folder of all users")


def test_an_empty_folder_is_as_good_as_none(tmp_path):
    (tmp_path / "run").mkdir()
    stage_run(tmp_path / "run", overwrite=False).publish({})
    assert is_run(tmp_path / "run")


def test_an_output_below_a_file_is_explained(tmp_path):
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "run"
    assert error_of(stage_run, output, overwrite=False) == (
        f"the run folder {output} cannot be made: File exists"
    )


def test_what_a_killed_training_left_is_not_in_the_way(tmp_path):
    """In containers each training has the same process id as the one before it."""
    (tmp_path / f".run.incomplete-{os.getpid()}").mkdir()
    (tmp_path / f".run.old-{os.getpid()}").mkdir()
    stage_run(tmp_path / "run", overwrite=False).publish({})
    stage_run(tmp_path / "run", overwrite=True).publish({})
    assert is_run(tmp_path / "run")


class Killed(BaseException):
    """Ends the work as a kill does: nothing of ours runs after it."""


def kill(staging) -> None:
    """Leave a folder as a process does that was killed while it made a run there."""
    staging.hold.close()


def kill_while_replacing(run, monkeypatch):
    """Leave what is left by a kill between the two renames; return the new run's folder."""
    staging = stage_run(run, overwrite=True)
    (staging.folder / "weights").write_text("new")
    rename = type(run).rename

    def rename_once(path, target):
        if path == staging.folder:
            raise Killed
        return rename(path, target)

    monkeypatch.setattr(type(run), "rename", rename_once)
    with pytest.raises(Killed):
        staging.publish({"label_names": ["neg", "pos"]})
    monkeypatch.undo()
    kill(staging)
    return staging.folder


def write_model(folder) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text("{}")


class Notes(list):
    """A listener that keeps the notes."""

    note = list.append


def notes_on(output, *, overwrite=False) -> list[str]:
    notes = Notes()
    check_place(output, overwrite=overwrite, listener=notes)
    return list(notes)


def leftover(folder, what, *commands) -> str:
    """Return what is said of a small folder."""
    end = "To keep it, or to remove it:" if len(commands) == 2 else "To remove it:"
    return "\n".join(
        [
            f"A training that was killed left {folder} (0.1 MB): {what}. {NOBODY} {end}",
            *(f"  {command}" for command in commands),
        ]
    )


NOBODY = "No process on this machine is using it."
BEST = "the model of its best epoch so far, which predict and evaluate can read"


def test_a_killed_training_is_told_with_its_model(tmp_path):
    staging = stage_run(tmp_path / "run", overwrite=False)
    write_model(staging.folder)
    kill(staging)
    commands = f"mv {staging.folder} {tmp_path / 'run.unfinished'}", f"rm -r {staging.folder}"
    told = leftover(staging.folder, BEST, *commands)
    assert notes_on(tmp_path / "run") == [told]
    assert staging.folder.is_dir()
    missing = f"the run {tmp_path / 'run'} does not exist\n"
    assert error_of(read_record, tmp_path / "run") == missing + told
    assert notes_on(tmp_path / "other") == []


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_killed_training_is_told_without_a_model_that_loads(tmp_path, missing):
    staging = stage_run(tmp_path / "run", overwrite=False)
    write_model(staging.folder)
    (staging.folder / missing).unlink()
    kill(staging)
    told = "it holds no model that can be loaded"
    assert notes_on(tmp_path / "run") == [leftover(staging.folder, told, f"rm -r {staging.folder}")]


def test_a_training_that_goes_on_is_not_told(tmp_path):
    staging = stage_run(tmp_path / "run", overwrite=False)
    write_model(staging.folder)
    assert notes_on(tmp_path / "run") == []
    assert error_of(read_record, tmp_path / "run").endswith("\nbertfit train makes one.")


def count_open_files() -> int:
    gc.collect()  # else files of other tests may be closed in between
    return len(list(Path("/dev/fd").iterdir()))


def test_what_cannot_be_moved_stays_and_is_named(run, monkeypatch):
    """On a disk that takes no more changes, the error that led here is the one to tell."""
    staging = stage_run(run.parent / "other", overwrite=False)

    def fail(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "rename", fail)
    assert staging.set_aside() == staging.folder
    assert staging.folder.is_dir()


@pytest.mark.parametrize("end", ["publish", "set_aside", "discard"])
def test_a_training_that_ended_is_not_told_and_holds_nothing(tmp_path, end):
    num_open = count_open_files()
    staging = stage_run(tmp_path / "run", overwrite=False)
    write_model(staging.folder)
    assert count_open_files() == num_open + 1
    getattr(staging, end)(*([{}] if end == "publish" else []))
    assert count_open_files() == num_open
    assert notes_on(tmp_path / "run", overwrite=True) == []
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(("end", "name"), [("publish", "run"), ("set_aside", "run.unfinished")])
def test_who_may_read_new_files_may_read_what_a_training_leaves(tmp_path, end, name):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file").touch()
    staging = stage_run(tmp_path / "run", overwrite=False)
    (staging.folder / "config.json").touch(mode=0o600)
    getattr(staging, end)(*([{}] if end == "publish" else []))
    left = tmp_path / name
    assert (left / "config.json").stat().st_mode == (tmp_path / "new" / "file").stat().st_mode
    assert left.stat().st_mode & 0o055 == (tmp_path / "new").stat().st_mode & 0o055


def test_a_kill_while_replacing_leaves_both_runs_and_says_how_to_move_them(run, monkeypatch):
    new = kill_while_replacing(run, monkeypatch)
    (old,) = run.parent.glob(".run.old-*")
    assert not run.exists()
    assert error_of(read_record, run) == "\n".join(
        [
            f"the run {run} does not exist",
            leftover(
                old,
                f"the run that stood in {run} before",
                f"mv {old / 'run'} {run} && rmdir {old}",
                f"rm -r {old}",
            ),
            leftover(
                new,
                "a complete run, not yet moved to its place",
                f"mv {new} {run}.unfinished",
                f"rm -r {new}",
            ),
        ]
    )
    notes = notes_on(run)  # a new one will stand there
    assert f"  mv {old / 'run'} {run}.old && rmdir {old}" in notes[0]
    assert f"  mv {new} {run}.unfinished" in notes[1]


@pytest.mark.parametrize(("which", "content"), [("old", "old"), ("incomplete", "new")])
def test_the_command_moves_a_run_to_its_place(run, monkeypatch, which, content):
    kill_while_replacing(run, monkeypatch)
    for folder in run.parent.glob(".run.*"):
        if f".{which}-" not in folder.name:
            shutil.rmtree(folder)
    command = error_of(read_record, run).splitlines()[2]
    subprocess.run(["sh", "-c", command], check=True)
    assert (run / "weights").read_text() == content
    assert read_record(run)["label_names"] == ["neg", "pos"]
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_a_kill_while_the_old_run_is_removed_leaves_the_new_one_and_is_told(run, monkeypatch):
    staging = stage_run(run, overwrite=True)
    (staging.folder / "weights").write_text("new")

    def remove_some(aside, **_options):
        (aside / "run" / "weights").unlink()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", remove_some)
        with pytest.raises(Killed):
            staging.publish({})
    kill(staging)
    (old,) = run.parent.glob(".run.old-*")
    assert (run / "weights").read_text() == "new"
    told = leftover(old, "the rest of a run that was replaced", f"rm -r {old}")
    assert notes_on(run, overwrite=True) == [told]


def test_a_run_being_replaced_is_not_told(run, monkeypatch):
    """Between the two renames no run stands there, for a moment."""
    staging = stage_run(run, overwrite=True)
    rename, told = type(run).rename, []

    def look_in_between(path, target):
        if path == staging.folder:
            told.append(error_of(read_record, run))
        return rename(path, target)

    monkeypatch.setattr(type(run), "rename", look_in_between)
    staging.publish({})
    assert told == [f"the run {run} does not exist\nbertfit train makes one."]


def test_all_that_failed_trainings_left_is_named_finished_runs_first(tmp_path):
    run = tmp_path / "run"
    for end in ("", "-2", "-3", ".other"):
        (tmp_path / f"run.unfinished{end}").mkdir()
    empty, seed, state, _ = sorted(tmp_path.iterdir())
    assert error_of(read_record, run) == f"the run {run} does not exist\nbertfit train makes one."
    assert not has_leftovers(run)
    write_model(empty)
    write_model(seed)
    (seed / "bertfit.json").write_text('{"files": []}', encoding="utf-8")
    (state / STATE_NAME).touch()
    assert error_of(read_record, run).splitlines()[1:] == [
        f"A training that failed kept a finished run in {seed}.",
        f"A training that failed kept its model in {empty}, which predict can read.",
        (
            f"The state of a training that failed is in {state}: the command that began it goes on "
            "with --resume."
        ),
    ]
    assert has_leftovers(run)
    hold = hold_folder(state)  # a training goes on in it
    assert not any(str(state) in told for told in error_of(read_record, run).splitlines())
    hold.close()


def test_several_leftovers_are_kept_under_names_of_their_own(tmp_path):
    output = tmp_path / "my run"
    (tmp_path / "my run.unfinished").mkdir()
    for _ in range(2):
        staging = stage_run(output, overwrite=False)
        write_model(staging.folder)
        kill(staging)
    first, second = (note.splitlines()[1] for note in notes_on(output))
    assert first.endswith(f" '{output}.unfinished-2'")
    assert second.endswith(f" '{output}.unfinished-3'")


def test_what_holds_nothing_to_keep_takes_no_name(tmp_path):
    output = tmp_path / "run"
    for has_model in (False, True):
        staging = stage_run(output, overwrite=False)
        if has_model:
            write_model(staging.folder)
        kill(staging)
    told = "\n".join(notes_on(output))
    assert f"{output}.unfinished" in told
    assert f"{output}.unfinished-2" not in told


def test_what_a_kill_left_of_a_run_in_an_empty_folder_is_told(tmp_path):
    (tmp_path / "run").mkdir()
    staging = stage_run(tmp_path / "run", overwrite=False)
    write_model(staging.folder)
    kill(staging)
    told = error_of(read_record, tmp_path / "run")
    assert told.startswith(f"{tmp_path / 'run'} is not a complete run: it has no bertfit.json\n")
    assert f"  mv {staging.folder} {tmp_path / 'run.unfinished'}\n" in told


def test_leftovers_of_a_linked_run_stand_beside_what_it_leads_to(run, tmp_path):
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "run"
    link.symlink_to(run)
    staging = stage_run(link, overwrite=True)
    write_model(staging.folder)
    kill(staging)
    assert f" left {staging.folder} " in notes_on(link, overwrite=True)[0]


def test_a_place_that_is_taken_is_refused(run):
    assert error_of(check_place, run, overwrite=False, listener=Notes()) == error_of(
        refuse_existing, run, overwrite=False
    )


def test_a_run_that_is_a_link_to_itself_does_not_exist(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(RunError, match="loop does not exist"):
        read_record(loop)


def test_a_missing_run_is_named(tmp_path):
    assert error_of(read_record, tmp_path / "none") == (
        f"the run {tmp_path / 'none'} does not exist\nbertfit train makes one."
    )


def test_a_file_in_place_of_a_run_is_named_as_one(tmp_path):
    (tmp_path / "data.csv").touch()
    assert error_of(read_record, tmp_path / "data.csv") == (
        f"{tmp_path / 'data.csv'} is a file; the folder of a run was expected"
    )


def test_a_folder_without_a_record_is_not_a_complete_run(tmp_path):
    assert error_of(read_record, tmp_path) == (
        f"{tmp_path} is not a complete run: it has no bertfit.json\n"
        "A run that was killed before its end has none; train it again."
    )


@pytest.mark.parametrize("content", [b"{", b"\xff", b""])
def test_a_damaged_record_is_named(run, content):
    (run / RECORD_NAME).write_bytes(content)
    assert error_of(read_record, run).startswith(f"{run / RECORD_NAME} cannot be read: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label_names", {}),
        ("settings", None),
        ("data", None),
        ("scores", [1]),
        ("calibration", 5),
        ("threshold", "0.5"),
        ("sha256", ["model.safetensors"]),
        ("sha256", {"model.safetensors": 5}),
        ("sha256", {"../model.safetensors": "0"}),
    ],
)
def test_a_damaged_entry_of_the_record_is_named(run, name, value):
    (run / RECORD_NAME).write_text(json.dumps({"format_version": 1, name: value}))
    assert error_of(read_record, run) == (
        f"{run / RECORD_NAME} is damaged: its entry {name!r} is {value!r}\n"
        "It was changed. Restore the file, or train again."
    )
    whole = {"format_version": 1, "calibration": None, "threshold": None, "data": {"test": None}}
    (run / RECORD_NAME).write_text(json.dumps(whole))
    assert read_record(run) == whole


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("settings.seed", 0),
        ("settings.seed", {"value": 0}),
        ("settings.seed", {"origin": "default"}),
        ("settings.seed", {"value": 0, "origin": None}),
        ("data.test", "test.csv"),
        ("scores.test", 0.9),
        ("scores.comparison", "the model wins"),
        ("scores.comparison", {"verdict": None}),
        ("scores.test_without_leaks", [3]),
        ("scores.test_without_leaks", {"num_rows": 3}),
        ("scores.test_without_groups", {"num_leaked": "3"}),
    ],
)
def test_a_damaged_part_of_an_entry_is_named(run, name, value):
    entry, part = name.split(".")
    (run / RECORD_NAME).write_text(json.dumps({"format_version": 1, entry: {part: value}}))
    told = f"{run / RECORD_NAME} is damaged: its entry {name!r} is {value!r}\n"
    assert error_of(read_record, run).startswith(told)


def test_label_names_are_strings(run):
    (run / RECORD_NAME).write_text(json.dumps({"format_version": 1, "label_names": ["a", None]}))
    assert "its entry 'label_names' is ['a', None]" in error_of(read_record, run)


@pytest.mark.parametrize(
    ("record", "version"), [({"format_version": 2}, "2"), ({}, "None"), ([], "None")]
)
def test_a_record_of_another_format_is_refused(run, record, version):
    (run / RECORD_NAME).write_text(json.dumps(record))
    assert error_of(read_record, run) == (
        f"{run / RECORD_NAME} has format {version}, expected 1\n"
        "It was written by another version of bertfit."
    )


def test_commands_of_leftovers_take_names_that_begin_with_a_dash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        path = tmp_path / "-run" / ".x.incomplete-abc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (told,) = notes_on(Path("-run/x"))
    command = next(line for line in told.splitlines() if line.startswith("  mv "))
    subprocess.run(command, shell=True, check=True)  # noqa: S602 (the line that people copy)
    assert (tmp_path / "-run" / "x.unfinished" / "config.json").is_file()


def test_the_files_of_a_run_are_recorded_in_the_order_of_their_names(tmp_path):
    staging = stage_run(tmp_path / "run", overwrite=False)
    names = [f"file {number}" for number in range(9)]
    for name in reversed(names):
        (staging.folder / name).write_text("", encoding="utf-8")
    staging.publish({})
    assert json.loads((tmp_path / "run" / RECORD_NAME).read_text("utf-8"))["files"] == sorted(
        [RECORD_NAME, *names]
    )


@pytest.mark.parametrize(
    "record", ["{", "{}", "[]", '{"files": null}', '{"format_version": 1, "files": "x"}']
)
def test_a_folder_whose_record_names_no_files_loses_none_that_no_run_has(tmp_path, record):
    """It may be no run at all: bertfit.json is only a name."""
    run = tmp_path / "run"
    run.mkdir()
    (run / RECORD_NAME).write_text(record)
    (run / "model-00001-of-00002.safetensors").write_text("weights")
    stage_run(run, overwrite=True)
    (run / "thesis.txt").write_text("mine")
    (run / "photos").mkdir()
    assert "would lose them: photos, thesis.txt" in error_of(stage_run, run, overwrite=True)


def test_a_number_that_no_float_holds_is_damage(run):
    scores = f'{{"test": {{"intervals": {{"accuracy": [{{"high": {"9" * 400}}}]}}}}}}'
    (run / RECORD_NAME).write_text(f'{{"format_version": 1, "scores": {scores}}}')
    told = f"{run / RECORD_NAME} cannot be read: a number of 400 digits is in it"
    assert error_of(read_record, run) == told


def test_the_name_of_a_file_that_is_too_long_is_damage(run):
    (run / RECORD_NAME).write_text(json.dumps({"format_version": 1, "sha256": {"x" * 5000: "0"}}))
    assert "is damaged: its entry 'sha256' is" in error_of(read_record, run)


@pytest.mark.parametrize("name", ["report.html", "README.md", "model.safetensors"])
def test_a_folder_in_a_run_is_of_somebody_else_whatever_its_name(run, name):
    (run / name).mkdir()
    assert f"would lose them: {name}" in error_of(stage_run, run, overwrite=True)


def test_files_of_large_models_and_chats_may_be_of_a_damaged_run(run):
    (run / RECORD_NAME).write_text("{")
    (run / "weights").unlink()
    for name in ("model.safetensors.index.json", "chat_template.jinja"):
        (run / name).write_text("written by transformers")
    stage_run(run, overwrite=True)
