import pytest
from small_model import write_model

from kitspipe import cli
from kitspipe.errors import UserError
from kitspipe.prediction.export import export_model
from kitspipe.prediction.install import install_model
from kitspipe.prediction.job import make_job
from kitspipe.workspace import Workspace


@pytest.fixture
def model(tmp_path):
    place = write_model(tmp_path / "work", folds=(0, 1), threshold=0.4)
    export_model(place, tmp_path / "model.kitspipe", None)
    return tmp_path / "model.kitspipe"


def install(file, root, *options):
    return cli.main(["install", *map(str, (file, "-w", root, *options))])


def recipe(root, name="default"):
    return make_job(Workspace(root=root, plan_name=name), root, None, "cpu").recipe


def test_an_installed_model_is_the_one_that_was_exported(model, tmp_path, capsys):
    assert install(model, tmp_path / "clinic") == 0
    assert str(tmp_path / "clinic" / "plans" / "default.json") in capsys.readouterr().out
    assert recipe(tmp_path / "clinic") == recipe(tmp_path / "work")
    assert (tmp_path / "clinic" / "results" / "default" / "model_card.md").exists()
    # Again, and after a stop in the middle, it is completed.
    (tmp_path / "clinic" / "plans" / "default.json").unlink()
    assert install(model, tmp_path / "clinic") == 0
    assert recipe(tmp_path / "clinic") == recipe(tmp_path / "work")


def test_another_model_of_that_name_is_kept_unless_asked(model, tmp_path, capsys):
    write_model(tmp_path / "clinic", seed=5, folds=(0, 1, 2))
    before = recipe(tmp_path / "clinic")
    assert install(model, tmp_path / "clinic") == 2
    assert "another model is there" in capsys.readouterr().err
    assert recipe(tmp_path / "clinic") == before
    assert install(model, tmp_path / "clinic", "-p", "hospital") == 0
    assert recipe(tmp_path / "clinic") == before
    assert recipe(tmp_path / "clinic", "hospital") == recipe(tmp_path / "work")
    assert install(model, tmp_path / "clinic", "--overwrite") == 0
    # The third network is gone: it would have been averaged with the others.
    assert recipe(tmp_path / "clinic") == recipe(tmp_path / "work")


def test_a_file_that_is_no_model_changes_nothing(tmp_path, capsys):
    (tmp_path / "x.kitspipe").write_bytes(b"no")
    assert install(tmp_path / "x.kitspipe", tmp_path / "clinic") == 2
    assert "as kitspipe_export writes it" in capsys.readouterr().err
    assert not (tmp_path / "clinic").exists()
    assert install(tmp_path / "missing.kitspipe", tmp_path / "clinic") == 2


@pytest.mark.parametrize("name", ["../evil", "a/b", "."])
def test_a_name_that_leads_elsewhere_is_refused(model, tmp_path, name):
    with pytest.raises(UserError, match="not safe as a file name"):
        install_model(model, tmp_path / "clinic", name, overwrite=True)
